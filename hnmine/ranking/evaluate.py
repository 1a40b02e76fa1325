"""First stage and re-rankers on the test queries: scored once, measured, blended, tested against the start.

OUT/evaluation/<name>.parquet    of every query the documents by id and row, their scores by one re-ranker, the metrics
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hnmine.config.root import Config
from hnmine.config.training import Kind
from hnmine.errors import DataError, ModelError
from hnmine.models.folder import folder_sha256, resolve
from hnmine.ranking.blend import best_weights, blended
from hnmine.ranking.measures import METRICS, Paired, PerQuery, Task, means, measure, paired, reach, rerank
from hnmine.ranking.splits import Splits
from hnmine.runs.cache import FilesAlone
from hnmine.runs.device import choose_device, choose_dtype
from hnmine.runs.files import digest
from hnmine.runs.folder import RERANKERS, START, Run
from hnmine.runs.manifest import versions
from hnmine.runs.progress import say, track
from hnmine.types import Float32, Int64, Texts

Cosines = Callable[[Texts, Int64], Mapping[str, Float32]]
"""(queries, document rows (Q, K)) → each encoder's cosines (Q, K) by encoder name; -inf where the row is NO_ROW."""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """One ranking of the test queries, and what it is worth alone and blended."""

    name: str
    scores_QK: Float32
    values: PerQuery
    weights: Mapping[str, float]
    """Of the parts of its blend, chosen on dev; empty where there is nothing to blend with."""
    gains_parts: bool
    """Whether dev gives another part a weight."""
    blended: PerQuery
    """Metrics of the blend; those of the ranking alone where dev adds nothing to it."""


def metrics_of(rankings: Sequence[Ranking]) -> dict[str, PerQuery]:
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

    def facts(self) -> dict[str, Any]:
        """Return what the manifest records."""
        return {
            "split": self.split,
            "queries": len(self.task),
            "long_queries": len(self.task.long),
            "first_stage_reach": reach(self.task),
            "metrics": {name: means(values) for name, values in metrics_of(self.rankings).items()},
            "blend": {ranking.name: dict(ranking.weights) for ranking in self.rankings if ranking.weights},
            "against_start": {
                name: {metric: vars(test) for metric, test in tests.items()} for name, tests in self.tests.items()
            },
        }


class Evaluator:
    """Measures rankings of the test queries, alone, and blended with first stage and encoders as dev chooses."""

    def __init__(self, splits: Splits, config: Config, cosines: Cosines) -> None:
        """Take the test and dev queries, or seeded samples of them; `cosines` is called only where it is blended."""
        evaluate, self._seed = config.evaluate, config.seed
        self.test = splits.task(splits.test, evaluate.queries, config.seed)
        self.dev = None if evaluate.blend == "none" else splits.task(splits.dev, config.train.dev_queries, config.seed)
        self._split, self._split_queries = splits.test_name, len(np.unique(splits.test.query_rows_P))
        self._label = {"bm25": "BM25", "dense": "dense"}.get(evaluate.first_stage, Path(evaluate.first_stage).name)
        self._cosines = cosines if evaluate.blend == "encoders" else None

    def tasks(self, name: str) -> dict[str, Task]:
        """Return what a re-ranker is asked, by the names under which its scores are kept: test; dev, if one blends."""
        return {name: self.test} | ({} if self.dev is None else {f"dev: {name}": self.dev})

    @cached_property
    def first_stage(self) -> Ranking:
        """What the first stage is worth, and its blend with the encoders: both need no training."""
        scores = (task.first_scores_QK for task in self.tasks("").values())
        return self.ranking(f"first stage: {self._label}", *scores, part=self._label)

    def ranking(
        self, name: str, test_QK: Float32, dev_QK: Float32 | None = None, *, part: str = "re-ranker"
    ) -> Ranking:
        """Measure a ranking by its scores on `tasks`; `part` is what it is called among the parts of its blend."""
        values = blend = measure(self.test, test_QK)
        weights: dict[str, float] = {}
        if self.dev is not None and dev_QK is not None:
            others_on_test, others_on_dev = self.parts
            on_dev = {part: dev_QK} | others_on_dev
            if len(on_dev) > 1:
                weights = best_weights(self.dev, on_dev)
                blend = measure(self.test, blended(self.test, {part: test_QK} | others_on_test, weights))
        gains = bool(weights.keys() - {part})
        return Ranking(name=name, scores_QK=test_QK, values=values, weights=weights, gains_parts=gains, blended=blend)

    def evaluation(self, rerankers: Sequence[Ranking] = ()) -> Evaluation:
        """Return first stage and re-rankers side by side; the first is the start that the others are tested against."""
        tests = {
            name: {metric: paired(values[metric], rerankers[0].values[metric], self._seed) for metric in METRICS}
            for name, values in metrics_of(rerankers[1:]).items()
        }
        rankings = (self.first_stage, *rerankers)
        return Evaluation(
            task=self.test, split=self._split, split_queries=self._split_queries, rankings=rankings, tests=tests
        )

    @cached_property
    def parts(self) -> list[dict[str, Float32]]:
        """The scores of the first stage and the encoders on `tasks`."""
        parts = []
        for task in self.tasks("").values():
            try:
                encoders = self._cosines(task.queries, task.doc_rows_QK) if self._cosines else {}
            except (DataError, ModelError) as error:  # vectors made elsewhere may lack these queries
                raise type(error)(f"{error}; or set evaluate.blend=first_stage, which asks no encoder") from None
            parts.append({self._label: task.first_scores_QK} | dict(encoders))
        return parts


