"""Settings of mining: embed, reduce, search, select, and the guards."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from hnmine.config.base import Section


class EmbedConfig(Section):
    """How texts become vectors, and where these are kept."""

    store: str | None = Field(
        None,
        min_length=1,
        description="vector store: folder, s3://bucket/prefix, gs://bucket/prefix …; null: OUT/store",
    )
    actors: int | None = Field(
        None, ge=1, description="encoder actors; null: one per GPU, else one per 8 CPU cores of a node"
    )
    tokens_per_batch: int | None = Field(
        None, ge=64, description="tokens, padding included, in one forward pass; null: 2048 on a CPU, 65536 on a GPU"
    )

    @field_validator("store", mode="before")
    @classmethod
    def _address(cls, store: Any) -> Any:
        text = str(store) if isinstance(store, Path) else store
        if isinstance(text, str) and re.match(r"\w{2,}:/(?!/)", text):
            raise ValueError(f"an address has two slashes, got {text!r}; write it as text, not as a Path")
        if isinstance(text, str) and re.match(r"\w+://[^/@]*:[^/@]*@", text):
            raise ValueError("credentials belong in the environment (AWS_ACCESS_KEY_ID …): the manifest keeps settings")
        return text


class ReduceConfig(Section):
    """PCA of the fused vectors."""

    variance: float | None = Field(0.95, gt=0, le=1, description="share of the variance to keep; null: no PCA")
    fit_rows: int = Field(200_000, ge=2, description="documents the basis is fitted on; of more, a seeded sample")
    basis: Path | None = Field(None, description="use the basis.safetensors of an earlier run; null: fit one")


class SearchConfig(Section):
    """The short list."""

    index: Literal["flat", "ivf"] = Field(
        "flat", description="flat: exact; ivf: looks into part of the corpus, its rows are certified approximate"
    )
    ivf_probes: int = Field(32, ge=1, le=2048, description="parts looked into for a query; more: slower, more found")
    shards: int | None = Field(
        None, ge=1, description="slices of the documents, a Ray actor each; null: one, or as many GPUs as they need"
    )

    @model_validator(mode="after")
    def _ivf_is_on(self) -> SearchConfig:
        if self.index == "flat" and self.ivf_probes != type(self).model_fields["ivf_probes"].default:
            raise ValueError("ivf_probes would have no effect on index: flat; remove it or set index: ivf")
        return self


class SelectConfig(Section):
    """The two conditions."""

    negatives: int = Field(1, ge=1, le=1000, description="hard negatives a pair, at most")


class DenoiseConfig(Section):
    """A cross-encoder removes what it finds about as relevant as the positive; p is the sigmoid of its score."""

    model: str = Field(description="a re-ranker with a trained head: folder or hub name, pinned as name@commit")
    margin: float | None = Field(0.0, ge=0, le=1, description="keep p(Q,D) <= p(Q,PD) - margin; null: not asked")
    most: float | None = Field(None, ge=0, le=1, description="keep p(Q,D) <= most (RocketQA: 0.1); null: not asked")

    @model_validator(mode="after")
    def _asks_something(self) -> DenoiseConfig:
        if self.margin is None and self.most is None:
            raise ValueError("margin and most are both null, so nothing would be removed; set one, or remove denoise")
        return self


class GuardsConfig(Section):
    """Further tests against false negatives; null: off. Each is counted."""

    first_rank: int | None = Field(None, ge=1, description="nearest rank allowed, 1 the nearest unlabelled document")
    last_rank: int | None = Field(None, ge=1, description="farthest rank allowed")
    margin: float | None = Field(None, ge=0, le=2, description="largest d(Q,PD) - d(Q,D): not so much nearer")
    near_duplicate: float | None = Field(None, ge=0, le=2, description="least d(PD,D): no near-copy of the positive")
    agreement: int | None = Field(None, ge=1, description="encoders in whose own space both conditions must hold")
    denoise: DenoiseConfig | None = Field(
        None, description="cross-encoder denoising, asked about what all else keeps; keys, if not null:"
    )

    @model_validator(mode="after")
    def _window(self) -> GuardsConfig:
        if self.first_rank is not None and self.last_rank is not None and self.first_rank > self.last_rank:
            raise ValueError(f"first_rank {self.first_rank} is beyond last_rank {self.last_rank}")
        return self
