"""The metrics against their definitions; the paired test against every sign pattern, and chance; what a task holds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnmine.ranking.measures import METRICS, Task, means, measure, paired, reach, rerank
from hnmine.types import NO_ROW, Done, Float32, Pairs, Texts
from tests.builders.ranking import task_of_rows
from tests.builders.texts import numbered_texts


def random_task(seed: int, queries: int = 40, depth: int = 15, documents: int = 60) -> tuple[Task, Float32]:
    """Some documents missing from the first stage, some lists short, several positives a query; no ties."""
    rng = np.random.default_rng(seed)
    doc_rows = np.stack([rng.permutation(documents)[:depth] for _ in range(queries)])
    for row in doc_rows:
        row[rng.integers(1, depth + 1) :] = NO_ROW
    relevant = [frozenset(rng.permutation(documents)[: rng.integers(1, 15)].tolist()) for _ in range(queries)]
    scores = rng.permutation(queries * depth).reshape(queries, depth).astype(np.float32) - 300
    task = Task(
        queries=numbered_texts(queries, "q"),
        doc_rows_QK=doc_rows,
        first_scores_QK=scores,
        document_texts={row: f"d{row}" for row in range(documents)},
        relevant=tuple(relevant),
    )
    return task, scores


def ranking(doc_rows: np.ndarray, scores: np.ndarray) -> list[int]:
    order = sorted(zip(-scores, doc_rows.tolist(), strict=True))
    return [doc for _, doc in order if doc != NO_ROW]


def reciprocal_rank(ranked: list[int], relevant: frozenset[int], depth: int) -> float:
    for rank, doc in enumerate(ranked[:depth], 1):
        if doc in relevant:
            return 1 / rank
    return 0.0


def ndcg(ranked: list[int], relevant: frozenset[int], depth: int) -> float:
    gain = sum(1 / math.log2(rank + 1) for rank, doc in enumerate(ranked[:depth], 1) if doc in relevant)
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(depth, len(relevant)) + 1))
    return gain / ideal


@pytest.mark.parametrize("seed", range(5))
def test_the_metrics_equal_their_definitions(seed: int) -> None:
    task, scores = random_task(seed)
    values = measure(task, scores)
    assert list(values) == list(METRICS) == ["MRR@3", "MRR@10", "nDCG@10", "Recall@10"]
    for i, relevant in enumerate(task.relevant):
        ranked = ranking(task.doc_rows_QK[i], scores[i])
        assert values["MRR@3"][i] == pytest.approx(reciprocal_rank(ranked, relevant, 3))
        assert values["MRR@10"][i] == pytest.approx(reciprocal_rank(ranked, relevant, 10))
        assert values["nDCG@10"][i] == pytest.approx(ndcg(ranked, relevant, 10))
        assert values["Recall@10"][i] == pytest.approx(len(relevant & set(ranked[:10])) / len(relevant))
    assert means(values) == {name: pytest.approx(value.mean()) for name, value in values.items()}


def test_a_query_whose_positive_the_first_stage_missed_counts_nothing_but_counts() -> None:
    task = task_of_rows([[1, 2], [1, 2], [NO_ROW, NO_ROW]], [{1}, {7}, {3}])
    values = measure(task, np.array([[2, 1], [2, 1], [0, 0]], np.float32))
    assert values["MRR@10"].tolist() == [1, 0, 0]
    assert means(values)["MRR@10"] == pytest.approx(1 / 3)
    assert means(values)["nDCG@10"] == pytest.approx(1 / 3)


def test_what_fills_up_a_list_is_no_document_whatever_its_score() -> None:
    task = task_of_rows([[4, NO_ROW, NO_ROW]], [{4}])
    assert measure(task, np.array([[-5, 9, 9]], np.float32))["MRR@3"].tolist() == [1]
    assert task.exists_QK.sum() == 1


def test_what_the_first_stage_missed_is_out_of_reach() -> None:
    assert reach(task_of_rows([[1, 2], [3, NO_ROW]], [{1, 9}, {4, 5}])) == 0.25


def p_by_enumeration(differences: np.ndarray) -> float:
    """The share of all sign patterns whose mean is at least as far from 0."""
    signs = np.array(list(itertools.product((-1, 1), repeat=len(differences))))
    means = np.abs((signs * differences).mean(axis=1))
    return float((means >= abs(differences.mean()) - 1e-12).mean())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.1, 0.2, 1 / 3, 0.5, 1.0]), min_size=2, max_size=20), st.integers(0, 99))
def test_with_few_queries_p_is_that_of_all_sign_patterns(values: list[float], seed: int) -> None:
    after = np.array(values[: len(values) // 2])
    before = np.array(values[len(values) // 2 : 2 * (len(values) // 2)])
    result = paired(after, before, seed)
    assert result.difference == pytest.approx((after - before).mean())
    assert result.p == pytest.approx(p_by_enumeration(after - before))
    assert result.low <= result.difference + 1e-12
    assert result.high >= result.difference - 1e-12


def test_without_a_difference_p_is_small_only_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    ps = [paired(rng.random(40), rng.random(40), seed).p for seed in range(100)]
    assert np.mean(np.array(ps) < 0.1) == pytest.approx(0.1, abs=0.07)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for seed in range(80):
        before = rng.random(60)
        result = paired(before + rng.normal(0.05, 0.2, size=60), before, seed)
        held += result.low <= 0.05 <= result.high
    assert held / 80 == pytest.approx(0.95, abs=0.07)


def test_a_clear_gain_is_seen_and_the_order_of_runs_only_turns_the_sign() -> None:
    rng = np.random.default_rng(2)
    before = rng.random(200)
    after = np.clip(before + rng.normal(0.1, 0.2, size=200), 0, 1)
    gain, loss = paired(after, before), paired(before, after)
    assert gain.p < 0.001
    assert 0 < gain.low < gain.difference < gain.high
    assert loss.difference == -gain.difference
    assert loss.p == pytest.approx(gain.p, abs=1e-3)


def test_equal_runs_are_no_difference_and_unequal_lengths_are_refused() -> None:
    same = paired(np.ones(5), np.ones(5))
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)
    with pytest.raises(ValueError, match="one value a query"):
        paired(np.ones(5), np.ones(4))


def test_every_document_of_the_first_stage_is_scored_once_and_put_in_its_place() -> None:
    task = task_of_rows([[5, 2, NO_ROW], [NO_ROW, NO_ROW, NO_ROW], [7, 5, 3]], [{2}, {2}, {3}])
    asked: list[tuple[str, str]] = []
    finished: list[int] = []

    def number_of_document(queries: Sequence[str], documents: Sequence[str], done: Done) -> Float32:
        asked.extend(zip(queries, documents, strict=True))
        done(len(queries))
        return np.array([float(document[1:]) for document in documents], dtype=np.float32)

    scores = rerank(task, number_of_document, finished.append)
    hole = -np.inf
    assert scores.tolist() == [[5, 2, hole], [hole, hole, hole], [7, 5, 3]]
    assert asked == [("q0", "d5"), ("q0", "d2"), ("q2", "d7"), ("q2", "d5"), ("q2", "d3")]
    assert sum(finished) == task.exists_QK.sum() == 5


def test_a_task_has_each_query_once_with_all_its_positives_and_the_texts_it_needs() -> None:
    pairs = Pairs(query_rows_P=np.array([3, 1, 3]), doc_rows_P=np.array([0, 4, 2]))
    first = np.array([[4, 2], [1, NO_ROW]]), np.array([[2, 1], [1, 0]], np.float32)
    task = Task.of(numbered_texts(5, "d"), numbered_texts(4, "q"), pairs, np.array([1, 3]), *first)
    assert task.queries.ids == ("q1", "q3")
    assert task.relevant == (frozenset({4}), frozenset({0, 2}))
    assert task.doc_rows_QK.tolist() == [[4, 2], [1, NO_ROW]]
    assert task.document_texts == {1: "d1", 2: "d2", 4: "d4"}


def test_a_query_is_long_if_one_of_its_right_documents_is() -> None:
    long, short = "word, " * 513, "word " * 1024
    documents = Texts(ids=("a", "b", "c"), texts=(long, short, "x"))
    pairs = Pairs(query_rows_P=np.array([0, 1, 2, 2]), doc_rows_P=np.array([0, 1, 1, 0]))
    first = np.tile(np.arange(2), (3, 1)), np.zeros((3, 2), np.float32)
    assert Task.of(documents, numbered_texts(3, "q"), pairs, np.arange(3), *first).long == {0, 2}
