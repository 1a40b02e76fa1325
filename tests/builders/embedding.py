"""Texts that are encoded into a store, with small blocks and without Ray, and what became of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hnmine.corpus.text_keys import keys_of
from hnmine.embedding.encode import EncodingResult, encode_missing
from hnmine.embedding.store import VectorStore
from hnmine.embedding.vectors import StoredVectors, Vectors
from hnmine.models.plan import Plan
from hnmine.types import Role, Texts
from tests.builders.texts import random_texts

TEXTS: dict[Role, Texts] = {"document": random_texts(60, "a"), "query": random_texts(20, "b")}


def embed_into(
    plan: Plan, root: str | Path, texts: Mapping[Role, Texts] = TEXTS, **settings: Any
) -> tuple[StoredVectors, EncodingResult]:
    """Embed texts into the store at `root`, in blocks of 16 and in this process unless `settings` say otherwise."""
    store, reading = VectorStore(root, plan.fingerprint), plan.reading("document")
    keys = {role: keys_of(texts[role].texts, plan.reading(role)) for role in texts}
    result = encode_missing(plan, texts, keys, store, **({"ray": False, "block_texts": 16} | settings))
    return StoredVectors(name=plan.name, store=store, keys=keys, width=result.width, reading=reading), result


def blocks_of(plan: Plan, root: Path) -> list[Path]:
    """Return the files of an encoder's blocks in a store."""
    return sorted((root / plan.fingerprint.digest).glob("*.parquet"))


def all_rows(vectors: Vectors, role: Role) -> np.ndarray:
    """Return the vectors of all texts as `take` gives them; `scan` must give the same, each row once."""
    taken = vectors.take(role, np.arange(vectors.count(role)))
    scanned = np.full_like(taken, np.nan)
    for rows, values in vectors.scan(role):
        assert np.isnan(scanned[rows]).all()
        scanned[rows] = values
    assert np.array_equal(scanned, taken)
    return taken


def same_vectors(first: Vectors, second: Vectors) -> bool:
    """Say whether documents and queries have the same vectors, bit for bit."""
    return all(np.array_equal(all_rows(first, role), all_rows(second, role)) for role in ("document", "query"))
