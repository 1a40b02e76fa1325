"""The short list of every query by FAISS: on the CPU or one GPU, or over slices of the documents, a Ray actor each.

The distances here come from float32 matrix products, so they are *approximate* to within `error_bound`. `select`
recomputes in float64 what it decides on, and the bound tells it what a list may have missed. The bound holds for true
float32 only. FAISS computes in true float32 on the GPU (default math of cuBLAS, no float16 storage); torch may be set
to round to TF32 (11 bits), so the scan turns that off. Equal distances may come in any order.

The nearest of the nearest of all slices are the nearest of all, so the negatives are the same for one shard or many.
Documents, queries and answers travel in pieces, and a shard copies its slice: the corpus need not fit Ray's object
store. A shard that dies is started again from the documents, which stay in this process, and asked once more.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from hnmine.errors import DeviceError
from hnmine.mapped import let_go
from hnmine.mining.scan import error_bound, nearer, nearest_of_all
from hnmine.runs.device import Choice
from hnmine.runs.nodes import cpus_each, in_cluster, resources_by_node, usable_cpus, use_threads
from hnmine.runs.progress import say
from hnmine.runs.ray_session import start_ray
from hnmine.types import Float32, Float64, Int64

GPU_MAX_CANDIDATES = 2048  # the longest list, and the largest number of probes, of FAISS on a GPU
CANDIDATE_BYTES = 12  # a distance and a row
_GPU_SCRATCH_BYTES = 2 * 2**30
_DOCUMENTS_PER_LIST = 39  # with fewer, k-means places its centres badly
_TRAINED_PER_LIST = 64


def gpus_needed(document_bytes: int) -> int:
    """Return how many GPUs like the first hold this many bytes beside FAISS's scratch space."""
    import torch

    torch.cuda.empty_cache()  # encoding has left memory reserved that is free
    free, _ = torch.cuda.mem_get_info(0)
    return math.ceil(document_bytes / max(1, int(0.9 * free) - _GPU_SCRATCH_BYTES))


