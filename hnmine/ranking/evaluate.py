"""The first stage and re-rankers on the test queries: measured, blended, tested against the start. Numbers only.

`report` makes the tables of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hnmine.config.ranking import EvaluateConfig
from hnmine.config.training import Kind
from hnmine.errors import DataError, ModelError
from hnmine.models.folder import resolve
from hnmine.ranking.blend import best_weights, blended
from hnmine.ranking.measures import METRICS, Paired, PerQuery, means, measure, paired, reach
from hnmine.ranking.splits import Splits
from hnmine.ranking.task import Task
from hnmine.runs.folder import RERANKERS, START, Run
from hnmine.runs.progress import say
from hnmine.types import Float32, Int64, Texts

RERANKER = "re-ranker"
"""The name of a re-ranker among the parts of its blend."""

Cosines = Callable[[Texts, Int64], Mapping[str, Float32]]
"""(queries, document rows (Q, K)) → each encoder's cosines (Q, K) by encoder name; -inf where the row is NO_ROW."""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """One ranking of the test queries, and what it is worth alone and blended."""

    name: str
    part: str
    """What it is called among the parts of its blend."""
    scores_QK: Float32
    values: PerQuery
    weights: Mapping[str, float]
    """Of the parts of its blend, chosen on dev; empty where there is nothing to blend with."""
    blended: PerQuery
    """Metrics of the blend; those of the ranking alone where dev adds nothing to it."""

    @property
    def gains_parts(self) -> bool:
        """Whether dev gives another part a weight."""
        return bool(self.weights.keys() - {self.part})


