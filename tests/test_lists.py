"""The training lists: what stands in them, in which order, and what never does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnmine.first_stage import NO_ROW
from hnmine.lists import first_stage_anchors, random_anchors, training_lists
from hnmine.types import Int64, Pairs, Texts

Positives = dict[int, set[int]]
Draw = Callable[[Pairs, Positives, int, int, int], list[list[int]]]


def judged(seed: int, documents: int, queries: int, pairs: int) -> tuple[Pairs, Positives]:
    """Some of the judged pairs; what is known of the queries is more, as from other splits."""
    rng = np.random.default_rng(seed)
    rows = np.unique(np.stack([rng.integers(0, queries, pairs), rng.integers(0, documents, pairs)], axis=1), axis=0)
    chosen = Pairs(query_rows_P=rows[:, 0].copy(), doc_rows_P=rows[:, 1].copy())
    positives = {query: set(docs) for query, docs in chosen.positives_of().items()}
    for known in positives.values():
        known.update(rng.integers(0, documents, 2).tolist())
    return chosen, positives


def first_stage(pairs: Pairs, documents: int, seed: int) -> dict[int, Int64]:
    """Distinct documents of each query, NO_ROW at the end."""
    rng = np.random.default_rng(seed)
    return {
        query: np.append(rng.permutation(documents)[: rng.integers(1, documents + 1)], [NO_ROW, NO_ROW])
        for query in np.unique(pairs.query_rows_P).tolist()
    }


def from_the_first_stage(pairs: Pairs, positives: Positives, documents: int, per_pair: int, seed: int) -> list[list]:
    return first_stage_anchors(pairs, positives, first_stage(pairs, documents, 5), per_pair, seed)


@pytest.mark.parametrize("draw", [random_anchors, from_the_first_stage])
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(1, 6), st.integers(0, 8))
def test_anchors_are_distinct_never_judged_positive_and_as_many_as_there_can_be(
    draw: Draw, seed: int, documents: int, queries: int, per_pair: int
) -> None:
    pairs, positives = judged(seed, documents, queries, 8)
    first = first_stage(pairs, documents, 5)
    drawn = draw(pairs, positives, documents, per_pair, seed)
    assert len(drawn) == len(pairs)
    for query, anchors in zip(pairs.query_rows_P.tolist(), drawn, strict=True):
        pool = set(range(documents)) if draw is random_anchors else set(first[query].tolist()) - {NO_ROW}
        assert set(anchors) <= pool - positives[query]
        assert len(anchors) == len(set(anchors)) == min(per_pair, len(pool - positives[query]))


@pytest.mark.parametrize("draw", [random_anchors, from_the_first_stage])
def test_anchors_are_drawn_by_the_seed(draw: Draw) -> None:
    pairs, positives = judged(1, 200, 20, 40)
    again = [draw(pairs, positives, 200, 3, seed) for seed in (7, 7, 8)]
    assert again[0] == again[1] != again[2]
    assert len({row for anchors in again[0] for row in anchors}) > 40, "spread over the corpus"


def test_the_positive_is_first_then_mined_then_anchors_each_once() -> None:
    documents = Texts(ids=tuple("abcdef"), texts=tuple("ABCDEF"))
    queries = Texts(ids=("p", "q"), texts=("P", "Q"))
    pairs = Pairs(query_rows_P=np.array([1, 0, 1]), doc_rows_P=np.array([0, 3, 5]))
    lists = training_lists(documents, queries, pairs, [[4, 1], [], []], [[2, 4, 3], [], [1]])
    assert lists.queries == ("Q", "Q")
    assert lists.documents == (("A", "E", "B", "C", "D"), ("F", "B"))


def test_no_list_is_made_where_no_pair_has_a_negative() -> None:
    documents = Texts(ids=("a", "b"), texts=("A", "B"))
    pairs = Pairs(query_rows_P=np.array([0]), doc_rows_P=np.array([1]))
    assert len(training_lists(documents, Texts(ids=("q",), texts=("Q",)), pairs, [[]], [[]])) == 0
