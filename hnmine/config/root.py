"""The whole configuration: one section per step. A run stores the settings that each step used."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from hnmine.config.base import Device, Engine, Section
from hnmine.config.encoders import DEFAULT_PRESET, PRESETS, EncoderConfig, preset
from hnmine.config.steps import (
    CompareConfig,
    EmbedConfig,
    EvaluateConfig,
    GuardsConfig,
    NightlyConfig,
    ReduceConfig,
    SearchConfig,
    SelectConfig,
    SourcesConfig,
)
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
    sources: SourcesConfig = SourcesConfig()
    encoders: tuple[EncoderConfig, ...] = Field(
        PRESETS[DEFAULT_PRESET],
        min_length=1,
        description=f"a preset ({', '.join(PRESETS)}), or a list; keys of an entry:",
    )
    embed: EmbedConfig = EmbedConfig()
    reduce: ReduceConfig = ReduceConfig()
    search: SearchConfig = SearchConfig()
    select: SelectConfig = SelectConfig()
    guards: GuardsConfig = GuardsConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    compare: CompareConfig = CompareConfig()
    nightly: NightlyConfig = NightlyConfig()

    @model_validator(mode="before")
    @classmethod
    def _named_encoders(cls, tree: Any) -> Any:
        if isinstance(tree, dict) and isinstance(name := tree.get("encoders"), str):
            return tree | {"encoders": preset(name)}
        return tree

    @model_validator(mode="after")
    def _sections_agree(self) -> Config:
        if (self.guards.agreement or 0) > len(self.encoders):
            raise ValueError(
                f"guards.agreement is {self.guards.agreement}, but there are {len(self.encoders)} encoders"
            )
        names = [encoder.name for encoder in self.encoders]
        if len(set(names)) != len(names):
            raise ValueError(f"encoders: names must differ, got {names}")
        workers = self.train.workers or 1
        if self.ray is False and workers > 1:
            raise ValueError(f"train.workers: {workers} need Ray; set ray to true or null, or train.workers to 1")
        return self