def rows_of(rankings: Sequence[Ranking]) -> dict[str, PerQuery]:
    """Return the metrics of every ranking, then those of the blends in which dev gives another part a weight."""
    alone = {ranking.name: ranking.values for ranking in rankings}
    return alone | {f"{ranking.name}, blended": ranking.blended for ranking in rankings if ranking.gains_parts}


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Rankings of the test queries, side by side."""

    task: Task
    split: str
    split_queries: int
    """Of which the task may be a sample."""
    rankings: Sequence[Ranking]
    """The first stage; once there is a training, the start and what each preset made of it."""
    tests: Mapping[str, Mapping[str, Paired]]
    """Of each row after training, by metric, against the start."""

    @property
    def rows(self) -> dict[str, PerQuery]:
        """The metrics by row of the table."""
        return rows_of(self.rankings)

    def facts(self) -> dict[str, Any]:
        """Return what the manifest records."""
        return {
            "split": self.split,
            "queries": len(self.task),
            "long_queries": len(self.task.long),
            "first_stage_reach": reach(self.task),
            "metrics": {name: means(values) for name, values in self.rows.items()},
            "blend": {ranking.name: dict(ranking.weights) for ranking in self.rankings if ranking.weights},
            "against_start": {
                name: {metric: vars(test) for metric, test in tests.items()} for name, tests in self.tests.items()
            },
        }


class Evaluator:
    """Measures rankings of the test queries, alone and blended with the first stage and the encoders.

    The dev queries choose the weights of a blend; they have chosen the step of each training too.
    """

    test: Task
    dev: Task | None
    """None where nothing is blended."""

    def __init__(
        self, splits: Splits, evaluate: EvaluateConfig, *, dev_queries: int, seed: int, cosines: Cosines
    ) -> None:
        """Take the test and dev queries, or seeded samples of them; `cosines` is called only where it is blended."""
        self.test = splits.task(splits.test, evaluate.queries, seed)
        self.dev = None if evaluate.blend == "none" else splits.task(splits.dev, dev_queries, seed)
        self._split, self._split_queries = splits.test_name, len(np.unique(splits.test.query_rows_P))
        self._label = {"bm25": "BM25", "dense": "dense"}.get(evaluate.first_stage, Path(evaluate.first_stage).name)
        self._cosines = cosines if evaluate.blend == "encoders" else None

    def tasks(self, name: str) -> dict[str, Task]:
        """Return the queries that a re-ranker is asked about, test first, by the names under which scores are kept."""
        return {name: self.test} | ({} if self.dev is None else {f"dev: {name}": self.dev})

    @cached_property
    def first_stage(self) -> Ranking:
        """What the first stage is worth, and its blend with the encoders: both need no training."""
        return self._ranking(f"first stage: {self._label}", self._label, [{}, {}], self.test.first_scores_QK)

    def reranker(self, name: str, test_QK: Float32, dev_QK: Float32 | None = None) -> Ranking:
        """Measure a re-ranker by its scores on `tasks`."""
        scores = [] if dev_QK is None else [{RERANKER: dev_QK}, {RERANKER: test_QK}]
        return self._ranking(name, RERANKER, scores, test_QK)

    def evaluation(self, rerankers: Sequence[Ranking] = (), seed: int = 0) -> Evaluation:
        """Return first stage and re-rankers side by side; the first is the start that the others are tested against."""
        tests = {
            name: {metric: paired(values[metric], rerankers[0].values[metric], seed) for metric in METRICS}
            for name, values in rows_of(rerankers[1:]).items()
        }
        return Evaluation(
            task=self.test,
            split=self._split,
            split_queries=self._split_queries,
            rankings=(self.first_stage, *rerankers),
            tests=tests,
        )

    def _ranking(self, name: str, part: str, scores: list[dict[str, Float32]], test_QK: Float32) -> Ranking:
        """Measure a ranking; `scores` on dev and test stand before the others' in the blend."""
        values = blend = measure(self.test, test_QK)
        weights: Mapping[str, float] = {}
        if self.dev is not None:
            on_dev, on_test = (first | others for first, others in zip(scores, self._other_parts, strict=True))
            if len(on_dev) > 1:
                weights = best_weights(self.dev, on_dev)
                blend = measure(self.test, blended(self.test, on_test, weights))
        return Ranking(name=name, part=part, scores_QK=test_QK, values=values, weights=weights, blended=blend)

    @cached_property
    def _other_parts(self) -> list[dict[str, Float32]]:
        """The scores on dev and on test of the first stage and the encoders."""
        assert self.dev is not None
        parts = []
        for task in (self.dev, self.test):
            try:
                encoders = self._cosines(task.queries, task.doc_rows_QK) if self._cosines else {}
            except (DataError, ModelError) as error:  # vectors made elsewhere may lack these queries
                raise type(error)(f"{error}; or set evaluate.blend=first_stage, which asks no encoder") from None
            parts.append({self._label: task.first_scores_QK} | dict(encoders))
        return parts


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The re-rankers of a run, and how they read."""

    folders: Mapping[str, Path]
    """By name in the table: the start, then what each preset made of it."""
    kind: Kind
    max_tokens: int
    files: Mapping[str, str]
    """sha256 of the files of those in OUT, by path there."""


def trained_rerankers(run: Run, max_tokens: int) -> Trained:
    """Return what was trained into the run; it reads as many tokens as in its training, whatever is configured now.

    Raises:
        DataError: OUT holds no trained re-ranker, or others than its manifest says.
        ModelError: the start is not there any more.
    """
    # Read the manifest.
    run.require_trained()
    training, folder = run.manifest["training"], run.out / RERANKERS
    if max_tokens != training["max_tokens"]:
        message = f"train.max_tokens={max_tokens} is not used: these were trained with {training['max_tokens']}"
        say("evaluate", message)
    start = training["start"]
    name, model = ("warm-started", folder / START) if start["warmed_up"] else ("as given", resolve(start["model"]))
    folders = {f"before: {name}": model} | {f"after: {preset}": folder / preset for preset in training["presets"]}
    # Refuse models that the manifest does not name, as a training that was stopped leaves them.
    prefixes = tuple(f"{RERANKERS}/{each.name}/" for each in folders.values())
    files = {path: sha256 for path, sha256 in run.manifest["files"].items() if path.startswith(prefixes)}
    found = run.sha256_of(*files)
    if changed := [path for path, sha256 in files.items() if found.get(path) != sha256]:
        raise DataError(
            f"{(run.out / changed[0]).parent} is not as {run.out / 'manifest.json'} says, perhaps since a later "
            "`hnmine train` was stopped; run `hnmine train` again"
        )
    return Trained(folders=folders, kind=training["kind"], max_tokens=training["max_tokens"], files=files)
