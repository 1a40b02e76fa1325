"""Settings of the first stage and of evaluation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hnmine.config.base import Section


class EvaluateConfig(Section):
    """Re-ranking of the first stage and its metrics."""

    first_stage: str = Field(
        "bm25", min_length=1, description="bm25, dense (the encoders' space), or the path of a TREC run file"
    )
    depth: int = Field(20, ge=1, description="documents of the first stage that are re-ranked")
    long_documents: Literal["truncate", "maxp"] = Field(
        "truncate", description="truncate: read the beginning; maxp: score overlapping passages, the best counts"
    )
    blend: Literal["none", "first_stage", "encoders"] = Field(
        "encoders",
        description="also tell what a re-ranker is worth with the first stage's scores added, or with each encoder's "
        "cosine too; the weights are chosen on dev",
    )
    queries: int | None = Field(None, ge=1, description="evaluate at most so many queries, a seeded sample")
    k1: float = Field(0.9, ge=0, description="BM25 term saturation")
    b: float = Field(0.4, ge=0, le=1, description="BM25 length normalisation")
