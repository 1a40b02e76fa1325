"""The short list of every query: exact nearest documents by FAISS, on the CPU or one GPU.

The distances here come from float32 matrix products, so they are *approximate* to within `error_bound`; `select`
recomputes in float64 what it decides on, and uses the bound to know what a list may have missed.
"""

from __future__ import annotations

import math

import numpy as np

from hnmine.device import Choice
from hnmine.types import Candidates, Float32, Float64, Int64

GPU_MAX_CANDIDATES = 2048
_GPU_SCRATCH_BYTES = 2 * 2**30
_QUERY_BLOCK = 1024
_SCAN_BYTES = 256 * 2**20


def gpus_needed(document_bytes: int) -> int:
    """Return how many GPUs like the first one hold this many bytes beside FAISS's scratch space."""
    import torch

    free, _ = torch.cuda.mem_get_info(0)
    return math.ceil(document_bytes / max(1, int(0.9 * free) - _GPU_SCRATCH_BYTES))


def error_bound(width: int) -> float:
    """Largest error of a float32 cosine distance between unit rows of this width, whatever the order of addition.

    For a sum of n products of two vectors of length 1 the error is at most n·u/(1 - n·u), u = 2⁻²⁴ (Higham,
    Accuracy and Stability of Numerical Algorithms, eq. 3.5); doubled for rows that are unit only to rounding.
    """
    return 2 * (width + 2) * 2.0**-24


class Searcher:
    """A flat FAISS index over the documents of a space."""

    def __init__(self, docs_NR: Float32, device: Choice) -> None:
        import faiss

        self._docs_NR = docs_NR
        self._index: faiss.Index = faiss.IndexFlatIP(docs_NR.shape[1])
        self.max_candidates = len(docs_NR)
        if device.kind == "gpu":
            self._resources = faiss.StandardGpuResources()
            self._index = faiss.index_cpu_to_gpu(self._resources, 0, self._index)
            self.max_candidates = min(self.max_candidates, GPU_MAX_CANDIDATES)
        self._index.add(docs_NR)

    def nearest(self, queries_QR: Float32, k: int) -> Candidates:
        """Return the k nearest documents of every query, at most `max_candidates`, ascending."""
        k = min(k, self.max_candidates)
        rows = np.empty((len(queries_QR), k), dtype=np.int64)
        distances = np.empty((len(queries_QR), k), dtype=np.float32)
        for start in range(0, len(queries_QR), _QUERY_BLOCK):
            block = slice(start, start + _QUERY_BLOCK)
            similarities, rows[block] = self._index.search(np.ascontiguousarray(queries_QR[block]), k)
            distances[block] = 1 - similarities
        return Candidates(doc_rows_QK=rows, distances_QK=distances)

    def within(self, queries_QR: Float32, radius_Q: Float64) -> tuple[Int64, Int64]:
        """Return every (query position, document row) that can be nearer than the query's radius: a full scan."""
        reach = (radius_Q + error_bound(self._docs_NR.shape[1])).astype(np.float64)
        queries: list[Int64] = []
        docs: list[Int64] = []
        step = max(1, _SCAN_BYTES // (4 * max(1, len(queries_QR))))
        for start in range(0, len(self._docs_NR), step):
            distances = 1 - queries_QR @ self._docs_NR[start : start + step].T
            hit_queries, hit_docs = np.nonzero(distances < reach[:, None])
            queries.append(hit_queries)
            docs.append(hit_docs + start)
        return np.concatenate(queries), np.concatenate(docs)
