"""Cells and blocks: every text that is missing in one of them, of one role, near each other, however much is stored."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest

from hnmine.corpus.text_keys import keys_of
from hnmine.embedding import missing
from hnmine.embedding.missing import missing_blocks
from hnmine.models.plan import Plan
from hnmine.types import Role, Texts
from tests.builders.texts import random_texts


def texts_of_two_roles(seed: int) -> dict[Role, Texts]:
    """Return documents and queries, some of which are the same, within a role and between them."""
    rng = np.random.default_rng(seed)
    pool = random_texts(int(rng.integers(20, 400)), f"pool{seed}", 40).texts
    counts: dict[Role, int] = {"document": int(rng.integers(1, 500)), "query": int(rng.integers(0, 60))}
    drawn = {role: [pool[at] for at in rng.integers(0, len(pool), count)] for role, count in counts.items()}
    return {
        role: Texts(ids=tuple(f"{role}{at}" for at in range(len(some))), texts=tuple(some))
        for role, some in drawn.items()
    }


@pytest.mark.parametrize("seed", range(12))
def test_each_missing_text_is_in_one_block_and_its_cell_does_not_depend_on_what_is_stored(
    seed: int, tiny: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(missing, "SPAN_TEXTS", 64)
    texts = texts_of_two_roles(seed)
    keys = np.concatenate([keys_of(some.texts, tiny.reading(role)) for role, some in texts.items()])
    stored = np.unique(keys, axis=0)[:: 2 + seed % 3]
    found = np.array([(stored == key).all(axis=1).any() for key in keys])

    def read(found: np.ndarray) -> list[list[tuple[Role, str]]]:
        cells = []
        for block in missing_blocks(tiny, texts, keys, found, 16):
            (row,) = block.to_pylist()
            assert row["places"] == [[] for _ in row["roles"]]
            cells += [list(zip(*cell, strict=True)) for cell in zip(row["roles"], row["texts"], strict=True)]
        return cells

    # Each distinct text that is missing, once.
    cells = read(found)
    asked = [keys_of([text], tiny.reading(role)).tobytes() for role, text in chain(*cells)]
    assert len(asked) == len(set(asked))
    assert set(asked) == {key.tobytes() for key in keys[~found]}

    # A cell is of one role, and a part of the cell that is cut when nothing is stored.
    whole = read(np.zeros(len(keys), dtype=bool))
    assert all(len({role for role, _ in cell}) == 1 and len(cell) <= 16 for cell in whole)
    cell_of = {each: number for number, cell in enumerate(whole) for each in cell}
    for cell in cells:
        assert len({cell_of[each] for each in cell}) == 1

    # Its documents are of one span, and the longest first.
    order = {text: at for at, text in enumerate(dict.fromkeys(texts["document"].texts))}
    for cell in whole:
        if cell[0][0] == "document":
            assert len({order[text] // 64 for _, text in cell}) == 1
        lengths = [len(text) for _, text in cell]
        assert lengths == sorted(lengths, reverse=True)
