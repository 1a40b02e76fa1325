"""The vector store: content-addressed, append-only, and the only checkpoint of encoding.

    STORE/<fingerprint>/encoder.json        what the fingerprint stands for, for people
    STORE/<fingerprint>/<unique>.parquet    one block of keys and vectors (see `blocks`)
    STORE/<fingerprint>/<unique>.index      the keys of many blocks, so that what is missing is known without vectors

STORE is a folder or a prefix in an object store (see `runs.directory`). Blocks have unique names and are visible only
when whole, so any number of writers do no harm.
A block whose checksum fails is set aside as `<name>.corrupt`; its texts count as missing and are encoded again.
An index says nothing that the blocks do not: without it they are read. Small blocks are put together in larger ones,
which are written before those are removed.
"""

from __future__ import annotations

import json
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hnmine.corpus.text_keys import Fingerprint, Keys
from hnmine.embedding import blocks
from hnmine.errors import DataError
from hnmine.runs.directory import Directory
from hnmine.runs.progress import say
from hnmine.types import Float32, Int64

SMALL_ROWS, COMPACT_AT, BLOCK_ROWS = 256, 32, 4096
"""So many blocks of fewer rows than SMALL_ROWS are put together in blocks of at most BLOCK_ROWS."""
INDEX_AT, INDEX_BYTES, MANY_INDEXES = 8, 2**23, 16
"""An index is written of so many blocks that none has, or of so many bytes; so many indexes are made one."""
_READERS = 8  # threads that read an object store
_JobT = TypeVar("_JobT")
_FoundT = TypeVar("_FoundT")


class Block(NamedTuple):
    """What is remembered of a block: its keys, the width of its vectors, the bytes of its file."""

    keys: Keys
    width: int
    size: int


class _Part(NamedTuple):
    """What a block serves: positions in the sorted keys that are asked for, and the block's rows of them."""

    name: str
    positions: Int64
    rows: Int64


