"""Texts that are not yet in the store → Ray Data → encoder actors → store.

The unique texts of a call are sorted by length and cut into blocks; a block is the unit of work, of storage and of
recovery. The cut depends on the texts alone, so a run that was killed encodes the same missing blocks again, and a
finished run, a crashed run and an ordinary next night are the same case. Vectors never travel back through Ray:
the actor that made them writes them.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnmine.config.root import EmbedConfig
from hnmine.corpus.text_keys import KEY_BYTES, PLAIN, Keys, Reading, keys_of
from hnmine.embedding.store import VectorStore
from hnmine.errors import DeviceError, HnmineError, ModelError
from hnmine.models.engine import MOST_LANES
from hnmine.models.plan import Encoder, Plan
from hnmine.runs import device as devices
from hnmine.runs.counters import TEXTS
from hnmine.runs.progress import say, track
from hnmine.runs.ray_session import quiet_ray_data, start_ray
from hnmine.types import Float32, Int64, Role, Texts

_RETRIES = 3  # of a block whose actor died; Ray Data's default is without end


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """Vectors that are all in the store, read when asked for; a `fuse.Vectors`."""

    name: str
    store: VectorStore
    keys: dict[Role, Keys]
    width: int
    encoded: int
    """Texts that had to be encoded."""
    reused: int
    reading: Reading = PLAIN
    """Of documents."""

    @property
    def identity(self) -> str:
        """The encoder's fingerprint and how documents are read."""
        return f"{self.store.fingerprint.digest} {self.reading.prompt!r} {self.reading.adapter or ''}".strip()

    def count(self, role: Role) -> int:
        """Return the number of texts of this role."""
        return len(self.keys[role])

    def take(self, role: Role, rows: Int64) -> Float32:
        """Return the vectors of these rows."""
        vectors, found = self.store.load(self.keys[role][rows])
        self._all_there(found.sum(), len(rows))
        return np.empty((0, self.width), dtype=np.float32) if vectors is None else vectors

    def scan(self, role: Role) -> Iterator[tuple[Int64, Float32]]:
        """Yield all vectors in pieces with their rows."""
        served = 0
        for rows, vectors in self.store.scan(self.keys[role]):
            served += len(rows)
            yield rows, vectors
        self._all_there(served, self.count(role))

    def _all_there(self, served: int, wanted: int) -> None:
        if served < wanted:
            raise ModelError(
                f"encoder {self.name}: {wanted - served} vectors that were in {self.store.folder} a moment ago cannot "
                "be read any more; start again, and they are encoded again"
            )


def embed(plan: Plan, texts: dict[Role, Texts], store: VectorStore, config: EmbedConfig) -> Embedded:
    """Encode what the store lacks, equal texts once; return a view of every text's vector.

    Raises:
        ModelError: the encoder gives non-finite values or cannot be loaded, or an actor cannot write to the store.
        DataError: the store cannot be read or written.
    """
    store.describe()
    keys = {role: keys_of(texts[role].texts, plan.reading(role)) for role in texts}
    all_keys = np.concatenate(list(keys.values()))
    found, width = _found(store, all_keys)
    unique = len(np.unique(all_keys, axis=0))
    missing = len(np.unique(all_keys[~found], axis=0))
    if missing:
        blocks = _blocks(plan, texts, keys, found, config.block_texts)
        with track("embed", plan.name, missing, "texts") as progress:
            for count in _encode(plan, blocks, store, config):
                progress.advance(count)
        newly, width = _found(store, all_keys[~found])
        if not newly.all():
            raise ModelError(f"encoder {plan.name}: {int((~newly).sum())} texts have no vector in {store.folder}")
    say(
        "embed",
        f"{plan.name}: {unique - missing:,} vectors from the store, {missing:,} encoded, width {width}",
        encoder=plan.name,
        reused=unique - missing,
        encoded=missing,
        width=width,
    )
    return Embedded(
        name=plan.name,
        store=store,
        keys=keys,
        width=width,
        encoded=missing,
        reused=unique - missing,
        reading=plan.reading("document"),
    )


def _found(store: VectorStore, keys: Keys) -> tuple[NDArray[np.bool_], int]:
    """Return which keys have a vector that can be read, checksums included, and the width."""
    found, width = np.zeros(len(keys), dtype=bool), 0
    for rows, vectors in store.scan(keys):
        found[rows], width = True, vectors.shape[1]
    return found, width


