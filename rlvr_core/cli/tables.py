"""Tables as plain text: aligned on a terminal, whole where they are piped."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence

import typer


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns. On a terminal the last one is wrapped to its width; elsewhere lines are as long as they are."""
    for line in table_lines([headers, *rows], terminal_width()):
        typer.echo(line)


def terminal_width() -> int | None:
    """Columns of the terminal; None where the output goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def table_lines(rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """Rows as lines of text; nothing is cut off. ``width``: None for no limit."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    indent = sum(widths) + 2 * len(widths)
    room = max(30, width - indent) if width is not None else None
    lines = []
    for row in rows:
        start = "".join(cell.ljust(size + 2) for cell, size in zip(row, widths, strict=False))
        last = textwrap.wrap(row[-1], room) or [""] if room is not None else [row[-1]]
        lines += [((start if number == 0 else " " * indent) + piece).rstrip() for number, piece in enumerate(last)]
    return lines
