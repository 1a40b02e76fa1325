"""The re-rankers of a run on its test queries: scored once, measured, tested against the start, put side by side.

OUT/evaluation/<kind>-<name>.parquet    of every query the documents, their scores, the metrics
OUT/evaluation/changes-<name>.md        the queries that a training changed most, with texts
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hnmine.config.root import Config
from hnmine.config.training import Kind, TrainConfig
from hnmine.mining.legacy_ensemble import cosines
from hnmine.errors import DataError, ModelError
from hnmine.models import folder as weights
from hnmine.ranking.blend import best_weights, blended
from hnmine.ranking.first_stage import NO_ROW
from hnmine.ranking.significance import Paired, paired
from hnmine.ranking.splits import Splits
from hnmine.ranking.task import METRICS, PerQuery, Task, means, measure, reach, rerank, table, table_by_length
from hnmine.report.examples import shortened
from hnmine.runs import device as devices
from hnmine.runs.folder import Run, versions
from hnmine.runs.hashing import digest
from hnmine.runs.progress import say, track
from hnmine.types import Float32

TESTED = "MRR@10"
"""What is tested against the start, and orders the changes."""
_CHANGES = 10  # queries shown of those that gained most, and of those that lost most
_BLENDED = ", blended"
RERANKER = "re-ranker"
"""What a re-ranker is called beside what it is blended with."""
_FIRST_STAGE = "first stage"
_BEFORE = "before: "
_AFTER = "after: "


def compare(splits: Splits, config: Config, run: Run) -> tuple[dict[str, Any], dict[str, str], dict[str, str]]:
    """Measure the first stage, the start and every trained re-ranker on the test queries.

    Returns:
        what to record; the sha256 of the run's files it was made from; those of the files that were written.

    Raises:
        DataError: OUT holds no trained re-ranker, or others than its manifest says.
    """
    rerankers, kind, max_tokens = _rerankers(config.train, run)
    _refuse_others(rerankers, run)
    task = splits.task(splits.test, config.evaluate.queries, config.seed)
    scorer = Scorer(task, config, kind, max_tokens, run)
    blend = Blend(splits, task, config, kind, max_tokens, run)
    scores = {f"{_FIRST_STAGE}: {_label(config.evaluate.first_stage)}": task.first_scores_QK}
    scores |= {name: scorer.scores(name, folder) for name, folder in rerankers.items()}
    rows = {name: measure(task, of) for name, of in scores.items()}
    blends: dict[str, dict[str, float]] = {}
    for name, of in scores.items():
        asked = blend.scorer if name in rerankers else None
        made_of, values = blend.of(of, None if asked is None else asked.scores(name, rerankers[name]))
        if made_of:
            blends[name] = made_of
        if not _is_alone(name, made_of):
            rows[f"{name}{_BLENDED}"] = values
    before = next(name for name in rows if name.startswith(_BEFORE))
    tests = {
        name: {metric: paired(values[metric], rows[before][metric], config.seed) for metric in METRICS}
        for name, values in rows.items()
        if name.startswith(_AFTER)
    }
    written = scorer.tables + [
        _write_changes(task, name, before, scores, rows, run) for name in tests if name in scores
    ]
    written += [] if blend.scorer is None else blend.scorer.tables
    own = [*(f"{kind}-*.parquet" for kind in ("before", "after", "dev-before", "dev-after")), "changes-*.md"]
    for pattern in own:
        for path in (run.out / "evaluation").glob(pattern):
            if path.relative_to(run.out).as_posix() not in written:
                path.unlink()  # of a re-ranker that is not compared any more
    every = len(np.unique(splits.test.query_rows_P))
    queries = f"{len(task):,}" if len(task) == every else f"{len(task):,} of {every:,}"
    taught = "distilled" in run.manifest["training"]
    title = f"{queries} {splits.test_name} queries, the first {config.evaluate.depth} documents re-ranked"
    found = {
        "split": splits.test_name,
        "queries": len(task),
        "long_queries": len(task.long),
        "max_tokens": max_tokens,
        "first_stage_reach": reach(task),
        "metrics": {name: means(values) for name, values in rows.items()},
        "blend": blends,
        "against_start": {name: {metric: vars(test) for metric, test in of.items()} for name, of in tests.items()},
        "table": _text(task, title, rows, {name: of[TESTED] for name, of in tests.items()}, blends, taught),
    }
    return found, scorer.inputs, run.sha256_of(*written)


def between(after: Path, before: Path) -> str:
    """Compare two files of OUT/evaluation, of one run or of two, over the queries that both have; return a table.

    Raises:
        DataError: a file is none of these, or they have no query in common.
    """
    values = [_read_metrics(path) for path in (after, before)]
    shared = sorted(values[0].keys() & values[1].keys())
    if not shared:
        raise DataError(f"{after} and {before} have no query in common")
    lines = [f"{after} against {before}, {len(shared):,} queries", ""]
    lines.append(f"{'':<10} {'after':>7} {'before':>7}  {'change':>7}  95 % interval       p")
    for metric in METRICS:
        after_Q, before_Q = (np.array([of[query][metric] for query in shared]) for of in values)
        test = paired(after_Q, before_Q)
        lines.append(
            f"{metric:<10} {after_Q.mean():>7.3f} {before_Q.mean():>7.3f}  {test.difference:>+7.3f}  "
            f"{test.low:+.3f} to {test.high:+.3f}  {test.p:>6.2g}"
        )
    return "\n".join(lines)


def _read_metrics(path: Path) -> dict[str, dict[str, float]]:
    if not path.is_file():
        raise DataError(f"{path} does not exist; `hnmine evaluate` writes such files into OUT/evaluation")
    try:
        rows = pq.read_table(path, columns=["query_id", *METRICS]).to_pylist()
        return {row["query_id"]: row for row in rows}
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} is no file of OUT/evaluation that `hnmine evaluate` writes: {reason}") from None


def _text(
    task: Task,
    title: str,
    rows: dict[str, PerQuery],
    tests: dict[str, Paired],
    blends: Mapping[str, Mapping[str, float]],
    taught: bool,
) -> str:
    """Return what is printed; `taught`: first stage and encoders have taught one of the re-rankers."""
    by_length = table_by_length(task, rows)
    parts = [
        table(rows, title, tests),
        f"The first stage has {reach(task):.1%} of the right documents; re-ranking cannot bring back the others.\n"
        "In brackets the 95 % interval and the p-value of a paired randomisation test against the start.",
        _of_blends(blends),
        "" if taught else _advice(rows),
        by_length,
    ]
    return "\n\n".join(filter(None, parts))


def _of_blends(blends: Mapping[str, Mapping[str, float]]) -> str:
    """Say what the blends are made of; nothing where there are none."""
    if not blends:
        return ""
    nothing = f"nothing: on dev no sum has a higher {TESTED} than this alone"
    lines = ["blended: the sum of several scores, each with mean 0 and standard deviation 1 over a query's documents;"]
    lines.append("the weights are chosen on dev:")
    width = max(map(len, blends))
    for name, of in blends.items():
        listed = "  ".join(f"{weight:.2f} {other}" for other, weight in of.items())
        lines.append(f"  {name:<{width}}  {nothing if _is_alone(name, of) else listed}")
    return "\n".join(lines)


def _is_alone(name: str, blend: Mapping[str, float]) -> bool:
    """Whether nothing is added to what has this name."""
    return blend.keys() <= {name.removeprefix(f"{_FIRST_STAGE}: ") if name.startswith(_FIRST_STAGE) else RERANKER}


def _advice(rows: Mapping[str, PerQuery]) -> str:
    """Say so where first stage and encoders know more than any of these re-rankers."""
    means_of = {name: float(values[TESTED].mean()) for name, values in rows.items()}
    first = next((name for name in rows if name.startswith(_FIRST_STAGE) and name.endswith(_BLENDED)), None)
    own = [value for name, value in means_of.items() if name.startswith((_BEFORE, _AFTER)) and _BLENDED not in name]
    if first is None or means_of[first] <= max(own):
        return ""
    return (
        f"First stage and encoders together ({TESTED} {means_of[first]:.3f}) know more than any re-ranker here:\n"
        "`hnmine train --preset distilled` lets one learn from them, on queries that need no judgement."
    )


def _label(first_stage: str) -> str:
    return {"bm25": "BM25", "dense": "dense"}.get(first_stage, Path(first_stage).name)


def _rerankers(config: TrainConfig, run: Run) -> tuple[dict[str, Path], Kind, int]:
    """Return the models to compare, by the names they have in the table, their kind, and how many tokens they read."""
    from hnmine.training.trainer import START

    folder = run.out / "rerankers"
    run.require_trained()
    training = run.manifest["training"]
    max_tokens: int = training["max_tokens"]
    if max_tokens != config.max_tokens:
        say("evaluate", f"train.max_tokens={config.max_tokens} is not used: these were trained with {max_tokens}")
    start = training["start"]
    before = (
        {f"{_BEFORE}warm-started": folder / START}
        if start["warmed_up"]
        else {f"{_BEFORE}as given": weights.resolve(start["model"])}
    )
    return (
        before | {f"{_AFTER}{preset}": folder / preset for preset in training["presets"]},
        training["kind"],
        max_tokens,
    )


def _refuse_others(rerankers: Mapping[str, Path], run: Run) -> None:
    """Raise DataError where a training that was stopped, or someone, has left other models than the manifest names."""
    for folder in rerankers.values():
        if folder.is_relative_to(run.out):
            own = folder.relative_to(run.out).as_posix()
            found = {f"{own}/{file}": sha for file, sha in weights.folder_sha256(folder).items()}
            if found != {file: sha for file, sha in run.manifest["files"].items() if file.startswith(f"{own}/")}:
                raise DataError(
                    f"{folder} is not as {run.out / 'manifest.json'} says, perhaps since a later `hnmine train` was "
                    "stopped; run `hnmine train` again"
                )


class Scorer:
    """Scores of re-rankers on one task; those that an earlier run left are taken where nothing has changed."""

    def __init__(self, task: Task, config: Config, kind: Kind, max_tokens: int, run: Run, prefix: str = "") -> None:
        """Take the task; `prefix` stands before the names of what is kept."""
        self._task, self._run, self._kind, self._max_tokens, self._prefix = task, run, kind, max_tokens, prefix
        self._passages = config.evaluate.long_documents == "maxp"
        self._device = devices.choose_device(config.device)
        self._dtype = devices.choose_dtype(config.train.dtype, self._device.kind, training=True)
        self._engine = config.engine
        self.identity = digest([task.texts, max_tokens, self._passages, self._dtype, self._engine, versions()])
        """Names all that decides the scores but the model."""
        self.inputs: dict[str, str] = {}
        self.tables: list[str] = []

    def scores(self, name: str, folder: Path) -> Float32:
        """Return the scores (Q, K) of the re-ranker in this folder, and keep them."""
        files = weights.folder_sha256(folder)
        if folder.is_relative_to(self._run.out):
            self.inputs |= {(folder / file).relative_to(self._run.out).as_posix(): sha for file, sha in files.items()}
        path = self.table_of(name)
        self.tables.append(path)
        identity = digest([files, self.identity])
        scores = self.stored(name, identity)
        if scores is None:
            scores = self._score(name, folder)
            self._keep(path, scores, identity)
        return scores

    def stored(self, name: str, identity: str | None = None) -> Float32 | None:
        """Return the scores that are kept of a re-ranker under this identity, None: whatever its model was; if any."""
        path = self.table_of(name)
        if not (self._run.out / path).is_file():
            return None
        try:
            rows = pq.read_table(self._run.out / path, columns=["query_id", "document_rows", "scores"])
            scores = np.array(rows.column("scores").to_pylist(), dtype=np.float32)
        except (OSError, ValueError, TypeError, KeyError) as error:  # Arrow's errors are children of these
            reason = str(error).splitlines()[0]
            told = f"{self._run.out / path} cannot be read ({reason}), so it is scored again"
            say("evaluate", f"{self._prefix}{name}: {told}")
            return None
        known = (rows.schema.metadata or {}).get(b"identity", b"").decode()
        asked = list(self._task.queries.ids), self._task.doc_rows_QK.tolist()
        found = rows.column("query_id").to_pylist(), rows.column("document_rows").to_pylist()
        if found != asked or identity not in (None, known):
            return None
        if identity is not None:
            say("evaluate", f"{self._prefix}{name}: reused {self._run.out / path}")
        self._keep(path, scores, known)
        return scores

    def table_of(self, name: str) -> str:
        """Return where the scores of a re-ranker lie, in OUT."""
        return table_of(f"{self._prefix}{name}")

    def _keep(self, path: str, scores_QK: Float32, identity: str) -> None:
        """Write scores and metrics: known scores too, for what is judged right may have changed."""
        self._run.write_table(path, _scores_table(self._task, scores_QK, identity))

    def _score(self, name: str, folder: Path) -> Float32:
        from hnmine.training.worker import load  # imports torch, which a run whose scores are known does without

        reranker = load(
            self._kind,
            folder,
            engine=self._engine,
            passages=self._passages,
            max_tokens=self._max_tokens,
            device=self._device.torch_name,
            dtype=self._dtype,
        )
        with track("evaluate", f"{self._prefix}{name}", self._task.documents_to_score, "pairs") as progress:
            return rerank(self._task, reranker, progress.advance)


class Blend:
    """What a re-ranker is worth with the scores of others, by weights that the dev queries choose (`blend`).

    They are those that chose its step too. What there is to blend with depends on `evaluate.blend`.
    """

    scorer: Scorer | None
    """Asks a re-ranker about the dev queries; None where nothing is blended."""

    def __init__(self, splits: Splits, test: Task, config: Config, kind: Kind, max_tokens: int, run: Run) -> None:
        self._tasks = splits.task(splits.dev, config.train.dev_queries, config.seed), test
        blends = config.evaluate.blend != "none"
        self.scorer = Scorer(self._tasks[0], config, kind, max_tokens, run, "dev: ") if blends else None
        self._first = _label(config.evaluate.first_stage)
        self._others: list[dict[str, Float32]] = [{}, {}]
        if config.evaluate.blend == "encoders":
            try:
                self._others = cosines(splits.collection.documents, self._tasks, config, run)
            except (DataError, ModelError) as error:  # vectors made elsewhere may lack these queries
                raise type(error)(f"{error}; or set evaluate.blend=first_stage, which asks no encoder") from None

    def of(self, scores_QK: Float32, dev_QK: Float32 | None = None) -> tuple[dict[str, float], PerQuery]:
        """Return the weights of what is blended and the test metrics of the blend.

        Args:
            scores_QK: of a re-ranker on the test queries.
            dev_QK: its scores on the dev queries; None: it is the first stage, which is blended with the encoders.

        Returns:
            the weights, all of it on itself where nothing helps it on dev, none where there is nothing to add; metrics.
        """
        dev, test = self._tasks
        if self.scorer is None:
            return {}, measure(test, scores_QK)
        rankings = [
            {self._first: task.first_scores_QK} | of for task, of in zip(self._tasks, self._others, strict=True)
        ]
        if dev_QK is not None:
            own = dev_QK, scores_QK
            rankings = [{RERANKER: scores} | of for scores, of in zip(own, rankings, strict=True)]
        if len(rankings[0]) == 1:
            return {}, measure(test, scores_QK)
        made_of = best_weights(dev, rankings[0])
        return made_of, measure(test, blended(test, rankings[1], made_of))


def table_of(name: str) -> str:
    """Return where the scores of a re-ranker lie, in OUT."""
    return f"evaluation/{name.replace(': ', '-').replace(' ', '-')}.parquet"


def _scores_table(task: Task, scores_QK: Float32, identity: str) -> pa.Table:
    values = measure(task, scores_QK)
    columns = {
        "query_id": list(task.queries.ids),
        "document_rows": task.doc_rows_QK.tolist(),
        "scores": scores_QK.tolist(),
    }
    rows = pa.table(columns | {metric: values[metric] for metric in METRICS})
    return rows.replace_schema_metadata({"identity": identity})


def _write_changes(
    task: Task, name: str, before: str, scores: dict[str, Float32], rows: dict[str, PerQuery], run: Run
) -> str:
    """Write the queries that gained and lost most, for people; return the file's path in OUT."""
    change = rows[name][TESTED] - rows[before][TESTED]
    order = np.argsort(-change, kind="stable")
    gained = [int(at) for at in order if change[at] > 0]
    lost = [int(at) for at in order[::-1] if change[at] < 0]
    parts = [
        f"# What changed from *{before}* to *{name}*\n",
        f"{len(gained):,} of {len(task):,} queries gained in {TESTED}, {len(lost):,} lost, the others stayed.",
    ]
    for title, chosen in (("Gained most", gained[:_CHANGES]), ("Lost most", lost[:_CHANGES])):
        parts.append(f"\n## {title}\n")
        parts += [_change(task, at, scores[before], scores[name]) for at in chosen] or ["None."]
    path = f"evaluation/changes-{name.removeprefix(_AFTER)}.md"
    run.write_text(path, "\n".join(parts) + "\n")
    return path


def _change(task: Task, at: int, before_QK: Float32, after_QK: Float32) -> str:
    """Describe one query: where its right document stood, and what stood first."""
    rows_K = task.doc_rows_QK[at]
    orders = [np.argsort(-scores_QK[at], kind="stable") for scores_QK in (before_QK, after_QK)]
    ranked = [[int(rows_K[place]) for place in order if rows_K[place] != NO_ROW] for order in orders]
    right = [next((rank for rank, row in enumerate(rows, 1) if row in task.relevant[at]), None) for rows in ranked]
    lines = [f"**{shortened(task.queries.texts[at])}**: right document from {right[0]} to {right[1]}"]
    for when, rows in zip(("before", "after"), ranked, strict=True):
        mark = "right" if rows[0] in task.relevant[at] else "not judged right"
        lines.append(f"- first {when} ({mark}): {shortened(task.document_texts[rows[0]])}")
    answer = next((row for row in ranked[0] if row in task.relevant[at]), None)
    if answer is not None:
        lines.append(f"- right: {shortened(task.document_texts[answer])}")
    return "\n".join(lines) + "\n"
