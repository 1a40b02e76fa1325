"""The same search over slices of the documents, one Ray actor each, for corpora that do not fit one device.

Each shard answers with its own nearest; the nearest of all are the smallest of these. `select` recomputes every
distance that decides, so the negatives are the same for one shard or many.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from hnmine.device import Choice
from hnmine.errors import DeviceError
from hnmine.progress import say
from hnmine.search import GPU_MAX_CANDIDATES, Searcher
from hnmine.session import start_ray
from hnmine.types import Candidates, Float32, Float64, Int64


class ShardedSearcher:
    """A `select.Search` whose documents lie in `shards` actors; close it to free them."""

    def __init__(self, docs_NR: Float32, device: Choice, shards: int) -> None:
        """Hand each actor its slice.

        Raises:
            DeviceError: the Ray cluster has fewer GPUs than shards were asked for on GPUs.
        """
        start_ray()
        import ray

        shards = min(shards, len(docs_NR))
        gpus = int(ray.cluster_resources().get("GPU", 0))
        if device.kind == "gpu" and gpus < shards:
            raise DeviceError(f"search needs {shards} GPUs, one a shard, and the Ray cluster has {gpus}; add nodes")
        bounds = np.linspace(0, len(docs_NR), shards + 1).astype(int).tolist()
        resources = {"num_gpus": 1} if device.kind == "gpu" else {"num_cpus": 0}
        actor = ray.remote(**resources)(_Shard)
        self._shards = [
            actor.remote(ray.put(docs_NR[low:high]), low, device) for low, high in itertools.pairwise(bounds)
        ]
        self.max_candidates = len(docs_NR) if device.kind == "cpu" else min(len(docs_NR), GPU_MAX_CANDIDATES)
        say("select", f"{len(docs_NR):,} documents in {shards} shards")

    def nearest(self, queries_QR: Float32, k: int) -> Candidates:
        """Return the k nearest documents of every query over all shards, ascending, ties by row."""
        k = min(k, self.max_candidates)
        parts: list[Candidates] = self._ask("nearest", queries_QR, k)
        rows = np.concatenate([part.doc_rows_QK for part in parts], axis=1)
        distances = np.concatenate([part.distances_QK for part in parts], axis=1)
        order = np.lexsort((rows, distances), axis=1)[:, :k]
        return Candidates(
            doc_rows_QK=np.take_along_axis(rows, order, axis=1),
            distances_QK=np.take_along_axis(distances, order, axis=1),
        )

    def within(self, queries_QR: Float32, radius_Q: Float64) -> tuple[Int64, Int64]:
        """Return every (query position, document row) that can be nearer than the query's radius."""
        parts = self._ask("within", queries_QR, radius_Q)
        return np.concatenate([queries for queries, _ in parts]), np.concatenate([docs for _, docs in parts])

    def close(self) -> None:
        """End the actors."""
        import ray

        for shard in self._shards:
            ray.kill(shard)

    def _ask(self, method: str, *arguments: Any) -> list[Any]:
        import ray

        sent = [ray.put(argument) for argument in arguments]
        return list(ray.get([getattr(shard, method).remote(*sent) for shard in self._shards]))


class _Shard:
    """One slice of the documents; `first_row` is the row of its first document in the corpus."""

    def __init__(self, docs_nR: Float32, first_row: int, device: Choice) -> None:
        self._searcher, self._first_row = Searcher(docs_nR, device), first_row

    def nearest(self, queries_QR: Float32, k: int) -> Candidates:
        found = self._searcher.nearest(queries_QR, k)
        return Candidates(doc_rows_QK=found.doc_rows_QK + self._first_row, distances_QK=found.distances_QK)

    def within(self, queries_QR: Float32, radius_Q: Float64) -> tuple[Int64, Int64]:
        queries, docs = self._searcher.within(queries_QR, radius_Q)
        return queries, docs + self._first_row
