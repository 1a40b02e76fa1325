"""Blocks of texts over Ray Data's encoder actors."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from threading import Event, Thread

import numpy as np
import pyarrow as pa

from hnmine.embedding.blocks import BlockEncoder, keys_in
from hnmine.embedding.store import VectorStore
from hnmine.errors import DeviceError, ModelError
from hnmine.models.batches import MAX_LANES
from hnmine.models.plan import Plan
from hnmine.runs import device as devices
from hnmine.runs.progress import say
from hnmine.runs.ray_session import quiet_ray_data, start_ray

_RETRIES = 3  # of a block whose actor died; Ray Data's default is without end

Pool = Callable[[Plan, list[pa.Table], VectorStore, int | None], Iterator[pa.Table]]
"""Encodes blocks by so many actors (None: as many as there is room for); yields what `BlockEncoder` returns."""


def precision_of(plan: Plan) -> str:
    """Return a model's number format and engine as they end a message; nothing for a lexical encoder."""
    return f", {plan.dtype} by {plan.engine}" if plan.fit is None else ""


def is_worth_ray(plan: Plan, actors: int | None) -> bool:
    """Whether there is more to compute on than one process can use; on a few cores Ray costs seconds and a gibibyte."""
    several = actors is not None or (os.cpu_count() or 1) > MAX_LANES
    return bool(os.environ.get("RAY_ADDRESS")) or plan.device == "cuda" or several


def device_of_encoders(device: str, ray: bool | None) -> devices.Choice:
    """Choose the device of the encoders; in a submitted job the cluster's GPUs count, not the head's.

    Args:
        device: auto, cpu or gpu.
        ray: False: actors never encode.
    """
    if os.environ.get("RAY_ADDRESS") and device != "cpu" and ray is not False:
        start_ray()
        import ray as ray_library

        if ray_library.cluster_resources().get("GPU", 0) >= 1:
            return devices.Choice(kind="gpu", reason="the Ray cluster has GPUs")
    return devices.choose_device(device)


def encode_by_actors(
    plan: Plan, blocks: list[pa.Table], store: VectorStore, actors: int | None, pool: Pool | None = None
) -> Iterator[pa.Table]:
    """Encode the blocks by actors, and what is left when actors are lost by new ones; see `BlockEncoder`.

    A node that dies takes more than its actors: until Ray has noticed, calls to them fail at once, so that none of
    their retries is left.

    Args:
        plan: of the encoder.
        blocks: one table of one row a block.
        store: where the vectors are written.
        actors: number of actors; None: as many as the cluster holds.
        pool: hands the blocks to actors; None: `ray_data_pool`.

    Raises:
        ModelError: a block kills every actor that tries it.
        DeviceError: no node has the device.
    """
    start_ray()
    from ray.exceptions import RayActorError

    # Encode, and begin again with what is left, as long as each pool finishes some blocks
    left = blocks
    while left:
        try:
            with nullcontext() if left is blocks else _collecting_garbage():
                yield from (pool or ray_data_pool)(plan, left, store, actors)
            return
        except RayActorError as error:
            before, left = len(left), _not_stored(left, store)
            if len(left) == before:
                raise ModelError(
                    f"encoder {plan.name}: its process died {_RETRIES + 1} times on one block of texts; if memory ran "
                    f"out, lower embed.actors or embed.tokens_per_batch ({error})"
                ) from None
            say("embed", f"{plan.name}: actors were lost; {len(left)} block(s) are left and begun again")


@contextmanager
def _collecting_garbage() -> Iterator[None]:
    """Collect garbage now, and every second while the block runs.

    The actors of a pool that failed are restarted, and hold their cores until nothing refers to them any more. Ray
    Data's errors still do so, in circles that only a collection resolves; until then a new pool on the same cores
    waits.
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


def _not_stored(blocks: list[pa.Table], store: VectorStore) -> list[pa.Table]:
    keys = [keys_in(block) for block in blocks]
    found, _ = store.contains(np.concatenate(keys))
    parts = np.split(found, np.cumsum([len(each) for each in keys])[:-1])
    return [block for block, part in zip(blocks, parts, strict=True) if not part.all()]


def ray_data_pool(plan: Plan, blocks: list[pa.Table], store: VectorStore, actors: int | None) -> Iterator[pa.Table]:
    """Encode the blocks by one pool of actors of Ray Data, which is sized by what the nodes have."""
    import ray

    # Size the pool by what the nodes have
    quiet_ray_data()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if plan.device == "cuda":
        possible, lanes = gpu_actors(plan, [int(node.get("GPU", 0)) for node in nodes]), 1
    else:
        possible, lanes = cpu_actors([int(node.get("CPU", 0)) for node in nodes], actors)
    size = min(actors or possible, len(blocks))
    side_by_side = f", {lanes} batches at a time" if lanes > 1 else ""
    say(
        "embed",
        f"{plan.name}: {size} actor(s) on {plan.device}{side_by_side}{precision_of(plan)}, {len(blocks)} blocks",
    )
    # Let Ray Data hand out the blocks
    with warnings.catch_warnings():  # Ray 2.60 has no other way to set max_task_retries than the deprecated one
        warnings.simplefilter("ignore")
        data = ray.data.from_arrow(blocks).map_batches(
            BlockEncoder,
            fn_constructor_args=(plan, store, lanes),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=size),
            num_cpus=lanes,
            num_gpus=plan.config.gpus if plan.device == "cuda" else 0,
            max_task_retries=_RETRIES,
        )
    yield from data.iter_batches(batch_size=None, batch_format="pyarrow")


def gpu_actors(plan: Plan, gpus_by_node: list[int]) -> int:
    """Return how many actors of this encoder the GPUs hold.

    Raises:
        DeviceError: there is no GPU; Ray would wait for one without end.
    """
    actors = sum(gpus_by_node) * int(1 / plan.config.gpus)
    if not actors:
        raise DeviceError(f"encoder {plan.name}: no node of the Ray cluster has a GPU; add one, or set device: cpu")
    return actors


def cpu_actors(cpus_by_node: list[int], actors: int | None) -> tuple[int, int]:
    """Return how many actors the CPUs hold, and how many cores each has; an actor's cores are on one node.

    Args:
        cpus_by_node: cores that Ray may use.
        actors: number of actors that is asked for; where they are more than the cores, they wait for one.

    Raises:
        DeviceError: there is no CPU; Ray would wait for one without end.
    """
    cpus = [count for count in cpus_by_node if count]
    if not cpus:
        raise DeviceError(
            "no node of the Ray cluster has a CPU for tasks; add one that has (a worker, with an autoscaler)"
        )
    if actors is not None:
        return actors, max(1, min(MAX_LANES, sum(cpus) // actors, *cpus))
    lanes = max(1, min(MAX_LANES, *cpus))
    return sum(count // lanes for count in cpus), lanes
