"""Several scores of the same documents in one: Σ weight · z(scores), z making them comparable.

A re-ranker that was tuned on a few hundred pairs is right where the first stage or an encoder is wrong, and the other
way round; their sum is often better than each (Wang et al., ICTIR 2021, find the same of dense retrievers and BM25). Of
a query's z the mean is 0 and the standard deviation 1. The weights are those under which the right documents of the dev
queries are likeliest, by a softmax over each query's documents: a convex problem with one number for each ranking.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from hnmine.ranking.first_stage import NO_ROW
from hnmine.ranking.task import Task, means, measure
from hnmine.types import Float32, Float64

_PENALTY = 0.01
"""Of the sum of squared weights, against the mean log-likelihood of a query: few queries must not make large ones."""

Rankings = Mapping[str, Float32]
"""Scores (Q, K) of a task's documents, by the name of what gives them."""


def standard(scores_QK: Float32, is_there_QK: NDArray[np.bool_]) -> Float64:
    """Return each query's scores with mean 0 and standard deviation 1; 0 where all are equal or there is none.

    Args:
        scores_QK: finite where there is a document.
        is_there_QK: whether there is one.
    """
    scores = np.where(is_there_QK, scores_QK, 0.0).astype(np.float64)
    count_Q = np.maximum(is_there_QK.sum(1, keepdims=True), 1)
    centred = np.where(is_there_QK, scores - scores.sum(1, keepdims=True) / count_Q, 0.0)
    deviation_Q = np.sqrt(np.square(centred).sum(1, keepdims=True) / count_Q)
    even = deviation_Q <= 1e-6 * np.abs(scores).max(1, keepdims=True, initial=0.0)  # what is left is rounding
    unit: Float64 = np.divide(centred, deviation_Q, out=np.zeros_like(centred), where=~even)
    return unit


def blended(task: Task, rankings: Rankings, weights: Mapping[str, float]) -> Float32:
    """Return the weighted sum (Q, K) of the rankings that have a weight; -inf where there is no document."""
    is_there = task.doc_rows_QK != NO_ROW
    found = sum(weight * standard(rankings[name], is_there) for name, weight in weights.items())
    return np.where(is_there, found, -np.inf).astype(np.float32)


def best_weights(dev: Task, rankings: Rankings) -> dict[str, float]:
    """Return the weights that dev chooses, in whole hundredths; what has none is left out.

    The first of the rankings is the one that others are added to: where their sum has no higher MRR@10 on dev than it
    has by itself, it has all the weight.
    """
    own, *_ = rankings
    alone = {own: 1.0}
    weights = likeliest(dev, rankings)
    hundredths = np.round(100 * weights / weights.sum()) if weights.sum() else weights
    chosen = {name: float(share) / 100 for name, share in zip(rankings, hundredths, strict=True) if share}
    return chosen if chosen and _value(dev, rankings, chosen) > _value(dev, rankings, alone) else alone


def likeliest(dev: Task, rankings: Rankings) -> Float64:
    """Return the weights, none negative, that maximise the mean log-likelihood of right documents less the penalty."""
    from scipy.optimize import minimize

    is_there = dev.doc_rows_QK != NO_ROW
    z_QKR = np.stack([standard(scores, is_there) for scores in rankings.values()], axis=-1)
    right = np.array(
        [[row in docs for row in rows] for rows, docs in zip(dev.doc_rows_QK.tolist(), dev.relevant, strict=True)]
    )
    tells = right.any(1)
    z_QKR, is_there, right = z_QKR[tells], is_there[tells], right[tells]
    if not len(right):
        return np.zeros(len(rankings))
    share_QK = right / right.sum(1, keepdims=True)

    def loss(weights_R: Float64) -> tuple[float, Float64]:
        scores = np.where(is_there, z_QKR @ weights_R, -np.inf)
        top = scores.max(1, keepdims=True)
        likely = np.exp(scores - top)
        log_sum = np.log(likely.sum(1, keepdims=True)) + top
        value = (share_QK * np.where(is_there, log_sum - scores, 0.0)).sum(1).mean() + _PENALTY * weights_R @ weights_R
        off = likely / likely.sum(1, keepdims=True) - share_QK
        slope = np.einsum("qk,qkr->r", off, z_QKR) / len(z_QKR) + 2 * _PENALTY * weights_R
        return float(value), slope

    bounds = [(0.0, None)] * len(rankings)
    found: Float64 = minimize(loss, np.ones(len(rankings)), jac=True, method="L-BFGS-B", bounds=bounds).x
    return found


def _value(dev: Task, rankings: Rankings, weights: Mapping[str, float]) -> float:
    return means(measure(dev, blended(dev, rankings, weights)))["MRR@10"]
