"""The vector store: content-addressed, append-only, and the only checkpoint of encoding.

    STORE/<fingerprint>/encoder.json        what the fingerprint stands for, for people
    STORE/<fingerprint>/<unique>.parquet    one block: text_key (16 bytes), vector (fixed-size list of float32)

STORE is a folder or a prefix in an object store (see `runs.directory`). Blocks have unique names and are visible only
when whole, so any number of writers do no harm.
A block whose checksum fails is set aside as `<name>.corrupt`; its texts count as missing and are encoded again.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hnmine.corpus.text_keys import KEY_BYTES, Fingerprint, Keys
from hnmine.runs.directory import Directory
from hnmine.runs.progress import say
from hnmine.types import Float32, Int64


@dataclass(frozen=True)
class VectorStore:
    """The blocks of one encoder.

    The keys of a block are remembered, so a block is opened once, and read again only for vectors that are asked for.
    Pickled, a store forgets them: each actor opens the address for itself.
    """

    root: str | Path
    """A folder, or an address that pyarrow.fs understands."""
    fingerprint: Fingerprint
    _blocks: dict[str, tuple[Keys, int]] = field(default_factory=dict, repr=False, compare=False)
    """Keys and width of the vectors of each block that was read."""

    def __reduce__(self) -> tuple[type[VectorStore], tuple[str | Path, Fingerprint]]:
        return VectorStore, (self.root, self.fingerprint)

    @property
    def folder(self) -> Directory:
        """Where this encoder's blocks are."""
        return Directory.at(self.root) / self.fingerprint.digest

    def contains(self, keys: Keys) -> tuple[NDArray[np.bool_], int]:
        """Return which keys have a vector, and the width of the vectors (0 if no key has one).

        Blocks that were not seen before are read as a whole, checksums included. A store that cannot be read is a
        DataError here and in all that follows.
        """
        found, width = np.zeros(len(keys), dtype=bool), 0
        for rows, none in self.scan(keys, with_vectors=False):
            found[rows], width = True, none.shape[1]
        return found, width

    def load(self, keys: Keys) -> tuple[Float32 | None, NDArray[np.bool_]]:
        """Return the vectors of these keys (n, width) and which of them were found.

        Rows that were not found hold zeros. The array is None if nothing was found. Equal keys are served alike.
        """
        found = np.zeros(len(keys), dtype=bool)
        vectors: Float32 | None = None
        for rows, values in self.scan(keys):
            if vectors is None:
                vectors = np.zeros((len(keys), values.shape[1]), dtype=np.float32)
            vectors[rows], found[rows] = values, True
        return vectors, found

    def scan(self, keys: Keys, *, with_vectors: bool = True) -> Iterator[tuple[Int64, Float32]]:
        """Yield, block by block, the rows of `keys` that the block serves, and their vectors (rows, width).

        A row comes at most once, from the first readable block that has its key; equal keys are all served. At no
        time more than one block is in memory. Without vectors, an array (0, width) stands for them.
        """
        order = np.argsort(keys[:, 0], kind="stable")
        ordered = keys[order]
        unserved = np.ones(len(keys), dtype=bool)
        folder = self.folder
        for name in folder.files(".parquet"):
            if not unserved.any():
                return
            known = self._blocks.get(name)
            # Read a block that was never read, and one that serves a key whose vector is wanted
            if known is None or (with_vectors and unserved[_match(ordered, known[0])[0]].any()):
                self._blocks.pop(name, None)
                raw = folder.read(name)
                if raw is None:  # another reader has set it aside
                    continue
                try:
                    stored, vectors = _read_block(raw)
                except (OSError, pa.ArrowException, ValueError, KeyError, IndexError) as error:
                    aside = folder.set_aside(name)
                    say("store", f"block {name} is damaged ({error}); it is now {aside}, its content is made again")
                    continue
                known = self._blocks[name] = stored, vectors.shape[1]
            # Serve the keys that no block before it has served
            stored, width = known
            positions, source = _match(ordered, stored)
            wanted = unserved[positions]
            if wanted.any():
                unserved[positions] = False
                served = vectors[source[wanted]] if with_vectors else np.empty((0, width), dtype=np.float32)
                yield order[positions[wanted]], served

    def write(self, keys: Keys, vectors: Float32) -> str:
        """Write one block, visible only when complete; return its name. A DataError says why it cannot be written."""
        assert len(keys) == len(vectors)
        assert vectors.dtype == np.float32
        raw_keys = pa.py_buffer(np.ascontiguousarray(keys))
        table = pa.table(
            {
                "text_key": pa.Array.from_buffers(pa.binary(KEY_BYTES), len(keys), [None, raw_keys]),
                "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1]),
            }
        )
        content = pa.BufferOutputStream()
        pq.write_table(table, content, compression="none", use_dictionary=False, write_page_checksum=True)
        name = f"{uuid.uuid4().hex}.parquet"
        self.folder.write(name, content.getvalue())
        return name

    def describe(self) -> None:
        """Write `encoder.json` once."""
        if "encoder.json" not in self.folder.files():
            facts = {name: json.loads(fact) for name, fact in self.fingerprint.facts}
            self.folder.write("encoder.json", json.dumps(facts, indent=1, sort_keys=True).encode())


def _read_block(raw: pa.Buffer) -> tuple[Keys, Float32]:
    """Return a block's keys and vectors; whatever is wrong with the bytes is an error."""
    with pq.ParquetFile(pa.BufferReader(raw), page_checksum_verification=True) as file:
        table = file.read(columns=["text_key", "vector"])
    keys, vectors = table["text_key"].combine_chunks(), table["vector"].combine_chunks()
    is_ours = keys.type == pa.binary(KEY_BYTES) and pa.types.is_fixed_size_list(vectors.type)
    if not is_ours or vectors.type.value_type != pa.float32() or keys.null_count or vectors.null_count:
        raise ValueError(f"text_key is {keys.type}, vector is {vectors.type}, or some are null")
    if len(keys) != len(vectors):
        raise ValueError(f"{len(keys)} keys, {len(vectors)} vectors")
    values: Float32 = vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(vectors), -1)
    return np.frombuffer(b"".join(keys.to_pylist()), dtype=np.uint64).reshape(-1, 2), values


def _match(ordered: Keys, stored: Keys) -> tuple[Int64, Int64]:
    """Return positions in `ordered` (sorted by the first half) whose key is stored, each once, and its row in `stored`.

    Keys whose first halves are equal are candidates: a range of `ordered` for each stored key. The ranges are written
    out one after the other, and of each candidate both halves are compared.
    """
    half = np.ascontiguousarray(ordered[:, 0])
    first = np.searchsorted(half, stored[:, 0], side="left")
    count = np.searchsorted(half, stored[:, 0], side="right") - first
    source = np.repeat(np.arange(len(stored)), count)
    at = np.arange(len(source)) + np.repeat(first - np.cumsum(count) + count, count)
    hit = (ordered[at] == stored[source]).all(axis=1)
    positions, once = np.unique(at[hit], return_index=True)
    return positions, source[hit][once]
