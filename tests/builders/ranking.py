"""A ranking task written down as rows."""

from __future__ import annotations

import numpy as np

from hnmine.ranking.first_stage import NO_ROW
from hnmine.ranking.task import Task
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
