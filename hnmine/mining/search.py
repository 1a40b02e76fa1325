"""The short list of every query by FAISS, on the CPU or one GPU: `Searcher` is exact, `IvfSearcher` looks into a part.

The distances here come from float32 matrix products, so they are *approximate* to within `error_bound`; `select`
recomputes in float64 what it decides on, and uses the bound to know what a list may have missed. The bound asks for
true float32 on the GPU too. FAISS multiplies in it (default math of cuBLAS, no float16 storage); of torch, which may be
told to round to TF32 (11 bits), it is asked for here. Equal distances may come in any order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from hnmine.runs.device import Choice
from hnmine.types import Candidates, Float32, Float64, Int64

GPU_MAX_CANDIDATES = 2048
"""Longest list, and most probes, of FAISS on a GPU."""
_GPU_SCRATCH_BYTES = 2 * 2**30
_QUERY_BLOCK = 1024
_FOUND_BYTES = 12  # a distance and a row
_SCAN_BYTES = 256 * 2**20
_DOCUMENTS_PER_LIST = 39  # with fewer, k-means places its centres badly
_TRAINED_PER_LIST = 64


def gpus_needed(document_bytes: int) -> int:
    """Return how many GPUs like the first one hold this many bytes beside FAISS's scratch space."""
    import torch

    torch.cuda.empty_cache()  # what encoding left of it is free
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

    approximate = False

    def __init__(self, docs_NR: Float32, device: Choice) -> None:
        self._docs_NR, self._device = docs_NR, device
        self.max_candidates = len(docs_NR)
        if device.kind == "gpu":
            import faiss

            self._resources = faiss.StandardGpuResources()
            self.max_candidates = min(self.max_candidates, GPU_MAX_CANDIDATES)
        self._index = self._placed(self._empty())
        self._index.add(docs_NR)

    def nearest(self, queries_QR: Float32, k: int) -> Candidates:
        """Return the k nearest documents of every query, at most `max_candidates`, ascending."""
        k = min(k, self.max_candidates)
        rows = np.empty((len(queries_QR), k), dtype=np.int64)
        distances = np.empty((len(queries_QR), k), dtype=np.float32)
        step = self._query_block(k)
        for start in range(0, len(queries_QR), step):
            block = slice(start, start + step)
            similarities, rows[block] = self._index.search(np.ascontiguousarray(queries_QR[block]), k)
            distances[block] = 1 - similarities
        distances[rows < 0] = np.inf
        return Candidates(doc_rows_QK=rows, distances_QK=distances)

    def within(self, queries_QR: Float32, radius_Q: Float64) -> tuple[Int64, Int64]:
        """Return every (query position, document row) that can be nearer than the query's radius: a full scan."""
        reach_Q = self._reach(radius_Q)
        hits = [
            (queries, docs + at.start)
            for at in _steps(self._docs_NR.shape, len(queries_QR))
            for queries, docs in [nearer(queries_QR, self._docs_NR[at], reach_Q, self._device)]
        ]
        return np.concatenate([queries for queries, _ in hits]), np.concatenate([docs for _, docs in hits])

    def _empty(self) -> Any:
        import faiss

        return faiss.IndexFlatIP(self._docs_NR.shape[1])

    def _placed(self, index: Any) -> Any:
        """Move an index that was made on the CPU to the device."""
        import faiss

        return index if self._device.kind == "cpu" else faiss.index_cpu_to_gpu(self._resources, 0, index)

    def _query_block(self, _k: int) -> int:
        return _QUERY_BLOCK

    def _reach(self, radius_Q: Float64) -> Float64:
        reach_Q: Float64 = radius_Q + error_bound(self._docs_NR.shape[1])
        return reach_Q


