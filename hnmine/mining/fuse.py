"""Vectors of all encoders side by side (X_concat): each encoder's block is L2-normalised and weighted.

The paper's six encoders give 12,800 numbers a document, so X_concat of a large corpus never exists as a whole. It is
read as the rows of a sample, or as pieces: some rows of one encoder's columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hnmine.embedding.vectors import Vectors
from hnmine.types import Float32, Int64, Role, unit_rows

Piece = tuple[Int64, slice, Float32]  # rows (n) and columns (c) of X_concat, and the numbers (n, c) there


@dataclass(frozen=True, kw_only=True)
class Fused:
    """X_concat of documents and queries. A block of weight w contributes w² times its cosine to an inner product."""

    encoders: tuple[Vectors, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        counts = {(encoder.count("document"), encoder.count("query")) for encoder in self.encoders}
        if len(self.encoders) != len(self.weights) or len(counts) != 1:
            raise ValueError(f"need one weight an encoder and equal texts, got {counts}, weights {self.weights}")

    @property
    def identity(self) -> tuple[str, ...]:
        """Encoders and weights in order; a basis fits X_concat of the same identity only."""
        return tuple(
            f"{encoder.identity} x {weight:g}" for encoder, weight in zip(self.encoders, self.weights, strict=True)
        )

    @property
    def width(self) -> int:
        """Dimensions, C."""
        return sum(encoder.width for encoder in self.encoders)

    def count(self, role: Role) -> int:
        """Return the number of texts of this role."""
        return self.encoders[0].count(role)

    def take(self, role: Role, rows_n: Int64) -> Float32:
        """Return these rows of X_concat (n, C)."""
        taken = np.empty((len(rows_n), self.width), dtype=np.float32)
        for encoder, weight, columns in self._blocks():
            taken[:, columns] = unit_rows(encoder.take(role, rows_n)) * weight
        return taken

    def pieces(self, role: Role) -> Iterator[Piece]:
        """Yield the whole of X_concat, encoder by encoder."""
        for encoder, weight, columns in self._blocks():
            for rows, values in encoder.scan(role):
                yield rows, columns, unit_rows(values) * weight

    def _blocks(self) -> Iterator[tuple[Vectors, np.float32, slice]]:
        start = 0
        for encoder, weight in zip(self.encoders, self.weights, strict=True):
            yield encoder, np.float32(weight), slice(start, start + encoder.width)
            start += encoder.width
