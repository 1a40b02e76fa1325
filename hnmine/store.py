"""The vector store: content-addressed, append-only, and the only checkpoint of encoding.

    STORE/<fingerprint>/encoder.json        what the fingerprint stands for, for people
    STORE/<fingerprint>/<unique>.parquet    one block: text_key (16 bytes), vector (fixed-size list of float32)

A vector's address is (fingerprint of the encoder, key of the text). Blocks are written under a unique name and
renamed, so a reader sees whole blocks only, and any number of writers do no harm. A block whose checksum fails
is set aside as `<name>.corrupt`; its texts count as missing and are encoded again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hnmine.progress import say
from hnmine.types import Float32, Int64

KEY_BYTES = 16
Keys = NDArray[np.uint64]
"""Keys of n texts, shape (n, 2)."""


@dataclass(frozen=True)
class Fingerprint:
    """All that decides an encoder's output, and the digest that names it."""

    facts: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, **facts: Any) -> Fingerprint:
        """Take the facts as JSON; their order does not matter."""
        return cls(tuple(sorted((name, json.dumps(fact, sort_keys=True)) for name, fact in facts.items())))

    @property
    def digest(self) -> str:
        """20 hexadecimal digits."""
        return hashlib.sha256(repr(self.facts).encode()).hexdigest()[:20]


@dataclass(frozen=True)
class Reading:
    """How an encoder reads a text: what is put before it, and which of the model's adapters is on."""

    prompt: str = ""
    adapter: str | None = None


PLAIN = Reading()


def key_of(text: str, reading: Reading = PLAIN) -> bytes:
    """Return the key of a text as it is read: 128 bits of BLAKE2b over prompt and text, keyed by the adapter."""
    adapter = (reading.adapter or "").encode()
    digest = hashlib.blake2b(reading.prompt.encode(), digest_size=KEY_BYTES, key=adapter)
    digest.update(b"\0")
    digest.update(text.encode())
    return digest.digest()


def keys_of(texts: Sequence[str], reading: Reading = PLAIN) -> Keys:
    """Return the keys of many texts."""
    joined = b"".join(key_of(text, reading) for text in texts)
    return np.frombuffer(joined, dtype=np.uint64).reshape(-1, 2)


@dataclass(frozen=True)
class VectorStore:
    """The blocks of one encoder."""

    root: Path
    fingerprint: Fingerprint

    @property
    def folder(self) -> Path:
        """Where this encoder's blocks are."""
        return self.root / self.fingerprint.digest

    def scan(self, keys: Keys) -> Iterator[tuple[Int64, Float32]]:
        """Yield, block by block, the rows of `keys` that are stored and their vectors (n, width); each row once.

        Equal keys are served alike.
        """
        open_rows = np.argsort(keys[:, 0], kind="stable")
        for path in sorted(self.folder.glob("*.parquet")):
            if not len(open_rows):
                return
            block = self._read(path, keys[open_rows])
            if block is not None:
                positions, vectors = block
                yield open_rows[positions], vectors
                open_rows = np.delete(open_rows, positions)

    def load(self, keys: Keys) -> tuple[Float32 | None, NDArray[np.bool_]]:
        """Return the vectors of these keys (n, width) and which of them were found.

        Rows that were not found hold zeros. The array is None if nothing was found.
        """
        found = np.zeros(len(keys), dtype=bool)
        vectors: Float32 | None = None
        for rows, values in self.scan(keys):
            if vectors is None:
                vectors = np.zeros((len(keys), values.shape[1]), dtype=np.float32)
            vectors[rows], found[rows] = values, True
        return vectors, found

    def _read(self, path: Path, ordered: Keys) -> tuple[NDArray[np.int64], Float32] | None:
        """Return positions in `ordered` that this block serves, and their vectors."""
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                stored = _keys_column(file.read(columns=["text_key"]).column("text_key"))
                wanted, source = _match(ordered, stored)
                if not len(wanted):
                    return None
                return wanted, _vectors_column(file.read(columns=["vector"]).column("vector"))[source]
        except (OSError, pa.ArrowException, ValueError, KeyError, IndexError) as error:
            aside = path.with_suffix(".corrupt")
            with contextlib.suppress(FileNotFoundError):  # another reader was first
                path.rename(aside)
            say(
                "store",
                f"block {path.name} is damaged ({error}); set aside as {aside.name}, its texts are encoded again",
            )
            return None

    def write(self, keys: Keys, vectors: Float32) -> Path:
        """Write one block, visible only when complete."""
        assert len(keys) == len(vectors)
        assert vectors.dtype == np.float32
        self.folder.mkdir(parents=True, exist_ok=True)
        table = pa.table(
            {
                "text_key": pa.Array.from_buffers(
                    pa.binary(KEY_BYTES), len(keys), [None, pa.py_buffer(np.ascontiguousarray(keys))]
                ),
                "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1]),
            }
        )
        path = self.folder / f"{uuid.uuid4().hex}.parquet"
        hidden = path.with_suffix(".tmp")
        pq.write_table(table, hidden, compression="none", use_dictionary=False, write_page_checksum=True)
        hidden.replace(path)
        return path

    def describe(self) -> None:
        """Write `encoder.json` once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "encoder.json"
        if not path.exists():
            hidden = path.with_suffix(f".{uuid.uuid4().hex}.tmp")
            facts = {name: json.loads(fact) for name, fact in self.fingerprint.facts}
            hidden.write_text(json.dumps(facts, indent=1, sort_keys=True), encoding="utf-8")
            hidden.replace(path)


def _keys_column(column: pa.ChunkedArray) -> Keys:
    array = column.combine_chunks()
    if array.type != pa.binary(KEY_BYTES) or array.null_count:
        raise ValueError(f"text_key is {array.type} with {array.null_count} nulls")
    raw = np.frombuffer(array.buffers()[1], dtype=np.uint64)
    start = 2 * array.offset
    return raw[start : start + 2 * len(array)].reshape(-1, 2)


def _vectors_column(column: pa.ChunkedArray) -> Float32:
    array = column.combine_chunks()
    if not pa.types.is_fixed_size_list(array.type) or array.type.value_type != pa.float32() or array.null_count:
        raise ValueError(f"vector is {array.type} with {array.null_count} nulls")
    values: Float32 = array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), array.type.list_size)
    return values


def _match(ordered: Keys, stored: Keys) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return positions in `ordered` (sorted by the first half) whose key is stored, and where."""
    if not len(stored):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    lookup = np.argsort(stored[:, 0], kind="stable")
    half = stored[lookup, 0]
    at = np.searchsorted(half, ordered[:, 0])
    at[at == len(half)] = 0
    source = lookup[at]
    hit = (stored[source] == ordered).all(axis=1)
    return np.flatnonzero(hit), source[hit]