@dataclass(frozen=True)
class VectorStore:
    """The blocks of one encoder.

    The keys of a block are remembered, so a block is opened once, and read again only for vectors that are asked for.
    Pickled, a store forgets them: each actor opens the address for itself.
    """

    root: str | Path
    """A folder, or an address that pyarrow.fs understands."""
    fingerprint: Fingerprint
    _blocks: dict[str, Block] = field(default_factory=dict, repr=False, compare=False)
    _indexes: dict[str, frozenset[str]] = field(default_factory=dict, repr=False, compare=False)
    """The blocks of each index that was read or written."""

    def __reduce__(self) -> tuple[type[VectorStore], tuple[str | Path, Fingerprint]]:
        return VectorStore, (self.root, self.fingerprint)

    @property
    def folder(self) -> Directory:
        """Where this encoder's blocks are."""
        return Directory.at(self.root) / self.fingerprint.digest

    @property
    def _threads(self) -> int:
        return 1 if self.folder.local else _READERS

    def contains(self, keys: Keys) -> tuple[NDArray[np.bool_], int]:
        """Return which keys have a vector, and the width of the vectors (0 if no key has one).

        Vectors are read of blocks alone that are new and in no index. A store that cannot be read is a DataError here
        and in all that follows.
        """
        self._learn()
        order, parts = self._plan(keys, np.ones(len(keys), dtype=bool))
        found = np.zeros(len(keys), dtype=bool)
        for part in parts:
            found[order[part.positions]] = True
        return found, self._blocks[parts[-1].name].width if parts else 0

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

    def scan(self, keys: Keys) -> Iterator[tuple[Int64, Float32]]:
        """Yield, block by block, the rows of `keys` that the block serves, and their vectors (rows, width).

        A row comes at most once, from the first readable block that has its key; equal keys are all served. Some
        blocks are read ahead, at the same time. What a block does not give that is damaged, or was removed meanwhile,
        comes from another one that has it.
        """
        unserved = np.ones(len(keys), dtype=bool)
        while unserved.any():
            self._learn()
            order, parts = self._plan(keys, unserved)
            unserved = np.zeros(len(keys), dtype=bool)
            for part, vectors in _ahead(parts, self._read, self._threads):
                rows = order[part.positions]
                if vectors is None:
                    unserved[rows] = True
                else:
                    yield rows, vectors

    def write(self, keys: Keys, vectors: Float32) -> str:
        """Write one block, visible only when complete; return its name. A DataError says why it cannot be written."""
        assert len(keys) == len(vectors)
        assert vectors.dtype == np.float32
        content, name = blocks.to_bytes(keys, vectors), f"{uuid.uuid4().hex}.parquet"
        self.folder.write(name, content)
        self.remember(name, Block(keys.copy(), vectors.shape[1], content.size))
        return name

    def forget(self, name: str) -> Block:
        """Return what is known of a block that was written here, for the process that reads it to remember."""
        return self._blocks.pop(name)

    def remember(self, name: str, block: Block) -> None:
        """Take what another process says of a block that it has written; it counts if the block is there."""
        self._blocks[name] = block

    def describe(self) -> None:
        """Write `encoder.json` once."""
        if "encoder.json" not in self.folder.files():
            facts = {name: json.loads(fact) for name, fact in self.fingerprint.facts}
            self.folder.write("encoder.json", json.dumps(facts, indent=1, sort_keys=True).encode())

    def compact(self) -> None:
        """Put small blocks together, if there are many: each night leaves some."""
        self._learn()
        small = sorted(name for name, block in self._blocks.items() if len(block.keys) < SMALL_ROWS)
        if len(small) < COMPACT_AT:
            return
        probe = f"{uuid.uuid4().hex}.compact"
        self.folder.write(probe, b".")
        self.folder.remove(probe)  # who may not remove is told so before anything is written twice
        # Write what they have again, each key once; then remove them.
        keys = np.unique(np.concatenate([self._blocks[name].keys for name in small]), axis=0)
        vectors, found = self.load(keys)
        if vectors is not None:
            for start in range(0, int(found.sum()), BLOCK_ROWS):
                rows = np.flatnonzero(found)[start : start + BLOCK_ROWS]
                self.write(keys[rows], vectors[rows])
        for name in small:
            self.folder.remove(name)
        self._learn()
        say("store", f"{len(small)} small blocks of {self.folder} were put together")

    def _plan(self, keys: Keys, unserved: NDArray[np.bool_]) -> tuple[Int64, list[_Part]]:
        """Return how the keys are sorted, and which block serves which of the rows that are not served yet.

        Of several blocks that have a key the first by name serves it.
        """
        order = np.argsort(keys[:, 0], kind="stable")
        ordered, left = keys[order], unserved[order]
        half, parts = np.ascontiguousarray(ordered[:, 0]), []
        for name in sorted(self._blocks):
            if not left.any():
                break
            if (block := self._blocks.get(name)) is None:
                continue
            positions, rows = _match(ordered, half, block.keys)
            wanted = left[positions]
            if wanted.any():
                left[positions] = False
                parts.append(_Part(name, positions[wanted], rows[wanted]))
        return order, parts

    def _learn(self) -> None:
        """Learn the keys of all blocks that are there: from indexes, else from the blocks; forget all others."""
        while not self._learn_indexes(sizes := self.folder.sizes()):
            pass
        # Read the blocks that no index has, and write one where they are many.
        unknown = sorted(name for name in sizes if name.endswith(".parquet") and name not in self._blocks)
        for _ in _ahead(unknown, lambda name: self._read_whole(name, sizes[name]), self._threads):
            pass
        new = sorted(self._blocks.keys() - frozenset[str]().union(*self._indexes.values()))
        if len(new) >= INDEX_AT or sum(self._blocks[name].size for name in new) >= INDEX_BYTES:
            with suppress(DataError):  # who may only read does without
                self._write_index(new)

    def _learn_indexes(self, sizes: dict[str, int]) -> bool:
        """Forget what is not among these files, and read new indexes; False: one vanished into another one."""
        for name in [name for name, block in self._blocks.items() if sizes.get(name) != block.size]:
            del self._blocks[name]
        for name in self._indexes.keys() - sizes.keys():
            del self._indexes[name]
        new = [name for name in sizes if name.endswith(".index") and name not in self._indexes]
        found = dict(_ahead(new, lambda name: self._read_index(name, sizes), self._threads))
        return all(found.values())

    def _write_index(self, names: list[str]) -> None:
        """Write an index of these blocks, and of those of all others where these are many."""
        replaced = list(self._indexes) if len(self._indexes) >= MANY_INDEXES else []
        names = sorted(self._blocks) if replaced else names
        known = [self._blocks[name] for name in names]
        table = pa.table(
            {
                "block": pa.array(names, pa.string()),
                "bytes": [block.size for block in known],
                "width": [block.width for block in known],
                "text_keys": pa.array([block.keys.tobytes() for block in known], pa.large_binary()),
            }
        )
        index = f"{uuid.uuid4().hex}.index"
        self.folder.write(index, blocks.serialized(table))
        self._indexes[index] = frozenset(names)
        for name in replaced:
            self.folder.remove(name)
            del self._indexes[name]

    def _read_index(self, index: str, sizes: dict[str, int]) -> bool:
        """Take what an index says of blocks that are there as it says; False: it has vanished."""
        raw = self.folder.read(index)
        if raw is None:
            return False
        try:
            with pq.ParquetFile(pa.BufferReader(raw), page_checksum_verification=True) as file:
                rows = file.read(columns=["block", "bytes", "width", "text_keys"]).to_pylist()
        except blocks.DAMAGED as error:
            say("store", f"index {index} is damaged ({error}); it is removed, and made again from its blocks")
            self.folder.remove(index)
            return True
        names = [row["block"] for row in rows if sizes.get(row["block"]) == row["bytes"]]
        for row in rows:
            keys = np.frombuffer(row["text_keys"], dtype=np.uint64).reshape(-1, 2)
            self._blocks.setdefault(row["block"], Block(keys, row["width"], row["bytes"]))
        for name in {row["block"] for row in rows} - set(names):
            self._blocks.pop(name, None)
        self._indexes[index] = frozenset(names)
        return True

    def _read_whole(self, name: str, size: int) -> Float32 | None:
        """Read a block, remember its keys and return its vectors; None: it is damaged, and set aside, or gone."""
        raw = self.folder.read(name)
        if raw is None:  # another reader has set it aside, or put it together with others
            self._blocks.pop(name, None)
            return None
        try:
            keys, vectors = blocks.read_all(raw)
        except blocks.DAMAGED as error:
            self._set_aside(name, error)
            return None
        self._blocks[name] = Block(keys, vectors.shape[1], size)
        return vectors

    def _read(self, part: _Part) -> Float32 | None:
        """Return the vectors of some rows of a block; None: it is damaged, and set aside, or gone."""
        block = self._blocks[part.name]
        if 2 * blocks.GROUP_BYTES * len(np.unique(part.rows)) > block.size:  # parts would be most of it
            vectors = self._read_whole(part.name, block.size)
            return None if vectors is None else vectors[part.rows]
        try:
            vectors = blocks.read_rows(part.rows, block.size, lambda ranges: self.folder.read_parts(part.name, ranges))
        except blocks.DAMAGED as error:
            self._set_aside(part.name, error)
            return None
        if vectors is None:
            self._blocks.pop(part.name, None)
        return vectors

    def _set_aside(self, name: str, error: Exception) -> None:
        self._blocks.pop(name, None)
        aside = self.folder.set_aside(name)
        say("store", f"block {name} is damaged ({error}); it is now {aside}, its content is made again")


