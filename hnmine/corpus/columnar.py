"""Parquet and Arrow: rows with the columns that hold text, numbers, or lists and objects of these.

Extension types may run code when they are made. They are refused on bytes, before Arrow makes them.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hnmine.corpus.fields import any_known, plain
from hnmine.corpus.files import File
from hnmine.errors import DataError

BATCH = 1024  # rows of Parquet or Arrow that become Python objects at a time
_EXTENSION = b"ARROW:extension:name"
_IN_BASE64 = tuple(  # as Parquet holds it, at each of the three places where a byte may stand in base64
    base64.b64encode(bytes(before) + _EXTENSION)[(before * 8 + 5) // 6 : (before + len(_EXTENSION)) * 8 // 6]
    for before in range(3)
)


def is_parquet(file: File) -> bool:
    """Return whether a file is Parquet by its content."""
    with file.opened() as (kind, _):
        return kind == "parquet"


def parquet_rows(file: File, groups: Sequence[int] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and plain columns of each row of a Parquet file, or of these row groups of it, which begin at 1.

    Extension types are refused unread.
    """
    with _opened_parquet(file) as table:
        schema = _readable(file, table.schema_arrow)
        yield from _numbered(table.iter_batches(BATCH, columns=schema.names, row_groups=groups), schema)


def rows_by_group(file: File) -> list[int]:
    """Return how many rows each row group of a Parquet file has."""
    with _opened_parquet(file) as table:
        return [table.metadata.row_group(group).num_rows for group in range(table.metadata.num_row_groups)]


@contextmanager
def _opened_parquet(file: File) -> Iterator[pq.ParquetFile]:
    with file.folder.filesystem.open_input_file(f"{file.folder.path}/{file.name}") as source:
        # Look at the footer as bytes: extension types are made as soon as Arrow reads it.
        source.seek(max(0, source.size() - 8))
        length = int.from_bytes(source.read(4), "little")
        source.seek(max(0, source.size() - 8 - length))
        footer = source.read()
        if any(each in footer for each in _IN_BASE64):
            _refuse_extensions(file, _EXTENSION)

        source.seek(0)
        yield pq.ParquetFile(source)


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
        kind, meant = column.type, any_known([column.name])
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
