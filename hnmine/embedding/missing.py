"""What the store lacks, in blocks.

A block is the unit of work, of storage and of recovery. A finished run, a killed run and an ordinary next night are
the same case: what the store has is left alone. All texts are cut into cells, by the texts alone; a cell is computed
together, so its vectors are the same to the last bit whenever that is. The texts of a cell are of about one length,
and not far from each other: of a span of the corpus. A block has the cells, or what is missing of them, that come one
after the other: few where little is encoded, so that all can work, and more where much is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnmine.corpus.parquet_texts import ParquetTexts
from hnmine.corpus.text_keys import Keys, lengths_of
from hnmine.embedding.store import VectorStore
from hnmine.models.plan import Plan
from hnmine.types import Int64, Role, Texts

BLOCK_TEXTS = 512
"""Texts in a cell, and in a block at least, if so many are missing."""
SPAN_TEXTS = 16_384
"""Texts that are sorted by length together; whoever reads those of a cell reads no more than these."""
_MOST_TEXTS, _MOST_CHARACTERS = 4096, 4_000_000  # of a block: ten million documents are thousands of blocks
_PARTS = 64  # that the work is divided into at least, before blocks grow
_LISTS = {
    name: pa.list_(pa.list_(kind))
    for name, kind in (("roles", pa.string()), ("texts", pa.string()), ("places", pa.int64()))
}


class MissingBlocks(Sequence[pa.Table]):
    """The texts that the store lacks, as blocks; each is made when it is asked for, so that few are in memory.

    A block is a table of one row; its columns roles and texts are lists of cells, which are lists. In place of texts
    that this process does not hold it has their places in `files`.
    """

    def __init__(self, texts: Mapping[Role, Texts], all_keys: Keys, blocks: Sequence[Sequence[Int64]]) -> None:
        """Take the cells of each block as positions in all texts, role after role, which have these keys."""
        self._texts, self._keys, self._blocks = texts, all_keys, blocks
        distant = [some.texts for some in texts.values() if isinstance(some.texts, ParquetTexts)]
        self.files = distant[0].files if distant else None
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
        held: list[list[str]] = []
        places: list[list[int]] = []
        for sides_n, cell in zip(sides, self._blocks[at], strict=True):
            column, rows = texts[sides_n[0]].texts, (cell - self._starts[sides_n]).tolist()
            is_distant = isinstance(column, ParquetTexts)  # a cell is of one role
            held.append([] if is_distant else [texts[side].texts[row] for side, row in zip(sides_n, rows, strict=True)])
            places.append(column.places[rows].tolist() if is_distant else [])
        columns = {"roles": [[roles[side] for side in sides_n] for sides_n in sides], "texts": held, "places": places}
        return pa.table({name: pa.array([cells], _LISTS[name]) for name, cells in columns.items()})

    def __len__(self) -> int:
        return len(self._blocks)

    def not_in(self, store: VectorStore) -> MissingBlocks:
        """Return the blocks of which the store lacks a text."""
        found, _ = store.contains(self._keys)
        left = [cells for cells in self._blocks if not all(found[cell].all() for cell in cells)]
        return MissingBlocks(self._texts, self._keys, left)


def missing_blocks(
    plan: Plan, texts: Mapping[Role, Texts], all_keys: Keys, found: NDArray[np.bool_], block_texts: int
) -> MissingBlocks:
    """Cut the distinct texts of each role into cells by span and length; put what the store lacks of them into blocks.

    The keys (n, 2), and whether the store has them (n,), are those of all texts, role after role.
    """
    # Cut.
    _, first = np.unique(all_keys, axis=0, return_index=True)
    lengths_n = np.concatenate(
        [len(plan.reading(role).prompt) + lengths_of(some.texts) for role, some in texts.items()]
    )
    starts = np.cumsum([0, *map(len, texts.values())])
    cut = []
    for rows in np.split(np.sort(first), np.searchsorted(np.sort(first), starts[1:-1])):
        for span in (rows[start : start + SPAN_TEXTS] for start in range(0, len(rows), SPAN_TEXTS)):
            span = span[np.lexsort((all_keys[span, 1], all_keys[span, 0], -lengths_n[span]))]  # keys break ties
            cut += [span[start : start + block_texts] for start in range(0, len(span), block_texts)]
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
    return MissingBlocks(texts, all_keys, blocks)
