"""What a ranking is worth to each query, by ir_measures, and whether one is better than another, or lucky."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hnmine.ranking.task import Task
from hnmine.types import NO_ROW, Float32, Float64

METRICS = {"MRR@3": "RR@3", "MRR@10": "RR@10", "nDCG@10": "nDCG@10", "Recall@10": "R@10"}
"""Our names of the metrics, and ir_measures' names of the values that are averaged."""
MAIN_METRIC = "MRR@10"
"""The metric that chooses steps, weights and arms, and orders what is shown."""

PerQuery = dict[str, Float64]
"""Metric → its value for each query (Q,)."""


def measure(task: Task, scores_QK: Float32) -> PerQuery:
    """Return every metric for every query, the documents ordered by score; a query without a hit counts 0."""
    import ir_measures

    names = [str(query) for query in range(len(task))]
    qrels = {name: {f"d{doc}": 1 for doc in docs} for name, docs in zip(names, task.relevant, strict=True)}
    run = {
        name: {f"d{doc}": float(score) for doc, score in zip(docs, scores, strict=True) if doc != NO_ROW}
        for name, docs, scores in zip(names, task.doc_rows_QK.tolist(), scores_QK.tolist(), strict=True)
    }
    values: PerQuery = {metric: np.zeros(len(task)) for metric in METRICS}
    measures = {ir_measures.parse_measure(theirs): ours for ours, theirs in METRICS.items()}
    for row in ir_measures.iter_calc(list(measures), qrels, run):
        values[measures[row.measure]][int(row.query_id)] = row.value
    return values


def means(values: PerQuery) -> dict[str, float]:
    """Return each metric's mean over the queries."""
    return {metric: float(values_Q.mean()) for metric, values_Q in values.items()}


def reach(task: Task) -> float:
    """Return the share of the relevant documents that the first stage found: re-ranking cannot add others."""
    return float(task.relevant_QK.sum()) / sum(map(len, task.relevant))


@dataclass(frozen=True, kw_only=True)
class Paired:
    """The mean difference of a metric over queries, and how sure it is."""

    difference: float
    low: float
    """Lower end of the 95 % confidence interval (percentile bootstrap over queries)."""
    high: float
    p: float
    """Two-sided p-value of the paired randomisation test; exact where all 2^Q sign patterns are few."""


def paired(after_Q: Float64, before_Q: Float64, seed: int = 0) -> Paired:
    """Compare two rankings query by query.

    The randomisation test asks how often a difference of means as large would come if for every query it were chance
    which ranking got which value (Smucker et al., CIKM 2007).
    """
    from scipy import stats

    if after_Q.shape != before_Q.shape or not len(after_Q):
        raise ValueError(f"need one value a query of both runs, got {after_Q.shape} and {before_Q.shape}")
    differences_Q = after_Q - before_Q
    mean = float(differences_Q.mean())
    if len(differences_Q) == 1 or not np.ptp(differences_Q):  # there is nothing to resample
        p = 1.0 if not mean else float(2.0 ** (1 - len(differences_Q)))
        return Paired(difference=mean, low=mean, high=mean, p=p)
    how = {"n_resamples": 9999, "rng": seed}
    test = stats.permutation_test((differences_Q,), np.mean, permutation_type="samples", **how)
    interval = stats.bootstrap((differences_Q,), np.mean, batch=1000, method="percentile", **how).confidence_interval
    return Paired(difference=mean, low=float(interval.low), high=float(interval.high), p=float(test.pvalue))
