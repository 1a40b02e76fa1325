"""First stage and re-rankers on the test queries: scored once, measured, blended, tested against what was there before.

OUT/evaluation/<name>.parquet    of every query the documents by id, their scores by one re-ranker, the metrics
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from hnmine.config.root import Config
from hnmine.config.training import Kind
from hnmine.errors import DataError, ModelError
from hnmine.models.folder import RANKER_FILE, folder_sha256, resolve
from hnmine.ranking.blend import best_weights, blended
from hnmine.ranking.measures import MAIN_METRIC, METRICS, Paired, PerQuery, Task, means, measure, paired, reach, rerank
from hnmine.ranking.rows import DEV, Row, RowKind, scores_file, scores_of, scores_table, write_rows
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
RERANKER = "re-ranker"
"""The name of this part in all blends."""
FIRST_SLUG = "first-stage"
BEFORE = "before: "
"""How the names of re-rankers begin that no training of this run has made."""

DEV_ALONE = "There is no test split: these are the dev queries, which chose, and the figures flatter."


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """One order of the queries' documents, a row of the table, and what it is worth."""

    name: str
    slug: str
    kind: RowKind
    weights: Mapping[str, float]
    """Of its parts: a blend's several, else the one that it is."""
    scores_QK: Float32
    """On the test queries."""
    values: PerQuery
    """On the test queries."""
    dev_QK: Float32 | None = None
    dev: PerQuery | None = None
    """On the dev queries; None where these cannot be asked."""

    def row(self, milliseconds: float | None) -> Row:
        """Return what `rows.json` says of it."""
        facts: dict[str, Any] = {"name": self.name, "slug": self.slug, "kind": self.kind, "weights": dict(self.weights)}
        worth = {"dev": means(self.dev) if self.dev else {}, "test": means(self.values)}
        return Row(**facts, **worth, milliseconds_per_query=milliseconds)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A ranking by itself, and in the best sum with first stage and encoders."""

    alone: Ranking
    blend: Ranking | None = None
    """None: dev gives no other part a weight."""
    weights: Mapping[str, float]
    """Of the parts of its blend, chosen on dev; empty where there is nothing to blend with."""

    @property
    def best(self) -> Ranking:
        """The blend, or the ranking itself where dev adds nothing to it."""
        return self.blend or self.alone

    def like(self, row: Ranking) -> Ranking:
        """Return what can be compared with a row: the ranking itself with one that stands alone, else its blend."""
        return self.best if row.kind.startswith("blend") else self.alone


def rows_of(measured: Sequence[Measured]) -> list[Ranking]:
    """Return every ranking, then the blends; a blend that leaves its re-ranker out is the first stage's, not a row."""
    blends = [each.blend for each in measured if each.blend is not None]
    alone = [each.alone for each in measured]
    return alone + [blend for blend in blends if blend.kind != "blend" or blend.slug == f"blended-{FIRST_SLUG}"]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Rankings of the test queries, side by side."""

    task: Task
    split: str
    split_queries: int
    """Of which the task may be a sample."""
    measured: Sequence[Measured]
    """The first stage; the start, if it can rank; what each training made of it."""
    rows: Sequence[Ranking]
    tests: Mapping[str, Mapping[str, Paired]]
    """Of each row after training, by metric, against the start, of a blend against the start's."""
    untrained: Ranking
    """The best on dev of what needs no training: what somebody would deploy who does not train."""
    untrained_tests: Mapping[str, Mapping[str, Paired]]
    """Of each row after training, by the main metric, against that."""
    test_is_dev: bool = False
    """Whether the dev queries are reported, for want of others."""

    @property
    def reported(self) -> str:
        """What the figures are on."""
        return "dev" if self.test_is_dev else "test"

    def facts(self) -> dict[str, Any]:
        """Return what the manifest records."""
        return {
            "split": self.split,
            "test_is_dev": self.test_is_dev,
            "queries": len(self.task),
            "long_queries": len(self.task.long),
            "first_stage_reach": reach(self.task),
            "metrics": {row.name: means(row.values) for row in self.rows},
            "blend": {each.alone.name: dict(each.weights) for each in self.measured if each.weights},
            "against_start": _as_json(self.tests),
            "untrained": self.untrained.name,
            "against_untrained": _as_json(self.untrained_tests),
        }


def _as_json(tests: Mapping[str, Mapping[str, Paired]]) -> dict[str, Any]:
    return {name: {metric: vars(test) for metric, test in of_row.items()} for name, of_row in tests.items()}


