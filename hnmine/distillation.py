"""Lessons from the ensemble: a re-ranker learns to rank as the first stage and the encoders together do.

What these know is often more than a re-ranker has learnt from a few hundred judged pairs (`benchmarks/LOG.md`), and to
pass it on takes queries alone, which every search engine has in its log: put them into
`queries.jsonl`. The teacher is the blend of their scores
(`blend`), by weights that make the dev queries' right documents likeliest, so that its softmax says how sure it is; the
student is told the softmax of each list (Hinton et al., arXiv 1503.02531). Of a query's first stage a list has the
teacher's first two, which it must tell apart, and others at random.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from hnmine.bench import Bench, Record
from hnmine.blend import blended, likeliest
from hnmine.config import Config
from hnmine.ensemble import cosines
from hnmine.errors import DataError
from hnmine.evaluation import Task, means, measure
from hnmine.first_stage import NO_ROW
from hnmine.fitting import DEV_METRIC, Recipe
from hnmine.lists import Lists
from hnmine.progress import say
from hnmine.runs import Run
from hnmine.splits import Splits
from hnmine.train_config import DistillConfig
from hnmine.types import Float32, Int64

DISTILLED_START = "distilled-start"
_FIRST_STAGE = "first stage"
_FIRST = 2  # of the teacher's order, in every list


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """What is learnt, how, and who teaches it."""

    lists: Lists
    recipe: Recipe
    weights: dict[str, float]
    """Of the teacher's blend; softmax of the blend is its guess of what is right."""
    teacher_dev: float
    """What the teacher itself has on the dev queries."""

    def facts(self) -> dict[str, Any]:
        """Return what the manifest tells of them."""
        return {
            "lessons": len(self.lists),
            "queries": len(set(self.lists.queries)),
            "weights": self.weights,
            "teacher_dev": self.teacher_dev,
        }


def lessons(bench: Bench, splits: Splits, config: Config, run: Run) -> Lessons:
    """Choose the queries, encode what the store lacks of them, and ask the teacher.

    Raises:
        DataError: no dev query has a right document in its first stage, or no query is left to learn from.
    """
    settings, dev = config.train.distill, bench.dev
    rows = _query_rows(bench, splits, config)
    task = splits.unjudged(rows[: settings.lessons])
    of_dev, of_task = cosines(bench.documents, (dev, task), config, run)
    rankings = {_FIRST_STAGE: dev.first_scores_QK} | of_dev
    weights = dict(zip(rankings, likeliest(dev, rankings).round(2).tolist(), strict=True))
    if not any(weights.values()):
        raise DataError(
            "preset distilled: the first stage and the encoders tell the dev queries' right documents from others no "
            "better than chance, so they have nothing to teach; leave that preset out"
        )
    teacher_dev = means(measure(dev, blended(dev, rankings, weights)))[DEV_METRIC]
    scores_QK = blended(task, {_FIRST_STAGE: task.first_scores_QK} | of_task, weights)
    lists = _lists(task, scores_QK / bench.recipe.scale, settings, config.train.seed)
    if not len(lists):
        raise DataError("preset distilled: beside dev and test there is no query with two documents of the first stage")
    listed = ", ".join(f"{weight:.2f} {name}" for name, weight in weights.items())
    say(
        "train",
        f"distilled: {len(lists):,} lessons on {len(set(lists.queries)):,} queries; the teacher's {DEV_METRIC} on dev "
        f"{teacher_dev:.3f} ({listed})",
    )
    recipe = replace(
        bench.recipe,
        loss="kl",
        in_batch_negatives=0,
        epochs=1,
        learning_rate=settings.learning_rate,
    )
    return Lessons(lists=lists, recipe=recipe, weights=weights, teacher_dev=teacher_dev)


def distil(name: str, start: Path, bench: Bench, taught: Lessons, run: Run) -> tuple[Path, Record]:
    """Train a start on lessons, which it keeps only if they made it better on dev; return the folder and the record."""
    record = bench.fit(name, start, taught.lists, taught.recipe)
    return run.out / "rerankers" / name, record


def _query_rows(bench: Bench, splits: Splits, config: Config) -> Int64:
    """Return the rows of queries to learn from, one of each text: in random order those not trained on, then the rest.

    Vectors made elsewhere, and any first stage but BM25, may lack queries that nobody judged: then only train's count.
    """
    texts = bench.queries.texts
    held = {texts[row] for pairs in (splits.dev, splits.test) for row in pairs.query_rows_P.tolist()}
    given = config.evaluate.first_stage != "bm25" or any(encoder.precomputed for encoder in config.encoders)
    rows = np.unique(splits.train.query_rows_P).tolist() if given else range(len(texts))
    row_of = {text: row for row in reversed(rows) if (text := texts[row]) not in held}
    trained = {texts[row] for row in bench.pairs.query_rows_P.tolist()}
    parts = [[row for text, row in row_of.items() if (text in trained) == of_pairs] for of_pairs in (False, True)]
    rng = np.random.default_rng(config.train.seed)
    return np.concatenate([rng.permutation(np.array(sorted(part), dtype=np.int64)) for part in parts])


def _lists(task: Task, teacher_QK: Float32, settings: DistillConfig, seed: int) -> Lists:
    """Return lessons, each a query and some documents with the teacher's scores: its first two and others at random."""
    order_QK = np.argsort(-teacher_QK, axis=1, kind="stable")
    found_Q = (task.doc_rows_QK != NO_ROW).sum(axis=1)
    able = np.flatnonzero(found_Q > 1).tolist()
    rng = np.random.default_rng(seed)
    queries: list[str] = []
    documents: list[tuple[str, ...]] = []
    scores: list[tuple[float, ...]] = []
    for at in islice(cycle(able), settings.lessons):
        order = order_QK[at, : found_Q[at]]
        chosen = np.concatenate([order[:_FIRST], rng.permutation(order[_FIRST:])])[: settings.documents]
        queries.append(task.queries.texts[at])
        documents.append(tuple(task.document_texts[row] for row in task.doc_rows_QK[at, chosen].tolist()))
        scores.append(tuple(round(score, 3) for score in teacher_QK[at, chosen].tolist()))
    return Lists(queries=tuple(queries), documents=tuple(documents), teacher=tuple(scores))
