"""Settings of `hnmine nightly`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from hnmine.config.base import Section


class NightlyConfig(Section):
    """What a night decides by itself."""

    refit_variance: float = Field(
        0.8, ge=0, le=1, description="new basis if the last one captures less of the variance of new documents"
    )
    refit_share: float = Field(
        0.3, gt=0, le=1, description="new basis if more of the documents came since it was fitted, as a share"
    )
    train_share: float = Field(
        0.02, ge=0, le=1, description="train if the negatives of so many pairs changed since the last training, a share"
    )
    promote_margin: float = Field(
        0.0, ge=0, le=1, description="deploy a trained re-ranker whose MRR@10 is lower by at most so much"
    )
    keep: int = Field(7, ge=2, description="versions that are kept for `hnmine rollback`")
    work: Path | None = Field(None, description="run folder of the nights; null: HOME/work, if HOME is a folder")
