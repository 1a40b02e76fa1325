"""A rule that a re-ranker of two layers learns in seconds: right is what begins with `yes`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hnmine.config.training import TrainConfig
from hnmine.ranking.task import Task
from hnmine.training.fit import Trained, train
from hnmine.training.lists import Lists
from hnmine.training.worker import Recipe
from hnmine.types import Texts
from tests.builders.devices import CPU

_RECIPE = Recipe.of(
    TrainConfig(
        epochs=3,
        learning_rate=3e-3,
        dropout=0.0,
        pairs_per_batch=8,
        max_tokens=32,
        evaluations_per_epoch=1,
        engine="torch",  # nothing to be gained on a model this small
    ),
    CPU,
    "float32",
)
LONG_TRAINING = {"epochs": 30, "dropout": 0.1, "learning_rate": 3e-4, "evaluations_per_epoch": 1}
"""Settings of a training long enough to be interrupted."""


def quick_recipe(**changes: object) -> Recipe:
    """Return a recipe that learns the rule in seconds, with changes."""
    return Recipe(**({name: getattr(_RECIPE, name) for name in Recipe.__dataclass_fields__} | changes))


def yes_no_lists(count: int, *, reversed_labels: bool = False) -> Lists:
    """Relevant is what begins with `yes`; lists have one to three negatives."""
    rng = np.random.default_rng(0)
    good, bad = ("no", "yes") if reversed_labels else ("yes", "no")
    names = ["".join(rng.choice(list("abcdef"), size=4)) for _ in range(count)]
    documents = tuple(
        (f"{good} {name}", *(f"{bad} {name}{'x' * i}" for i in range(rng.integers(1, 4)))) for name in names
    )
    return Lists(queries=tuple(names), documents=documents)


def yes_no_dev_task() -> Task:
    """The same rule on other names: of eight documents two begin with `yes`, one of these is right."""
    names = ("abc", "fed", "cab", "bad", "deaf", "face")
    texts = [f"{'yes' if i % 4 == 0 else 'no'} {'xyzw'[i % 4] * 2}" for i in range(8)]
    return Task(
        queries=Texts(ids=names, texts=names),
        doc_rows_QK=np.tile(np.arange(8), (len(names), 1)),
        first_scores_QK=np.zeros((len(names), 8), np.float32),
        document_texts=dict(enumerate(texts)),
        relevant=tuple(frozenset({0, 4}) for _ in names),
    )


def train_quickly(
    start: Path, out: Path, given: Lists, workers: int = 1, by_ray: bool = False, identity: str = "", **changes: object
) -> Trained:
    """Train the quick recipe, with changes, and measure it on the dev task."""
    by_ray = by_ray or workers > 1
    settings = {"workers": workers, "by_ray": by_ray, "identity": identity}
    return train(out.name, start, given, yes_no_dev_task(), quick_recipe(**changes), out, **settings)