class Evaluator:
    """Measures rankings of the test queries, alone, and blended with first stage and encoders as dev chooses."""

    def __init__(self, splits: Splits, config: Config, cosines: Cosines) -> None:
        """Take the test and dev queries, or seeded samples of them; `cosines` is called only where it is blended."""
        evaluate, self._seed = config.evaluate, config.seed
        self.test = splits.task(splits.test, evaluate.queries, config.seed)
        self.dev = splits.task_if_any(splits.dev, config.train.dev_queries, config.seed)
        self.test_is_dev = splits.test is splits.dev
        self._split, self._split_queries = splits.test_name, len(np.unique(splits.test.query_rows_P))
        self._label = {"bm25": "BM25", "dense": "dense"}.get(evaluate.first_stage, Path(evaluate.first_stage).name)
        self._cosines = cosines if evaluate.blend == "encoders" else None
        self._blends = evaluate.blend != "none"
        if self.dev is None:
            say(
                "evaluate",
                f"first stage {self._label} has no document for any query of {splits.dev_name}, the dev queries: "
                "nothing can be blended or chosen; let it answer these too, or name others as sources.dev_split",
                level="warning",
            )

    def tasks(self, name: str) -> dict[str, Task]:
        """Return what a re-ranker is asked, by the names under which its scores are kept: test, and dev if it can."""
        return {name: self.test} | ({} if self.dev is None else {DEV + name: self.dev})

    @cached_property
    def first_stage(self) -> Measured:
        """What the first stage is worth, and its blend with the encoders: both need no training."""
        scores = (task.first_scores_QK for task in self.tasks("").values())
        return self.measured(f"first stage: {self._label}", *scores, part=self._label)

    def measured(self, name: str, test_QK: Float32, dev_QK: Float32 | None = None, *, part: str = RERANKER) -> Measured:
        """Measure a ranking by its scores on `tasks`; `part` is what it is called among the parts of its blend."""
        # Alone.
        is_first = part != RERANKER
        kind: RowKind = "first-stage" if is_first else "re-ranker"
        slug = FIRST_SLUG if is_first else Path(scores_file(name)).stem
        alone = self.ranking(name, slug, kind, {part: 1.0}, test_QK, dev_QK)
        if self.dev is None or dev_QK is None or not self._blends:
            return Measured(alone=alone, weights={})

        # Summed.
        on_test, on_dev = (
            {part: alone_QK} | dict(others) for alone_QK, others in zip((test_QK, dev_QK), self.parts, strict=True)
        )
        if len(on_dev) < 2:
            return Measured(alone=alone, weights={})
        weights = best_weights(self.dev, on_dev)
        if not weights.keys() - {part}:
            return Measured(alone=alone, weights=weights)
        sums = blended(self.test, on_test, weights), blended(self.dev, on_dev, weights)
        kind = "blend-with-re-ranker" if RERANKER in weights else "blend"
        blend = self.ranking(f"{name}, blended", f"blended-{slug}", kind, weights, *sums)
        return Measured(alone=alone, blend=blend, weights=weights)

    def ranking(
        self,
        name: str,
        slug: str,
        kind: RowKind,
        weights: Mapping[str, float],
        test_QK: Float32,
        dev_QK: Float32 | None,
    ) -> Ranking:
        """Measure an order of `tasks` by its scores."""
        dev = None if self.dev is None or dev_QK is None else measure(self.dev, dev_QK)
        scores: dict[str, Any] = {"scores_QK": test_QK, "dev_QK": dev_QK}
        return Ranking(
            name=name, slug=slug, kind=kind, weights=weights, values=measure(self.test, test_QK), dev=dev, **scores
        )

    def evaluation(self, rerankers: Sequence[Measured] = ()) -> Evaluation:
        """Return first stage and re-rankers side by side.

        Those named `BEFORE` are not trained; the first of them is the start that the others are tested against.
        """
        # What needs no training, and the best of it on dev.
        measured = (self.first_stage, *rerankers)
        start = next((each for each in rerankers if each.alone.name.startswith(BEFORE)), None)
        untrained = rows_of([each for each in measured if not _is_trained(each)])
        best = max(untrained, key=lambda row: row.dev[MAIN_METRIC].mean() if row.dev else 0.0)

        # Test what was trained against both.
        trained = rows_of([each for each in rerankers if _is_trained(each)])
        return Evaluation(
            task=self.test,
            split=self._split,
            split_queries=self._split_queries,
            measured=measured,
            rows=rows_of(measured),
            tests={row.name: self.tested(row, start.like(row)) for row in trained} if start else {},
            untrained=best,
            untrained_tests={row.name: self.tested(row, best, (MAIN_METRIC,)) for row in trained},
            test_is_dev=self.test_is_dev,
        )

    def tested(self, after: Ranking, before: Ranking, metrics: Iterable[str] = METRICS) -> dict[str, Paired]:
        """Test two rankings of the test queries, metric by metric; each takes seconds where queries are thousands."""
        return {metric: paired(after.values[metric], before.values[metric], self._seed) for metric in metrics}

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


def write_evaluation(
    evaluation: Evaluation, dev: Task | None, milliseconds: Mapping[str, float | None], run: Run
) -> list[str]:
    """Write the rows and their scores, remove those of rows that are gone; return the files by path in OUT."""
    tables: dict[str, tuple[Task, Float32]] = {}
    for row in evaluation.rows:
        tables[row.slug] = evaluation.task, row.scores_QK
        if dev is not None and row.dev_QK is not None:
            tables[DEV + row.slug] = dev, row.dev_QK
    _remove_all_but(tables, run)
    return write_rows(run.out, [row.row(milliseconds.get(row.name)) for row in evaluation.rows], tables)


