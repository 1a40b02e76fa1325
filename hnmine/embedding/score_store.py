"""Scores of a cross-encoder, which are dear: each (query, document) is scored once, and its score stays in the run.

Guards that denoise, arms that look for what the start mistakes, and the teacher of a loss ask here. So a collection
that changes a little every night, or a comparison that goes on where it was stopped, asks about what is new alone. And
as a score's last bits depend on what was computed beside it, what was decided by it once is decided the same again.

OUT/scored/<name>/<unique>.parquet    key of query and document (16 bytes), score; under a digest of what decides scores
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hnmine.corpus.text_keys import KEY_BYTES, key_of
from hnmine.models import folder as weights
from hnmine.runs.folder import Run, versions
from hnmine.runs.hashing import digest
from hnmine.types import Float32, Float64, Int64, Texts

Done = Callable[[int], None]
Score = Callable[[Sequence[str], Sequence[str], Done], Float32]
"""(queries, their documents, what is told how many were finished since last) → scores."""

_PART = 4096  # scores in a file, which a crash may cost
_PARTS = 16  # files that are left as they are


class Scored:
    """What one model has scored, and the model for what it has not."""

    def __init__(self, name: str, folder: Path, load: Callable[[], Score], how: Any, run: Run) -> None:
        """Read what an earlier run left; of another model, or of settings that have changed, it is removed.

        Args:
            name: of the folder of scores; each model that a run asks has its own.
            folder: of the model.
            load: loads it, which is not done where nothing is left to score.
            how: JSON-able, what else decides the scores: tokens, number format, engine.
            run: where scores are kept.
        """
        self._load, self._run, self._folder = load, run, f"scored/{name}"
        self._identity = digest([weights.folder_sha256(folder), how, versions()])
        self._score: Score | None = None
        self._known: dict[bytes, float] = {}
        self._read()

    def scores(self, queries: Sequence[str], documents: Sequence[str], done: Done = lambda _count: None) -> Float32:
        """Return the score of each (query, document); `done` is told how many are known since it was told last."""
        keys = [_key(query, document) for query, document in zip(queries, documents, strict=True)]
        at_of = {key: at for at, key in enumerate(keys) if key not in self._known}
        done(len(keys) - len(at_of))
        new = list(at_of)
        for start in range(0, len(new), _PART):
            part = new[start : start + _PART]
            self._score = self._score or self._load()
            got = self._score([queries[at_of[key]] for key in part], [documents[at_of[key]] for key in part], done)
            self._known.update(zip(part, got.tolist(), strict=True))
            self._write(part)
        return np.array([self._known[key] for key in keys], dtype=np.float32)

    def of_rows(self, queries: Texts, query_rows_F: Int64, documents: Texts, doc_rows_F: Int64, done: Done) -> Float64:
        """Return the same by rows, as guards ask."""
        asked = [queries.texts[row] for row in query_rows_F.tolist()]
        return self.scores(asked, [documents.texts[row] for row in doc_rows_F.tolist()], done).astype(np.float64)

    def _read(self) -> None:
        paths = sorted((self._run.out / self._folder).glob("*.parquet"))
        usable = [path for path in paths if _read_part(path, self._identity, self._known)]
        if len(usable) > _PARTS:
            self._write(list(self._known))
            usable = []
        for path in set(paths) - set(usable):
            path.unlink()

    def _write(self, keys: list[bytes]) -> None:
        scores = pa.array([self._known[key] for key in keys], pa.float32())
        table = pa.table({"key": pa.array(keys, pa.binary(KEY_BYTES)), "score": scores})
        name = f"{self._folder}/{uuid.uuid4().hex}.parquet"
        self._run.write_table(name, table.replace_schema_metadata({"identity": self._identity}))


def _key(query: str, document: str) -> bytes:
    return hashlib.blake2b(key_of(query) + document.encode(), digest_size=KEY_BYTES).digest()


def _read_part(path: Path, identity: str, known: dict[bytes, float]) -> bool:
    """Add to what is known, if the file is whole and of the same model."""
    try:
        table = pq.read_table(path, columns=["key", "score"])
        found = dict(zip(table.column("key").to_pylist(), table.column("score").to_pylist(), strict=True))
    except (OSError, ValueError, TypeError, KeyError):  # Arrow's errors are children of these
        return False
    if (table.schema.metadata or {}).get(b"identity") != identity.encode():
        return False
    known.update(found)
    return True