@dataclass(frozen=True, kw_only=True)
class Ivf:
    """How documents are divided: about 4·√N lists by seeded k-means, of which `probes` are searched for a query."""

    probes: int = 32
    seed: int = 0

    def lists_for(self, documents: int) -> int:
        """Return the number of lists for so many documents: fewer than 4·√N where k-means would have too few."""
        return max(1, min(round(4 * math.sqrt(documents)), documents // _DOCUMENTS_PER_LIST))


class IvfSearcher(Searcher):
    """An inverted file: only the lists nearest to a query are searched, so documents in others are missed.

    A list that runs out before k documents ends in rows -1 at infinite distance. `within` scans the same lists,
    never the whole corpus.
    """

    approximate = True

    def __init__(self, docs_NR: Float32, device: Choice, ivf: Ivf) -> None:
        self._lists = ivf.lists_for(len(docs_NR))
        self._probes = min(ivf.probes, self._lists)
        self._seed = ivf.seed
        super().__init__(docs_NR, device)
        if device.kind == "gpu":
            self._index.reclaimMemory()  # lists grow by doubling there
        list_N = self._coarse.search(docs_NR, 1)[1][:, 0]
        self._rows_by_list = np.argsort(list_N, kind="stable")
        self._starts = np.searchsorted(list_N[self._rows_by_list], np.arange(self._lists + 1))

    def within(self, queries_QR: Float32, radius_Q: Float64) -> tuple[Int64, Int64]:
        """Return the (query position, document row) in the probed lists that can be nearer than the query's radius."""
        reach_Q = self._reach(radius_Q)
        list_F = self._coarse.search(np.ascontiguousarray(queries_QR), self._probes)[1].reshape(-1)
        by_list = np.argsort(list_F, kind="stable")
        hits = [(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))]
        for asking in np.split(by_list, np.flatnonzero(np.diff(list_F[by_list])) + 1) if len(by_list) else []:
            number, positions = list_F[asking[0]], asking // self._probes
            rows = self._rows_by_list[self._starts[number] : self._starts[number + 1]]
            for at in _steps((len(rows), self._docs_NR.shape[1]), len(positions)):
                queries, docs = nearer(queries_QR[positions], self._docs_NR[rows[at]], reach_Q[positions], self._device)
                hits.append((positions[queries], rows[at][docs]))
        return np.concatenate([queries for queries, _ in hits]), np.concatenate([docs for _, docs in hits])

    def _empty(self) -> Any:
        import faiss

        width = self._docs_NR.shape[1]
        centres = faiss.IndexFlatIP(width)
        index = faiss.IndexIVFFlat(centres, width, self._lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.seed, index.cp.max_points_per_centroid = self._seed, _TRAINED_PER_LIST
        index.cp.min_points_per_centroid = 1  # FAISS would only warn; `lists_for` sees to it
        index.nprobe = self._probes
        index.train(self._docs_NR)
        self._coarse = self._placed(centres)
        return index

    def _query_block(self, k: int) -> int:
        """For every query of a block FAISS on a GPU keeps the centre of every probed list, then k found in each."""
        width: int = self._docs_NR.shape[1]
        return max(1, min(_QUERY_BLOCK, _SCAN_BYTES // (self._probes * max(4 * width, _FOUND_BYTES * k))))


def make(docs_NR: Float32, device: Choice, ivf: Ivf | None) -> Searcher:
    """Return the approximate index if `ivf` says how to make it, else the exact one."""
    return Searcher(docs_NR, device) if ivf is None else IvfSearcher(docs_NR, device, ivf)


def recall(found: Candidates, docs_NR: Float32, queries_QR: Float32) -> float:
    """Return the share of the true nearest documents that the lists hold; of equally near ones any is right."""
    import faiss

    k = found.doc_rows_QK.shape[1]
    similarities, _ = faiss.knn(queries_QR, docs_NR, k, metric=faiss.METRIC_INNER_PRODUCT)
    last_Q = 1 - similarities[:, -1:] + 2 * error_bound(docs_NR.shape[1])
    return float((found.distances_QK <= last_Q).mean())


def nearer(queries_QR: Float32, docs_NR: Float32, reach_Q: Float64, device: Choice) -> tuple[Int64, Int64]:
    """Return the positions (query, document) of all float32 distances below the query's reach."""
    if device.kind == "cpu":
        distances_QN = 1 - queries_QR @ docs_NR.T
        queries, docs = np.nonzero(distances_QN < reach_Q[:, None])
        return queries, docs
    return nearer_by_torch(queries_QR, docs_NR, reach_Q, device.torch_name)


def nearer_by_torch(queries_QR: Float32, docs_NR: Float32, reach_Q: Float64, device: str) -> tuple[Int64, Int64]:
    """Do the same with torch on the device of this name; only what is found comes back from it."""
    import torch

    with _true_float32(), torch.inference_mode():
        queries, docs, reach = (torch.tensor(array, device=device) for array in (queries_QR, docs_NR, reach_Q))
        hits = torch.nonzero(1 - queries @ docs.T < reach[:, None]).T.cpu().numpy()
    return hits[0], hits[1]


@contextmanager
def _true_float32() -> Iterator[None]:
    """Keep torch's matrix products in float32 where the program or the environment allows TF32."""
    import torch

    matmul: Any = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def _steps(docs: tuple[int, int], queries: int) -> Iterator[slice]:
    """Cut documents of this shape into slices that take at most `_SCAN_BYTES`, their distances to so many queries too.

    A GPU that is full of documents holds a slice of them a second time.
    """
    count, width = docs
    step = max(1, _SCAN_BYTES // (4 * max(queries, width)))
    return (slice(start, start + step) for start in range(0, count, step))
