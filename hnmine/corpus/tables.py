r"""Tables: CSV and TSV, Parquet, Arrow.

How quotes of CSV and TSV are read: if every quote in the file stands where the `csv` module of Python would have
written it, a cell in quotes is what `csv` reads in it, with delimiters, doubled quotes and line ends. If a single one
stands elsewhere, the file was not written so: quotes are characters, each line is a row, and tabs divide it; commas
divide it as `csv` reads one line. A cell that is in quotes as a whole, like `"text"`, is text in both.
"""

from __future__ import annotations

import base64
import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from hnmine.corpus.fields import DOCUMENT, JUDGEMENT, QUERY, plain
from hnmine.errors import DataError

if TYPE_CHECKING:
    from hnmine.corpus.files import File

BATCH = 1024  # rows of Parquet or Arrow that become Python objects at a time
CELL = 2**30  # characters of a cell; `csv` would stop at 131,072
_QUOTED_LINES = 10_000  # that one cell in quotes may have; more are taken for a stray quote
_EXTENSION = b"ARROW:extension:name"
_IN_BASE64 = tuple(  # as Parquet holds it, at each of the three places where a byte may stand in base64
    base64.b64encode(bytes(before) + _EXTENSION)[(before * 8 + 5) // 6 : (before + len(_EXTENSION)) * 8 // 6]
    for before in range(3)
)
_RETURN, _RETURN_MARK = re.compile(r"\r(?!\n?\Z)"), "\udc0d"
"""A carriage return within a line, which `csv` writes without quotes and does not read; and what no decoder gives."""
_MEANT = {plain(name) for names in (DOCUMENT, QUERY, JUDGEMENT) for known in names.values() for name in known}
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


def parquet_rows(file: File) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and plain columns of each row of a Parquet file; extension types are refused unread."""
    with file.folder.filesystem.open_input_file(f"{file.folder.path}/{file.name}") as source:
        # Look at the footer as bytes: extension types are made as soon as Arrow reads it.
        source.seek(max(0, source.size() - 8))
        length = int.from_bytes(source.read(4), "little")
        source.seek(max(0, source.size() - 8 - length))
        footer = source.read()
        if any(each in footer for each in _IN_BASE64):
            _refuse_extensions(file, _EXTENSION)

        source.seek(0)
        table = pq.ParquetFile(source)
        schema = _readable(file, table.schema_arrow)
        yield from _numbered(table.iter_batches(BATCH, columns=schema.names), schema)


def arrow_rows(file: File, in_file: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and plain columns of each row of an Arrow stream, or of the stream in an Arrow file."""
    with file.folder.filesystem.open_input_file(f"{file.folder.path}/{file.name}") as source:
        # Refuse what is cut off: a stream may end anywhere between two batches.
        ending = b"ARROW1" if in_file else b"\xff\xff\xff\xff\0\0\0\0"
        source.seek(max(0, source.size() - len(ending)))
        if source.read() != ending:
            raise DataError(f"{file} ends too early; expected a whole Arrow file: copy it again")

        # Look at the schema as bytes, before extension types are made of it.
        start = 8 * in_file
        source.seek(start)
        _refuse_extensions(file, pa.ipc.read_message(source).metadata.to_pybytes())
        source.seek(start)
        reader = pa.ipc.open_stream(source)
        schema = _readable(file, reader.schema)
        yield from _numbered(reader, schema)


def _refuse_extensions(file: File, schema: bytes) -> None:
    if _EXTENSION in schema:
        raise DataError(f"{file} has columns of extension types, which may run code when read; write plain columns")


def _readable(file: File, schema: pa.Schema) -> pa.Schema:
    if any(isinstance(field.type, pa.BaseExtensionType) for field in schema):
        _refuse_extensions(file, _EXTENSION)
    return readable(str(file), schema)


def readable(name: str, schema: pa.Schema) -> pa.Schema:
    """Return the columns that are read of this table, bytes as text and decimals as floats.

    Raises:
        DataError: a column whose name means something holds dates or the like, or two columns have one name.
    """
    if repeated := {each for each in schema.names if schema.names.count(each) > 1}:
        raise DataError(f"{name} has two columns of one name, {sorted(repeated)}; expected each name once")
    columns = []
    for column in schema:
        kind, meant = column.type, plain(column.name) in _MEANT
        if is_plain(kind) or (_is_vector(kind) and plain(column.name) == "labels"):
            columns.append(column)
        elif pa.types.is_decimal(kind):
            columns.append(column.with_type(pa.float64()))
        elif meant and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            columns.append(column.with_type(pa.large_string()))
        elif meant and not _is_vector(kind):
            raise DataError(f"{name}: column {column.name!r} holds {kind}; expected text or numbers: cast or rename it")
    return pa.schema(columns)


def is_plain(kind: pa.DataType) -> bool:
    """Return whether a column of this type holds text, numbers, or lists and objects of these, and no vectors."""
    if pa.types.is_dictionary(kind):
        return is_plain(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return not _is_vector(kind) and is_plain(kind.value_type)
    if pa.types.is_struct(kind):
        return any(is_plain(kind.field(i).type) for i in range(kind.num_fields))
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return bool(number or pa.types.is_null(kind) or _is_text(kind))


def _is_vector(kind: pa.DataType) -> bool:
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(lists and pa.types.is_floating(kind.value_type))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _numbered(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    for batch in batches:
        batch.validate(full=True)  # bytes of strangers: offsets may lead out of the file
        for row in plain_rows(batch, schema):
            number += 1
            yield number, row


def plain_rows(batch: pa.RecordBatch, schema: pa.Schema) -> Iterator[dict[str, Any]]:
    """Yield the rows of a batch, with the columns that `readable` names."""
    for start in range(0, batch.num_rows, BATCH):
        yield from batch.slice(start, BATCH).select(schema.names).cast(schema).to_pylist()
