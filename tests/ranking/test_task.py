"""The metrics against their definitions, written out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from hnmine.ranking.first_stage import NO_ROW
from hnmine.ranking.significance import Paired
from hnmine.ranking.task import METRICS, Task, means, measure, reach, rerank, table, table_by_length
from hnmine.types import Float32, Pairs, Texts
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


class Counting:
    """Scores a document by its number, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def scores(self, queries: Sequence[str], documents: Sequence[str], done: Callable[[int], None]) -> Float32:
        self.asked += zip(queries, documents, strict=True)
        done(len(queries))
        return np.array([float(document[1:]) for document in documents], dtype=np.float32)


def test_every_document_of_the_first_stage_is_scored_once_and_put_in_its_place() -> None:
    task = task_of_rows([[5, 2, NO_ROW], [NO_ROW, NO_ROW, NO_ROW], [7, 5, 3]], [{2}, {2}, {3}])
    scorer, told = Counting(), []
    scores = rerank(task, scorer, told.append)
    hole = -np.inf
    assert scores.tolist() == [[5, 2, hole], [hole, hole, hole], [7, 5, 3]]
    assert scorer.asked == [("q0", "d5"), ("q0", "d2"), ("q2", "d7"), ("q2", "d5"), ("q2", "d3")]
    assert sum(told) == task.documents_to_score == 5


def test_a_task_has_each_query_once_with_all_its_positives_and_the_texts_it_needs() -> None:
    pairs = Pairs(query_rows_P=np.array([3, 1, 3]), doc_rows_P=np.array([0, 4, 2]))
    first = {
        1: (np.array([4, 2]), np.array([2, 1], np.float32)),
        3: (np.array([1, NO_ROW]), np.array([1, 0], np.float32)),
    }
    task = Task.of(numbered_texts(5, "d"), numbered_texts(4, "q"), pairs, first, sorted(first))
    assert task.queries.ids == ("q1", "q3")
    assert task.relevant == (frozenset({4}), frozenset({0, 2}))
    assert task.doc_rows_QK.tolist() == [[4, 2], [1, NO_ROW]]
    assert task.document_texts == {1: "d1", 2: "d2", 4: "d4"}


def test_a_query_is_long_if_one_of_its_right_documents_is() -> None:
    long, short = "word, " * 513, "word " * 1024
    documents = Texts(ids=("a", "b", "c"), texts=(long, short, "x"))
    pairs = Pairs(query_rows_P=np.array([0, 1, 2, 2]), doc_rows_P=np.array([0, 1, 1, 0]))
    first = {row: (np.array([0, 1]), np.zeros(2, np.float32)) for row in range(3)}
    assert Task.of(documents, numbered_texts(3, "q"), pairs, first, sorted(first)).long == {0, 2}


def test_what_the_first_stage_missed_is_out_of_reach() -> None:
    assert reach(task_of_rows([[1, 2], [3, NO_ROW]], [{1, 9}, {4, 5}])) == 0.25


def row_of(*values: float) -> dict[str, np.ndarray]:
    return dict.fromkeys(METRICS, np.array(values))


def test_the_table_shows_each_ranking_and_what_tuning_changed() -> None:
    rows = {"first stage": row_of(0.5, 0.5), "before: as given": row_of(0.25, 0.25), "after: paper": row_of(0.4, 0.0)}
    test = Paired(difference=-0.05, low=-0.1, high=0.02, p=0.0312)
    lines = table(rows, "2 queries", {"after: paper": test}).splitlines()
    assert lines[0] == "2 queries"
    assert lines[2].split() == list(METRICS)
    assert lines[3].split() == ["first", "stage", "0.500", "0.500", "0.500", "0.500"]
    assert lines[4].endswith("0.250")
    assert lines[5].endswith("0.200   -0.050 MRR@10 (-0.100 to +0.020, p = 0.031)")
    assert len({len(line) for line in lines[2:5]}) == 1


def test_long_and_short_stand_apart_only_where_there_are_both() -> None:
    task = task_of_rows([[1], [1], [1], [1]], [{1}, {1}, {1}, {1}])
    rows = {"before": row_of(0.1, 0.2, 0.3, 0.8), "after": row_of(0, 0, 1, 1)}
    apart = replace(task, long=frozenset({0, 2}))
    assert table_by_length(task, rows, fewest=1) == table_by_length(apart, rows) == ""
    lines = table_by_length(apart, rows, fewest=2).splitlines()
    assert lines[2].split() == ["short", "(2)", "long", "(2)"]
    assert lines[3].split() == ["before", "0.500", "0.200"]
    assert lines[4].split() == ["after", "0.500", "0.500"]
