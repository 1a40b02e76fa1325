"""The file of a block of vectors: Parquet, text_key (16 bytes) and vector (fixed-size list of float32).

It has row groups of about half a mebibyte, so that a few rows are read without the others. Every page has a checksum.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hnmine.corpus.text_keys import KEY_BYTES, Keys
from hnmine.types import Float32, Int64

GROUP_BYTES = 2**19
"""Vectors of a row group: the least that is read of a block."""
_TAIL_BYTES = 2**16  # of a file, in which its description is looked for first
_GAP_BYTES = 2**20  # that are read along rather than asked for apart: about what a question to an object store costs
DAMAGED = (OSError, pa.ArrowException, ValueError, KeyError, IndexError)
"""What reading the bytes of a damaged block raises."""
Ranges = list[tuple[int, int]]
"""Parts of a file: where each begins, and its bytes."""


def to_bytes(keys: Keys, vectors: Float32) -> pa.Buffer:
    """Return the file of these keys (n, 2) and vectors (n, R)."""
    raw_keys = pa.py_buffer(np.ascontiguousarray(keys))
    table = pa.table(
        {
            "text_key": pa.Array.from_buffers(pa.binary(KEY_BYTES), len(keys), [None, raw_keys]),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1]),
        }
    )
    group = max(16, GROUP_BYTES // (4 * max(1, vectors.shape[1])))
    return serialized(table, row_group_size=group)


def serialized(table: pa.Table, row_group_size: int | None = None) -> pa.Buffer:
    """Return the Parquet file of a table, every page with a checksum."""
    content = pa.BufferOutputStream()
    pq.write_table(
        table,
        content,
        compression="none",
        use_dictionary=False,
        write_page_checksum=True,
        row_group_size=row_group_size,
    )
    return content.getvalue()


def read_all(raw: pa.Buffer) -> tuple[Keys, Float32]:
    """Return a block's keys and vectors; whatever is wrong with the bytes is an error, one of `DAMAGED`."""
    with pq.ParquetFile(pa.BufferReader(raw), page_checksum_verification=True) as file:
        table = file.read(columns=["text_key", "vector"])
    keys, vectors = table["text_key"].combine_chunks(), _vectors(table)
    if keys.type != pa.binary(KEY_BYTES) or keys.null_count or len(keys) != len(vectors):
        raise ValueError(f"text_key is {keys.type}, some are null, or {len(keys)} keys have {len(vectors)} vectors")
    return np.frombuffer(b"".join(keys.to_pylist()), dtype=np.uint64).reshape(-1, 2), vectors


def read_rows(rows: Int64, size: int, read: Callable[[Ranges], list[pa.Buffer] | None]) -> Float32 | None:
    """Return the vectors of these rows of a file of so many bytes; None: there is no file any more.

    `read` is asked for parts of it, once for the description and once for the row groups that the rows stand in.
    """
    # Read the description, which stands at the end.
    tail = min(size, _TAIL_BYTES)
    found = read([(size - tail, tail)])
    if found is None:
        return None
    length = int.from_bytes(found[0][-8:-4].to_pybytes(), "little") + 8
    if tail < length <= size and (found := read([(size - length, length)])) is None:
        return None
    described = pq.read_metadata(pa.BufferReader(found[0]))
    # Read the row groups, those that lie close together at once.
    ends = np.cumsum([described.row_group(at).num_rows for at in range(described.num_row_groups)])
    groups = np.unique(np.searchsorted(ends, rows, side="right")).tolist()
    column = described.schema.to_arrow_schema().names.index("vector")
    ranges: Ranges = []
    for group in groups:
        chunk = described.row_group(group).column(column)
        if ranges and chunk.data_page_offset - sum(ranges[-1]) <= _GAP_BYTES:
            start = ranges.pop()[0]
        else:
            start = chunk.data_page_offset
        ranges.append((start, chunk.data_page_offset + chunk.total_compressed_size - start))
    if (parts := read(ranges)) is None:
        return None
    # Put them where they stood, in a file that is empty otherwise.
    sparse = np.zeros(size, dtype=np.uint8)  # pages that nothing is written to take no memory
    for (start, length), part in zip(ranges, parts, strict=True):
        sparse[start : start + length] = np.frombuffer(part, dtype=np.uint8)
    with pq.ParquetFile(
        pa.BufferReader(pa.py_buffer(sparse)), metadata=described, page_checksum_verification=True
    ) as file:
        vectors = _vectors(file.read_row_groups(groups, columns=["vector"]))
    counts = [described.row_group(group).num_rows for group in groups]
    there = np.concatenate([np.arange(end - count, end) for end, count in zip(ends[groups], counts, strict=True)])
    return vectors[np.searchsorted(there, rows)]


def _vectors(table: pa.Table) -> Float32:
    vectors = table["vector"].combine_chunks()
    is_ours = pa.types.is_fixed_size_list(vectors.type) and vectors.type.value_type == pa.float32()
    if not is_ours or vectors.null_count:
        raise ValueError(f"vector is {vectors.type}, or some are null")
    values: Float32 = vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(vectors), -1)
    return values
