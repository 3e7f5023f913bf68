"""Rows as aligned columns."""

import io
import shutil
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlhf_pipelines.cli.display import printable

_UNLIMITED = 1 << 20


def room() -> int:
    """Return how many columns a line may take: as many as the terminal has; elsewhere, as in a pipe, any number."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else _UNLIMITED


def text_table(rows: Sequence[Sequence[str]], columns: int | None = None) -> str:
    """Return rows of equal length, headings first, as columns.

    Where `columns` (the terminal's, unless given) are too few, cells of several words go over several lines. Where even
    that would break a word, such as a name that a command takes, the lines are left to the terminal to wrap.
    """
    shown = [[printable(cell) for cell in row] for row in rows]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for cells in zip(*shown, strict=True):
        is_a_word_wide = max(map(len, cells)) == max(map(len, " ".join(cells).split()), default=0)
        table.add_column(Text(cells[0]), no_wrap=is_a_word_wide)
    for row in shown[1:]:
        table.add_row(*map(Text, row))
    folded = _drawn(table, columns or room())
    words = [word for row in shown for cell in row for word in cell.split()]
    return folded if sorted(folded.split()) == sorted(words) else _drawn(table, _UNLIMITED)


def _drawn(table: Table, columns: int) -> str:
    console = Console(file=io.StringIO(), width=columns, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
