"""Texts that are not yet in the store are encoded: in this process, or by Ray's actors (`pool`).

The unique texts of a call are sorted by length and cut into blocks. A block is the unit of work, of storage and of
recovery. The cut depends on the texts alone, so a run that was killed encodes the same missing blocks again, and a
finished run, a killed run and an ordinary next night are the same case. Vectors never travel back through Ray: the
actor that made them writes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hnmine.corpus.text_keys import KEY_BYTES, Keys, keys_of
from hnmine.embedding.store import VectorStore
from hnmine.embedding.vectors import StoredVectors
from hnmine.errors import HnmineError, ModelError
from hnmine.models.plan import Encoder, Plan
from hnmine.runs import device as devices
from hnmine.runs.counters import TEXTS
from hnmine.runs.progress import say, track
from hnmine.types import Role, Texts

BLOCK_TEXTS = 512
"""Texts in a block."""


@dataclass(frozen=True, kw_only=True)
class EncodingResult:
    """What became of the texts of one call: distinct texts encoded, found in the store, and the vectors' width."""

    encoded: int
    reused: int
    width: int


def embed(
    plan: Plan,
    texts: Mapping[Role, Texts],
    store: VectorStore,
    *,
    actors: int | None = None,
    ray: bool | None = None,
    block_texts: int = BLOCK_TEXTS,
) -> tuple[StoredVectors, EncodingResult]:
    """Encode the texts that the store lacks; return the vectors of all.

    Args:
        plan: of the encoder.
        texts: by role.
        store: of the encoder's fingerprint.
        actors: number of Ray actors; None: as many as the cluster holds.
        ray: whether actors encode; None: where they bring more than one process has.
        block_texts: texts in a block.

    Raises:
        ModelError: the encoder gives non-finite values or cannot be loaded, or an actor cannot write to the store.
        DataError: the store cannot be read or written.
    """
    keys = {role: keys_of(texts[role].texts, plan.reading(role)) for role in texts}
    result = encode_missing(plan, texts, keys, store, actors=actors, ray=ray, block_texts=block_texts)
    reading = plan.reading("document")
    return StoredVectors(name=plan.name, store=store, keys=keys, width=result.width, reading=reading), result


def encode_missing(
    plan: Plan,
    texts: Mapping[Role, Texts],
    keys: Mapping[Role, Keys],
    store: VectorStore,
    *,
    actors: int | None = None,
    ray: bool | None = None,
    block_texts: int = BLOCK_TEXTS,
) -> EncodingResult:
    """Encode the texts that the store lacks, equal texts once; `keys` are those of `texts`. Raises as `embed` does."""
    # Ask the store what it has
    store.describe()
    all_keys = np.concatenate([keys[role] for role in texts])
    found, width = store.contains(all_keys)
    distinct = len(np.unique(all_keys, axis=0))
    missing = len(np.unique(all_keys[~found], axis=0))
    # Encode the rest, and make sure that it is there
    if missing:
        blocks = _missing_blocks(plan, texts, all_keys, found, block_texts)
        with track("embed", plan.name, missing, "texts") as progress:
            for count in _encode_blocks(plan, blocks, store, actors, ray):
                progress.advance(count)
        newly, width = store.contains(all_keys[~found])
        if not newly.all():
            raise ModelError(f"encoder {plan.name}: {int((~newly).sum())} texts have no vector in {store.folder}")
    say(
        "embed",
        f"{plan.name}: {distinct - missing:,} vectors from the store, {missing:,} encoded, width {width}",
        encoder=plan.name,
        reused=distinct - missing,
        encoded=missing,
        width=width,
    )
    return EncodingResult(encoded=missing, reused=distinct - missing, width=width)


def _missing_blocks(
    plan: Plan, texts: Mapping[Role, Texts], all_keys: Keys, found: NDArray[np.bool_], block_texts: int
) -> list[pa.Table]:
    """Cut all distinct texts into blocks and keep of each the texts that are missing; one table of one row a block."""
    # Sort by length, longest first; keys break ties
    labelled = [(role, text) for role in texts for text in texts[role].texts]
    _, first = np.unique(all_keys, axis=0, return_index=True)
    prompts = {role: len(plan.reading(role).prompt) for role in texts}
    lengths = np.array([-prompts[labelled[i][0]] - len(labelled[i][1]) for i in first])
    order = first[np.lexsort((all_keys[first, 1], all_keys[first, 0], lengths))]
    # Cut, then leave out what is there
    blocks = []
    for start in range(0, len(order), block_texts):
        rows = [int(i) for i in order[start : start + block_texts] if not found[i]]
        if rows:
            columns = {
                "keys": pa.array([[all_keys[i].tobytes() for i in rows]], pa.list_(pa.binary(KEY_BYTES))),
                "roles": [[labelled[i][0] for i in rows]],
                "texts": [[labelled[i][1] for i in rows]],
            }
            blocks.append(pa.table(columns))
    return blocks


class BlockEncoder:
    """Loads an encoder once, then encodes and stores block after block; in this process, or as an actor."""

    def __init__(self, plan: Plan, store: VectorStore, lanes: int | None) -> None:
        """Load the encoder; on a CPU it computes `lanes` batches at a time, None: by the cores."""
        self._plan, self._store = plan, store
        self._encoder: Encoder | None = None
        self._failure = ""
        try:
            self._encoder = plan.build(lanes)
        except HnmineError as error:
            self._failure = str(error)

    def __call__(self, blocks: pa.Table) -> pa.Table:
        """Encode every row of `blocks`; return how many texts each held, and what failed.

        A failure that a user can mend travels as a row: as an exception Ray would retry it, log it in full and lose
        its type.
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
        keys = joined_keys(block["keys"])
        for reading in dict.fromkeys(readings):
            chosen = [i for i, other in enumerate(readings) if other == reading]
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


def precision_of(plan: Plan) -> str:
    """Return a model's number format and engine as they end a message; nothing for a lexical encoder."""
    return f", {plan.dtype} by {plan.engine}" if plan.kind == "model" else ""


def joined_keys(keys: list[bytes]) -> Keys:
    """Return single keys as one array (n, 2)."""
    return np.frombuffer(b"".join(keys), dtype=np.uint64).reshape(-1, 2)


def _encode_blocks(
    plan: Plan, blocks: list[pa.Table], store: VectorStore, actors: int | None, ray: bool | None
) -> Iterator[int]:
    """Encode all blocks, yielding how many texts are done as blocks are finished."""
    from hnmine.embedding import pool

    by_ray = pool.is_worth_ray(plan, actors) if ray is None else ray
    has_device = plan.device != "cuda" or devices.visible_gpus() > 0  # a cluster's head may have none
    results: Iterator[pa.Table]
    if has_device and (not by_ray or len(blocks) == 1):
        say("embed", f"{plan.name}: in this process{precision_of(plan)}, {len(blocks)} block(s)")
        encoder = BlockEncoder(plan, store, None)
        results = (encoder(block) for block in blocks)
    else:
        results = pool.encode_by_actors(plan, blocks, store, actors)
    for result in results:
        for row in result.to_pylist():
            if row["failure"]:
                raise ModelError(row["failure"])
            yield row["count"]
