"""The ensemble's vectors as one: L2-normalise each encoder's block, weight it, concatenate (X_concat)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hnmine.types import Float32


def unit_rows(rows_nR: Float32) -> Float32:
    """Return the rows scaled to length 1; a zero row stays zero (its distance to everything is 1)."""
    norms = np.linalg.norm(rows_nR.astype(np.float64), axis=1, keepdims=True)
    unit: Float32 = np.divide(rows_nR, norms, out=np.zeros_like(rows_nR), where=norms > 0)
    return unit


def fuse(blocks: Sequence[Float32], weights: Sequence[float]) -> Float32:
    """Return X_concat (n, sum of widths) of the encoders' blocks, each (n, its width), row for row.

    With weight w, a block of unit rows contributes w² times its cosine to the fused inner product.

    Raises:
        ValueError: blocks and weights differ in number, or blocks in rows.
    """
    if len(blocks) != len(weights) or len({len(block) for block in blocks}) != 1:
        raise ValueError(f"need one weight a block and equal rows, got {[b.shape for b in blocks]}, {list(weights)}")
    return np.concatenate(
        [unit_rows(block) * np.float32(weight) for block, weight in zip(blocks, weights, strict=True)], axis=1
    )
