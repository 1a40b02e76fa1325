"""The metrics against their definitions, written out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hnmine.ranking.first_stage import NO_ROW
from hnmine.ranking.measures import METRICS, means, measure, reach
from hnmine.ranking.task import Task
from hnmine.types import Float32
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
    assert task.documents_to_score == 1


def test_what_the_first_stage_missed_is_out_of_reach() -> None:
    assert reach(task_of_rows([[1, 2], [3, NO_ROW]], [{1, 9}, {4, 5}])) == 0.25
