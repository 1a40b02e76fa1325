"""Documents compared with queries one by one, without an index: in float32, and how far that can be off."""

from __future__ import annotations

from typing import Any

import numpy as np

from hnmine.mapped import let_go
from hnmine.types import Float32, Float64, Int64

SLICE_BYTES = 256 * 2**20  # of the documents that are searched together


def error_bound(width: int) -> float:
    """Return the largest error of a float32 cosine distance of unit rows of this width, in any order of addition.

    The error of a sum of n products of two vectors of length 1 is at most n·u/(1 - n·u), u = 2⁻²⁴ (Higham, Accuracy and
    Stability of Numerical Algorithms, eq. 3.5). The bound is twice that, since rows have length 1 only to rounding.
    """
    return 2 * (width + 2) * 2.0**-24


def nearest_of_all(queries_QR: Float32, docs_NR: Float32, k: int) -> tuple[Int64, Float32]:
    """Return rows and distances (Q, k) of the k nearest documents of all, ascending: slice by slice of the documents.

    All documents are searched where they are; an index would be a copy of them.
    """
    import faiss

    step = max(k, SLICE_BYTES // (4 * docs_NR.shape[1]))
    rows, distances = np.empty((len(queries_QR), 0), np.int64), np.empty((len(queries_QR), 0), np.float32)
    for start in range(0, len(docs_NR), step):
        docs = docs_NR[start : start + step]
        similarities, found = faiss.knn(queries_QR, docs, min(k, len(docs)), metric=faiss.METRIC_INNER_PRODUCT)
        let_go(docs_NR)
        rows, distances = np.hstack([rows, found + start]), np.hstack([distances, 1 - similarities])
        if start:
            order = np.argsort(distances, axis=1, kind="stable")[:, :k]
            rows, distances = np.take_along_axis(rows, order, axis=1), np.take_along_axis(distances, order, axis=1)
    return rows, distances


def nearer(queries_QR: Float32, docs_NR: Float32, reach_Q: Float64, device: str | None) -> tuple[Int64, Int64]:
    """Return the positions (query, document) of distances below the query's reach; torch's device, None: NumPy."""
    if device is None:
        found_queries, found_docs = np.nonzero(1 - queries_QR @ docs_NR.T < reach_Q[:, None])
        return found_queries, found_docs
    import torch

    matmul: Any = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "ieee"  # the program or the environment may allow TF32
    try:
        with torch.inference_mode():
            queries, docs, reach = (torch.tensor(array, device=device) for array in (queries_QR, docs_NR, reach_Q))
            hits = torch.nonzero(1 - queries @ docs.T < reach[:, None]).T.cpu().numpy()
    finally:
        matmul.fp32_precision = before
    return hits[0], hits[1]


def recall(distances_QK: Float32, docs_NR: Float32, queries_QR: Float32) -> float:
    """Return the share of the true nearest documents that the lists hold; any of several equally near ones counts."""
    _, true_QK = nearest_of_all(queries_QR, docs_NR, distances_QK.shape[1])
    last_Q = true_QK[:, -1:] + 2 * error_bound(docs_NR.shape[1])
    return float((distances_QK <= last_Q).mean())
