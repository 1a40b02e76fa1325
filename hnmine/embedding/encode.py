"""Texts that the store lacks are cut into blocks and encoded, see `pool`.

A block is the unit of work, of storage and of recovery. A finished run, a killed run and an ordinary next night are
the same case: what the store has is left alone. All texts are cut into cells, by the texts alone; a cell is computed
together, so its vectors are the same to the last bit whenever that is. A block has the cells, or what is missing of
them, that come one after the other: few where little is encoded, so that all can work, and more where much is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnmine.corpus.text_keys import Keys
from hnmine.embedding.pool import encode_blocks
from hnmine.embedding.store import VectorStore
from hnmine.errors import DataError, ModelError
from hnmine.models.plan import Plan
from hnmine.runs.counters import ENCODING_DONE, ENCODING_LEFT, ENCODING_TEXTS
from hnmine.runs.progress import say, track
from hnmine.types import Int64, Role, Texts

BLOCK_TEXTS = 512
"""Texts in a cell, and in a block at least, if so many are missing."""
_MOST_TEXTS, _MOST_CHARACTERS = 4096, 4_000_000  # of a block: ten million documents are thousands of blocks
_PARTS = 64  # that the work is divided into at least, before blocks grow


@dataclass(frozen=True, kw_only=True)
class EncodingResult:
    """What became of the texts of one call: distinct texts encoded, found in the store, and the vectors' width."""

    encoded: int
    reused: int
    width: int


def encode_missing(
    plan: Plan,
    texts: Mapping[Role, Texts],
    keys: Mapping[Role, Keys],
    store: VectorStore,
    *,
    actors: int | None = None,
    ray: bool | None = None,
    block_texts: int = BLOCK_TEXTS,
) -> EncodingResult:
    """Encode the texts that the store lacks, equal texts once; `keys` are theirs, as the plan reads them.

    As many `actors` encode as are asked for, None: as the cluster holds; if `ray` is None, where they bring more than
    one process has.

    Raises:
        ModelError: the encoder gives non-finite values or cannot be loaded, or an actor cannot write to the store.
        DataError: the store cannot be read or written.
    """
    # Ask the store what it has
    store.describe()
    all_keys = np.concatenate([keys[role] for role in texts])
    found, width = store.contains(all_keys)
    distinct = len(np.unique(all_keys, axis=0))
    missing = len(np.unique(all_keys[~found], axis=0))
    # Encode the rest, and make sure that it is there
    if missing:
        blocks = missing_blocks(plan, texts, all_keys, found, block_texts)
        with track("embed", plan.name, missing, "texts") as progress:
            show = _gauges(plan.name, missing)
            for count in encode_blocks(plan, blocks, store, actors, ray):
                progress.advance(count)
                show(count)
        newly, width = store.contains(all_keys[~found])
        with suppress(DataError):  # who may not remove does without
            store.compact()
        if not newly.all():
            raise ModelError(f"encoder {plan.name}: {int((~newly).sum())} texts have no vector in {store.folder}")
    result = EncodingResult(encoded=missing, reused=distinct - missing, width=width)
    say(
        "embed",
        f"{plan.name}: {result.reused:,} vectors from the store, {missing:,} encoded, width {width}",
        encoder=plan.name,
        **vars(result),
    )
    return result


def _gauges(encoder: str, total: int) -> Callable[[int], None]:
    """Return what shows Prometheus how far an encoder is, and how long the rest will take."""
    done, began = 0, time.monotonic()

    def show(count: int) -> None:
        nonlocal done
        done += count
        ENCODING_DONE.set(done, encoder=encoder)
        left = (total - done) * (time.monotonic() - began) / done if done else float("nan")
        ENCODING_LEFT.set(left, encoder=encoder)

    ENCODING_TEXTS.set(total, encoder=encoder)
    show(0)
    return show


class MissingBlocks(Sequence[pa.Table]):
    """The texts that the store lacks, as blocks; each is made when it is asked for, so that few are in memory.

    A block is a table of one row; its columns roles and texts are lists of cells, which are lists.
    """

    def __init__(self, texts: Mapping[Role, Texts], blocks: Sequence[Sequence[Int64]]) -> None:
        """Take the cells of each block as positions in all texts, role after role."""
        self._texts, self._blocks = texts, blocks
        self._starts = np.cumsum([0, *map(len, texts.values())])

    @overload
    def __getitem__(self, at: int) -> pa.Table: ...
    @overload
    def __getitem__(self, at: slice) -> list[pa.Table]: ...
    def __getitem__(self, at: int | slice) -> pa.Table | list[pa.Table]:
        if isinstance(at, slice):
            return [self[each] for each in range(*at.indices(len(self)))]
        roles, texts = list(self._texts), list(self._texts.values())
        sides = [np.searchsorted(self._starts, cell, side="right") - 1 for cell in self._blocks[at]]
        cells = [
            [texts[side].texts[row - self._starts[side]] for side, row in zip(sides_n, cell.tolist(), strict=True)]
            for sides_n, cell in zip(sides, self._blocks[at], strict=True)
        ]
        return pa.table({"roles": [[[roles[side] for side in sides_n] for sides_n in sides]], "texts": [cells]})

    def __len__(self) -> int:
        return len(self._blocks)


def missing_blocks(
    plan: Plan, texts: Mapping[Role, Texts], all_keys: Keys, found: NDArray[np.bool_], block_texts: int
) -> MissingBlocks:
    """Cut all distinct texts into cells by their length, longest first; put what the store lacks of them into blocks.

    The keys (n, 2), and whether the store has them (n,), are those of all texts, role after role.
    """
    # Cut.
    _, first = np.unique(all_keys, axis=0, return_index=True)
    lengths_n = np.concatenate(
        [len(plan.reading(role).prompt) + np.fromiter(map(len, some.texts), np.int64) for role, some in texts.items()]
    )
    order = first[np.lexsort((all_keys[first, 1], all_keys[first, 0], -lengths_n[first]))]  # keys break ties
    cut = [order[start : start + block_texts] for start in range(0, len(order), block_texts)]
    cells = [cell[~found[cell]] for cell in cut]
    # Put together.
    most = max(block_texts, min(_MOST_TEXTS, sum(map(len, cells)) // _PARTS))
    blocks: list[list[Int64]] = []
    count = characters = 0
    for cell in filter(len, cells):
        size = int(lengths_n[cell].sum())
        if not blocks or count + len(cell) > most or characters + size > _MOST_CHARACTERS:
            blocks.append([])
            count = characters = 0
        blocks[-1].append(cell)
        count, characters = count + len(cell), characters + size
    return MissingBlocks(texts, blocks)