def _blocks(
    plan: Plan, texts: dict[Role, Texts], keys: dict[Role, Keys], found: NDArray[np.bool_], block_texts: int
) -> list[pa.Table]:
    """Cut all unique texts into blocks and keep of each the texts that are missing; one row is one block."""
    every = [(role, text) for role in texts for text in texts[role].texts]
    all_keys = np.concatenate(list(keys.values()))
    _, first = np.unique(all_keys, axis=0, return_index=True)
    prompts = {role: len(plan.reading(role).prompt) for role in texts}
    lengths = np.array([-prompts[every[i][0]] - len(every[i][1]) for i in first])
    order = first[np.lexsort((all_keys[first, 1], all_keys[first, 0], lengths))]
    blocks = []
    for start in range(0, len(order), block_texts):
        rows = [int(i) for i in order[start : start + block_texts] if not found[i]]
        if rows:
            blocks.append(
                pa.table(
                    {
                        "keys": pa.array([[all_keys[i].tobytes() for i in rows]], pa.list_(pa.binary(KEY_BYTES))),
                        "roles": [[every[i][0] for i in rows]],
                        "texts": [[every[i][1] for i in rows]],
                    }
                )
            )
    return blocks


class EncodeBlock:
    """One encoder actor: loads the model once, then encodes and stores block after block."""

    def __init__(self, plan: Plan, store: VectorStore, lanes: int | None) -> None:
        self._plan, self._store = plan, store
        self._encoder: Encoder | None = None
        self._failure = ""
        try:
            self._encoder = plan.build(lanes)
        except HnmineError as error:
            self._failure = str(error)

    def __call__(self, blocks: pa.Table) -> pa.Table:
        """Encode every row of `blocks`; return how many texts each held, and what failed.

        What a user can mend travels as a row: as an exception Ray would retry it, log it in full and lose its type.
        """
        counts, failures = [], []
        for block in blocks.to_pylist():
            try:
                self._encode(block)
            except HnmineError as error:
                self._failure = str(error)
            counts.append(len(block["texts"]))
            failures.append(self._failure)
        return pa.table({"count": counts, "failure": failures})

    def _encode(self, block: dict[str, Any]) -> None:
        if self._encoder is None:
            return
        readings = [self._plan.reading(role) for role in block["roles"]]
        keys = _keys(block["keys"])
        for reading in dict.fromkeys(readings):
            chosen = [i for i, own in enumerate(readings) if own == reading]
            vectors = self._encoder.encode([block["texts"][i] for i in chosen], reading)
            bad = ~np.isfinite(vectors).all(axis=1)
            if bad.any():
                text = block["texts"][chosen[int(np.flatnonzero(bad)[0])]]
                raise ModelError(
                    f"encoder {self._plan.name} ({self._plan.dtype}) gives NaN or infinity for {int(bad.sum())} texts, "
                    f"first {text[:80]!r}; try dtype: float32"
                )
            self._store.write(keys[chosen], vectors)
        for role, count in Counter(block["roles"]).items():
            TEXTS.add(count, encoder=self._plan.name, role=role)


def _encode(plan: Plan, blocks: list[pa.Table], store: VectorStore, config: EmbedConfig) -> Iterator[int]:
    """Encode all blocks, yielding how many texts are done as blocks are finished."""
    by_ray = _worth_ray(plan, config) if config.ray is None else config.ray
    has_device = plan.device != "cuda" or devices.visible_gpus() > 0  # a cluster's head may have none
    if has_device and (not by_ray or len(blocks) == 1):
        say("embed", f"{plan.name}: in this process{_how(plan)}, {len(blocks)} block(s)")
        work = EncodeBlock(plan, store, None)
        results: Iterator[pa.Table] = (work(block) for block in blocks)
        yield from _counts(results)
        return
    start_ray()
    yield from _counts(_over_actors(plan, blocks, store, config))


def _how(plan: Plan) -> str:
    return f", {plan.dtype} by {plan.engine}" if plan.kind == "model" else ""


def _worth_ray(plan: Plan, config: EmbedConfig) -> bool:
    """Whether there is more to compute on than one process can use; on a few cores Ray costs seconds and a gibibyte."""
    several = config.actors is not None or (os.cpu_count() or 1) > MOST_LANES
    return bool(os.environ.get("RAY_ADDRESS")) or plan.device == "cuda" or several


def _counts(results: Iterator[pa.Table]) -> Iterator[int]:
    for result in results:
        for row in result.to_pylist():
            if row["failure"]:
                raise ModelError(row["failure"])
            yield row["count"]


