"""One training of one arm, and what it is worth on the test queries; each is kept and not done again.

An arm says which lists the re-ranker is trained on; all else is the same. Its learning rate is the best on dev, found
with the first seed: of one small grid, and beyond its end as long as dev gains, so that no arm loses by its step size.

OUT/evaluation/compare-<arm>-<seed>[-<pairs>][-<model>].parquet    its scores and metrics, query by query
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from hnmine.arms.arm import Arm
from hnmine.arms.list_maker import ListMaker, Mined
from hnmine.comparison.audit import hide_positives, risk_of
from hnmine.config.base import slug
from hnmine.project import Project
from hnmine.ranking.evaluate import KeptScores, Measured
from hnmine.ranking.measures import MAIN_METRIC, PerQuery, means
from hnmine.runs.files import digest
from hnmine.runs.folder import RERANKERS
from hnmine.runs.progress import say, track
from hnmine.training.gradient import Recipe
from hnmine.training.lists import Lists, TrainingData
from hnmine.training.trainer import WARMED_UP, Trainer, Training
from hnmine.types import Int64

FIRST_STAGE, NO_TRAINING = "first stage", "no fine-tuning"
"""The rankings that no arm was trained for; the arms are tested against the second."""
_START = "compare-start"  # a folder of its own: with other settings, `train` begins with another
_FEWEST_TRIALS = 30  # hidden right answers that are worth a share


class Cell(BaseModel):
    """One training of one arm."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    arm: str
    seed: int
    learning_rate: float
    dev_by_rate: dict[str, float]
    """MAIN_METRIC on the dev queries, by learning rate."""
    dev_of_start: float
    best_step: int
    lists: int
    negatives: int
    documents: int = 0
    """Distinct ones among the negatives."""
    pairs_with_negatives: float
    """The share of the pairs: the yield."""
    seconds: float = 0
    metrics: dict[str, float] = {}
    """On the test queries."""
    blend: dict[str, float] = {}
    """Weights of the parts of its blend, chosen on dev."""
    blended: dict[str, float] = {}
    """The metrics of the blend, or of the re-ranker alone where dev adds nothing to it."""
    blended_on_dev: dict[str, float] = {}


class Arrived(NamedTuple):
    """A cell, and the metrics of its re-ranker query by query, alone and blended."""

    cell: Cell
    values: PerQuery
    blended: PerQuery


