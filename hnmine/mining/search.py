"""The short list of every query by FAISS, on the CPU or one GPU: `Searcher` is exact, `IvfSearcher` searches a part.

The distances here come from float32 matrix products, so they are *approximate* to within `error_bound`. `select`
recomputes in float64 what it decides on, and the bound tells it what a list may have missed. The bound holds for true
float32 only. FAISS computes in true float32 on the GPU (default math of cuBLAS, no float16 storage); torch may be set
to round to TF32 (11 bits), so the scan turns that off. Equal distances may come in any order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hnmine.runs.device import Choice
from hnmine.types import Candidates, Float32, Float64, Int64

GPU_MAX_CANDIDATES = 2048
"""The longest list, and the largest number of probes, of FAISS on a GPU."""
CANDIDATE_BYTES = 12
"""Size of a candidate: a distance and a row."""
_GPU_SCRATCH_BYTES = 2 * 2**30
_DOCUMENTS_PER_LIST = 39  # with fewer, k-means places its centres badly
_TRAINED_PER_LIST = 64


def gpus_needed(document_bytes: int) -> int:
    """Return how many GPUs like the first hold this many bytes beside FAISS's scratch space."""
    import torch

    torch.cuda.empty_cache()  # encoding has left memory reserved that is free
    free, _ = torch.cuda.mem_get_info(0)
    return math.ceil(document_bytes / max(1, int(0.9 * free) - _GPU_SCRATCH_BYTES))


def error_bound(width: int) -> float:
    """Return the largest error of a float32 cosine distance of unit rows of this width, in any order of addition.

    The error of a sum of n products of two vectors of length 1 is at most n·u/(1 - n·u), u = 2⁻²⁴ (Higham, Accuracy and
    Stability of Numerical Algorithms, eq. 3.5). The bound is twice that, since rows have length 1 only to rounding.
    """
    return 2 * (width + 2) * 2.0**-24


