"""The whole configuration: one section per step. A run stores the settings that each step used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from hnmine.config import steps
from hnmine.config.base import Device, Engine, Section, slug
from hnmine.config.encoders import DEFAULT_PRESET, PRESETS, EncoderConfig
from hnmine.config.training import TrainConfig


class Config(Section):
    """All settings of a run."""

    seed: int = Field(0, ge=0, le=2**31 - 1, description="seed of every draw: hold-out, samples, order of training")
    device: Device = "auto"
    engine: Engine = "auto"
    ray: bool | None = Field(
        None,
        description="encode and train by Ray, or in this process; null: by Ray on a cluster, with several training "
        "workers, and for encoding also on GPUs, where embed.actors is set, and on many CPU cores",
    )
    sources: steps.SourcesConfig = steps.SourcesConfig()
    encoders: tuple[EncoderConfig, ...] = Field(
        PRESETS[DEFAULT_PRESET],
        min_length=1,
        description=f"a preset ({', '.join(PRESETS)}), or a list; keys of an entry:",
    )
    embed: steps.EmbedConfig = steps.EmbedConfig()
    reduce: steps.ReduceConfig = steps.ReduceConfig()
    search: steps.SearchConfig = steps.SearchConfig()
    select: steps.SelectConfig = steps.SelectConfig()
    guards: steps.GuardsConfig = steps.GuardsConfig()
    train: TrainConfig = TrainConfig()
    evaluate: steps.EvaluateConfig = steps.EvaluateConfig()
    ranker: steps.RankerConfig = steps.RankerConfig()
    compare: steps.CompareConfig = steps.CompareConfig()
    nightly: steps.NightlyConfig = steps.NightlyConfig()

    @field_validator("encoders", mode="before")
    @classmethod
    def _named(cls, encoders: Any) -> Any:
        if not isinstance(encoders, str):
            return encoders
        if encoders not in PRESETS:
            raise ValueError(f"unknown preset {encoders!r}; known presets: {', '.join(PRESETS)}")
        return PRESETS[encoders]

    @model_validator(mode="after")
    def _sections_agree(self) -> Config:
        agreement = self.guards.agreement or 0
        if agreement > len(self.encoders):
            raise ValueError(f"guards.agreement is {agreement}, but there are {len(self.encoders)} encoders")
        names = [encoder.name for encoder in self.encoders]
        if len({slug(name) for name in names}) != len(names):
            raise ValueError(f"encoders: names must differ, got {names}")
        parts = {"bm25", "dense", "re-ranker", slug(Path(self.evaluate.first_stage).name)}
        if taken := [name for name in names if slug(name) in parts]:
            raise ValueError(f"encoders: {taken[0]} is what another part of a blend is called; choose another name")
        if self.evaluate.blend == "none" and self.ranker.choose.startswith("blend"):
            raise ValueError(f"ranker.choose: {self.ranker.choose} has no effect on evaluate.blend: none; remove one")
        workers = self.train.workers or 1
        if self.ray is False and workers > 1:
            raise ValueError(f"train.workers: {workers} need Ray; set ray to true or null, or train.workers to 1")
        return self