def _is_trained(measured: Measured) -> bool:
    return measured.alone.kind == "re-ranker" and not measured.alone.name.startswith(BEFORE)


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
            scores_QK = scores_of(task, pq.read_table(path, columns=["scores"]))
        else:
            from hnmine.models.reranker import load_reranker  # imports torch

            folder = model()
            with track("evaluate", name, int(task.exists_QK.sum()), "pairs") as progress:
                scores_QK = rerank(task, load_reranker(folder=folder, **self._reading).raw_scores, progress.advance)
        # Write known scores too: other judgements make other metrics.
        self._run.write_table(entry, scores_table(task, scores_QK))
        self._run.cache.put(entry, identity, FilesAlone(), [path])
        return scores_QK


def _remove_all_but(names: Collection[str], run: Run) -> None:
    """Remove what an evaluation has left of other rows than these; the scores of `compare` stay."""
    kept = set(map(scores_file, names))
    for path in (run.out / "evaluation").glob("*.parquet"):
        entry = path.relative_to(run.out).as_posix()
        if entry not in kept and path.name.removeprefix("dev-").startswith(_LEFT_BY_EVALUATIONS):
            path.unlink()
            run.cache.drop(entry)


_LEFT_BY_EVALUATIONS = ("before-", "after-", f"{FIRST_SLUG}.", "blended-", "deployed-before")


@dataclass(frozen=True)
class Reranker:
    """A re-ranker, and how it reads."""

    folder: Path
    kind: Kind
    max_tokens: int


Rerankers = tuple[dict[str, Reranker], dict[str, str]]
"""By name in the table; and the sha256 of the files of the run that they are, by path."""


def rerankers_of(run: Run) -> Rerankers:
    """Return the start and each preset's re-ranker, by name in the table; the sha256 of files of the run, by path.

    Where nothing was trained, train.model as it is, or nothing if that has no ranking head.
    """
    # Read the manifest.
    training, folder, config = run.manifest.get("training"), run.out / RERANKERS, run.config.train
    if not training:
        return _untrained(run), {RERANKERS: "none was trained"}  # which no file matches, once one is
    reads: dict[str, Any] = {"kind": training["kind"], "max_tokens": training["max_tokens"]}
    if config.max_tokens != reads["max_tokens"]:
        message = f"train.max_tokens={config.max_tokens} is not used: these were trained with {reads['max_tokens']}"
        say("evaluate", message)
    start = training["start"]
    name, model = ("warm-started", folder / START) if start["warmed_up"] else ("as given", resolve(start["model"]))
    rerankers = {f"{BEFORE}{name}": Reranker(model, **reads)}
    for preset, facts in training["presets"].items():  # of an earlier command one may read in another way
        how = {key: facts.get(key, value) for key, value in reads.items()}
        rerankers[f"after: {preset}"] = Reranker(folder / preset, **how)
    # Refuse a start that has changed, and models that the manifest does not name, as a stopped training leaves them.
    if start.get("files") and not start["warmed_up"] and start["files"] != digest(folder_sha256(model)):
        raise DataError(
            f"train.model, {model}, is not what was trained from; bring it back, or run `hnmine train` again"
        )
    prefixes = tuple(f"{RERANKERS}/{each.folder.name}/" for each in rerankers.values())
    files = {path: sha256 for path, sha256 in run.manifest["files"].items() if path.startswith(prefixes)}
    on_disk = run.sha256_of(*files)
    if changed := [path for path, sha256 in files.items() if on_disk.get(path) != sha256]:
        raise DataError(
            f"{(run.out / changed[0]).parent} is not as {run.out / 'manifest.json'} says, perhaps since a later "
            "`hnmine train` was stopped; run `hnmine train` again"
        )
    return rerankers, files


def _untrained(run: Run) -> dict[str, Reranker]:
    """Return train.model as it is, and say so."""
    from hnmine.models.ranking_head import has_ranking_head  # imports torch

    config, nothing = run.config.train, f"{run.out} holds no trained re-ranker"
    ranker = Path(config.model).expanduser()
    if (ranker / RANKER_FILE).is_file() and not (ranker / RERANKER).is_dir():
        say("evaluate", f"{nothing}, and the ranker train.model={config.model} has none: it is compared as it is")
        return {}
    try:
        folder = resolve(config.model)
    except ModelError as error:
        raise ModelError(f"{nothing}, so train.model is scored as it is: {error}") from None
    if config.kind == "cross-encoder" and not has_ranking_head(folder):
        say("evaluate", f"{nothing}, and train.model={config.model} has no ranking head: first stage and blend alone")
        return {}
    say("evaluate", f"{nothing}: train.model={config.model} is scored as it is")
    return {f"{BEFORE}as given": Reranker(folder, config.kind, config.max_tokens)}
