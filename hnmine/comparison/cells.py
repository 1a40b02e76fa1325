"""One training of one arm, and what it is worth on the test queries; each is kept and not done again.

An arm says which lists the re-ranker is trained on; all else is the same. Its learning rate is the best on dev, found
with the first seed: of one small grid, and beyond its end as long as dev gains, so that no arm loses by its step size.

OUT/evaluation/compare-<arm>-<seed>.parquet    its scores and metrics, query by query
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from pydantic import BaseModel, ConfigDict

from hnmine.arms.arm import Arm
from hnmine.arms.list_maker import ListMaker
from hnmine.arms.mined import Mined
from hnmine.comparison.hidden import HiddenChoices, hide_positives
from hnmine.config.base import slug
from hnmine.project import Project
from hnmine.ranking.evaluate import Ranking
from hnmine.ranking.measures import MAIN_METRIC, means
from hnmine.ranking.rescoring import KeptScores, Reading, scores_file
from hnmine.ranking.task import Task
from hnmine.report.arms import FIRST_STAGE, NO_TRAINING
from hnmine.runs.folder import RERANKERS
from hnmine.runs.hashing import digest
from hnmine.runs.progress import say, track
from hnmine.training.data import TrainingData
from hnmine.training.lists import Lists
from hnmine.training.recipe import Recipe
from hnmine.training.trainer import Trainer, Training
from hnmine.types import Float32, Int64

_START = "compare-start"  # a folder of its own: with other settings, `train` begins with another
_ENTRIES = "compare"  # of the cache
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
    pairs_with_negatives: float
    """The share of the pairs: the yield."""
    seconds: float
    metrics: dict[str, float] = {}
    """On the test queries."""
    blend: dict[str, float] = {}
    """Weights of the parts of its blend, chosen on dev."""
    blended: dict[str, float] = {}
    """The metrics of the blend."""

    @property
    def dev(self) -> float:
        """MAIN_METRIC on the dev queries at the chosen learning rate."""
        return self.dev_by_rate[f"{self.learning_rate:g}"]


class Cells:
    """Trainings of arms from one start."""

    def __init__(self, project: Project, data: TrainingData, model: str, mined: Mined, suffix: str = "") -> None:
        """Make the start, if the model has no ranking head; `suffix` ends the names of what is kept of this start."""
        config, self._run, self._suffix = project.config, project.run, suffix
        self.model, self.pairs = model, len(data.pairs)
        train = config.train.model_copy(update={"model": model})
        config = config.model_copy(update={"train": train})
        self._settings, self._evaluator = config.compare, project.evaluator
        self._trainer = Trainer(
            data, train, self._run, seed=config.seed, device=config.device, engine=config.engine, ray=config.ray
        )
        self.start, _ = self._trainer.start(f"{_START}{suffix}")
        self.maker = ListMaker(self._trainer, self.start, project.splits, project.ensemble, config, mined)
        self._kept = KeptScores(Reading.of(config, train.kind, train.max_tokens), self._run)
        self._order_P: Int64 = np.random.default_rng(config.seed).permutation(self.pairs)
        self._rates: dict[tuple[str, int | None], float] = {}  # learning rates that a first seed has found

    def references(self) -> dict[str, Ranking]:
        """Return the first stage, and the re-ranker that all arms begin with, on the test queries."""
        name, evaluator = f"compare: start{self._suffix}", self._evaluator
        test_QK = self._kept.scores(evaluator.test, name, self.start)
        dev_QK = None if evaluator.dev is None else self._kept.scores(evaluator.dev, f"dev: {name}", self.start)
        return {FIRST_STAGE: evaluator.first_stage, NO_TRAINING: evaluator.reranker(name, test_QK, dev_QK)}

    def hidden_rates(self, arms: Mapping[str, Arm]) -> dict[str, float]:
        """Return how often each arm's first negative is a hidden right answer, where the train pairs can tell."""
        maker = self.maker
        trials = hide_positives(maker.pairs, maker.groups_N, maker.never_negative)
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
                rates[name] = HiddenChoices.count(trials, pair_M, doc_rows_M).hidden_rate
                progress.advance(len(trials.pairs))
        return rates

    def cell(self, name: str, arm: Arm, seed: int, pairs: int | None) -> tuple[Cell, Ranking] | None:
        """Train the arm with this seed and measure it, or return what was measured before; None: nothing to train on.

        Of the pairs so many are used, the fewer among the more; None: all.
        """
        began = time.monotonic()
        # Make the lists, and name all that decides the result.
        positions = None if pairs is None else np.sort(self._order_P[:pairs])
        lists, recipe, facts = self.maker.lists(arm, seed, positions)
        if not len(lists):
            return None
        known_rate = self._rates.get((name, pairs))
        rates = self._settings.learning_rates if known_rate is None else (known_rate,)
        recipes = [replace(recipe, learning_rate=rate) for rate in rates]
        identity = digest(
            [
                [self._trainer.identity(self.start, lists, each) for each in recipes],
                self._kept.identity(self._evaluator.test),
            ]
        )
        # Find the training, or train at each learning rate and score with the best on dev.
        label = f"{slug(name)}-{seed}{'' if pairs is None else f'-{pairs}'}{self._suffix}"
        known = self._known(label, identity)
        if known is None:
            trainings = self._train(label, lists, recipes)
            best = max(trainings, key=lambda rate: trainings[rate].dev)
            model = self._trainer.folder(_model_name(label, best))
            scores = [self._kept.score(task, key, model) for key, task in self._tasks(label).items()]
            cell = Cell(
                arm=name,
                seed=seed,
                learning_rate=best,
                dev_by_rate={f"{rate:g}": training.dev for rate, training in trainings.items()},
                dev_of_start=trainings[best].dev_by_step["0"],
                best_step=trainings[best].best_step,
                lists=len(lists),
                **facts,
                seconds=round(time.monotonic() - began, 1),
            )
        else:
            cell, scores = known
        # Measure by today's judgements, and keep it.
        ranking = self._evaluator.reranker(name, scores[0], scores[1] if len(scores) > 1 else None)
        results = {"metrics": means(ranking.values), "blend": ranking.weights, "blended": means(ranking.blended)}
        cell = cell.model_copy(update=results)
        self._keep(label, identity, cell, scores, self._run.cache.files(f"{_ENTRIES}/{label}") if known else ())
        self._rates[name, pairs] = cell.learning_rate
        result = f"{MAIN_METRIC} {cell.metrics[MAIN_METRIC]:.3f} at a learning rate of {cell.learning_rate:g}"
        say("compare", f"{name}, seed {seed}{'' if pairs is None else f', {pairs:,} pairs'}: {result}")
        return cell, ranking

    def _known(self, label: str, identity: str) -> tuple[Cell, list[Float32]] | None:
        """Return a cell that was kept, and its scores on test, and on dev where something is blended."""
        cell = self._run.cache.get(f"{_ENTRIES}/{label}", identity, Cell)
        tasks, files = self._tasks(label), self._run.cache.files(f"{_ENTRIES}/{label}")
        if cell is None or any(scores_file(name) not in files for name in tasks):
            return None
        found = [self._kept.read(task, name) for name, task in tasks.items()]
        scores = [scores_QK for scores_QK in found if scores_QK is not None]
        return (cell, scores) if len(scores) == len(tasks) else None

    def _keep(self, label: str, identity: str, cell: Cell, scores: Sequence[Float32], others: Iterable[str]) -> None:
        """Keep a cell, its scores, and other files of scores; remove the models: all arms' would fill a disk."""
        cache, out, files = self._run.cache, self._run.out, set(others)
        for (name, task), scores_QK in zip(self._tasks(label).items(), scores, strict=True):
            self._kept.write(task, name, scores_QK)
            files.add(scores_file(name))
        cache.put(f"{_ENTRIES}/{label}", identity, cell, [out / file for file in files])
        for rate in cell.dev_by_rate:
            model = _model_name(label, float(rate))
            shutil.rmtree(self._trainer.folder(model), ignore_errors=True)
            cache.drop(f"{RERANKERS}/{model}")

    def _tasks(self, label: str) -> dict[str, Task]:
        """Return the test queries, and the dev queries where something is blended, by the name of a cell's scores."""
        test, dev = self._evaluator.test, self._evaluator.dev
        return {f"compare: {label}": test} | ({} if dev is None else {f"dev: compare: {label}": dev})

    def _train(self, label: str, lists: Lists, recipes: Sequence[Recipe]) -> dict[float, Training]:
        """Train with each recipe; where the largest of several learning rates is the best on dev, double it, and so on.

        So no arm loses by a grid that ends too early for it.
        """

        def fit(recipe: Recipe) -> Training:
            return self._trainer.fit(_model_name(label, recipe.learning_rate), self.start, lists, recipe)

        trainings = {recipe.learning_rate: fit(recipe) for recipe in recipes}
        largest = max(trainings)
        while len(trainings) > 1 and all(
            trainings[largest].dev > training.dev for rate, training in trainings.items() if rate < largest
        ):
            largest *= 2
            trainings[largest] = fit(replace(recipes[0], learning_rate=largest))
        return trainings


def _model_name(label: str, rate: float) -> str:
    return f"{label}-{rate:g}"
