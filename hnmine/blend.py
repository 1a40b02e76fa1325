"""A re-ranker's scores blended with the first stage's: z(re-ranker) + weight · z(first stage).

A re-ranker that was tuned on a few hundred pairs is right where the first stage is wrong and the other way round; their
sum is often better than either (Wang et al., ICTIR 2021, find the same of dense retrievers and BM25). z is what makes
them comparable: of each query's scores the mean is 0 and the standard deviation 1. The weight is the best on dev of a
few, 0 among them: what is blended is never worse on dev than what is not.
"""

from __future__ import annotations

import numpy as np

from hnmine.evaluation import Task, means, measure
from hnmine.first_stage import NO_ROW
from hnmine.types import Float32, Float64

WEIGHTS = (0.0, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0)


def standard(scores_QK: Float32, is_there_QK: np.typing.NDArray[np.bool_]) -> Float64:
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


def blended(task: Task, scores_QK: Float32, weight: float) -> Float32:
    """Return the re-ranker's scores and the task's first stage's in one; -inf where there is no document."""
    is_there = task.doc_rows_QK != NO_ROW
    first = np.where(is_there, standard(task.first_scores_QK, is_there), 0.0)
    return (standard(scores_QK, is_there) + weight * first).astype(np.float32)


def best_weight(dev: Task, scores_QK: Float32, metric: str = "MRR@10") -> float:
    """Return the weight whose blend has the highest metric on dev, the smallest of equals."""
    of = {weight: means(measure(dev, blended(dev, scores_QK, weight)))[metric] for weight in WEIGHTS}
    return max(of, key=lambda weight: of[weight])
