"""The same search over slices of the documents, one Ray actor each, for corpora that do not fit one device.

Each shard answers with its own nearest; the nearest of all are the smallest of these. `select` recomputes every
distance that decides, so the negatives are the same for one shard or many. Documents, queries and answers travel in
pieces, and a shard copies its slice, so the corpus need not fit Ray's object store. A shard that dies is made anew
from the documents, which stay in this process, and asked once more.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from hnmine.errors import DeviceError
from hnmine.mining.search import GPU_MAX_CANDIDATES, Ivf, make
from hnmine.runs.device import Choice
from hnmine.runs.progress import say
from hnmine.runs.ray_session import start_ray
from hnmine.types import Candidates, Float32, Float64, Int64

_SENT_BYTES = 64 * 2**20  # in the object store at a time
_CANDIDATE_BYTES = 12


class ShardedSearcher:
    """A `select.Search` whose documents lie in `shards` actors; close it to free them."""

    def __init__(self, docs_NR: Float32, device: Choice, shards: int, ivf: Ivf | None = None) -> None:
        """Hand each actor its slice; with `ivf`, each makes an approximate index of it.

        Raises:
            DeviceError: the Ray cluster has fewer GPUs than shards were asked for on GPUs, or a shard died.
        """
        start_ray()
        import ray

        shards = min(shards, len(docs_NR))
        bounds = np.linspace(0, len(docs_NR), shards + 1).astype(int).tolist()
        self._docs_NR, self._device, self._ivf = docs_NR, device, ivf
        self._bounds = list(itertools.pairwise(bounds))
        self.approximate = ivf is not None
        self.max_candidates = len(docs_NR) if device.kind == "cpu" else min(len(docs_NR), GPU_MAX_CANDIDATES)
        self._shards = [self._started(at) for at in range(shards)]
        loading = [self._loaded(at) for at in range(shards)]
        for at, reference in enumerate(loading):
            try:
                ray.get(reference)
            except ray.exceptions.RayActorError as error:
                self.close()
                raise self._died(at, error) from None
        say("select", f"{len(docs_NR):,} documents in {shards} shards")

    def nearest(self, queries_QR: Float32, k: int) -> Candidates:
        """Return the k nearest documents of every query over all shards, ascending, ties by row."""
        k = min(k, self.max_candidates)
        rows = np.empty((len(queries_QR), k), dtype=np.int64)
        distances = np.empty((len(queries_QR), k), dtype=np.float32)
        step = max(1, _SENT_BYTES // (4 * queries_QR.shape[1] + _CANDIDATE_BYTES * k * len(self._shards)))
        for start in range(0, len(queries_QR), step):
            block = slice(start, start + step)
            parts: list[Candidates] = self._ask("nearest", queries_QR[block], k)
            all_rows = np.concatenate([part.doc_rows_QK for part in parts], axis=1)
            all_distances = np.concatenate([part.distances_QK for part in parts], axis=1)
            order = np.lexsort((all_rows, all_distances), axis=1)[:, :k]
            rows[block] = np.take_along_axis(all_rows, order, axis=1)
            distances[block] = np.take_along_axis(all_distances, order, axis=1)
        return Candidates(doc_rows_QK=rows, distances_QK=distances)

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
        """Ask all shards at once; one that died is made anew and asked once more."""
        import ray

        sent = [ray.put(argument) for argument in arguments]
        asked = [getattr(shard, method).remote(*sent) for shard in self._shards]
        return [self._answer(at, reference, method, sent) for at, reference in enumerate(asked)]

    def _answer(self, at: int, reference: Any, method: str, sent: list[Any]) -> Any:
        import ray

        try:
            return ray.get(reference)
        except ray.exceptions.RayActorError:
            say("select", f"search shard {at + 1} of {len(self._shards)} died; it is made anew")
        ray.kill(self._shards[at])  # one that cannot be reached may still live
        try:
            self._shards[at] = self._started(at)
            ray.get(self._loaded(at))
            return ray.get(getattr(self._shards[at], method).remote(*sent))
        except ray.exceptions.RayActorError as error:
            raise self._died(at, error) from None

    def _started(self, at: int) -> Any:
        import ray

        if self._device.kind == "gpu":
            gpus = int(ray.cluster_resources().get("GPU", 0))
            if gpus < len(self._bounds):
                raise DeviceError(
                    f"search needs {len(self._bounds)} GPUs, one a shard, and the Ray cluster has {gpus}; add nodes"
                )
        low, high = self._bounds[at]
        resources = {"num_gpus": 1} if self._device.kind == "gpu" else {"num_cpus": 0}
        return ray.remote(**resources)(_Shard).remote(low, high - low, self._docs_NR.shape[1])

    def _loaded(self, at: int) -> Any:
        """Send a shard its documents, piece by piece; return the reference to its index being made."""
        import ray

        shard, (low, high) = self._shards[at], self._bounds[at]
        step = max(1, _SENT_BYTES // (4 * self._docs_NR.shape[1]))
        for start in range(low, high, step):
            piece = self._docs_NR[start : min(start + step, high)]
            ray.wait([shard.fill.remote(start - low, ray.put(piece))])
        return shard.build.remote(self._device, self._ivf)

    def _died(self, at: int, error: Exception) -> DeviceError:
        cause = str(error).strip().splitlines() or [""]
        return DeviceError(
            f"search shard {at + 1} of {len(self._bounds)} died ({cause[0]}); if its node ran out of memory, add nodes"
        )


class _Shard:
    """One slice of the documents; `first_row` is the row of its first document in the corpus."""

    def __init__(self, first_row: int, rows: int, width: int) -> None:
        self._first_row, self._docs_nR = first_row, np.empty((rows, width), dtype=np.float32)

    def fill(self, start: int, docs_mR: Float32) -> None:
        self._docs_nR[start : start + len(docs_mR)] = docs_mR

    def build(self, device: Choice, ivf: Ivf | None) -> None:
        self._searcher = make(self._docs_nR, device, ivf)

    def nearest(self, queries_QR: Float32, k: int) -> Candidates:
        found = self._searcher.nearest(queries_QR, k)
        rows = np.where(found.doc_rows_QK < 0, -1, found.doc_rows_QK + self._first_row)
        return Candidates(doc_rows_QK=rows, distances_QK=found.distances_QK)

    def within(self, queries_QR: Float32, radius_Q: Float64) -> tuple[Int64, Int64]:
        queries, docs = self._searcher.within(queries_QR, radius_Q)
        return queries, docs + self._first_row
