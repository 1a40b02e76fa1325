"""A ranking task written down as rows, and rankings of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hnmine.ranking.evaluate import Evaluation, Ranking
from hnmine.ranking.measures import METRICS, Task
from hnmine.types import NO_ROW
from tests.builders.texts import numbered_texts


def task_of_rows(doc_rows: list[list[int]], relevant: list[set[int]]) -> Task:
    """Return a task of one first-stage list a query; all scores of the first stage are zero."""
    rows = np.array(doc_rows, dtype=np.int64)
    return Task(
        queries=numbered_texts(len(rows), "q"),
        doc_rows_QK=rows,
        first_scores_QK=np.zeros(rows.shape, np.float32),
        document_texts={int(row): f"d{row}" for row in np.unique(rows) if row != NO_ROW},
        relevant=tuple(map(frozenset, relevant)),
    )


def ranking_of(name: str, values: Sequence[float], blended: Sequence[float] | None = None) -> Ranking:
    """Return a ranking with the same value of every metric, and of its blend with BM25 if that is given."""
    part = "BM25" if name.startswith("first stage") else "re-ranker"
    return Ranking(
        name=name,
        scores_QK=np.zeros((len(values), 1), np.float32),
        values=dict.fromkeys(METRICS, np.array(values)),
        weights={part: 1.0} if blended is None else {part: 0.25, "minilm": 0.75},
        gains_parts=blended is not None,
        blended=dict.fromkeys(METRICS, np.array(values if blended is None else blended)),
    )


def evaluation_of(task: Task, *rankings: Ranking) -> Evaluation:
    """Return the evaluation of these rankings (first stage, start, what was trained), without tests."""
    return Evaluation(task=task, split="test", split_queries=len(task), rankings=rankings, tests={})
