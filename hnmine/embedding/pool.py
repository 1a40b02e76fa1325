"""Blocks of texts are encoded: in this process, or over the actors of Ray Data.

Vectors never travel: the process that makes them writes them into the store.
"""

from __future__ import annotations

import gc
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from threading import Event, Thread
from typing import Any

import numpy as np
import pyarrow as pa

from hnmine.corpus.parquet_texts import ParquetFiles
from hnmine.corpus.text_keys import keys_of
from hnmine.embedding.missing import MissingBlocks
from hnmine.embedding.store import Block, VectorStore
from hnmine.errors import DeviceError, HnmineError, ModelError, UnavailableError
from hnmine.models.batches import MAX_LANES
from hnmine.models.finite import FiniteEncoder
from hnmine.models.plan import Plan
from hnmine.runs import device as devices
from hnmine.runs.counters import TEXTS
from hnmine.runs.nodes import is_node_lost, resources_by_node
from hnmine.runs.progress import say
from hnmine.runs.ray_session import quiet_ray_data, start_ray

_RETRIES = 3  # of a block whose actor died; Ray Data's default is without end
Pool = Callable[[Plan, MissingBlocks, VectorStore, int | None], Iterator[pa.Table]]


class BlockEncoder:
    """Encodes and stores block after block; in this process, or as an actor. The encoder is loaded once."""

    def __init__(self, plan: Plan, store: VectorStore, lanes: int | None, files: ParquetFiles | None = None) -> None:
        """On a CPU the encoder computes `lanes` batches at a time, None: by the cores; some texts are in `files`."""
        self._plan, self._store, self._files, self._encoder = plan, store, files, FiniteEncoder(plan, lanes)

    def __call__(self, blocks: pa.Table) -> pa.Table:
        """Encode every row of `blocks`; return how many texts each held, what was stored of it, and what failed.

        A failure that a user can mend travels as a row: as an exception Ray would retry it, log it in full and lose
        its type.
        """
        results = []
        for block in blocks.to_pylist():
            result: dict[str, Any] = {"count": sum(map(len, block["roles"])), "failure": "", "passes": False}
            result |= {"name": "", "keys": b"", "width": 0}
            try:
                name, stored = self._encode(block)
                result |= {"name": name, "keys": stored.keys.tobytes(), "width": stored.width, "size": stored.size}
            except HnmineError as error:
                result |= {"failure": str(error), "passes": isinstance(error, UnavailableError)}
            results.append({"size": 0} | result)
        return pa.Table.from_pylist(results)

    def _encode(self, block: dict[str, Any]) -> tuple[str, Block]:
        """Encode the cells of a block, each by itself, and store them together; return the name, and what it has."""
        keys, vectors, counts = [], [], Counter[str]()
        for roles, held, places in zip(block["roles"], block["texts"], block["places"], strict=True):
            cell = held if self._files is None or held else self._files.texts(np.array(places))
            readings = [self._plan.reading(role) for role in roles]
            for reading in dict.fromkeys(readings):
                texts = [text for text, other in zip(cell, readings, strict=True) if other == reading]
                keys.append(keys_of(texts, reading))
                vectors.append(self._encoder.encode(texts, reading))
            counts.update(roles)
        name = self._store.write(np.concatenate(keys), np.concatenate(vectors))
        for role, count in counts.items():
            TEXTS.add(count, encoder=self._plan.name, role=role)
        return name, self._store.forget(name)


def encode_blocks(
    plan: Plan, blocks: MissingBlocks, store: VectorStore, actors: int | None, ray: bool | None
) -> Iterator[int]:
    """Encode all blocks, by actors or in this process; yield how many texts are done as blocks are finished."""
    by_ray = is_worth_ray(plan, actors) if ray is None else ray
    has_device = plan.device != "cuda" or devices.visible_gpus() > 0  # a cluster's head may have none
    if has_device and (not by_ray or len(blocks) == 1):
        say("embed", f"{plan.name}: in this process{_precision(plan)}, {len(blocks)} block(s)")
        results: Iterator[pa.Table] = map(BlockEncoder(plan, store, None, blocks.files), blocks)
    else:
        results = encode_by_actors(plan, blocks, store, actors)
    for result in results:
        for row in result.to_pylist():
            if row["failure"]:
                raise (UnavailableError if row["passes"] else ModelError)(row["failure"])
            keys = np.frombuffer(row["keys"], dtype=np.uint64).reshape(-1, 2)
            store.remember(row["name"], Block(keys, row["width"], row["size"]))
            yield row["count"]


def is_worth_ray(plan: Plan, actors: int | None) -> bool:
    """Whether there is more to compute on than one process can use; on a few cores Ray costs seconds and a gibibyte."""
    several = actors is not None or (os.cpu_count() or 1) > MAX_LANES
    return bool(os.environ.get("RAY_ADDRESS")) or plan.device == "cuda" or several


