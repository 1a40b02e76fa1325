"""Settings of `hnmine compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, field_validator

from hnmine.config.base import Section, slug
from hnmine.config.retired import refuse_retired_arms


def _differ(rates: tuple[float, ...]) -> tuple[float, ...]:
    if len({f"{rate:g}" for rate in rates}) < len(rates):
        raise ValueError(f"must differ in their first six digits, got {', '.join(map(str, rates))}")
    return rates


Rates = Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], AfterValidator(_differ)]
"""Learning rates to try; files are named after them."""


class CompareConfig(Section):
    """Ways to choose negatives, side by side."""

    arms: tuple[str, ...] | None = Field(None, min_length=1, description="which; null: all that `hnmine compare` knows")
    seeds: int = Field(3, ge=1, le=100, description="trainings an arm, with seed, seed + 1, …")
    learning_rates: Rates = Field(
        (1e-5, 5e-5),
        min_length=1,
        description="the best on dev is taken for each arm, found with its first seed; where that is the largest of "
        "several, twice as much is tried too, and so on",
    )
    sizes: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        None,
        min_length=1,
        description="numbers of train pairs, a table each; null: all, or train.max_pairs. A model "
        "without a ranking head is warmed up on all of them, whatever the number",
    )
    models: tuple[str, ...] | None = Field(
        None, min_length=1, description="re-rankers to start from, a table each; null: train.model"
    )

    @field_validator("arms")
    @classmethod
    def _still_known(cls, arms: tuple[str, ...] | None) -> tuple[str, ...] | None:
        refuse_retired_arms(map(slug, arms or ()))
        return arms

    @field_validator("models")
    @classmethod
    def _models_differ(cls, models: tuple[str, ...] | None) -> tuple[str, ...] | None:
        """Files are named after the models' last parts."""
        if models and len({slug(Path(model).name) for model in models}) < len(models):
            raise ValueError(f"letters and digits of the names' last parts must differ, got {', '.join(models)}")
        return models
