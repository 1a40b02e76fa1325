"""The metrics against their definitions; the paired test against every sign pattern, and chance; what a task holds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import ir_measures
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hnmine.ranking.measures import METRICS, SURE, Task, means, measure, paired, reach, rerank
from hnmine.types import NO_ROW, Done, Float32, Pairs, Texts
from tests.builders.judged import collection_of
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


@pytest.mark.parametrize("min_score", [None, 2])
@pytest.mark.parametrize("seed", range(6))
def test_of_graded_judgements_every_metric_equals_that_of_trec_eval_also_where_scores_tie(
    seed: int, min_score: int | None
) -> None:
    rng = np.random.default_rng(seed)
    queries, documents, depth = 30, 25, 14
    judged = [(q, int(d), int(rng.integers(-1, 4))) for q in range(queries) for d in rng.permutation(documents)[:9]]
    judged += [(query, 0, 3) for query in range(queries) if (query, 0) not in {row[:2] for row in judged}]
    collection = collection_of(numbered_texts(documents, "d"), numbered_texts(queries, "q"), {"test": judged})
    pairs = collection.splits["test"].positives(min_score)
    rows_Q = np.unique(pairs.query_rows_P)
    first = np.stack([rng.permutation(documents)[:depth] for _ in rows_Q])
    first[rng.random(len(rows_Q)) < 0.3, 5:] = NO_ROW
    scores = rng.integers(-2, 3, first.shape).astype(np.float32)  # many ties
    task = Task.of(collection.documents, collection.queries, pairs, rows_Q, first, scores)
    values = measure(task, scores)

    # A person's order: by score, then by place; trec_eval gets it as scores of which no two are equal.
    run: dict[str, dict[str, float]] = {}
    for name, rows, of_query in zip(task.queries.ids, first.tolist(), scores.tolist(), strict=True):
        order = sorted(range(depth), key=lambda place, of_query=of_query: (-of_query[place], place))
        there = [rows[place] for place in order if rows[place] != NO_ROW]
        run[name] = {f"d{doc}": float(-rank) for rank, doc in enumerate(there)}
    qrels: dict[str, dict[str, int]] = {}
    for query, doc, grade in judged:
        qrels.setdefault(f"q{query}", {})[f"d{doc}"] = grade
    least = 1 if min_score is None else min_score
    theirs = {
        "MRR@3": f"RR(rel={least})@3",
        "MRR@10": f"RR(rel={least})@10",
        "nDCG@10": "nDCG@10",
        "Recall@10": f"R(rel={least})@10",
    }
    for ours, name in theirs.items():
        metric = ir_measures.parse_measure(name)
        expected = {row.query_id: row.value for row in ir_measures.iter_calc([metric], qrels, run)}
        for query, value in zip(task.queries.ids, values[ours].tolist(), strict=True):
            assert value == pytest.approx(expected[query], rel=1e-12, abs=1e-12), (ours, query)
    assert 0 < values["nDCG@10"].mean() < 1


def test_lower_grades_gain_but_are_no_hits() -> None:
    grades = ({1: 1.0, 2: 3.0, 7: 0.5},)
    task = replace(task_of_rows([[1, 2, 3]], [{2}]), grades=grades)
    best, worst = (measure(task, np.array([scores], np.float32)) for scores in ([1, 2, 0], [1, 0, 2]))
    assert (best["MRR@10"][0], worst["MRR@10"][0]) == (1, pytest.approx(1 / 3))
    ideal = 3 + 1 / math.log2(3) + 0.5 / 2
    assert best["nDCG@10"][0] == pytest.approx((3 + 1 / math.log2(3)) / ideal)
    assert worst["nDCG@10"][0] == pytest.approx((1 / math.log2(3) + 3 / 2) / ideal)
    assert best["Recall@10"][0] == reach(task) == 1


@pytest.mark.parametrize("grade", [1e-30, 3e38])
def test_grades_of_any_size_are_shares_of_the_ideal(grade: float) -> None:
    task = replace(task_of_rows([[1, 2]], [{1, 2}]), grades=({1: grade, 2: grade},))
    assert measure(task, np.zeros((1, 2), np.float32))["nDCG@10"][0] == pytest.approx(1)


def p_by_enumeration(differences: np.ndarray) -> float:
    """The share of all sign patterns whose mean is at least as far from 0."""
    signs = np.array(list(itertools.product((-1, 1), repeat=len(differences))))
    means = np.abs((signs * differences).mean(axis=1))
    return float((means >= abs(differences.mean()) - 1e-12).mean())


@settings(max_examples=60, deadline=None)
@example([0.0, 0.1, 0.1, 0.2, 0.2, 0.2, 0.0, 0.0], 0)  # the mean is 0 but for rounding
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
    for differing in range(9):
        values = np.where(np.arange(20) < differing, 0.25, 0) + np.zeros(20)
        best = paired(values, np.zeros(20))
        assert best.differing == differing
        assert best.too_few == (best.p >= SURE) == (not best.is_gain) == ("too few" in str(best))
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