def _ahead(jobs: Iterable[_JobT], work: Callable[[_JobT], _FoundT], threads: int) -> Iterator[tuple[_JobT, _FoundT]]:
    """Yield each job and what comes of it, in order, while threads work on the next ones."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[tuple[_JobT, Future[_FoundT]]] = deque()
        for job in jobs:
            waiting.append((job, pool.submit(work, job)))
            if len(waiting) > threads:
                first, found = waiting.popleft()
                yield first, found.result()
        for job, found in waiting:
            yield job, found.result()


def _match(ordered: Keys, half: NDArray[np.uint64], stored: Keys) -> tuple[Int64, Int64]:
    """Return positions in `ordered` whose key is stored, each once, and the row in `stored`.

    `ordered` is sorted by its first half, `half`. Keys whose first halves are equal are candidates: a range of
    `ordered` for each stored key. The ranges are written out one after the other, and of each candidate both halves are
    compared.
    """
    first = np.searchsorted(half, stored[:, 0], side="left")
    count = np.searchsorted(half, stored[:, 0], side="right") - first
    source = np.repeat(np.arange(len(stored)), count)
    at = np.arange(len(source)) + np.repeat(first - np.cumsum(count) + count, count)
    hit = (ordered[at] == stored[source]).all(axis=1)
    positions, once = np.unique(at[hit], return_index=True)
    return positions, source[hit][once]
