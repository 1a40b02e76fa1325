"""Several scores of the same documents in one: Σ weight · z(scores), where z makes them comparable.

A re-ranker that was tuned on a few hundred pairs is right where the first stage or an encoder is wrong, and the other
way round; their sum is often better than each (Wang et al., ICTIR 2021, find the same of dense retrievers and BM25).
z has mean 0 and standard deviation 1 over a query's documents. The weights are those under which the relevant documents
of the dev queries are likeliest, by a softmax over each query's documents: a convex problem with one number a ranking.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from hnmine.ranking.measures import MAIN_METRIC, Task, means, measure
from hnmine.types import Float32, Float64

_PENALTY = 0.01
"""Of the sum of squared weights, against the mean log-likelihood of a query: few queries must not make large ones."""

Rankings = Mapping[str, Float32]
"""Scores (Q, K) of a task's documents, by the name of what gives them."""


def standardised(scores_QK: Float32, exists_QK: NDArray[np.bool_]) -> Float64:
    """Return each query's scores with mean 0 and standard deviation 1, or 0 where all are equal or none exists."""
    scores = np.where(exists_QK, scores_QK, 0.0).astype(np.float64)
    count_Q = np.maximum(exists_QK.sum(1, keepdims=True), 1)
    centred = np.where(exists_QK, scores - scores.sum(1, keepdims=True) / count_Q, 0.0)
    deviation_Q = np.sqrt(np.square(centred).sum(1, keepdims=True) / count_Q)
    equal_Q = deviation_Q <= 1e-6 * np.abs(scores).max(1, keepdims=True, initial=0.0)  # the rest is rounding
    z_QK: Float64 = np.divide(centred, deviation_Q, out=np.zeros_like(centred), where=~equal_Q)
    return z_QK


def blended(task: Task, rankings: Rankings, weights: Mapping[str, float]) -> Float32:
    """Return the weighted sum (Q, K) of the rankings that have a weight; -inf where there is no document."""
    sum_QK = sum(weight * standardised(rankings[name], task.exists_QK) for name, weight in weights.items())
    return np.where(task.exists_QK, sum_QK, -np.inf).astype(np.float32)


def best_weights(dev: Task, rankings: Rankings) -> dict[str, float]:
    """Return the weights that dev chooses, in whole hundredths, without those that are 0.

    The first ranking is the one that others are added to: it has all the weight unless the sum has a higher MRR@10 on
    dev than the first ranking by itself.
    """

    def value(weights: Mapping[str, float]) -> float:
        return means(measure(dev, blended(dev, rankings, weights)))[MAIN_METRIC]

    alone = {next(iter(rankings)): 1.0}
    weights = likeliest(dev, rankings)
    hundredths = np.round(100 * weights / weights.sum()) if weights.sum() else weights
    chosen = {name: float(share) / 100 for name, share in zip(rankings, hundredths, strict=True) if share}
    return chosen if chosen and value(chosen) > value(alone) else alone


def likeliest(dev: Task, rankings: Rankings) -> Float64:
    """Return the weights, none negative, that maximise the mean log-likelihood of relevant documents less the penalty.

    All are 0 where the rankings hold no relevant document.
    """
    from scipy.optimize import minimize
    from scipy.special import logsumexp

    # Keep the queries with a relevant document among the ranked ones.
    has_one = dev.relevant_QK.any(1)
    exists_QK, relevant_QK = dev.exists_QK[has_one], dev.relevant_QK[has_one]
    z_QKR = np.stack([standardised(scores[has_one], exists_QK) for scores in rankings.values()], axis=-1)
    if not len(relevant_QK):
        return np.zeros(len(rankings))
    target_QK = relevant_QK / relevant_QK.sum(1, keepdims=True)

    def loss(weights_R: Float64) -> tuple[float, Float64]:
        """Return cross-entropy and penalty, and their gradient."""
        scores = np.where(exists_QK, z_QKR @ weights_R, -np.inf)
        log_odds = scores - logsumexp(scores, axis=1, keepdims=True)
        entropy = -(target_QK * np.where(exists_QK, log_odds, 0.0)).sum(1).mean()
        gradient = np.einsum("qk,qkr->r", np.exp(log_odds) - target_QK, z_QKR) / len(z_QKR) + 2 * _PENALTY * weights_R
        return float(entropy + _PENALTY * weights_R @ weights_R), gradient

    # Minimise from equal weights.
    bounds = [(0.0, None)] * len(rankings)
    weights_R: Float64 = minimize(loss, np.ones(len(rankings)), jac=True, method="L-BFGS-B", bounds=bounds).x
    return weights_R
