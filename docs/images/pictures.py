"""Takes the two pictures of a real run: what the terminal showed, and the report. Needs rich, Playwright and Chromium.

script --flush --command "stty cols 104; rlhf run --sample" run.typescript
python docs/images/pictures.py terminal run.typescript "8/16 steps" docs/images/run.svg
python docs/images/pictures.py report runs/report.html docs/images/report.png
pngquant --force --ext .png 256 docs/images/report.png && optipng -quiet docs/images/report.png
"""

import io
import re
import shutil
import sys
from pathlib import Path

COLUMNS = 104
#: rich's own form fetches a font; this one takes what the reader has.
SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="A run in a terminal">
<style>
.{unique_id}-matrix {{
  font: {char_height}px ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; white-space: pre
}}
.{unique_id}-title {{ font: 600 16px system-ui, sans-serif }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g></g></svg>
"""


def terminal(typescript: str, until: str, picture: str) -> None:
    """Draw what a terminal showed when the live line that holds `until` had just been drawn.

    Args:
        typescript: What `script` recorded.
        until: Text of the live line.
        picture: The SVG to write.
    """
    from rich.console import Console
    from rich.text import Text

    with open(typescript, encoding="utf-8", newline="") as file:
        recorded = file.read().partition("\n")[2].replace("\r\n", "\n")
    redrawn = re.compile(r"\r?\x1b\[2K")
    end = redrawn.search(recorded, recorded.index(until))
    shown = recorded[: end.start() if end else len(recorded)]
    lines = [redrawn.split(line)[-1] for line in shown.split("\n")]
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for line in Text.from_ansi("\n".join(lines)).split("\n"):
        console.print(line, no_wrap=True, overflow="crop", highlight=False)
    console.save_svg(picture, title="rlhf run --sample", code_format=SVG, unique_id="run", font_aspect_ratio=0.602)


def report(page: str, picture: str) -> None:
    """Photograph the top of a report.

    Args:
        page: The HTML file.
        picture: The PNG to write.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1100, "height": 1000}, device_scale_factor=1.5, color_scheme="light")
        tab.goto(Path(page).resolve().as_uri())
        tab.screenshot(path=picture)
        browser.close()


if __name__ == "__main__":
    if sys.argv[1] == "terminal":
        terminal(*sys.argv[2:])
    else:
        report(*sys.argv[2:])
