"""Re-rankers: one score for a (query, document), higher is better. Both kinds have the same methods.

A cross-encoder is anything that `sentence_transformers.CrossEncoder` loads without code of its own, and after a
training, which gives it the head it lacks, any encoder body. A bi-encoder's score is the cosine of its vectors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hnmine.config.training import Kind
from hnmine.models.bi_encoder import BiEncoder
from hnmine.models.cross_encoder import CrossEncoder
from hnmine.models.ranking_head import has_ranking_head, resolve_cross_encoder

__all__ = ["BiEncoder", "CrossEncoder", "Reranker", "has_ranking_head", "load_reranker", "resolve_cross_encoder"]

Reranker = CrossEncoder | BiEncoder


def load_reranker(
    kind: Kind, folder: Path, *, engine: str = "auto", passages: bool = False, **settings: Any
) -> Reranker:
    """Load the re-ranker in this folder; `engine` and `passages` are a cross-encoder's."""
    if kind == "bi-encoder":
        return BiEncoder(folder, **settings)
    return CrossEncoder(folder, engine=engine, passages=passages, **settings)