class Searcher:
    """A flat FAISS index over the documents of a space."""

    approximate = False
    query_block = 1024
    """Queries that are searched at a time, at most."""
    scan_bytes = 256 * 2**20
    """Memory that one step of a scan may take."""

    def __init__(self, docs_NR: Float32, device: Choice) -> None:
        self._docs_NR, self._device = docs_NR, device
        self._error = error_bound(docs_NR.shape[1])
        self.max_candidates = len(docs_NR)
        if device.kind == "gpu":
            import faiss

            self._resources = faiss.StandardGpuResources()
            self.max_candidates = min(self.max_candidates, GPU_MAX_CANDIDATES)
        self._index = self._on_device(self._empty_index())
        self._index.add(docs_NR)

    def nearest(self, queries_QR: Float32, k: int) -> Candidates:
        """Return the k nearest documents of every query, at most `max_candidates`, ascending."""
        k = min(k, self.max_candidates)
        rows = np.empty((len(queries_QR), k), dtype=np.int64)
        distances = np.empty((len(queries_QR), k), dtype=np.float32)
        step = self._queries_at_once(k)
        for start in range(0, len(queries_QR), step):
            block = slice(start, start + step)
            similarities, rows[block] = self._index.search(np.ascontiguousarray(queries_QR[block]), k)
            distances[block] = 1 - similarities
        distances[rows < 0] = np.inf
        return Candidates(doc_rows_QK=rows, distances_QK=distances)

    def within(self, queries_QR: Float32, radius_Q: Float64) -> tuple[Int64, Int64]:
        """Return every (query position, document row) that can be nearer than the query's radius: a full scan."""
        reach_Q, hits = radius_Q + self._error, []
        for part in self._parts(len(self._docs_NR), len(queries_QR)):
            positions_F, rows_F = nearer(queries_QR, self._docs_NR[part], reach_Q, self._device)
            hits.append((positions_F, rows_F + part.start))
        return joined(hits)

    def _empty_index(self) -> Any:
        import faiss

        return faiss.IndexFlatIP(self._docs_NR.shape[1])

    def _on_device(self, index: Any) -> Any:
        """Move an index from the CPU to the device."""
        import faiss

        return index if self._device.kind == "cpu" else faiss.index_cpu_to_gpu(self._resources, 0, index)

    def _queries_at_once(self, _k: int) -> int:
        return self.query_block

    def _parts(self, documents: int, queries: int) -> Iterator[slice]:
        """Cut so many documents into slices; a slice and its distances to the queries take `scan_bytes` each at most.

        A GPU that is full of documents holds a slice of them a second time.
        """
        step = max(1, self.scan_bytes // (4 * max(queries, self._docs_NR.shape[1])))
        return (slice(start, start + step) for start in range(0, documents, step))


@dataclass(frozen=True, kw_only=True)
class Ivf:
    """How documents are divided: about 4·√N lists by seeded k-means, of which `probes` are searched for a query."""

    probes: int = 32
    seed: int = 0

    def lists_for(self, documents: int) -> int:
        """Return the number of lists for so many documents: fewer than 4·√N where k-means would have too few."""
        return max(1, min(round(4 * math.sqrt(documents)), documents // _DOCUMENTS_PER_LIST))


class IvfSearcher(Searcher):
    """An inverted file: only the lists nearest to a query are searched, so documents in other lists are missed.

    A short list that ends before k documents is filled with rows -1 at infinite distance. `within` scans the same lists
    of the inverted file, never the whole corpus.
    """

    approximate = True

    def __init__(self, docs_NR: Float32, device: Choice, ivf: Ivf) -> None:
        self._lists = ivf.lists_for(len(docs_NR))
        self._probes = min(ivf.probes, self._lists)
        self._seed = ivf.seed
        super().__init__(docs_NR, device)
        if device.kind == "gpu":
            self._index.reclaimMemory()  # the lists have grown by doubling
        list_N = self._coarse.search(docs_NR, 1)[1][:, 0]
        self._rows_by_list = np.argsort(list_N, kind="stable")
        self._starts = np.searchsorted(list_N[self._rows_by_list], np.arange(self._lists + 1))

    def within(self, queries_QR: Float32, radius_Q: Float64) -> tuple[Int64, Int64]:
        """Return the (query position, document row) in the probed lists that can be nearer than the query's radius."""
        # Sort the probes (query, list) by list: each list is scanned once, for all queries that probe it.
        list_F = self._coarse.search(np.ascontiguousarray(queries_QR), self._probes)[1].reshape(-1)
        by_list = np.argsort(list_F, kind="stable")
        probes_of_lists = np.split(by_list, np.flatnonzero(np.diff(list_F[by_list])) + 1) if len(by_list) else []

        # Scan each probed list.
        reach_Q, hits = radius_Q + self._error, []
        for probes in probes_of_lists:
            number, positions = list_F[probes[0]], probes // self._probes
            rows = self._rows_by_list[self._starts[number] : self._starts[number + 1]]
            for part in self._parts(len(rows), len(positions)):
                docs = self._docs_NR[rows[part]]
                found_queries, found_docs = nearer(queries_QR[positions], docs, reach_Q[positions], self._device)
                hits.append((positions[found_queries], rows[part][found_docs]))
        return joined(hits)

    def _empty_index(self) -> Any:
        import faiss

        width = self._docs_NR.shape[1]
        centres = faiss.IndexFlatIP(width)
        index = faiss.IndexIVFFlat(centres, width, self._lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.seed, index.cp.max_points_per_centroid = self._seed, _TRAINED_PER_LIST
        index.cp.min_points_per_centroid = 1  # FAISS only warns of fewer; `lists_for` avoids them
        index.nprobe = self._probes
        index.train(self._docs_NR)
        self._coarse = self._on_device(centres)
        return index

    def _queries_at_once(self, k: int) -> int:
        """FAISS on a GPU keeps of every query the centre of every probed list, then the k found in each list."""
        query_bytes: int = self._probes * max(4 * self._docs_NR.shape[1], CANDIDATE_BYTES * k)
        return max(1, min(self.query_block, self.scan_bytes // query_bytes))


def make_searcher(docs_NR: Float32, device: Choice, ivf: Ivf | None) -> Searcher:
    """Return the approximate index with the lists of `ivf`, or without it the exact one."""
    return Searcher(docs_NR, device) if ivf is None else IvfSearcher(docs_NR, device, ivf)


def recall(found: Candidates, docs_NR: Float32, queries_QR: Float32) -> float:
    """Return the share of the true nearest documents that the lists hold; any of several equally near ones counts."""
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
    """Return the same as `nearer`, computed by torch on the device of this name."""
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


def joined(hits: Sequence[tuple[Int64, Int64]]) -> tuple[Int64, Int64]:
    """Return the (query positions, document rows) of all parts of a scan together."""
    nothing = np.empty(0, dtype=np.int64)
    positions, rows = zip((nothing, nothing), *hits, strict=True)
    return np.concatenate(positions), np.concatenate(rows)