@dataclass(frozen=True, kw_only=True)
class Ivf:
    """How documents are divided: about 4·√N lists by seeded k-means, of which `probes` are searched for a query."""

    probes: int = 32
    seed: int = 0

    def lists_for(self, documents: int) -> int:
        """Return the number of lists for so many documents: fewer than 4·√N where k-means would have too few."""
        return max(1, min(round(4 * math.sqrt(documents)), documents // _DOCUMENTS_PER_LIST))


class Searcher:
    """The documents of a space, searched by FAISS: exactly, or with `ivf` in an inverted file.

    Of an inverted file only the lists nearest to a query are searched, by `within` too.
    """

    query_block = 1024  # queries that are searched at a time, at most
    scan_bytes = 256 * 2**20  # memory that one step of a scan may take

    def __init__(self, docs_NR: Float32, device: Choice, ivf: Ivf | None = None) -> None:
        import faiss

        documents, width = docs_NR.shape
        self._docs_NR, self._error = docs_NR, error_bound(width)
        self._scanned_on = device.torch_name if device.kind == "gpu" else None
        self.approximate, self.max_candidates = ivf is not None, longest_list(documents, device)
        # On a CPU all documents are searched where they are: an index would be a copy of them.
        self._index: Any = None
        self._probes = 0
        if ivf is None and device.kind == "cpu":
            return

        # Make the index on the CPU; an inverted file divides the documents here.
        centres: Any = faiss.IndexFlatIP(width)
        index: Any = centres
        lists = 1 if ivf is None else ivf.lists_for(documents)
        self._probes = 0 if ivf is None else min(ivf.probes, lists)
        if ivf is not None:
            index = faiss.IndexIVFFlat(centres, width, lists, faiss.METRIC_INNER_PRODUCT)
            index.cp.seed, index.cp.max_points_per_centroid = ivf.seed, _TRAINED_PER_LIST
            index.cp.min_points_per_centroid = 1  # FAISS only warns of fewer; `lists_for` avoids them
            index.nprobe = self._probes
            index.train(docs_NR)

        # Move it to the device, and fill it.
        if device.kind == "gpu":
            self._resources = faiss.StandardGpuResources()
            centres, index = (faiss.index_cpu_to_gpu(self._resources, 0, each) for each in (centres, index))
        index.add(docs_NR)
        self._index, self._centres = index, centres

        # Remember which documents lie in which list: FAISS does not say it on a GPU.
        if ivf is not None:
            if device.kind == "gpu":
                index.reclaimMemory()  # the lists have grown by doubling
            list_N = centres.search(docs_NR, 1)[1][:, 0]
            self._rows_by_list = np.argsort(list_N, kind="stable")
            self._starts = np.searchsorted(list_N[self._rows_by_list], np.arange(lists + 1))

    def nearest(self, queries_QR: Float32, k: int) -> tuple[Int64, Float32]:
        """Return the distinct rows and approximate distances (Q, k) of each query's nearest documents, ascending.

        There are at most `max_candidates`. Row -1 at infinite distance: an approximate index found no more.
        """
        k = min(k, self.max_candidates)

        def search(block_qR: Float32) -> tuple[Int64, Float32]:
            if self._index is None:
                return nearest_of_all(np.ascontiguousarray(block_qR), self._docs_NR, k)
            similarities, rows = self._index.search(np.ascontiguousarray(block_qR), k)
            return rows, np.where(rows < 0, np.float32(np.inf), 1 - similarities)

        # FAISS on a GPU keeps of every query the centre of every probed list, then the k found in each list.
        query_bytes = self._probes * max(4 * self._docs_NR.shape[1], CANDIDATE_BYTES * k)
        return by_blocks(queries_QR, min(self.query_block, self.scan_bytes // max(1, query_bytes)), search)

    def within(self, queries_QR: Float32, radius_Q: Float64) -> tuple[Int64, Int64]:
        """Return every (query position, document row) that can be nearer than the query's radius: a full scan."""
        reach_Q, hits = radius_Q + self._error, []
        for positions, rows in self._scanned_lists(queries_QR):
            # A slice and its distances take `scan_bytes` each at most: a GPU full of documents holds a slice twice.
            step = max(1, self.scan_bytes // (4 * max(len(positions), self._docs_NR.shape[1])))
            for start in range(0, len(rows), step):
                part = rows[start : start + step]
                docs = self._docs_NR[part] if self.approximate else self._docs_NR[start : start + step]  # no copy
                found_queries, found_docs = nearer(queries_QR[positions], docs, reach_Q[positions], self._scanned_on)
                hits.append((positions[found_queries], part[found_docs]))
                let_go(self._docs_NR)
        return joined(hits)

    def _scanned_lists(self, queries_QR: Float32) -> Iterator[tuple[Int64, Int64]]:
        """Yield the rows of each list with the positions of the queries that are compared with all of it."""
        if not self.approximate:
            yield np.arange(len(queries_QR)), np.arange(len(self._docs_NR))
            return
        # Sort the probes (query, list) by list: each list is scanned once, for all queries that probe it.
        list_F = self._centres.search(np.ascontiguousarray(queries_QR), self._probes)[1].reshape(-1)
        by_list = np.argsort(list_F, kind="stable")
        for probes in np.split(by_list, np.flatnonzero(np.diff(list_F[by_list])) + 1) if len(by_list) else []:
            number = list_F[probes[0]]
            yield probes // self._probes, self._rows_by_list[self._starts[number] : self._starts[number + 1]]


def longest_list(documents: int, device: Choice) -> int:
    """Return how many nearest documents a query can have."""
    return documents if device.kind == "cpu" else min(documents, GPU_MAX_CANDIDATES)


def by_blocks(
    queries_QR: Float32, step: int, search: Callable[[Float32], tuple[Int64, Float32]]
) -> tuple[Int64, Float32]:
    """Search the nearest documents block by block of queries; of no queries there is one block."""
    starts = range(0, max(1, len(queries_QR)), max(1, step))
    rows, distances = zip(*(search(queries_QR[start : start + starts.step]) for start in starts), strict=True)
    return np.concatenate(rows), np.concatenate(distances)


def joined(hits: Iterable[tuple[Int64, Int64]]) -> tuple[Int64, Int64]:
    """Return the (query positions, document rows) of all parts of a scan together."""
    nothing = np.empty(0, dtype=np.int64)
    positions, rows = zip((nothing, nothing), *hits, strict=True)
    return np.concatenate(positions), np.concatenate(rows)


class ShardedSearcher:
    """A `conditions.Search` over documents that lie in `shards` actors; close it to free them.

    In a cluster a shard asks for its part of a node's CPUs and for memory, so that shards are spread and none comes to
    a head that computes nothing; on one machine, where nobody else asks, for nothing. On GPUs each asks for one.
    """

    sent_bytes = 64 * 2**20  # in the object store at a time, at most
    room_seconds = 15 * 60.0
    """How long a shard waits for a node that has room; an autoscaler brings one in five minutes."""
    taken_seconds = 60.0
    """How long it waits for others to leave the CPUs of a node that is there; then it works beside them."""
    pauses = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
    """Seconds before a dead shard is started again and again: longer than Ray takes to notice that a node is lost."""

    def __init__(self, docs_NR: Float32, device: Choice, shards: int, ivf: Ivf | None = None) -> None:
        """Start the actors and send each its slice, of which each makes an index, with `ivf` an approximate one."""
        start_ray()
        self._docs_NR, self._device, self._ivf = docs_NR, device, ivf
        self.approximate, self.max_candidates = ivf is not None, longest_list(len(docs_NR), device)
        bounds = np.linspace(0, len(docs_NR), min(shards, len(docs_NR)) + 1).astype(int).tolist()
        self._slices = list(itertools.pairwise(bounds))
        self._request = self._requested()
        self.actors = [self._start(number, self._request) for number in range(len(self._slices))]
        try:
            for number, loaded in enumerate([self._load(number) for number in range(len(self._slices))]):
                self._answer(number, loaded)
        except DeviceError:
            self.close()
            raise
        say("select", f"{len(docs_NR):,} documents in {len(self._slices)} shards")

    def nearest(self, queries_QR: Float32, k: int) -> tuple[Int64, Float32]:
        """Return rows and distances (Q, k) of each query's nearest documents, ascending, ties by row."""
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
        """Ask all shards at once; one that died is started again and asked once more."""
        import ray

        sent = [ray.put(argument) for argument in arguments]
        answers = [getattr(actor, method).remote(*sent) for actor in self.actors]
        return [self._answer(number, answer, method, *sent) for number, answer in enumerate(answers)]

    def _answer(self, number: int, answer: Any, method: str | None = None, *sent: Any) -> Any:
        """Wait for an answer of a shard; while its node is lost, start it again, load it and ask once more."""
        import ray

        pauses = iter(self.pauses if in_cluster() else self.pauses[:1])
        while True:
            try:
                return ray.get(answer)
            except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError) as error:
                pause, cause = next(pauses, None), str(error).strip().splitlines() or [""]
            if pause is None:
                raise DeviceError(
                    f"search shard {number + 1} of {len(self._slices)} died ({cause[0]}); if its node ran out of "
                    "memory, add nodes"
                )
            say("select", f"search shard {number + 1} of {len(self.actors)} died; it is started again")
            ray.kill(self.actors[number])  # one that cannot be reached may still live
            time.sleep(pause)
            self.actors[number] = self._start(number, self._request)
            built = self._load(number)
            answer = built if method is None else getattr(self.actors[number], method).remote(*sent)

    def _requested(self) -> dict[str, float]:
        """Return what a shard asks of Ray; a DeviceError says that a Ray which does not grow has too few GPUs."""
        shards = len(self._slices)
        if self._device.kind == "gpu":
            gpus = int(sum(resources_by_node("GPU").values()))
            if gpus < shards and not in_cluster():
                raise DeviceError(f"search needs {shards} GPUs, one a shard, and the Ray cluster has {gpus}; add nodes")
            return {"num_cpus": 0, "num_gpus": 1}
        if not in_cluster():
            return {"num_cpus": 0}
        copies = 1 if self._ivf is None else 3  # beside the slice lists, which grow by doubling
        memory = copies * math.ceil(self._docs_NR.nbytes / shards)
        return {"num_cpus": cpus_each(list(resources_by_node("CPU").values()), shards) or 1, "memory": memory}

    def _start(self, number: int, request: dict[str, float], node: str | None = None) -> Any:
        """Start the actor of a shard, without documents; on this node, if one is given."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        low, high = self._slices[number]
        nodes = sum(amount > 0 for amount in resources_by_node("CPU").values())
        actor = ray.remote(**request)(Shard).options(
            scheduling_strategy="SPREAD" if node is None else NodeAffinitySchedulingStrategy(node, soft=True)
        )
        return actor.remote(low, high - low, self._docs_NR.shape[1], math.ceil(len(self._slices) / max(1, nodes)))

    def _find_room(self, number: int) -> None:
        """Wait until a shard has a node; CPUs that others do not leave are shared with them."""
        import ray

        cpus, memory = resources_by_node("CPU"), resources_by_node("memory")
        asked = self._request
        fitting = [node for node in cpus if cpus[node] >= asked["num_cpus"] and memory[node] >= asked.get("memory", 0)]
        shareable = fitting if self._device.kind == "cpu" else []
        patience = self.taken_seconds if shareable else self.room_seconds
        if ray.wait([self.actors[number].__ray_ready__.remote()], timeout=patience)[0]:
            return
        ray.kill(self.actors[number])
        if shareable:
            node = sorted(shareable)[number % len(shareable)]
            self.actors[number] = self._start(number, {"num_cpus": 0}, node)
            return
        wanted = ", ".join(f"{name} {amount:,g}" for name, amount in asked.items() if amount)
        raise DeviceError(
            f"search shard {number + 1} of {len(self._slices)} asks for {wanted}, and for {patience:g} s no node of "
            "the Ray cluster had room for it; add nodes, or set search.shards to more of smaller ones"
        )

    def _load(self, number: int) -> Any:
        """Send a shard its documents piece by piece; return the reference to its index, which it builds then."""
        import ray

        self._find_room(number)
        actor, (low, high) = self.actors[number], self._slices[number]
        step = max(1, self.sent_bytes // (4 * self._docs_NR.shape[1]))
        for start in range(low, high, step):
            piece = self._docs_NR[start : min(start + step, high)]
            ray.wait([actor.fill.remote(start - low, ray.put(piece))])
        return actor.build.remote(self._device, self._ivf)


class Shard:
    """The actor of one slice of the documents; `first_row` is the row of its first document in the corpus."""

    def __init__(self, first_row: int, rows: int, width: int, neighbours: int) -> None:
        """Make room; so many shards share the CPUs of this node."""
        import faiss  # noqa: F401  its threads are set too

        self._first_row, self._docs_nR = first_row, np.empty((rows, width), dtype=np.float32)
        use_threads(max(1, usable_cpus() // neighbours))

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
