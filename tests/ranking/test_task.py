"""What a task holds of its queries, and that re-ranking scores each document once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hnmine.ranking.task import Task, rerank
from hnmine.types import NO_ROW, Done, Float32, Pairs, Texts
from tests.builders.ranking import task_of_rows
from tests.builders.texts import numbered_texts


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
