"""What an encoder's vectors look like to those who read them, wherever they are kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

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
