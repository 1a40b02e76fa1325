"""A ranking task written down as rows, and rankings of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hnmine.ranking.evaluate import Evaluation, Measured, Ranking, rows_of
from hnmine.ranking.measures import METRICS, Task
from hnmine.ranking.rows import RowKind
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


def measured_of(name: str, values: Sequence[float], blended: Sequence[float] | None = None) -> Measured:
    """Return a ranking with the same value of every metric, and its blend with an encoder if that is given."""
    is_first = name.startswith("first stage")
    part, slug = ("BM25", "first-stage") if is_first else ("re-ranker", name.replace(": ", "-").replace(" ", "-"))
    kind: RowKind = "first-stage" if is_first else "re-ranker"
    alone = _ranking(name, slug, kind, {part: 1.0}, values)
    if blended is None:
        return Measured(alone=alone, weights={part: 1.0})
    weights = {part: 0.25, "minilm": 0.75}
    kind = "blend" if is_first else "blend-with-re-ranker"
    blend = _ranking(f"{name}, blended", f"blended-{slug}", kind, weights, blended)
    return Measured(alone=alone, blend=blend, weights=weights)


def _ranking(name: str, slug: str, kind: RowKind, weights: dict[str, float], values: Sequence[float]) -> Ranking:
    metrics = dict.fromkeys(METRICS, np.array(values))
    scores = np.zeros((len(values), 1), np.float32)
    return Ranking(
        name=name,
        slug=slug,
        kind=kind,
        weights=weights,
        scores_QK=scores,
        values=metrics,
        dev_QK=scores,
        dev=metrics,
    )


def evaluation_of(task: Task, *measured: Measured) -> Evaluation:
    """Return the evaluation of these rankings (first stage, start, what was trained), without tests."""
    return Evaluation(
        task=task,
        split="test",
        split_queries=len(task),
        measured=measured,
        rows=rows_of(measured),
        tests={},
        untrained=measured[0].alone,
        untrained_tests={},
    )
