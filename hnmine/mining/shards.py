"""The same search over slices of the documents, one Ray actor each, for corpora that do not fit one device.

Each shard answers with the nearest of its slice, and the nearest of these are the nearest of all. `select` recomputes
every distance that decides, so the negatives are the same for one shard or many. Documents, queries and answers travel
in pieces, and a shard copies its slice, so the corpus need not fit Ray's object store. A shard that dies is started
again from the documents, which stay in this process, and asked once more.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from hnmine.errors import DeviceError
from hnmine.mining.search import CANDIDATE_BYTES, GPU_MAX_CANDIDATES, Ivf, joined, make_searcher
from hnmine.runs.device import Choice
from hnmine.runs.progress import say
from hnmine.runs.ray_session import start_ray
from hnmine.types import Candidates, Float32, Float64, Int64


class ShardedSearcher:
    """A `conditions.Search` over documents that lie in `shards` actors; close it to free them."""

    sent_bytes = 64 * 2**20
    """What is in the object store at a time, at most."""

    def __init__(self, docs_NR: Float32, device: Choice, shards: int, ivf: Ivf | None = None) -> None:
        """Start the actors and send each its slice; with `ivf`, each makes an approximate index of it.

        Raises:
            DeviceError: the Ray cluster has fewer GPUs than shards were asked for on GPUs, or a shard died.
        """
        start_ray()
        import ray

        shards = min(shards, len(docs_NR))
        bounds = np.linspace(0, len(docs_NR), shards + 1).astype(int).tolist()
        self._docs_NR, self._device, self._ivf = docs_NR, device, ivf
        self._slices = list(itertools.pairwise(bounds))
        self.approximate = ivf is not None
        self.max_candidates = len(docs_NR) if device.kind == "cpu" else min(len(docs_NR), GPU_MAX_CANDIDATES)
        self.actors = [self._start(number) for number in range(shards)]
        for number, loaded in enumerate([self._load(number) for number in range(shards)]):
            try:
                ray.get(loaded)
            except ray.exceptions.RayActorError as error:
                self.close()
                raise self._death(number, error) from None
        say("select", f"{len(docs_NR):,} documents in {shards} shards")

    def nearest(self, queries_QR: Float32, k: int) -> Candidates:
        """Return the k nearest documents of every query over all shards, ascending, ties by row."""
        k = min(k, self.max_candidates)
        rows = np.empty((len(queries_QR), k), dtype=np.int64)
        distances = np.empty((len(queries_QR), k), dtype=np.float32)
        step = max(1, self.sent_bytes // (4 * queries_QR.shape[1] + CANDIDATE_BYTES * k * len(self.actors)))
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
        return joined(self._ask("within", queries_QR, radius_Q))

    def close(self) -> None:
        """End the actors."""
        import ray

        for actor in self.actors:
            ray.kill(actor)

    def _ask(self, method: str, *arguments: Any) -> list[Any]:
        """Ask all shards at once and return their answers."""
        import ray

        sent = [ray.put(argument) for argument in arguments]
        answers = [getattr(actor, method).remote(*sent) for actor in self.actors]
        return [self._answer(number, answer, method, sent) for number, answer in enumerate(answers)]

    def _answer(self, number: int, answer: Any, method: str, sent: list[Any]) -> Any:
        """Wait for a shard's answer; start the shard again if it died, and ask once more."""
        import ray

        try:
            return ray.get(answer)
        except ray.exceptions.RayActorError:
            say("select", f"search shard {number + 1} of {len(self.actors)} died; it is started again")
        ray.kill(self.actors[number])  # one that cannot be reached may still live
        try:
            self.actors[number] = self._start(number)
            ray.get(self._load(number))
            return ray.get(getattr(self.actors[number], method).remote(*sent))
        except ray.exceptions.RayActorError as error:
            raise self._death(number, error) from None

    def _start(self, number: int) -> Any:
        """Start the actor of a shard, without documents."""
        import ray

        if self._device.kind == "gpu":
            gpus = int(ray.cluster_resources().get("GPU", 0))
            if gpus < len(self._slices):
                raise DeviceError(
                    f"search needs {len(self._slices)} GPUs, one a shard, and the Ray cluster has {gpus}; add nodes"
                )
        low, high = self._slices[number]
        resources = {"num_gpus": 1} if self._device.kind == "gpu" else {"num_cpus": 0}
        return ray.remote(**resources)(Shard).remote(low, high - low, self._docs_NR.shape[1])

    def _load(self, number: int) -> Any:
        """Send a shard its documents piece by piece; return the reference to its index, which it builds then."""
        import ray

        actor, (low, high) = self.actors[number], self._slices[number]
        step = max(1, self.sent_bytes // (4 * self._docs_NR.shape[1]))
        for start in range(low, high, step):
            piece = self._docs_NR[start : min(start + step, high)]
            ray.wait([actor.fill.remote(start - low, ray.put(piece))])
        return actor.build.remote(self._device, self._ivf)

    def _death(self, number: int, error: Exception) -> DeviceError:
        cause = str(error).strip().splitlines() or [""]
        return DeviceError(
            f"search shard {number + 1} of {len(self._slices)} died ({cause[0]}); if its node ran out of memory, add "
            "nodes"
        )


class Shard:
    """The actor of one slice of the documents; `first_row` is the row of its first document in the corpus."""

    def __init__(self, first_row: int, rows: int, width: int) -> None:
        self._first_row, self._docs_nR = first_row, np.empty((rows, width), dtype=np.float32)

    def fill(self, start: int, docs_mR: Float32) -> None:
        """Take documents, from this row of the slice on."""
        self._docs_nR[start : start + len(docs_mR)] = docs_mR

    def build(self, device: Choice, ivf: Ivf | None) -> None:
        """Build the index of the slice."""
        self._searcher = make_searcher(self._docs_nR, device, ivf)

    def nearest(self, queries_QR: Float32, k: int) -> Candidates:
        """Return the k nearest of the slice, by rows of the corpus."""
        found = self._searcher.nearest(queries_QR, k)
        rows = np.where(found.doc_rows_QK < 0, -1, found.doc_rows_QK + self._first_row)
        return Candidates(doc_rows_QK=rows, distances_QK=found.distances_QK)

    def within(self, queries_QR: Float32, radius_Q: Float64) -> tuple[Int64, Int64]:
        """Return what can be nearer than the radius, by rows of the corpus."""
        queries, docs = self._searcher.within(queries_QR, radius_Q)
        return queries, docs + self._first_row
