"""Vectors made elsewhere, read row for row for the texts of a collection."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hnmine.errors import DataError
from hnmine.types import Float32, Int64, Role, Texts

_SCAN_ROWS = 8192


@dataclass(frozen=True, kw_only=True)
class Precomputed:
    """Vectors in memory; they are read as `vectors.Vectors`."""

    name: str
    docs_NR: Float32
    queries_QR: Float32

    @classmethod
    def checked(cls, name: str, docs_NR: Float32, queries_QR: Float32) -> Precomputed:
        """Return the vectors of documents and queries.

        Raises:
            DataError: their widths differ.
        """
        if len(docs_NR) and len(queries_QR) and docs_NR.shape[1] != queries_QR.shape[1]:
            raise DataError(
                f"encoder {name}: documents.parquet has vectors of width {docs_NR.shape[1]}, queries.parquet of width "
                f"{queries_QR.shape[1]}; both must come from the same model"
            )
        return cls(name=name, docs_NR=docs_NR, queries_QR=queries_QR)

    @property
    def identity(self) -> str:
        """The encoder's name and width: what made the vectors is not known here."""
        return f"{self.name} ({self.width} wide)"

    @property
    def width(self) -> int:
        """Dimensions."""
        return int(self.docs_NR.shape[1])

    def count(self, role: Role) -> int:
        """Return the number of texts of this role."""
        return len(self._rows(role))

    def take(self, role: Role, rows: Int64) -> Float32:
        """Return the vectors of these rows."""
        return self._rows(role)[rows]

    def scan(self, role: Role) -> Iterator[tuple[Int64, Float32]]:
        """Yield all vectors in pieces with their rows."""
        for start in range(0, self.count(role), _SCAN_ROWS):
            values = self._rows(role)[start : start + _SCAN_ROWS]
            yield np.arange(start, start + len(values), dtype=np.int64), values

    def _rows(self, role: Role) -> Float32:
        return self.docs_NR if role == "document" else self.queries_QR


def read_vectors(name: str, folder: Path, role: Role, texts: Texts) -> Float32:
    """Read vectors made elsewhere: `documents.parquet` or `queries.parquet`, columns `id` and `vector`.

    Vectors of ids that the collection does not have are ignored.

    Args:
        name: of the encoder, in messages.
        folder: holds both files.
        role: which of them is read.
        texts: whose vectors are returned, in their order.

    Raises:
        DataError: a file, a column or a vector is missing; ids repeat; a vector is not finite or all zero.
    """
    # Open the file
    path = folder / ("documents.parquet" if role == "document" else "queries.parquet")
    where = f"encoder {name}: {path}"
    table = _id_and_vector(where, path)
    ids = [str(text_id) for text_id in table.column("id").to_pylist()]
    # Find the row of each text
    row_of = {text_id: row for row, text_id in enumerate(ids)}
    if len(row_of) != len(ids):
        repeated = next(text_id for row, text_id in enumerate(ids) if row_of[text_id] != row)
        raise DataError(f"{where}: id {repeated!r} stands in two rows; keep one")
    missing = [text_id for text_id in texts.ids if text_id not in row_of]
    if missing:
        raise DataError(f"{where}: {len(missing)} of {len(texts)} vectors are missing, first {missing[0]!r}; add them")
    rows_n = np.array([row_of[text_id] for text_id in texts.ids], dtype=np.int64)
    # Take the vectors, and refuse those that point nowhere
    _refuse_odd_vectors(where, table.column("vector"), ids)
    vectors_nR = _take(table.column("vector"), rows_n)
    not_finite, zero = ~np.isfinite(vectors_nR).all(axis=1), ~vectors_nR.any(axis=1)
    for bad, problem in ((not_finite, "holds NaN or infinity"), (zero, "is all zero")):
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            raise DataError(
                f"{where}: the vector of {texts.ids[first]!r} (row {int(rows_n[first]) + 1}) {problem}, and so do "
                f"{int(bad.sum()) - 1} others; encode these texts again or remove them from the collection"
            )
    return vectors_nR


def _id_and_vector(where: str, path: Path) -> pa.Table:
    if not path.is_file():
        raise DataError(f"{where} does not exist; a precomputed folder holds documents.parquet and queries.parquet")
    try:
        table = pq.read_table(path, columns=["id", "vector"])
    except (OSError, pa.ArrowException, ValueError, KeyError) as error:
        raise DataError(f"{where} is not a Parquet file with the columns id and vector: {error}") from None
    if table.column_names != ["id", "vector"]:
        raise DataError(f"{where} needs the columns id and vector, has {pq.read_schema(path).names}")
    if table.column("id").null_count:
        raise DataError(f"{where}: {table.column('id').null_count} rows have no id; every vector needs one")
    return table


def _refuse_odd_vectors(where: str, column: pa.ChunkedArray, ids: list[str]) -> None:
    """Raise DataError unless the column holds lists of floats, all of one length."""
    kind = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_list or not pa.types.is_floating(kind.value_type):
        raise DataError(f"{where}: vector must be a list of floats, is {kind}")
    if column.null_count:
        row = int(np.flatnonzero(np.asarray(column.is_null()))[0])
        raise DataError(f"{where}: {column.null_count} vectors are null, the first of id {ids[row]!r} (row {row + 1})")
    lengths = np.asarray(pc.list_value_length(column))
    if len(odd := np.flatnonzero(lengths != lengths[:1])):
        row = int(odd[0])
        raise DataError(
            f"{where}: widths differ: {int(lengths[0])} in row 1, {int(lengths[row])} in row {row + 1} "
            f"(id {ids[row]!r})"
        )


def _take(column: pa.ChunkedArray, rows_n: Int64) -> Float32:
    """Return these rows of the column (n, R); chunk by chunk, since all in one may be too long for Arrow's offsets."""
    width = len(column[0]) if len(column) else 0
    position = np.full(len(column), -1, dtype=np.int64)  # of each row of the column among those that are asked for
    position[rows_n] = np.arange(len(rows_n))
    vectors_nR = np.empty((len(rows_n), width), dtype=np.float32)
    start = 0
    for chunk in filter(len, column.chunks):
        here = position[start : start + len(chunk)]
        values = chunk.flatten().cast(pa.float32()).to_numpy(zero_copy_only=False).reshape(len(chunk), -1)
        vectors_nR[here[here >= 0]] = values[here >= 0]
        start += len(chunk)
    return vectors_nR
