"""Tables for people: aligned columns of text."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from tabulate import tabulate


def text_table(rows: Sequence[Sequence[str]], headers: Sequence[str], left: Collection[int] = (0,)) -> str:
    """Return rows of text under their headers, two spaces between the columns, no space at a line's end.

    Args:
        rows: cells as they are to be printed; a row may be shorter than the headers.
        headers: one a column.
        left: positions of the columns that are aligned to the left; numbers belong to the right.
    """
    sides = ["left" if column in left else "right" for column in range(len(headers))]
    cells = [[*row, *[""] * (len(headers) - len(row))] for row in rows]
    table: str = tabulate(
        cells, headers, tablefmt="plain", disable_numparse=True, colalign=sides, preserve_whitespace=True
    )
    return "\n".join(line.rstrip() for line in table.splitlines())
