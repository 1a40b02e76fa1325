"""Rows of a file, whatever its kind; a bad row says why, and a file that is bad as a whole is a DataError.

Text is JSON lines if it starts with a brace or its name has `.json`; else it is a table, CSV or TSV.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Sequence

from hnmine.corpus.columnar import arrow_rows, parquet_rows
from hnmine.corpus.delimited import Cells, bad_cells, records
from hnmine.corpus.fields import any_known
from hnmine.corpus.files import HEAD, File, Row
from hnmine.corpus.mistakes import mistake, object_of_objects, object_of_texts
from hnmine.errors import DataError

MOST_BYTES = 2**28
"""Of a row of JSON lines; a longer one is quarantined without being kept in memory."""


def rows(file: File, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """Yield the rows of a file; blank lines and the header of a table are none.

    Args:
        file: JSON lines, CSV, TSV, Parquet or Arrow.
        columns: names for the columns of a CSV or TSV file without a header; None: its first row is the header.

    Raises:
        DataError: the file as a whole cannot be used.
    """
    with file.opened() as (kind, stream):
        if kind != "text":
            numbered = parquet_rows(file) if kind == "parquet" else arrow_rows(file, kind == "arrow_file")
            for number, fields in numbered:
                yield Row(file.name, number, fields)
        elif is_json(file, stream):
            yield from _json_rows(file, stream)
        else:
            yield from _table_rows(file, stream, columns)


def rows_of(files: Sequence[File]) -> Iterator[Row]:
    """Yield the rows of the parts of one table, file by file. Some parts may be empty, not all."""
    for file in filled(files):
        yield from rows(file)


def filled(files: Sequence[File]) -> Iterator[File]:
    """Yield the files that are not empty, or raise DataError if all are."""
    several = 0
    for file in files:
        if file.head().strip():
            several += 1
            yield file
    if files and not several:
        raise DataError(f"{files[0]} is empty; expected rows: copy it again, or remove it")


def is_json(file: File, stream: io.BufferedReader) -> bool:
    """Return whether a text file has JSON lines, or raise DataError if its beginning shows that it has no rows."""
    head = stream.peek(HEAD)[:HEAD]
    if problem := mistake(head):
        raise DataError(f"{file} {problem}")
    return ".json" in file.name or head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{"


def bounded(stream: io.BufferedReader, most: int = MOST_BYTES) -> Iterator[bytes]:
    """Yield the lines of a stream; of one with more than `most` bytes its beginning, one byte longer than that."""
    while line := stream.readline(most + 1):
        rest = line
        while len(line) > most and rest and not rest.endswith(b"\n"):
            rest = stream.readline(2**20)
        yield line


def _json_rows(file: File, lines: io.BufferedReader) -> Iterator[Row]:
    name, first, only = file.name, True, None
    for line, raw in enumerate(bounded(lines), start=1):
        if len(raw) > MOST_BYTES:
            yield Row(name, line, {}, "too_long", f"a row of more than {MOST_BYTES:,} bytes")
            continue
        content = raw.removeprefix(b"\xef\xbb\xbf").strip()
        if not content:
            continue
        try:
            fields = json.loads(content.decode())
        except UnicodeDecodeError as error:
            yield Row(name, line, {}, "not_utf8", f"byte {error.start}: {error.reason}")
        except (ValueError, RecursionError) as error:
            yield Row(name, line, {}, "broken_json", str(error).replace("line 1 ", ""))
        else:
            if first and (problem := object_of_objects(fields)):
                raise DataError(f"{file} {problem}")
            only, first = fields if first else None, False
            if isinstance(fields, dict):
                yield Row(name, line, fields)
            else:
                kind = type(fields).__name__
                yield Row(name, line, {}, "not_an_object", f"expected an object with _id and text, got a {kind}")
    if problem := object_of_texts(only):
        raise DataError(f"{file} {problem}")


def _table_rows(file: File, stream: Iterable[bytes], columns: Sequence[str] | None) -> Iterator[Row]:
    names = list(columns or ())

    def fits(cells: Cells) -> bool:
        return len(cells) == len(names) if columns else any_known(cells)

    for line, cells in records(file, stream, fits):
        if not names:
            names = cells
            if repeated := {name for name in names if name and names.count(name) > 1}:
                raise DataError(f"{file} names columns twice, {sorted(repeated)}; expected each name once")
            if bad := bad_cells(cells, len(cells)):
                raise DataError(f"{file}: its header cannot be read: {bad[1]}")
        elif bad := bad_cells(cells, len(names)):
            yield Row(file.name, line, {}, *bad)
        elif cells == names and not columns:
            yield Row(file.name, line, {}, "malformed_row", "the header again, as in files that were joined")
        else:
            yield Row(file.name, line, dict(zip(names, cells, strict=True)))
