"""Lessons from the ensemble: a re-ranker learns to rank as the first stage and the encoders together do.

What these know is often more than a re-ranker has learnt from a few hundred judged pairs (`benchmarks/LOG.md`), and to
pass it on takes queries alone, which every search engine has in its log: put them into `queries.jsonl`. The teacher is
the blend of their scores (`blend`), by weights that make the dev queries' right documents likeliest, so that its
softmax says how sure it is; the student is told the softmax of each list (Hinton et al., arXiv 1503.02531). Of a
query's first stage a list has the teacher's first two, which it must tell apart, and others at random. Lessons stand
among the judged lists, in one training, so that neither overwrites what the other taught.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Any

import numpy as np

from hnmine.config.root import Config
from hnmine.mining.legacy_ensemble import cosines
from hnmine.errors import DataError
from hnmine.ranking.blend import blended, likeliest
from hnmine.ranking.first_stage import NO_ROW
from hnmine.ranking.splits import Splits
from hnmine.ranking.task import Task, means, measure
from hnmine.runs.folder import Run
from hnmine.runs.progress import say
from hnmine.training.lists import Lists
from hnmine.training.trainer import Bench
from hnmine.training.worker import DEV_METRIC
from hnmine.types import Float32, Int64

_FIRST_STAGE = "first stage"
_WORD = re.compile(r"\w+")
_DOCUMENTS = 6  # in a lesson
_FIRST = 2  # of the teacher's order, in every list


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """What is learnt, and who teaches it."""

    lists: Lists
    weights: dict[str, float]
    """Of the teacher's blend; softmax of the blend is its guess of what is right."""
    teacher_dev: float
    """What the teacher itself has on the dev queries."""

    def facts(self) -> dict[str, Any]:
        """Return what the manifest tells of them."""
        told = {"lessons": len(self.lists), "queries": len(set(self.lists.queries)), "weights": self.weights}
        return told | {"teacher_dev": self.teacher_dev}


def lessons_if_any(bench: Bench, splits: Splits, config: Config, run: Run) -> Lessons | None:
    """Return the `lessons`; None where there are none, which is said."""
    try:
        return lessons(bench, splits, config, run)
    except DataError as error:
        say("train", str(error), level="warning")
        return None


def lessons(bench: Bench, splits: Splits, config: Config, run: Run) -> Lessons:
    """Choose the queries, encode what the store lacks of them, and ask the teacher.

    Raises:
        DataError: the teacher cannot tell the dev queries' right documents from others, there is no query to learn
            from, or vectors made elsewhere lack some.
    """
    wanted = config.train.lessons
    rows = _with_documents(_query_rows(bench, splits, config), wanted, splits, config.evaluate.depth)
    if not len(rows):
        raise DataError(
            "no lessons: beside dev and test there is no query for which the first stage finds two documents; put "
            "queries of your search log into queries.jsonl, they need no judgement"
        )
    task = splits.unjudged(rows)
    weights, teacher_dev, scores_QK = _taught(bench, task, config, run)
    lists = _lists(task, scores_QK / bench.recipe.scale, wanted, config.seed)
    listed = ", ".join(f"{weight:.2f} {name}" for name, weight in weights.items())
    say(
        "train",
        f"distillation: {len(lists):,} lessons on {len(rows):,} queries; the teacher's {DEV_METRIC} on dev "
        f"{teacher_dev:.3f} ({listed})",
    )
    return Lessons(lists=lists, weights=weights, teacher_dev=teacher_dev)


def _taught(bench: Bench, task: Task, config: Config, run: Run) -> tuple[dict[str, float], float, Float32]:
    """Return the teacher's weights, what it has on dev, and its scores (Q, K) of the task."""
    dev = bench.dev
    try:
        of_dev, of_task = cosines(bench.documents, (dev, task), config, run)
    except DataError as error:
        raise DataError(f"no lessons: {error}") from None
    of_dev, of_task = ({_FIRST_STAGE: its.first_scores_QK} | of for its, of in ((dev, of_dev), (task, of_task)))
    weights = dict(zip(of_dev, likeliest(dev, of_dev).round(2).tolist(), strict=True))
    if not any(weights.values()):
        raise DataError(
            "no lessons: the first stage and the encoders tell the dev queries' right documents from others no better "
            "than chance, so they have nothing to teach"
        )
    value = means(measure(dev, blended(dev, of_dev, weights)))[DEV_METRIC]
    return weights, value, blended(task, of_task, weights)


def _query_rows(bench: Bench, splits: Splits, config: Config) -> Int64:
    """Return the rows of queries to learn from, one of each text: in random order those not trained on, then the rest.

    Vectors made elsewhere, and any first stage but BM25, may lack queries that nobody judged: then only train's count.
    """
    texts = bench.queries.texts
    held = {_words(texts[row]) for pairs in (splits.dev, splits.test) for row in pairs.query_rows_P.tolist()}
    given = config.evaluate.first_stage != "bm25" or any(encoder.precomputed for encoder in config.encoders)
    rows = np.unique(splits.train.query_rows_P).tolist() if given else range(len(texts))
    if given and (left := len(texts) - len(splits.collection.judged)):
        say(
            "train",
            f"distillation: {left:,} queries without a judgement are not used; a first stage other than bm25 and "
            "precomputed vectors may lack them",
        )
    row_of = {words: row for row in reversed(rows) if (words := _words(texts[row])) not in held}
    trained = {_words(texts[row]) for row in bench.pairs.query_rows_P.tolist()}
    parts = [[row for words, row in row_of.items() if (words in trained) == of_pairs] for of_pairs in (False, True)]
    rng = np.random.default_rng(config.seed)
    return np.concatenate([rng.permutation(np.array(sorted(part), dtype=np.int64)) for part in parts])


def _words(text: str) -> str:
    """Return what makes two queries the same, whatever their case, marks and spaces."""
    return " ".join(_WORD.findall(text.casefold()))


def _with_documents(rows: Int64, wanted: int, splits: Splits, depth: int) -> Int64:
    """Return the first so many of these queries for which the first stage finds two documents."""
    found: list[int] = []
    while len(found) < wanted and len(rows):
        part, rows = rows[: wanted - len(found)], rows[wanted - len(found) :]
        first = splits.first_stage(part)
        found += [row for row in part.tolist() if (first[row][0][:depth] != NO_ROW).sum() > 1]
    return np.array(found, dtype=np.int64)


def _lists(task: Task, teacher_QK: Float32, lessons: int, seed: int) -> Lists:
    """Return lessons, each a query and some documents with the teacher's scores: its first two and others at random."""
    order_QK = np.argsort(-teacher_QK, axis=1, kind="stable")
    found_Q = (task.doc_rows_QK != NO_ROW).sum(axis=1)
    rng = np.random.default_rng(seed)
    queries: list[str] = []
    documents: list[tuple[str, ...]] = []
    scores: list[tuple[float, ...]] = []
    for at in islice(cycle(range(len(task))), lessons):
        order = order_QK[at, : found_Q[at]]
        chosen = np.concatenate([order[:_FIRST], rng.permutation(order[_FIRST:])])[: _DOCUMENTS]
        queries.append(task.queries.texts[at])
        documents.append(tuple(task.document_texts[row] for row in task.doc_rows_QK[at, chosen].tolist()))
        scores.append(tuple(round(score, 3) for score in teacher_QK[at, chosen].tolist()))
    given = Lists(queries=tuple(queries), documents=tuple(documents), teacher=tuple(scores))
    return replace(given, is_lesson=(True,) * len(given))
