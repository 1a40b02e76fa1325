"""The training lists: what stands in them, in which order, and what never does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnmine.training.lists import (
    Lists,
    TrainingList,
    first_stage_negatives,
    random_negatives,
    step_lists,
    training_lists,
)
from hnmine.types import NO_ROW, Int64, Pairs, Texts

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
    return first_stage_negatives(pairs, positives, first_stage(pairs, documents, 5), per_pair, seed)


@pytest.mark.parametrize("draw", [random_negatives, from_the_first_stage])
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
        pool = set(range(documents)) if draw is random_negatives else set(first[query].tolist()) - {NO_ROW}
        assert set(anchors) <= pool - positives[query]
        assert len(anchors) == len(set(anchors)) == min(per_pair, len(pool - positives[query]))


@pytest.mark.parametrize("draw", [random_negatives, from_the_first_stage])
def test_anchors_are_drawn_by_the_seed(draw: Draw) -> None:
    pairs, positives = judged(1, 200, 20, 40)
    again = [draw(pairs, positives, 200, 3, seed) for seed in (7, 7, 8)]
    assert again[0] == again[1] != again[2]
    assert len({row for anchors in again[0] for row in anchors}) > 40, "spread over the corpus"


def test_the_positive_is_first_then_its_negatives_each_once() -> None:
    documents = Texts(ids=tuple("abcdef"), texts=tuple("ABCDEF"))
    queries = Texts(ids=("p", "q"), texts=("P", "Q"))
    pairs = Pairs(query_rows_P=np.array([1, 0, 1]), doc_rows_P=np.array([0, 3, 5]))
    lists = training_lists(documents, queries, pairs, [[4, 1, 2, 4, 3], [], [1]])
    assert lists == (TrainingList(query="Q", documents=tuple("AEBCD")), TrainingList(query="Q", documents=("F", "B")))


def test_no_list_is_made_where_no_pair_has_a_negative() -> None:
    documents = Texts(ids=("a", "b"), texts=("A", "B"))
    pairs = Pairs(query_rows_P=np.array([0]), doc_rows_P=np.array([1]))
    assert len(training_lists(documents, Texts(ids=("q",), texts=("Q",)), pairs, [[]])) == 0


def test_pairs_without_a_negative_are_taken_where_they_are_asked_for_and_what_was_judged_is_told_in_texts() -> None:
    documents = Texts(ids=tuple("abcd"), texts=("A", "B", "B", "D"))
    queries = Texts(ids=("p", "q"), texts=("P", "Q"))
    pairs = Pairs(query_rows_P=np.array([0, 1]), doc_rows_P=np.array([0, 1]))
    positives = {0: {0}, 1: {1, 2, 3}}
    lists = training_lists(documents, queries, pairs, [[3], []], bare=True, never_negative=positives)
    assert [each.documents for each in lists] == [("A", "D"), ("B",)]
    assert [each.never_negative for each in lists] == [frozenset("A"), frozenset("BD")]


def any_lists(seed: int, count: int) -> Lists:
    """Lists over few texts, so that positives are shared, stand in other lists, and are judged for other queries."""
    rng = np.random.default_rng(seed)
    texts = [f"text {i}" for i in range(12)]
    documents = [tuple(rng.permutation(texts)[: rng.integers(1, 4)].tolist()) for _ in range(count)]
    judged = [frozenset({listed[0], *rng.choice(texts, rng.integers(0, 4))}) for listed in documents]
    return tuple(
        TrainingList(query=f"query {i}", documents=documents[i], never_negative=judged[i]) for i in range(count)
    )


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(0, 6), st.integers(0, 99))
def test_in_batch_negatives_are_positives_of_the_batch_never_judged_and_as_many_as_there_can_be(
    seed: int, size: int, in_batch: int, step: int
) -> None:
    lists = any_lists(seed, 15)
    batch = np.random.default_rng(seed).permutation(15)[:size].tolist()
    taken = step_lists(lists, batch, in_batch, (seed, step))
    assert taken == step_lists(lists, batch, in_batch, (seed, step))
    for i, longer in zip(batch, taken, strict=True):
        mined = lists[i].documents
        assert longer == replace(lists[i], documents=longer.documents)
        assert longer.documents[: len(mined)] == mined
        drawn = longer.documents[len(mined) :]
        pool = {lists[j].documents[0] for j in batch} - set(mined) - lists[i].never_negative
        assert set(drawn) <= pool
        assert len(drawn) == len(set(drawn)) == min(in_batch, len(pool))


def test_in_batch_negatives_differ_from_step_to_step_and_by_the_seed() -> None:
    names = tuple(f"text {i}" for i in range(40))
    lists = tuple(TrainingList(query=name, documents=(name,), never_negative=frozenset({name})) for name in names)
    drawn = [step_lists(lists, range(40), 3, seed) for seed in ((0, 1), (0, 2), (1, 1))]
    assert len(set(drawn)) == 3
    assert len({text for each in drawn[0] for text in each.documents[1:]}) > 25, "spread over the batch"


def test_a_teacher_scores_every_document_of_a_list() -> None:
    with pytest.raises(AssertionError):
        TrainingList(query="p", documents=("A", "B"), teacher=(1.0,))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 7))
def test_lessons_have_nothing_to_do_with_the_judged_lists_of_their_batch(seed: int, count: int) -> None:
    lists, others = any_lists(seed, 9), any_lists(seed + 1, count)
    both = lists + tuple(replace(each, never_negative=frozenset(), is_lesson=True) for each in others)
    batch = np.random.default_rng(seed).permutation(len(both)).tolist()
    step = step_lists(both, batch, 4, (seed,))
    judged_alone = step_lists(lists, [i for i in batch if i < 9], 4, (seed,))
    assert tuple(each for each in step if not each.is_lesson) == judged_alone
    assert [each for each in step if each.is_lesson] == [both[i] for i in batch if i >= 9]
