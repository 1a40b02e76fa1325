r"""Tables with delimiters: CSV, TSV, and columns between blanks.

How quotes are read: if every quote in the file stands where the `csv` module of Python would have
written it, a cell in quotes is what `csv` reads in it, with delimiters, doubled quotes and line ends. If a single one
stands elsewhere, the file was not written so: quotes are characters, each line is a row, and tabs divide it; commas
divide it as `csv` reads one line. A cell that is in quotes as a whole, like `"text"`, is text in both.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from hnmine.corpus.files import File
from hnmine.errors import DataError

CELL = 2**30  # characters of a cell; `csv` would stop at 131,072
_QUOTED_LINES = 10_000  # that one cell in quotes may have; more are taken for a stray quote
_RETURN, _RETURN_MARK = re.compile(r"\r(?!\n?\Z)"), "\udc0d"
"""A carriage return within a line, which `csv` writes without quotes and does not read; and what no decoder gives."""
Cells = list[str]
Fits = Callable[[Cells], bool]


def delimiter_of(line: str, fits: Fits, blanks: bool) -> str | None:
    """Return what divides this line into cells that fit: tab, comma or semicolon; None: white space, with `blanks`."""
    possible: tuple[str | None, ...] = ("\t", ",", ";", None) if blanks and "\t" not in line else ("\t", ",", ";")
    if None in possible and re.fullmatch(r"\s*\S+\s+(Q?\d+)\s+\S+\s+\S+\s*", line):
        possible = (None, *possible[:-1])  # TREC's four columns; ids may have commas
    cells = {delimiter: split(line, delimiter) for delimiter in possible}
    several = (delimiter for delimiter, parts in cells.items() if len(parts) > 1)
    return next((delimiter for delimiter, parts in cells.items() if fits(parts)), next(several, "\t"))


def split(line: str, delimiter: str | None) -> Cells:
    """Return the cells of one line, as `csv` reads it; by tabs and white space as it stands."""
    if delimiter is None or delimiter == "\t":
        return line.rstrip("\r\n").split(delimiter)
    try:
        return next(csv.reader([line.rstrip("\r\n")], delimiter=delimiter), [])
    except csv.Error:
        return line.split(delimiter)


def records(file: File, stream: Iterable[bytes], fits: Fits, blanks: bool = False) -> Iterator[tuple[int, Cells]]:
    """Yield line and cells of each row that is not blank. Bytes that are no UTF-8 are half characters in a cell.

    Args:
        file: read a second time, if there are quotes in it.
        stream: its bytes.
        fits: whether cells are those of a row or a header; decides between delimiters on the first row.
        blanks: whether white space may divide cells.

    Raises:
        DataError: `csv` cannot read what it should have written.
    """
    # Divide the first row.
    lines = _decoded(stream)
    number, first = next(((n, line) for n, line in enumerate(lines, start=1) if line.strip()), (0, ""))
    delimiter = delimiter_of(first, fits, blanks)

    # Read it and the others.
    csv.field_size_limit(max(CELL, csv.field_size_limit()))  # of the process; it has no other place
    again = (line for part in ([first], lines) for line in part)
    if delimiter is not None and _written_by_csv(file, delimiter):
        marked = (_RETURN.sub(_RETURN_MARK, line) for line in again)
        reader, start = csv.reader(marked, delimiter=delimiter, strict=True), number
        try:
            for marked_cells in reader:
                cells = [cell.replace(_RETURN_MARK, "\r") for cell in marked_cells]
                if any(map(str.strip, cells)):
                    yield start, cells
                start = number + reader.line_num
        except csv.Error as error:
            raise DataError(f"{file}: {error}; expected CSV as the csv module of Python writes it") from None
    else:
        for line, content in enumerate(again, start=number):
            if content.strip():
                yield line, split(content, delimiter)


def bad_cells(cells: Sequence[str], width: int) -> tuple[str, str] | None:
    """Return reason and detail if cells are not of a row of this width in UTF-8."""
    for cell in cells:
        if not cell.isascii() and (half := re.search("[\ud800-\udfff]", cell)):
            return "not_utf8", f"{cell[:40].encode('utf-8', 'replace')!r} is no UTF-8 at {half.start()}"
    if len(cells) != width:
        return "malformed_row", f"expected {width} columns, got {len(cells)}: {str(list(cells))[:60]}"
    return None


def _decoded(stream: Iterable[bytes]) -> Iterator[str]:
    for line, raw in enumerate(stream):
        yield (raw.removeprefix(b"\xef\xbb\xbf") if line == 0 else raw).decode("utf-8", "surrogateescape")


def _written_by_csv(file: File, delimiter: str) -> bool:
    """Return whether every quote of the file stands where `csv` writes it."""
    closed = rf'(?:"(?:[^"]++|"")*+"|[^"{delimiter}\n]*+)'
    whole = re.compile(rf"(?:{closed}{delimiter})*+{closed}\r?\n?")
    begun = re.compile(rf'(?:{closed}{delimiter})*+"(?:[^"]++|"")*+')
    with file.opened() as (_, stream):
        record: list[str] = []
        for line in _decoded(stream):
            if not record and '"' not in line:
                continue
            record.append(line)
            if '"' not in line and len(record) < _QUOTED_LINES:
                continue
            text = "".join(record)
            if whole.fullmatch(text):
                record = []
            elif len(record) >= _QUOTED_LINES or not begun.fullmatch(text):
                return False
        return not record
