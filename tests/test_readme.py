"""What README and documents say is so: their links, their flags, their commands, their tables."""

import re
from pathlib import Path

import pytest

from rlhf_pipelines.cli import rlhf
from rlhf_pipelines.targets import DEFAULT_MACHINES, GPUS

ROOT = Path(__file__).parents[1]
PAGES = [
    *("README.md", "CHANGELOG.md", "benchmarks/README.md", "src/rlhf_tuning/sample/README.md"),
    *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")),
]
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
COMMANDS = {page: re.findall(r"^rlhf (?:[^\n]*\\\n)*[^\n]*$", text, re.MULTILINE) for page, text in TEXTS.items()}


def test_the_readme_fits_three_screens():
    assert len(TEXTS["README.md"].splitlines()) < 200


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", TEXTS[page]):
        if "://" not in target:
            path = (ROOT / page).parent / target
            assert path.is_dir() or path.stat().st_size > 0, target
    for named in re.findall(r"`((?:benchmarks|components|containers|docs|pipelines|src|tests)/[\w./-]+)`", TEXTS[page]):
        assert (ROOT / named).exists(), named


def test_every_gpu_is_in_its_table_with_its_machines():
    rows = TEXTS["docs/operations/machines.md"].splitlines()
    for kind, gpu in GPUS.items():
        (row,) = [line for line in rows if line.startswith(f"| `{kind}`, ")]
        for word in (gpu.vertex, gpu.gke, *gpu.machine_types.values()):
            assert not word or f"`{word}`" in row, word
        for target, default in DEFAULT_MACHINES.items():
            assert (f"default on {target.title()}" in row) == (kind == default)


@pytest.mark.parametrize("page", [page for page, commands in COMMANDS.items() if commands])
def test_the_commands_are_ones_that_the_command_line_takes(page):
    parser = rlhf.build_parser()
    for command in COMMANDS[page]:
        words = [word.strip('"') for word in re.findall(r'"[^"]*"|[^\s\\]+', command)]
        parser.parse_args(words[1:])


def test_every_command_is_shown():
    shown = {command.split()[1] for commands in COMMANDS.values() for command in commands}
    assert shown >= {command.__name__.rpartition(".")[2].replace("_", "-") for command in rlhf.COMMANDS}


@pytest.mark.parametrize("page", PAGES)
def test_the_make_targets_and_benchmarks_exist(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    shown = "".join(re.findall(r"^```sh\n.*?^```", TEXTS[page], re.MULTILINE | re.DOTALL))
    for target in re.findall(r"^make ([a-z-]+)", shown, re.MULTILINE) + re.findall(r"`make ([a-z-]+)", TEXTS[page]):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for path, module in re.findall(r"python (?:(benchmarks/\S+)|-m (benchmarks\.\w+))", TEXTS[page]):
        assert (ROOT / (path or module.replace(".", "/") + ".py")).exists(), path or module


def test_the_scale_tables_are_what_the_forecast_says():
    from benchmarks import scale

    from rlhf_tuning.planning.forecast import MEMORY_ERROR, TIME_ERROR

    page = TEXTS["docs/operations/scale.md"]
    assert "\n".join(scale.large_table()) in page
    for name, error in (("memory", MEMORY_ERROR), ("time", TIME_ERROR)):
        assert re.search(rf"^\| {name} \(n = \d+\) \| {error[0]:.0%} \| {error[1]:.0%} \|", page, re.MULTILINE)
