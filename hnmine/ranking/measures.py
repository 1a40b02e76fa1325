"""What a ranking is worth to each query: MRR@3, MRR@10, nDCG@10 and Recall@10, all by ir_measures.

Letters: Q queries, K documents the first stage gave each.
"""

from __future__ import annotations

import numpy as np

from hnmine.ranking.first_stage import NO_ROW
from hnmine.ranking.task import Task
from hnmine.types import Float32, Float64

METRICS = {"MRR@3": "RR@3", "MRR@10": "RR@10", "nDCG@10": "nDCG@10", "Recall@10": "R@10"}
"""Our names of the metrics, and ir_measures' names of the values that are averaged."""
MAIN_METRIC = "MRR@10"
"""The metric that chooses steps, weights and arms, and orders what is shown."""

PerQuery = dict[str, Float64]
"""Metric → its value for each query (Q,)."""


def measure(task: Task, scores_QK: Float32) -> PerQuery:
    """Return every metric for every query, the documents ordered by score; a query without a hit counts 0."""
    import ir_measures

    names = [f"q{i}" for i in range(len(task))]
    qrels = {name: {f"d{doc}": 1 for doc in docs} for name, docs in zip(names, task.relevant, strict=True)}
    run = {
        name: {f"d{doc}": float(score) for doc, score in zip(docs, scores, strict=True) if doc != NO_ROW}
        for name, docs, scores in zip(names, task.doc_rows_QK.tolist(), scores_QK.tolist(), strict=True)
    }
    position = {name: i for i, name in enumerate(names)}
    values: PerQuery = {metric: np.zeros(len(task)) for metric in METRICS}
    measures = {ir_measures.parse_measure(theirs): ours for ours, theirs in METRICS.items()}
    for row in ir_measures.iter_calc(list(measures), qrels, run):
        values[measures[row.measure]][position[row.query_id]] = row.value
    return values


def means(values: PerQuery) -> dict[str, float]:
    """Return each metric's mean over the queries."""
    return {metric: float(values_Q.mean()) for metric, values_Q in values.items()}


def reach(task: Task) -> float:
    """Return the share of the relevant documents that the first stage found: re-ranking cannot add others."""
    found = [len(docs & set(rows)) for docs, rows in zip(task.relevant, task.doc_rows_QK.tolist(), strict=True)]
    return sum(found) / sum(len(docs) for docs in task.relevant)