class Cells:
    """Trainings of arms from one start."""

    def __init__(self, project: Project, data: TrainingData, model: str, mined: Mined, suffix: str = "") -> None:
        """Make the start, if the model has no ranking head; `suffix` ends the names of what is kept of this start."""
        config, self._run, self._suffix = project.config, project.run, suffix
        self.model, self.pairs = model, len(data.pairs)
        train = config.train.model_copy(update={"model": model})
        config = config.model_copy(update={"train": train})
        self._settings, self._evaluator = config.compare, project.evaluator
        self._trainer = Trainer(data, config, self._run)
        self.start, warm_up = self._trainer.start(f"{_START}{suffix}")
        self.start_text = "" if warm_up is None else f"{model} {WARMED_UP}."
        self.maker = ListMaker(self._trainer, self.start, project.splits, project.ensemble, mined)
        self._kept = KeptScores(self._run, train.kind, train.max_tokens)
        self._order_P: Int64 = np.random.default_rng(config.seed).permutation(self.pairs)
        self._rates: dict[tuple[str, int | None], float] = {}  # learning rates that a first seed has found

    def references(self) -> dict[str, Measured]:
        """Return the first stage, and the re-ranker that all arms begin with, on the test queries."""
        name = f"compare: start{self._suffix}"
        scores = self._kept.of_folder(self._evaluator.tasks(name), self.start)
        return {FIRST_STAGE: self._evaluator.first_stage, NO_TRAINING: self._evaluator.measured(name, *scores)}

    def hidden_rates(self, arms: Mapping[str, Arm]) -> dict[str, float]:
        """Return how often each arm's first negative is a hidden right answer, where the train pairs can tell."""
        maker = self.maker
        trials = hide_positives(maker.pairs, self._trainer.data.never_negative, maker.query_rows)
        if len(trials.pairs) < _FEWEST_TRIALS:
            return {}
        # Leave out encoders that are trained: they would have seen what is hidden.
        measured = {name: arm for name, arm in arms.items() if arm.rule is not None and arm.method is None}
        rates: dict[str, float] = {}
        with track("audit", "hidden positives", len(measured) * len(trials.pairs), "pairs") as progress:
            for name, arm in measured.items():
                chosen = maker.negatives(arm, 1, 0, trials.pairs, trials.known)
                first = [(pair, rows[0]) for pair, rows in enumerate(chosen) if rows]
                pair_M, doc_rows_M = np.array(first, dtype=np.int64).reshape(-1, 2).T
                rates[name] = risk_of(trials, pair_M, doc_rows_M)["hidden"]
                progress.advance(len(trials.pairs))
        return rates

    def cell(self, name: str, arm: Arm, seed: int, pairs: int | None) -> Arrived | None:
        """Train the arm with this seed and measure it, or return what was measured before; None: nothing to train on.

        Of the pairs so many are used, the fewer among the more; None: all.
        """
        began = time.monotonic()
        # Make the lists, and name all that decides the training.
        positions = None if pairs is None else np.sort(self._order_P[:pairs])
        lists, recipe, facts = self.maker.lists(arm, seed, positions)
        if not lists:
            return None
        known_rate = self._rates.get((name, pairs))
        rates = self._settings.learning_rates if known_rate is None else (known_rate,)
        recipes = [replace(recipe, learning_rate=rate) for rate in rates]
        identity = digest([self._trainer.identity(self.start, lists, each) for each in recipes])
        # Find what came of it, or train at each learning rate.
        label = f"{slug(name)}-{seed}{'' if pairs is None else f'-{pairs}'}{self._suffix}"
        known = cell = self._run.cache.get(f"compare/{label}", identity, Cell)
        if cell is None:
            trainings = self._train(label, lists, recipes)
            best = max(trainings, key=lambda rate: trainings[rate].dev)
            cell = Cell(
                arm=name,
                seed=seed,
                learning_rate=best,
                dev_by_rate={f"{rate:g}": training.dev for rate, training in trainings.items()},
                dev_of_start=trainings[best].dev_by_step["0"],
                best_step=trainings[best].best_step,
                lists=len(lists),
                **facts,
            )
        rate = cell.learning_rate

        def model() -> Path:
            if known is not None:  # the model was removed when the cell was kept
                self._fit(label, lists, replace(recipe, learning_rate=rate))
            return self._trainer.folder(f"{label}-{rate:g}")

        # Score, measure by today's judgements, and keep it; remove the models: all arms' would fill a disk.
        tasks = self._evaluator.tasks(f"compare: {label}")
        scores = [self._kept.scores(task, key, [identity, rate], model) for key, task in tasks.items()]
        measured = self._evaluator.measured(name, *scores)
        cell = cell.model_copy(
            update={
                "metrics": means(measured.alone.values),
                "blend": dict(measured.weights),
                "blended": means(measured.best.values),
                "blended_on_dev": means(measured.best.dev or {}),
                "seconds": cell.seconds or round(time.monotonic() - began, 1),
            }
        )
        self._run.cache.put(f"compare/{label}", identity, cell)
        for each in cell.dev_by_rate:
            shutil.rmtree(self._trainer.folder(f"{label}-{each}"), ignore_errors=True)
            self._run.cache.drop(f"{RERANKERS}/{label}-{each}")
        self._rates[name, pairs] = rate
        result = f"{MAIN_METRIC} {cell.metrics[MAIN_METRIC]:.3f} at a learning rate of {rate:g}"
        say("compare", f"{name}, seed {seed}{'' if pairs is None else f', {pairs:,} pairs'}: {result}")
        return Arrived(cell, measured.alone.values, measured.best.values)

    def _train(self, label: str, lists: Lists, recipes: Sequence[Recipe]) -> dict[float, Training]:
        """Train with each recipe; while the largest of several learning rates is the best on dev, try twice as much."""
        trainings = {recipe.learning_rate: self._fit(label, lists, recipe) for recipe in recipes}
        largest = max(trainings)
        while len(trainings) > 1 and all(
            trainings[largest].dev > training.dev for rate, training in trainings.items() if rate < largest
        ):
            largest *= 2
            trainings[largest] = self._fit(label, lists, replace(recipes[0], learning_rate=largest))
        return trainings

    def _fit(self, label: str, lists: Lists, recipe: Recipe) -> Training:
        return self._trainer.fit(f"{label}-{recipe.learning_rate:g}", self.start, lists, recipe)