def device_of_encoders(device: str, ray: bool | None) -> devices.Choice:
    """Choose the device of the encoders; in a submitted job whose actors may encode, the cluster's GPUs count."""
    if os.environ.get("RAY_ADDRESS") and device != "cpu" and ray is not False:
        start_ray()
        import ray as ray_library

        if ray_library.cluster_resources().get("GPU", 0) >= 1:
            return devices.Choice(kind="gpu", reason="the Ray cluster has GPUs")
    return devices.choose_device(device)


def encode_by_actors(
    plan: Plan, blocks: MissingBlocks, store: VectorStore, actors: int | None, pool: Pool | None = None
) -> Iterator[pa.Table]:
    """Encode the blocks by a pool of actors (None: `ray_data_pool`), and what is left when it is lost by a new one.

    A node that dies takes more than its actors: until Ray has noticed, calls to them fail at once, so that none of
    their retries is left. A block that kills every actor that tries it is a ModelError.
    """
    start_ray()
    from ray.exceptions import RayActorError

    # Encode, and begin again with what is left, as long as each pool finishes some blocks or loses a node
    left = blocks
    while left:
        nodes = resources_by_node("CPU")
        try:
            with nullcontext() if left is blocks else _collecting_garbage():
                yield from (pool or ray_data_pool)(plan, left, store, actors)
            return
        except RayActorError as error:
            before, left = len(left), left.not_in(store)
            if len(left) == before and not is_node_lost(nodes):
                raise ModelError(
                    f"encoder {plan.name}: its process died {_RETRIES + 1} times on one block of texts; if memory ran "
                    f"out, lower embed.actors or embed.tokens_per_batch ({error})"
                ) from None
            say("embed", f"{plan.name}: actors were lost; {len(left)} block(s) are left and begun again")


@contextmanager
def _collecting_garbage() -> Iterator[None]:
    """Collect garbage now, and every second while the block runs.

    The actors of a pool that failed are restarted, and hold the cores that a new pool waits for until nothing refers
    to them any more. Ray Data's errors still do so, in circles that only a collection resolves.
    """
    over = Event()

    def collect() -> None:
        while not over.wait(1):
            gc.collect()

    gc.collect()
    thread = Thread(target=collect, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def ray_data_pool(plan: Plan, blocks: MissingBlocks, store: VectorStore, actors: int | None) -> Iterator[pa.Table]:
    """Encode the blocks by one pool of actors of Ray Data, which begins with what the nodes have.

    Unless `actors` says how many there are, it grows with the cluster, and shrinks where there is little to do.
    """
    import ray

    # Size the pool by what the nodes have
    quiet_ray_data()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if plan.device == "cuda":
        possible, lanes = gpu_actors(plan, [int(node.get("GPU", 0)) for node in nodes]), 1
    else:
        possible, lanes = cpu_actors([int(node.get("CPU", 0)) for node in nodes], actors)
    size = min(actors or possible, len(blocks))
    least, most = (1, len(blocks)) if actors is None else (size, size)
    by_lanes = f", {lanes} batches at a time" if lanes > 1 else ""
    say("embed", f"{plan.name}: {size} actor(s) on {plan.device}{by_lanes}{_precision(plan)}, {len(blocks)} blocks")
    # Let Ray Data hand out the blocks
    with warnings.catch_warnings():  # Ray 2.60 has no other way to set max_task_retries than the deprecated one
        warnings.simplefilter("ignore")
        data = ray.data.from_arrow_refs([ray.put(block) for block in blocks]).map_batches(
            BlockEncoder,
            fn_constructor_args=(plan, store, lanes, blocks.files),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(min_size=least, max_size=most, initial_size=size),
            num_cpus=lanes,
            num_gpus=plan.config.gpus if plan.device == "cuda" else 0,
            max_task_retries=_RETRIES,
        )
    yield from data.iter_batches(batch_size=None, batch_format="pyarrow")


def _precision(plan: Plan) -> str:
    """Return a model's number format and engine as they stand in a message; nothing for a lexical encoder."""
    return f", {plan.dtype} by {plan.engine}" if plan.fit is None else ""


def gpu_actors(plan: Plan, gpus_by_node: list[int]) -> int:
    """Return how many actors of this encoder the GPUs hold; without one a DeviceError, since Ray would wait."""
    actors = sum(gpus_by_node) * int(1 / plan.config.gpus)
    if not actors:
        raise DeviceError(f"encoder {plan.name}: no node of the Ray cluster has a GPU; add one, or set device: cpu")
    return actors


def cpu_actors(cpus_by_node: list[int], actors: int | None) -> tuple[int, int]:
    """Return how many actors there are and how many cores each has on its node; a DeviceError says there is no CPU."""
    cpus = [count for count in cpus_by_node if count]
    if not cpus:
        raise DeviceError(
            "no node of the Ray cluster has a CPU for tasks; add one that has (a worker, with an autoscaler)"
        )
    if actors is not None:
        return actors, max(1, min(MAX_LANES, sum(cpus) // actors, *cpus))
    lanes = max(1, min(MAX_LANES, *cpus))
    return sum(count // lanes for count in cpus), lanes
