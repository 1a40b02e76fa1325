"""Named re-rankers, which `reranker_presets.yaml` holds: what can be written in the place of a hub name."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Final

import yaml
from pydantic import AfterValidator, Field

from hnmine.config.encoders import ModelFacts


class RerankerPreset(ModelFacts):
    """A re-ranker of today's public tables, or a body that a training makes one of."""

    model: str = Field(pattern=r"^[\w.\-/]+(@[0-9a-f]{40})?$", description="hub name and commit")


RERANKERS: Final = {
    name: RerankerPreset.model_validate(facts)
    for name, facts in yaml.safe_load((files(__package__) / "reranker_presets.yaml").read_text("utf-8")).items()
}


def named_model(model: str) -> str:
    """Return the hub name and commit of a preset; what is no preset's name, or is a folder here, as it is."""
    return RERANKERS[model].model if model in RERANKERS and not Path(model).is_dir() else model


RerankerModel = Annotated[str, AfterValidator(named_model)]
"""A re-ranker as a setting names it: a preset, a folder, or a hub name."""
