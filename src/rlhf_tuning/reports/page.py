"""The page that every report is: one HTML file that needs no network, no other file, and no script to be read.

Whatever comes from a dataset, a model or a user goes through `text`, which escapes it. A content security policy lets
only this page's own style and script run, known by their digests.
"""

import base64
import hashlib
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import NamedTuple

#: No single text takes more of a page than this, in bytes of HTML; a value in a table takes less.
TEXT_BYTES = 8_000
VALUE_BYTES = 2_000

_MOST_TURNS = 40

# Characters that reorder the text around them: shown by their number, so that no text can disguise another.
_DIRECTION_MARKS = re.compile("[\u202a-\u202e\u2066-\u2069]")
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]|[\ud800-\udfff]")


class Section(NamedTuple):
    """A part of a page. `heading` and `content` are HTML; a section without content is left out."""

    name: str
    heading: str
    content: str


def render_page(
    *,
    kicker: str,
    title: str,
    facts: Sequence[tuple[str, str]],
    verdict: str,
    sections: Sequence[Section],
    footer: str,
) -> str:
    """Return the HTML of a page.

    Args:
        kicker: What kind of page it is; HTML, as `verdict`, `sections` and `footer`.
        title: What it is called; text from outside.
        facts: Labels and values for the line under the title; text from outside. An empty value is left out.
        verdict: What the page says first.
        sections: The rest, in order.
        footer: How it was made.
    """
    shown = "".join(f"<span>{label} <b>{text(value, VALUE_BYTES)}</b></span>" for label, value in facts if value)
    present = [section for section in sections if section.content]
    links = "".join(f'<a href="#{section.name}">{section.heading}</a>' for section in present if section.heading)
    body = [
        f'<header><p class="kicker">{kicker}</p><h1>{text(title, VALUE_BYTES)}</h1>'
        f'<div class="facts">{shown}</div></header>',
        f"<main>{verdict}<nav>{links}</nav>" if links else f"<main>{verdict}",
        *(
            f'<section id="{section.name}">{f"<h2>{section.heading}</h2>" if section.heading else ""}'
            f"{section.content}</section>"
            for section in present
        ),
        f"</main><footer>{footer} Made by rlhf-pipelines.</footer>",
    ]
    template = resources.files("rlhf_tuning.reports").joinpath("page_template.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        policy=_content_policy(template), title=text(title, VALUE_BYTES, marks=False), body="\n".join(body)
    )


def write_page(html: str, path: str) -> None:
    """Write a page as a file at `path`; one that is there stays until the new one is whole."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, staging = tempfile.mkstemp(prefix=".report-", suffix=".html", dir=target.parent)
    try:
        with open(descriptor, "w", encoding="utf-8", errors="replace", newline="\n") as stream:
            stream.write(html)
        Path(staging).chmod(0o644)
        os.replace(staging, target)
    finally:
        Path(staging).unlink(missing_ok=True)


def text(value: str, most_bytes: int = TEXT_BYTES, *, marks: bool = True) -> str:
    """Escape text from outside, cut so that its HTML takes at most `most_bytes`, with direction marks made visible.

    Args:
        value: Anything.
        most_bytes: What its HTML may take, without the words that say how much was left out.
        marks: Whether elements may stand in the result; not so in a page's title.
    """

    def mark(match: re.Match[str]) -> str:
        name = f"U+{ord(match[0]):04X}"
        return f'<span class="mark">{name}</span>' if marks else name

    kept = _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", value[:most_bytes])
    shown = _DIRECTION_MARKS.sub(mark, escape(kept))
    while (size := len(shown.encode())) > most_bytes:
        kept = kept[: min(len(kept) - 1, len(kept) * most_bytes // size)]
        shown = _DIRECTION_MARKS.sub(mark, escape(kept))
    if left_out := len(value) - len(kept):
        rest = f"… ({left_out:,} more characters)"
        shown += f' <span class="soft">{rest}</span>' if marks else rest
    return shown


def said(value: str, most_bytes: int = TEXT_BYTES) -> str:
    """Return something that a person or a model said."""
    return f'<div class="said" dir="auto">{text(value, most_bytes)}</div>'


def conversation(turns: Sequence[Mapping[str, object]]) -> str:
    """Return the turns of a conversation; one turn alone needs no role."""
    if len(turns) == 1:
        return said(str(turns[0].get("content", "")))
    # Many turns share what one text may take, so that a long conversation does not push out the others.
    most = max(200, TEXT_BYTES // max(1, len(turns)))
    shown = [
        f'<div class="role">{text(str(turn.get("role", "")), 100)}</div>{said(str(turn.get("content", "")), most)}'
        for turn in turns[:_MOST_TURNS]
    ]
    if len(turns) > _MOST_TURNS:
        shown.append(f'<div class="soft">… ({len(turns) - _MOST_TURNS} more turns)</div>')
    return "".join(shown)


def grid(charts: Sequence[str]) -> str:
    """Return charts side by side, as many as the page is wide."""
    return f'<div class="grid">{"".join(f"<div class=card>{chart}</div>" for chart in charts)}</div>' if charts else ""


def values_table(rows: Sequence[tuple[str, str]]) -> str:
    """Return a table of names, which are text from outside, and values, which are HTML."""
    lines = "".join(
        f'<tr><th scope="row">{text(name, 200)}</th><td class="wrap"><code>{value}</code></td></tr>'
        for name, value in rows
    )
    return f'<div class="scroll"><table><tbody>{lines}</tbody></table></div>'


def _content_policy(template: str) -> str:
    """Allow the page's own style and script by their digests, and nothing else from anywhere."""
    rules = ["default-src 'none'", "base-uri 'none'", "form-action 'none'"]
    for kind in ("style", "script"):
        (content,) = re.findall(f"<{kind}>(.*?)</{kind}>", template, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        rules.append(f"{kind}-src 'sha256-{digest}'")
    return "; ".join(rules)
