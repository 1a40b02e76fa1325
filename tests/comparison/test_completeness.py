"""What can be wrong among the negatives that are mined is bounded, on worlds where the truth is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from hnmine.comparison.audit import interval
from hnmine.comparison.completeness import FEWEST, hide_one, most_that_are_right
from hnmine.mining.conditions import select
from hnmine.mining.search import Searcher
from hnmine.types import Pairs, Space, unit_rows
from tests.builders.devices import CPU
from tests.builders.judged import never_negative_of


@dataclass
class World:
    """Groups of documents that answer the same; of each query those of a group are right, and some are judged."""

    space: Space
    right: dict[int, set[int]]
    judged: dict[int, set[int]]


def world(seed: int, share_judged: float, noise: float = 0.5, within_topic: float = 0.7, groups: int = 80) -> World:
    rng, of_group, queries, width = np.random.default_rng(seed), 5, 2, 24
    topics, spread = rng.normal(size=(20, width)), (1 - within_topic**2) ** 0.5

    def points(count: int) -> NDArray[np.float64]:
        found: NDArray[np.float64] = topics[rng.integers(20, size=count)]
        return within_topic * found + spread * rng.normal(size=(count, width))

    centres = points(groups)
    docs = (centres[:, None] + noise * rng.normal(size=(groups, of_group, width))).reshape(-1, width)
    asked = np.repeat(centres, queries, 0) + noise * rng.normal(size=(groups * queries, width))
    right = {at: set(range(at // queries * of_group, (at // queries + 1) * of_group)) for at in range(len(asked))}
    judged = {at: {doc for doc in docs if rng.random() < share_judged} for at, docs in right.items()}
    rows = unit_rows(np.concatenate([docs, points(800)]).astype(np.float32))
    return World(Space(docs_NR=rows, queries_QR=unit_rows(asked.astype(np.float32))), right, judged)


def measured(made: World, seed: int = 0) -> tuple[float, float, int]:
    """Return the bound, the truth, and how many negatives are mined."""
    listed = [(query, doc) for query, docs in made.judged.items() if len(docs) > 1 for doc in sorted(docs)]
    rows = np.array(listed, dtype=np.int64)
    pairs = Pairs(query_rows_P=rows[:, 0].copy(), doc_rows_P=rows[:, 1].copy())
    known = never_negative_of(range(len(made.space.docs_NR)), made.judged)
    search = Searcher(made.space.docs_NR, CPU)
    but_one, every, hidden = hide_one(pairs, known, np.arange(len(made.judged)), seed)
    one, mined = (select(made.space, pairs, each, search) for each in (but_one, every))
    taken = one.doc_rows_M == hidden[one.pair_M]
    query_of = pairs.query_rows_P
    bound = most_that_are_right(
        one.d_positive_negative_M[taken],
        query_of[one.pair_M[taken]],
        mined.d_positive_negative_M,
        query_of[mined.pair_M],
        interval,
    )
    wrong = [
        int(doc) in made.right[int(query_of[pair])] for pair, doc in zip(mined.pair_M, mined.doc_rows_M, strict=True)
    ]
    return bound, float(np.mean(wrong)) if wrong else 0.0, len(mined)


@pytest.mark.parametrize("share_judged", [0.9, 0.7, 0.5])
@pytest.mark.parametrize(("noise", "within_topic"), [(0.5, 0.7), (0.8, 0.7), (0.3, 0.7), (0.5, 0.9)])
def test_no_more_is_wrong_than_is_said(share_judged: float, noise: float, within_topic: float) -> None:
    for seed in range(2):
        bound, truth, _ = measured(world(seed, share_judged, noise, within_topic))
        assert truth <= bound


@pytest.mark.parametrize("seed", range(3))
def test_a_set_in_which_all_is_judged_is_told_from_one_in_which_little_is(seed: int) -> None:
    bound, truth, mined = measured(world(seed, 1.0, groups=160))
    assert truth == 0
    assert mined >= FEWEST
    assert bound < 0.15
    bound, truth, _ = measured(world(seed, 0.4, groups=160))
    assert truth > 0.3
    assert bound > truth


def test_of_each_pair_one_right_answer_of_another_text_is_hidden_and_nothing_else() -> None:
    groups = [0, 0, 1, 2, 2, 3]
    never = never_negative_of(groups, {0: {0, 2, 3}, 1: {1, 5}})
    pairs = Pairs(query_rows_P=np.array([0, 0, 1]), doc_rows_P=np.array([0, 3, 5]))
    seen = set()
    for seed in range(20):
        but_one, every, hidden = hide_one(pairs, never, np.array([0, 1]), seed)
        seen.add(tuple(hidden.tolist()))
        for pair in range(3):
            docs = np.arange(6)
            masks = [known.mask(np.full(6, pair), docs) for known in (but_one, every)]
            lost = docs[masks[1] & ~masks[0]].tolist()
            assert lost == [doc for doc in docs.tolist() if groups[doc] == groups[hidden[pair]]]
            assert not (masks[0] & ~masks[1]).any()
            assert groups[hidden[pair]] != groups[int(pairs.doc_rows_P[pair])]
    assert seen == {(first, second, 1) for first in (2, 3) for second in (0, 2)}


def test_of_too_few_nothing_is_said() -> None:
    few, many = np.zeros(FEWEST - 1), np.zeros(FEWEST)
    at = {len(each): np.arange(len(each)) for each in (few, many)}
    assert most_that_are_right(few, at[len(few)], many, at[len(many)], interval) == 1.0
    assert most_that_are_right(many, at[len(many)], few, at[len(few)], interval) == 1.0
    apart = most_that_are_right(many, at[len(many)], many + 1, at[len(many)], interval)
    assert apart < 0.25
