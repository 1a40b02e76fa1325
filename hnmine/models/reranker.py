"""Re-rankers of both kinds, which have the same methods: training, evaluation and scoring load them here."""

from __future__ import annotations

from pathlib import Path

from hnmine.config.training import Kind
from hnmine.models.bi_encoder import BiEncoder
from hnmine.models.cross_encoder import CrossEncoder

Reranker = CrossEncoder | BiEncoder


def load_reranker(
    kind: Kind,
    folder: Path,
    *,
    max_tokens: int,
    device: str,
    dtype: str,
    engine: str = "auto",
    seed: int = 0,
    passages: bool = False,
) -> Reranker:
    """Load the re-ranker in this folder; `engine` and `passages` are a cross-encoder's."""
    if kind == "bi-encoder":
        return BiEncoder(folder, max_tokens=max_tokens, device=device, dtype=dtype, seed=seed)
    return CrossEncoder(
        folder, max_tokens=max_tokens, device=device, dtype=dtype, engine=engine, seed=seed, passages=passages
    )
