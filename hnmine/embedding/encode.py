"""Texts that the store lacks are cut into blocks, see `missing`, and encoded, see `pool`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from hnmine.corpus.text_keys import Keys
from hnmine.embedding.missing import BLOCK_TEXTS, missing_blocks
from hnmine.embedding.pool import encode_blocks
from hnmine.embedding.store import VectorStore
from hnmine.errors import DataError, ModelError
from hnmine.models.plan import Plan
from hnmine.runs.counters import ENCODING_DONE, ENCODING_LEFT, ENCODING_TEXTS
from hnmine.runs.progress import say, track
from hnmine.types import Role, Texts


@dataclass(frozen=True, kw_only=True)
class EncodingResult:
    """What became of the texts of one call: distinct texts encoded, found in the store, and the vectors' width."""

    encoded: int
    reused: int
    width: int


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
    """Encode the texts that the store lacks, equal texts once; `keys` are theirs, as the plan reads them.

    As many `actors` encode as are asked for, None: as the cluster holds; if `ray` is None, where they bring more than
    one process has.

    Raises:
        ModelError: the encoder gives non-finite values or cannot be loaded, or an actor cannot write to the store.
        DataError: the store cannot be read or written.
    """
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
            show = _gauges(plan.name, missing)
            for count in encode_blocks(plan, blocks, store, actors, ray):
                progress.advance(count)
                show(count)
        newly, width = store.contains(all_keys[~found])
        with suppress(DataError):  # who may not remove does without
            store.compact()
        if not newly.all():
            raise ModelError(f"encoder {plan.name}: {int((~newly).sum())} texts have no vector in {store.folder}")
    result = EncodingResult(encoded=missing, reused=distinct - missing, width=width)
    say(
        "embed",
        f"{plan.name}: {result.reused:,} vectors from the store, {missing:,} encoded, width {width}",
        encoder=plan.name,
        **vars(result),
    )
    return result


def _gauges(encoder: str, total: int) -> Callable[[int], None]:
    """Return what shows Prometheus how far an encoder is, and how long the rest will take."""
    done, began = 0, time.monotonic()

    def show(count: int) -> None:
        nonlocal done
        done += count
        ENCODING_DONE.set(done, encoder=encoder)
        left = (total - done) * (time.monotonic() - began) / done if done else float("nan")
        ENCODING_LEFT.set(left, encoder=encoder)

    ENCODING_TEXTS.set(total, encoder=encoder)
    show(0)
    return show
