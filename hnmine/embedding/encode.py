"""Texts that the store lacks are encoded: in this process, or by Ray's actors (`pool`).

A finished run, a killed run and an ordinary next night are the same case: what the store has is left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from hnmine.corpus.text_keys import Keys, keys_of
from hnmine.embedding import pool
from hnmine.embedding.blocks import BLOCK_TEXTS, BlockEncoder, missing_blocks
from hnmine.embedding.store import VectorStore
from hnmine.embedding.vectors import StoredVectors
from hnmine.errors import ModelError
from hnmine.models.plan import Plan
from hnmine.runs import device as devices
from hnmine.runs.progress import say, track
from hnmine.types import Role, Texts


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
        blocks = missing_blocks(plan, texts, all_keys, found, block_texts)
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


def _encode_blocks(
    plan: Plan, blocks: list[pa.Table], store: VectorStore, actors: int | None, ray: bool | None
) -> Iterator[int]:
    """Encode all blocks, yielding how many texts are done as blocks are finished."""
    by_ray = pool.is_worth_ray(plan, actors) if ray is None else ray
    has_device = plan.device != "cuda" or devices.visible_gpus() > 0  # a cluster's head may have none
    results: Iterator[pa.Table]
    if has_device and (not by_ray or len(blocks) == 1):
        say("embed", f"{plan.name}: in this process{pool.precision_of(plan)}, {len(blocks)} block(s)")
        encoder = BlockEncoder(plan, store, None)
        results = (encoder(block) for block in blocks)
    else:
        results = pool.encode_by_actors(plan, blocks, store, actors)
    for result in results:
        for row in result.to_pylist():
            if row["failure"]:
                raise ModelError(row["failure"])
            yield row["count"]