def _over_actors(plan: Plan, blocks: list[pa.Table], store: VectorStore, config: EmbedConfig) -> Iterator[pa.Table]:
    """Encode the blocks by actors, and what is left when these are lost by others.

    A node that dies takes more than its actors: until Ray has noticed, calls to them fail, and at once, so that none
    of their retries is left.
    """
    from ray.exceptions import RayActorError

    left = blocks
    while left:
        try:
            yield from _by_pool(plan, left, store, config)
            return
        except RayActorError as error:
            before, left = len(left), _not_stored(left, store)
            if len(left) == before:
                raise ModelError(
                    f"encoder {plan.name}: its process died {_RETRIES + 1} times on one block of texts; if memory ran "
                    f"out, lower embed.actors or embed.tokens_per_batch ({error})"
                ) from None
            say("embed", f"{plan.name}: actors were lost; {len(left)} block(s) are left and begun again")


def _not_stored(blocks: list[pa.Table], store: VectorStore) -> list[pa.Table]:
    keys = [_keys(block["keys"][0].as_py()) for block in blocks]
    found, _ = _found(store, np.concatenate(keys))
    by_block = np.split(found, np.cumsum([len(each) for each in keys])[:-1])
    return [block for block, its in zip(blocks, by_block, strict=True) if not its.all()]


def _keys(joined: list[bytes]) -> Keys:
    return np.frombuffer(b"".join(joined), dtype=np.uint64).reshape(-1, 2)


def _by_pool(plan: Plan, blocks: list[pa.Table], store: VectorStore, config: EmbedConfig) -> Iterator[pa.Table]:
    import ray

    quiet_ray_data()
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if plan.device == "cuda":
        own, lanes = gpu_actors(plan, [int(node.get("GPU", 0)) for node in nodes]), 1
    else:
        own, lanes = cpu_actors([int(node.get("CPU", 0)) for node in nodes], config.actors)
    actors = min(config.actors or own, len(blocks))
    side_by_side = f", {lanes} batches at a time" if lanes > 1 else ""
    say(
        "embed",
        f"{plan.name}: {actors} actor(s) on {plan.device}{side_by_side}{_how(plan)}, {len(blocks)} blocks",
    )
    with warnings.catch_warnings():  # Ray 2.60 has no other way to set max_task_retries than the deprecated one
        warnings.simplefilter("ignore")
        data = ray.data.from_arrow(blocks).map_batches(
            EncodeBlock,
            fn_constructor_args=(plan, store, lanes),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=actors),
            num_cpus=lanes,
            num_gpus=plan.gpus if plan.device == "cuda" else 0,
            max_task_retries=_RETRIES,
        )
    yield from data.iter_batches(batch_size=None, batch_format="pyarrow")


def gpu_actors(plan: Plan, gpus_by_node: list[int]) -> int:
    """Return how many actors of this encoder the GPUs hold.

    Raises:
        DeviceError: there is no GPU; Ray would wait for one without end.
    """
    actors = sum(gpus_by_node) * int(1 / plan.gpus)
    if not actors:
        raise DeviceError(f"encoder {plan.name}: no node of the Ray cluster has a GPU; add one, or set device: cpu")
    return actors


def cpu_actors(cpus_by_node: list[int], actors: int | None) -> tuple[int, int]:
    """Return how many actors the CPUs hold, and how many cores each has; an actor's cores are on one node.

    `actors` is how many there shall be, if that is said; where they are more than the cores, they wait for one.

    Raises:
        DeviceError: there is no CPU; Ray would wait for one without end.
    """
    cpus = [count for count in cpus_by_node if count]
    if not cpus:
        raise DeviceError(
            "no node of the Ray cluster has a CPU for tasks; add one that has (a worker, with an autoscaler)"
        )
    if actors is not None:
        return actors, max(1, min(MOST_LANES, sum(cpus) // actors, *cpus))
    lanes = max(1, min(MOST_LANES, *cpus))
    return sum(count // lanes for count in cpus), lanes


def device_for(config: EmbedConfig) -> devices.Choice:
    """Choose the device of the encoders; in a submitted job the cluster's GPUs count, not the head's."""
    if os.environ.get("RAY_ADDRESS") and config.device != "cpu" and config.ray is not False:
        start_ray()
        import ray

        if ray.cluster_resources().get("GPU", 0) >= 1:
            return devices.Choice(kind="gpu", reason="the Ray cluster has GPUs")
    return devices.choose(config.device)
