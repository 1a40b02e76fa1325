"""Tables for people: aligned columns of text."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from tabulate import tabulate


def text_table(rows: Sequence[Sequence[str]], headers: Sequence[str], left: Collection[int] = (0,)) -> str:
    """Return rows of text under their headers, if there are any; columns not in `left` are aligned to the right.

    Cells are printed as they are, each on one line; a row may be shorter than the others.
    """
    lines = [list(row) for row in ([headers, *rows] if headers else rows)]
    columns = max(map(len, lines), default=0)
    table: str = tabulate(
        [line + [""] * (columns - len(line)) for line in lines],
        tablefmt="plain",
        colalign=["left" if column in left else "right" for column in range(columns)],
        disable_numparse=True,
        preserve_whitespace=True,
    )
    return "\n".join(line.rstrip() for line in table.split("\n"))


def three_figures(number: float) -> str:
    """Return a number above 0 to three figures, or whole if it has more; never with an exponent."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