class KeptScores:
    """Scores of a run's re-rankers of one kind; those that an earlier run left are taken where nothing has changed."""

    def __init__(self, run: Run, kind: Kind, max_tokens: int) -> None:
        self._run, config, device = run, run.config, choose_device(run.config.device)
        self._reading: dict[str, Any] = {  # all that decides scores but the weights
            "kind": kind,
            "max_tokens": max_tokens,
            "passages": config.evaluate.long_documents == "maxp",
            "dtype": choose_dtype(config.train.dtype, device.kind, training=True),
            "engine": config.engine,
            "device": device.torch_name,
        }

    def of_folder(self, tasks: Mapping[str, Task], folder: Path) -> list[Float32]:
        """Return the scores (Q, K) of the re-ranker in this folder on each task, kept under the tasks' names."""
        weights = folder_sha256(folder)
        return [self.scores(task, name, weights, lambda: folder) for name, task in tasks.items()]

    def scores(self, task: Task, name: str, weights: Any, model: Callable[[], Path]) -> Float32:
        """Return the scores (Q, K) of a re-ranker on a task, kept under this name.

        `weights`, JSON-able, decides those of the model; `model` finds its folder, if the scores are not known.
        """
        # Take known scores, or load the re-ranker.
        entry, identity = scores_file(name), digest([weights, task.texts, self._reading, versions()])
        path = self._run.out / entry
        if self._run.cache.get(entry, identity, FilesAlone) is not None:
            say("evaluate", f"{name}: reused {path}")
            scores_QK = np.array(pq.read_table(path, columns=["scores"])["scores"].to_pylist(), dtype=np.float32)
        else:
            from hnmine.models.reranker import load_reranker  # imports torch

            folder = model()
            with track("evaluate", name, int(task.exists_QK.sum()), "pairs") as progress:
                scores_QK = rerank(task, load_reranker(folder=folder, **self._reading).raw_scores, progress.advance)
        # Write known scores too: other judgements make other metrics.
        doc_rows = task.doc_rows_QK.tolist()
        columns = {
            "query_id": list(task.queries.ids),
            "document_ids": [[task.document_ids.get(row) for row in rows] for rows in doc_rows],  # null: no more
            "document_rows": doc_rows,
            "scores": scores_QK.tolist(),
        }
        self._run.write_table(entry, pa.table(columns | measure(task, scores_QK)))
        self._run.cache.put(entry, identity, FilesAlone(), [path])
        return scores_QK

    def remove_all_but(self, names: Collection[str]) -> None:
        """Remove the scores that an evaluation has left of other re-rankers than these; those of `compare` stay."""
        kept = set(map(scores_file, names))
        for path in (self._run.out / "evaluation").glob("*.parquet"):
            entry = path.relative_to(self._run.out).as_posix()
            if entry not in kept and path.name.removeprefix("dev-").startswith(("before-", "after-")):
                path.unlink()
                self._run.cache.drop(entry)


def scores_file(name: str) -> str:
    """Return the path in OUT of the scores that are kept under this name."""
    return f"evaluation/{name.replace(': ', '-').replace(' ', '-')}.parquet"


def read_metrics(path: Path) -> tuple[list[str], PerQuery]:
    """Return the query ids in a file of scores, and the metrics of each."""
    if not path.is_file():
        raise DataError(f"{path} does not exist; `hnmine evaluate` writes such files into OUT/evaluation")
    columns = ["query_id", *METRICS]
    try:
        rows = pq.read_table(path, columns=columns).select(columns)
    except (OSError, ValueError, KeyError) as error:  # Arrow's errors are children of these
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} is no file of OUT/evaluation that `hnmine evaluate` writes: {reason}") from None
    return rows.column("query_id").to_pylist(), {metric: rows.column(metric).to_numpy() for metric in METRICS}


def trained_rerankers(run: Run) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the folders of the start and of each preset's re-ranker, by name in the table; sha256 of files by path."""
    # Read the manifest.
    run.require_trained()
    training, folder = run.manifest["training"], run.out / RERANKERS
    if (wanted := run.config.train.max_tokens) != training["max_tokens"]:
        say("evaluate", f"train.max_tokens={wanted} is not used: these were trained with {training['max_tokens']}")
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
    return folders, files
