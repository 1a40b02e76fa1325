"""Scores of a cross-encoder: each (query, document) is scored once, and its score stays in the run.

Guards that denoise, arms that look for the start's mistakes, and the teacher of a loss ask here, and score what is new
alone. The last bits of a score depend on the texts computed beside it; a kept score decides the same way again.
Scores are kept as vectors of width 1, in a `VectorStore` of their own (OUT/scored) under all that decides them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hnmine.corpus.text_keys import KEY_BYTES, Fingerprint, Keys, key_of
from hnmine.embedding.store import VectorStore
from hnmine.models.folder import folder_sha256
from hnmine.runs.manifest import versions
from hnmine.types import Done, Float32, Float64, Int64, Score, Texts

BLOCK_SCORES = 4096
"""Scores in a block: what a crash may cost."""


class ScoreStore:
    """The scores that the model in a folder has given, and the model for those it has not.

    Scores of another model, or made in another way, are not seen. `how` is JSON-able and names what else decides them:
    tokens, number format, engine. `load` is called once, and only if something is left to score.
    """

    def __init__(
        self, root: Path, model: Path, how: Any, load: Callable[[], Score], *, block_scores: int = BLOCK_SCORES
    ) -> None:
        fingerprint = Fingerprint.of(kind="scores", files=folder_sha256(model), how=how, versions=versions())
        self._store = VectorStore(root, fingerprint)
        self._load, self._block_scores = load, block_scores
        self._score: Score | None = None

    def scores(self, queries: Sequence[str], documents: Sequence[str], done: Done = lambda _count: None) -> Float32:
        """Return the score of each (query, document), float32 (n,)."""
        # Take what is known
        keys = _keys_of_pairs(queries, documents)
        distinct, first, position = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        known, found = self._store.load(distinct)
        scores = np.zeros(len(distinct), dtype=np.float32) if known is None else known[:, 0]
        missing = np.sort(first[~found])
        done(len(keys) - len(missing))
        # Score the rest, block by block, in the order in which it was asked for
        if len(missing):
            self._store.describe()
        for start in range(0, len(missing), self._block_scores):
            rows = missing[start : start + self._block_scores]
            self._score = self._score or self._load()
            given = self._score([queries[row] for row in rows], [documents[row] for row in rows], done)
            self._store.write(keys[rows], given.reshape(-1, 1))
            scores[position[rows]] = given
        return scores[position]

    def scores_of_rows(
        self, queries: Texts, query_rows_F: Int64, documents: Texts, doc_rows_F: Int64, done: Done
    ) -> Float64:
        """Return the scores of texts by their rows, float64 (F,)."""
        asked = queries.texts_at(query_rows_F.tolist())
        return self.scores(asked, documents.texts_at(doc_rows_F.tolist()), done).astype(np.float64)


def _keys_of_pairs(queries: Sequence[str], documents: Sequence[str]) -> Keys:
    joined = b"".join(
        hashlib.blake2b(key_of(query) + document.encode(), digest_size=KEY_BYTES).digest()
        for query, document in zip(queries, documents, strict=True)
    )
    return np.frombuffer(joined, dtype=np.uint64).reshape(-1, 2)
