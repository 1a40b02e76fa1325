"""An encoder's vectors as all that follows reads them, by rows or as a whole: kept in a store, or made elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import ValidationError

from hnmine.config.encoders import EncoderConfig
from hnmine.corpus.text_keys import PLAIN, Keys, Reading
from hnmine.embedding.store import VectorStore
from hnmine.errors import ConfigError, DataError, ModelError
from hnmine.runs.files import whole_file
from hnmine.types import Float32, Int64, Role, Texts

_SCAN_ROWS = 8192
Given = Mapping[str, Any] | NDArray[Any]
"""Vectors made elsewhere: by id, or as rows in the order of the collection's ids."""
GivenVectors = tuple[Given, Given]
"""Those of the documents, and those of the queries."""


class Vectors(Protocol):
    """One encoder's vectors of all texts; a row need not be a unit vector."""

    @property
    def identity(self) -> str:
        """Names what made them: equal identities mean the same encoder, read the same way."""

    @property
    def width(self) -> int:
        """Dimensions."""

    def count(self, role: Role) -> int:
        """Return the number of texts of this role."""

    def take(self, role: Role, rows: Int64) -> Float32:
        """Return the vectors of these rows, in their order."""

    def scan(self, role: Role, rows: Int64 | None = None) -> Iterator[tuple[Int64, Float32]]:
        """Yield the vectors of these rows, None: of all, in pieces with their positions, in any order, each once."""


@dataclass(frozen=True, kw_only=True)
class StoredVectors:
    """Vectors that are all in the store and are read when they are asked for."""

    name: str
    store: VectorStore
    keys: dict[Role, Keys]
    width: int
    reading: Reading = PLAIN
    """How documents are read."""

    @property
    def identity(self) -> str:
        """The encoder's fingerprint and how documents are read."""
        return f"{self.store.fingerprint.digest} {self.reading.prompt!r} {self.reading.adapter or ''}".strip()

    def count(self, role: Role) -> int:
        """Return the number of texts of this role."""
        return len(self.keys[role])

    def take(self, role: Role, rows: Int64) -> Float32:
        """Return the vectors of these rows; a ModelError says that one cannot be read any more."""
        vectors, found = self.store.load(self.keys[role][rows])
        self._require_all(int(found.sum()), len(rows))
        return np.empty((0, self.width), dtype=np.float32) if vectors is None else vectors

    def scan(self, role: Role, rows: Int64 | None = None) -> Iterator[tuple[Int64, Float32]]:
        """Yield the vectors of these rows, None: of all, in pieces with their positions; raises as `take` does."""
        keys = self.keys[role] if rows is None else self.keys[role][rows]
        served = 0
        for positions, vectors in self.store.scan(keys):
            served += len(positions)
            yield positions, vectors
        self._require_all(served, len(keys))

    def _require_all(self, served: int, wanted: int) -> None:
        if served < wanted:
            raise ModelError(
                f"encoder {self.name}: {wanted - served} vectors that were in {self.store.folder} a moment ago cannot "
                "be read any more; start again, and they are encoded again"
            )


@dataclass(frozen=True, kw_only=True)
class Precomputed:
    """Vectors made elsewhere, in memory."""

    name: str
    docs_NR: Float32
    queries_QR: Float32

    def __post_init__(self) -> None:
        if len(self.docs_NR) and len(self.queries_QR) and self.width != self.queries_QR.shape[1]:
            raise DataError(
                f"encoder {self.name}: documents.parquet has vectors of width {self.width}, queries.parquet of width "
                f"{self.queries_QR.shape[1]}; both must come from the same model"
            )

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

    def scan(self, role: Role, rows: Int64 | None = None) -> Iterator[tuple[Int64, Float32]]:
        """Yield the vectors of these rows, None: of all, in pieces with their positions."""
        for start in range(0, self.count(role) if rows is None else len(rows), _SCAN_ROWS):
            part = slice(start, start + _SCAN_ROWS)
            values = self._rows(role)[part if rows is None else rows[part]]
            yield np.arange(start, start + len(values), dtype=np.int64), values

    def _rows(self, role: Role) -> Float32:
        return self.docs_NR if role == "document" else self.queries_QR


def read_vectors(name: str, folder: Path, role: Role, texts: Texts) -> Float32:
    """Read vectors made elsewhere: `documents.parquet` or `queries.parquet`, columns `id` and `vector`.

    Vectors of ids that the collection does not have are ignored.

    Raises:
        DataError: a file, a column or a vector is missing; ids repeat; a vector is not finite or all zero.
    """
    # Open the file, and find the row of each text
    path = folder / ("documents.parquet" if role == "document" else "queries.parquet")
    where = f"encoder {name}: {path}"
    table = _id_and_vector(where, path)
    ids = [str(text_id) for text_id in table.column("id").to_pylist()]
    row_of = {text_id: row for row, text_id in enumerate(ids)}
    if len(row_of) < len(ids):
        repeated, _ = Counter(ids).most_common(1)[0]
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


def given_encoders(names: Collection[str], folder: Path) -> tuple[EncoderConfig, ...]:
    """Return encoders of these names whose vectors `write_given` puts into the folder."""
    try:
        return tuple(EncoderConfig(name=name, precomputed=folder / name) for name in names)
    except ValidationError:
        raise ConfigError(
            f"vectors: names have letters, digits, _, . and - alone, got {', '.join(map(repr, names))}"
        ) from None


def write_given(name: str, folder: Path, documents: Texts, queries: Texts, given: GivenVectors) -> None:
    """Write vectors that were given as objects as files that `read_vectors` reads, and checks.

    Args:
        name: of the encoder, and of its folder in `folder`.
        folder: where all given vectors are.
        documents: whose ids the rows of the first array belong to.
        queries: the same of the second.
        given: those of the documents and of the queries, each {id: vector} or an array (n, R) in the order of the ids.

    Raises:
        DataError: an array has not one row a text, or vectors differ in width or are no numbers.
    """
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise DataError(f"vectors of {name}: expected (documents, queries), each an array or {{id: vector}}")
    for side, texts, vectors in zip(("documents", "queries"), (documents, queries), given, strict=True):
        where = f"vectors of {name}, {side}"
        ids = list(map(str, vectors)) if isinstance(vectors, Mapping) else list(texts.ids)
        try:
            rows_nR = np.asarray(list(vectors.values()) if isinstance(vectors, Mapping) else vectors, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise DataError(f"{where}: they are no numbers, or differ in width: {error}") from None
        if rows_nR.shape != (len(ids), rows_nR.shape[-1] if rows_nR.ndim == 2 else 0):
            raise DataError(
                f"{where}: expected a matrix of one row a text, {len(ids):,} rows in the order of collection."
                f"{side}.ids, got the shape {rows_nR.shape}; or give {{id: vector}}"
            )
        column = pa.FixedSizeListArray.from_arrays(pa.array(rows_nR.reshape(-1)), rows_nR.shape[1])
        with whole_file(folder / name / f"{side}.parquet") as hidden:
            pq.write_table(pa.table({"id": pa.array(ids, pa.string()), "vector": column}), hidden)


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
        row = pc.index(column.is_null(), True).as_py()
        raise DataError(f"{where}: {column.null_count} vectors are null, the first of id {ids[row]!r} (row {row + 1})")
    lengths = np.asarray(pc.list_value_length(column))
    if len(odd := np.flatnonzero(lengths != lengths[:1])):
        row = int(odd[0])
        raise DataError(
            f"{where}: widths differ: {lengths[0]} in row 1, {lengths[row]} in row {row + 1} (id {ids[row]!r})"
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
