"""The same search over slices of the documents, one Ray actor each, for corpora that do not fit one device.

The nearest of the nearest of all slices are the nearest of all, so the negatives are the same for one shard or many.
Documents, queries and answers travel in pieces, and a shard copies its slice: the corpus need not fit Ray's object
store. A shard that dies is started again from the documents, which stay in this process, and asked once more.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from hnmine.errors import DeviceError
from hnmine.mining.search import CANDIDATE_BYTES, Ivf, Searcher, by_blocks, joined, longest_list
from hnmine.runs.device import Choice
from hnmine.runs.progress import say
from hnmine.runs.ray_session import start_ray
from hnmine.types import Float32, Float64, Int64


class ShardedSearcher:
    """A `conditions.Search` over documents that lie in `shards` actors; close it to free them."""

    sent_bytes = 64 * 2**20  # in the object store at a time, at most

    def __init__(self, docs_NR: Float32, device: Choice, shards: int, ivf: Ivf | None = None) -> None:
        """Start the actors and send each its slice, of which each makes an index, with `ivf` an approximate one."""
        start_ray()
        self._docs_NR, self._device, self._ivf = docs_NR, device, ivf
        self.approximate, self.max_candidates = ivf is not None, longest_list(len(docs_NR), device)
        bounds = np.linspace(0, len(docs_NR), min(shards, len(docs_NR)) + 1).astype(int).tolist()
        self._slices = list(itertools.pairwise(bounds))
        self.actors = [self._start(number) for number in range(len(self._slices))]
        try:
            for number, loaded in enumerate([self._load(number) for number in range(len(self._slices))]):
                self._get(number, loaded)
        except DeviceError:
            self.close()
            raise
        say("select", f"{len(docs_NR):,} documents in {len(self._slices)} shards")

    def nearest(self, queries_QR: Float32, k: int) -> tuple[Int64, Float32]:
        """Return rows and distances (Q, k) of each query's nearest documents in all shards, ascending, ties by row."""
        k = min(k, self.max_candidates)

        def search(block_qR: Float32) -> tuple[Int64, Float32]:
            parts = zip(*self._ask("nearest", block_qR, k), strict=True)
            rows, distances = (np.concatenate(part, axis=1) for part in parts)
            order = np.lexsort((rows, distances), axis=1)[:, :k]
            return np.take_along_axis(rows, order, axis=1), np.take_along_axis(distances, order, axis=1)

        query_bytes = 4 * queries_QR.shape[1] + CANDIDATE_BYTES * k * len(self.actors)
        return by_blocks(queries_QR, self.sent_bytes // query_bytes, search)

    def within(self, queries_QR: Float32, radius_Q: Float64) -> tuple[Int64, Int64]:
        """Return every (query position, document row) that can be nearer than the query's radius."""
        return joined(self._ask("within", queries_QR, radius_Q))

    def close(self) -> None:
        """End the actors."""
        import ray

        for actor in self.actors:
            ray.kill(actor)

    def _ask(self, method: str, *arguments: Any) -> list[Any]:
        """Ask all shards at once; start one again that died, and ask it once more."""
        import ray

        sent = [ray.put(argument) for argument in arguments]
        answers = [getattr(actor, method).remote(*sent) for actor in self.actors]
        found = []
        for number, answer in enumerate(answers):
            try:
                found.append(ray.get(answer))
            except ray.exceptions.RayActorError:
                say("select", f"search shard {number + 1} of {len(self.actors)} died; it is started again")
                ray.kill(self.actors[number])  # one that cannot be reached may still live
                self.actors[number] = self._start(number)
                self._get(number, self._load(number))
                found.append(self._get(number, getattr(self.actors[number], method).remote(*sent)))
        return found

    def _start(self, number: int) -> Any:
        """Start the actor of a shard, without documents."""
        import ray

        resources = {"num_cpus": 0}
        if self._device.kind == "gpu":
            resources, gpus = {"num_gpus": 1}, int(ray.cluster_resources().get("GPU", 0))
            if gpus < len(self._slices):
                raise DeviceError(
                    f"search needs {len(self._slices)} GPUs, one a shard, and the Ray cluster has {gpus}; add nodes"
                )
        low, high = self._slices[number]
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

    def _get(self, number: int, answer: Any) -> Any:
        """Wait for an answer of a shard that is not started again."""
        import ray

        try:
            return ray.get(answer)
        except ray.exceptions.RayActorError as error:
            cause = str(error).strip().splitlines() or [""]
            raise DeviceError(
                f"search shard {number + 1} of {len(self._slices)} died ({cause[0]}); if its node ran out of memory, "
                "add nodes"
            ) from None


class Shard:
    """The actor of one slice of the documents; `first_row` is the row of its first document in the corpus."""

    def __init__(self, first_row: int, rows: int, width: int) -> None:
        self._first_row, self._docs_nR = first_row, np.empty((rows, width), dtype=np.float32)

    def fill(self, start: int, docs_mR: Float32) -> None:
        """Take documents, from this row of the slice on."""
        self._docs_nR[start : start + len(docs_mR)] = docs_mR

    def build(self, device: Choice, ivf: Ivf | None) -> None:
        """Build the index of the slice."""
        self._searcher = Searcher(self._docs_nR, device, ivf)

    def nearest(self, queries_QR: Float32, k: int) -> tuple[Int64, Float32]:
        """Return the k nearest of the slice, by rows of the corpus."""
        rows, distances = self._searcher.nearest(queries_QR, k)
        return np.where(rows < 0, -1, rows + self._first_row), distances

    def within(self, queries_QR: Float32, radius_Q: Float64) -> tuple[Int64, Int64]:
        """Return what can be nearer than the radius, by rows of the corpus."""
        queries, docs = self._searcher.within(queries_QR, radius_Q)
        return queries, docs + self._first_row
