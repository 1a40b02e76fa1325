"""A re-ranker's scores blended with others of the same documents: z(re-ranker) + Σ weight · z(other).

A re-ranker that was tuned on a few hundred pairs is right where the first stage or an encoder is wrong, and the other
way round; their sum is often better than each (Wang et al., ICTIR 2021, find the same of dense retrievers and BM25). z
is what makes them comparable: of each query's scores the mean is 0 and the standard deviation 1. The weights are chosen
on dev, beginning with none at all: what is blended is never worse on dev than what is not.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from hnmine.evaluation import Task, means, measure
from hnmine.first_stage import NO_ROW
from hnmine.types import Float32, Float64

WEIGHTS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
_METRIC = "MRR@10"

Others = Mapping[str, Float32]
"""Scores (Q, K) of a task's documents, by the name of what gives them."""


def standard(scores_QK: Float32, is_there_QK: NDArray[np.bool_]) -> Float64:
    """Return each query's scores with mean 0 and standard deviation 1; 0 where all are equal, -inf where is none.

    Args:
        scores_QK: finite where there is a document.
        is_there_QK: whether there is one.
    """
    scores = np.where(is_there_QK, scores_QK, 0.0).astype(np.float64)
    count_Q = np.maximum(is_there_QK.sum(1, keepdims=True), 1)
    centred = np.where(is_there_QK, scores - scores.sum(1, keepdims=True) / count_Q, 0.0)
    deviation_Q = np.sqrt(np.square(centred).sum(1, keepdims=True) / count_Q)
    even = deviation_Q <= 1e-6 * np.abs(scores).max(1, keepdims=True, initial=0.0)  # what is left is rounding
    unit = np.divide(centred, deviation_Q, out=np.zeros_like(centred), where=~even)
    return np.where(is_there_QK, unit, -np.inf)


def blended(task: Task, scores_QK: Float32, others: Others, weights: Mapping[str, float]) -> Float32:
    """Return the scores with so much of others; -inf where there is no document."""
    is_there = task.doc_rows_QK != NO_ROW
    found = standard(scores_QK, is_there)
    for name, weight in weights.items():
        found = found + weight * np.where(is_there, standard(others[name], is_there), 0.0)
    return found.astype(np.float32)


def best_weights(dev: Task, scores_QK: Float32, others: Others) -> dict[str, float]:
    """Return the weights that MRR@10 on dev chooses; what is not among them has none.

    From no other at all, the weight of one is set that gains most, again and again until nothing gains.
    """
    weights: dict[str, float] = {}
    best = _value(dev, scores_QK, others, weights)
    while True:
        steps = [weights | {name: weight} for name in others for weight in WEIGHTS if weights.get(name) != weight]
        values = [_value(dev, scores_QK, others, step) for step in steps]
        if not values or max(values) <= best:
            return weights
        best = max(values)
        weights = steps[values.index(best)]


def _value(dev: Task, scores_QK: Float32, others: Others, weights: Mapping[str, float]) -> float:
    return means(measure(dev, blended(dev, scores_QK, others, weights)))[_METRIC]
