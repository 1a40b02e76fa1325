"""An encoder's vectors as all that follows reads them: by rows, or as a whole in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hnmine.corpus.text_keys import PLAIN, Keys, Reading
from hnmine.embedding.store import VectorStore
from hnmine.errors import ModelError
from hnmine.types import Float32, Int64, Role


class Vectors(Protocol):
    """One encoder's vectors of all texts; a row need not be a unit vector."""

    @property
    def identity(self) -> str:
        """Names what made them: equal identities mean the same encoder, read the same way."""

    @property
    def width(self) -> int:
        """Dimensions."""

    def count(self, role: Role) -> int:
        """Return the number of texts of this role."""

    def take(self, role: Role, rows: Int64) -> Float32:
        """Return the vectors of these rows, in their order."""

    def scan(self, role: Role) -> Iterator[tuple[Int64, Float32]]:
        """Yield all vectors in pieces with their rows, in any order, each row once."""


@dataclass(frozen=True, kw_only=True)
class StoredVectors:
    """Vectors that are all in the store and are read when they are asked for."""

    name: str
    """Of the encoder, in messages."""
    store: VectorStore
    keys: dict[Role, Keys]
    width: int
    reading: Reading = PLAIN
    """How documents are read."""

    @property
    def identity(self) -> str:
        """The encoder's fingerprint and how documents are read."""
        return f"{self.store.fingerprint.digest} {self.reading.prompt!r} {self.reading.adapter or ''}".strip()

    def count(self, role: Role) -> int:
        """Return the number of texts of this role."""
        return len(self.keys[role])

    def take(self, role: Role, rows: Int64) -> Float32:
        """Return the vectors of these rows.

        Raises:
            ModelError: a vector that was in the store cannot be read any more.
        """
        vectors, found = self.store.load(self.keys[role][rows])
        self._require_all(int(found.sum()), len(rows))
        return np.empty((0, self.width), dtype=np.float32) if vectors is None else vectors

    def scan(self, role: Role) -> Iterator[tuple[Int64, Float32]]:
        """Yield all vectors in pieces with their rows; raises as `take` does."""
        served = 0
        for rows, vectors in self.store.scan(self.keys[role]):
            served += len(rows)
            yield rows, vectors
        self._require_all(served, self.count(role))

    def _require_all(self, served: int, wanted: int) -> None:
        if served < wanted:
            raise ModelError(
                f"encoder {self.name}: {wanted - served} vectors that were in {self.store.folder} a moment ago cannot "
                "be read any more; start again, and they are encoded again"
            )
