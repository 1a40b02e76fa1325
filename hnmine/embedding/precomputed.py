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
    file = "documents.parquet" if role == "document" else "queries.parquet"
    return _read_vectors(name, folder / file, texts)


def _read_vectors(name: str, path: Path, wanted: Texts) -> Float32:
    where = f"encoder {name}: {path}"
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
    ids = [str(text_id) for text_id in table.column("id").to_pylist()]
    row_of = {text_id: row for row, text_id in enumerate(ids)}
    if len(row_of) != len(ids):
        repeated = next(text_id for row, text_id in enumerate(ids) if row_of[text_id] != row)
        raise DataError(f"{where}: id {repeated!r} stands in two rows; keep one")
    missing = [text_id for text_id in wanted.ids if text_id not in row_of]
    if missing:
        raise DataError(f"{where}: {len(missing)} of {len(wanted)} vectors are missing, first {missing[0]!r}; add them")
    rows = np.array([row_of[text_id] for text_id in wanted.ids], dtype=np.int64)
    values = _matrix(where, table.column("vector"), ids, rows)
    not_finite, zero = ~np.isfinite(values).all(axis=1), ~values.any(axis=1)
    for bad, what in ((not_finite, "holds NaN or infinity"), (zero, "is all zero")):
        if bad.any():
            at = int(np.flatnonzero(bad)[0])
            raise DataError(
                f"{where}: the vector of {wanted.ids[at]!r} (row {int(rows[at]) + 1}) {what}, and so do "
                f"{int(bad.sum()) - 1} others; encode these texts again or remove them from the collection"
            )
    return values


def _matrix(where: str, column: pa.ChunkedArray, ids: list[str], rows: Int64) -> Float32:
    """Return these rows of the column (n, R); a piece at a time, for all in one may be too long for Arrow's offsets."""
    kind, place = column.type, np.full(len(column), -1, dtype=np.int64)
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not is_list or not pa.types.is_floating(kind.value_type):
        raise DataError(f"{where}: vector must be a list of floats, is {kind}")
    if column.null_count:
        at = int(np.flatnonzero(np.asarray(column.is_null()))[0])
        raise DataError(f"{where}: {column.null_count} vectors are null, the first of id {ids[at]!r} (row {at + 1})")
    lengths = np.asarray(pc.list_value_length(column))
    odd = np.flatnonzero(lengths != lengths[0]) if len(lengths) else lengths
    if len(odd):
        at = int(odd[0])
        raise DataError(
            f"{where}: widths differ: {int(lengths[0])} in row 1, {int(lengths[at])} in row {at + 1} (id {ids[at]!r})"
        )
    place[rows] = np.arange(len(rows))
    values = np.empty((len(rows), int(lengths[0]) if len(lengths) else 0), dtype=np.float32)
    done = 0
    for chunk in filter(len, column.chunks):
        to = place[done : done + len(chunk)]
        flat = chunk.flatten().cast(pa.float32()).to_numpy(zero_copy_only=False)
        values[to[to >= 0]] = flat.reshape(len(chunk), -1)[to >= 0]
        done += len(chunk)
    return values
