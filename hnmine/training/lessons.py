"""Those that a re-ranker learns from beside judgements: a cross-encoder (`Teacher`), or the ensemble (`make_lessons`).

The first stage and the encoders together often know more than a re-ranker has learnt from a few hundred judged pairs
(`benchmarks/LOG.md`), and to pass it on takes queries alone, which every search engine has in its log: put them into
`queries.jsonl`. The teacher of a lesson is the blend of their scores (`ranking.blend`), by weights that make the dev
queries' right documents likeliest, so that its softmax says how sure it is; the student learns the softmax of each list
(Hinton et al., arXiv 1503.02531). Of a query's first stage a list has the teacher's first two, which it must tell
apart, and others at random. Lessons stand among the judged lists, in one training, so that neither overwrites what the
other taught.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from hnmine.corpus.identity import identity
from hnmine.embedding.ensemble import Ensemble
from hnmine.embedding.score_store import ScoreStore
from hnmine.errors import DataError
from hnmine.models.folder import folder_sha256, model_type
from hnmine.models.reranker import CrossEncoder, resolve_cross_encoder
from hnmine.ranking.blend import blended, likeliest
from hnmine.ranking.measures import MAIN_METRIC, Task, means, measure
from hnmine.ranking.splits import Splits
from hnmine.runs.device import Choice, choose_dtype
from hnmine.runs.files import digest
from hnmine.runs.progress import say, track
from hnmine.training.lists import Lists, TrainingData, TrainingList
from hnmine.types import Float32, Int64, Score

TEACHER_TOKENS = 256
"""Tokens of query and document together that a `Teacher` reads."""
LESSON_DOCUMENTS = 6
"""Documents in a lesson: so many of the first stage's."""
BEST_DOCUMENTS = 2
"""Of these the first of the teacher's order; the others are drawn at random."""
_FIRST_STAGE = "first stage"
_WORD = re.compile(r"\w+")


class Teacher:
    """The cross-encoder that the losses `marginmse` and `kl` learn from; it is loaded when a list needs its scores."""

    def __init__(self, model: str, device: Choice, engine: str, scores: Path) -> None:
        """Find the model, a folder or a hub name; `scores` is the folder where scores are kept.

        Raises:
            ModelError: it is missing or has no trained ranking head.
        """
        self._model, self._device = model, device
        self._folder = resolve_cross_encoder("train.teacher", model)
        dtype = choose_dtype("auto", device.kind, model_type=model_type(self._folder))
        self._settings: dict[str, Any] = {"max_tokens": TEACHER_TOKENS, "dtype": dtype, "engine": engine}
        self._store = ScoreStore(scores, self._folder, self._settings, self._load)

    def facts(self) -> dict[str, Any]:
        """Return all that decides its scores."""
        return {"model": self._model, **self._settings, "files": digest(folder_sha256(self._folder))}

    def _load(self) -> Score:
        say("train", f"the teacher is {self._model} on {self._device}, {self._settings['dtype']}")
        return CrossEncoder(self._folder, device=self._device.torch_name, **self._settings).raw_scores

    def teach(self, name: str, lists: Lists, scale: float) -> Lists:
        """Return the lists, those without a teacher with this one's scores, divided by the loss's `scale`."""
        untaught = [each for each in lists if not each.teacher]
        queries = [each.query for each in untaught for _ in each.documents]
        documents = [text for each in untaught for text in each.documents]
        with track("train", f"{name}: taught", len(documents), "documents") as progress:
            scores = self._store.scores(queries, documents, progress.advance) / scale
        parts = iter(np.split(scores, np.cumsum([len(each.documents) for each in untaught])[:-1]))
        return tuple(each if each.teacher else replace(each, teacher=tuple(next(parts).tolist())) for each in lists)


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """What is learnt, and who teaches it."""

    lists: Lists
    weights: dict[str, float]
    """Of the teacher's blend; its softmax is the teacher's guess of what is right."""
    teacher_dev: float
    """The teacher's own MAIN_METRIC on the dev queries."""

    def facts(self) -> dict[str, Any]:
        """Return what the manifest records of them."""
        counts = {"lessons": len(self.lists), "queries": len({each.query for each in self.lists})}
        return counts | {"weights": self.weights, "teacher_dev": self.teacher_dev}


def make_lessons(
    data: TrainingData, splits: Splits, ensemble: Ensemble, *, count: int, scale: float, seed: int, judged_only: bool
) -> Lessons:
    """Choose the queries, encode those that the store lacks, and ask the teacher.

    Queries that `data` does not train on come first. Where there are fewer than `count`, each comes again with other
    documents. The teacher's scores are divided by `scale`, the factor of the student's in its loss. With `judged_only`
    train queries alone are asked about: the first stage or precomputed vectors may lack others.

    Raises:
        DataError: the teacher cannot tell the dev queries' right documents from others, there is no query to learn
            from, or vectors made elsewhere lack some.
    """
    # Choose queries for which the first stage finds two documents.
    task = _task(splits, _query_rows(data, splits, seed, judged_only=judged_only), count)
    if task is None:
        raise DataError(
            "no lessons: beside dev and test there is no query for which the first stage finds two documents; put "
            "queries of your search log into queries.jsonl, they need no judgement"
        )
    # Weight the teacher on dev, and ask it.
    try:
        dev_scores, task_scores = (
            {_FIRST_STAGE: each.first_scores_QK} | ensemble.cosines(each.queries, each.doc_rows_QK)
            for each in (data.dev, task)
        )
    except DataError as error:
        raise DataError(f"no lessons: {error}") from None
    weights = dict(zip(dev_scores, likeliest(data.dev, dev_scores).round(2).tolist(), strict=True))
    if not any(weights.values()):
        raise DataError(
            "no lessons: the first stage and the encoders tell the dev queries' right documents from others no better "
            "than chance, so they have nothing to teach"
        )
    teacher_dev = means(measure(data.dev, blended(data.dev, dev_scores, weights)))[MAIN_METRIC]
    lists = _lists(task, blended(task, task_scores, weights) / scale, count, seed)
    listed = ", ".join(f"{weight:.2f} {name}" for name, weight in weights.items())
    taught = f"{len(lists):,} lessons on {len(task):,} queries"
    say("train", f"distillation: {taught}; the teacher's {MAIN_METRIC} on dev {teacher_dev:.3f} ({listed})")
    return Lessons(lists=lists, weights=weights, teacher_dev=teacher_dev)


def _query_rows(data: TrainingData, splits: Splits, seed: int, *, judged_only: bool) -> Int64:
    """Return the rows of queries to learn from, one of each text: in random order those not trained on, then the rest.

    Queries of dev and test are none of them, in whatever spelling.
    """
    texts = data.queries.texts
    rows = np.unique(splits.train.query_rows_P).tolist() if judged_only else range(len(texts))
    if judged_only and (left_out := len(texts) - len(splits.collection.judged)):
        say(
            "train",
            f"distillation: {left_out:,} queries without a judgement are not used; a first stage other than bm25 and "
            "precomputed vectors may lack them",
        )
    # Leave out what other splits judge, also those that no step is told to use.
    trained_on = {_words(texts[row]) for row in splits.train.query_rows_P.tolist()}
    held_out = {_words(text) for text in splits.collection.judged.texts} - trained_on
    held_out |= {_words(texts[row]) for pairs in (splits.dev, splits.test) for row in pairs.query_rows_P.tolist()}
    row_of = {words: row for row in reversed(rows) if (words := _words(texts[row])) not in held_out}
    trained = {_words(texts[row]) for row in data.pairs.query_rows_P.tolist()}
    parts = [[row for words, row in row_of.items() if (words in trained) == wanted] for wanted in (False, True)]
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(np.array(sorted(part), dtype=np.int64)) for part in parts])


def _words(text: str) -> str:
    """Return what two queries share that are the same, or differ in marks alone."""
    same = identity(text)
    return " ".join(_WORD.findall(same)) or same


def _task(splits: Splits, rows_Q: Int64, wanted: int) -> Task | None:
    """Return the task of the first so many of these queries that have two documents to be re-ranked; None without."""
    found: list[int] = []
    while len(found) < wanted and len(rows_Q):
        part, rows_Q = rows_Q[: wanted - len(found)], rows_Q[wanted - len(found) :]
        found_Q = splits.unjudged(part).exists_QK.sum(axis=1)
        found += part[found_Q > 1].tolist()
    return splits.unjudged(np.array(found, dtype=np.int64)) if found else None


def _lists(task: Task, teacher_QK: Float32, count: int, seed: int) -> Lists:
    """Return lessons, each a query and documents with the teacher's scores: its best, and others at random."""
    order_QK = np.argsort(-teacher_QK, axis=1, kind="stable")
    found_Q = task.exists_QK.sum(axis=1)
    rng = np.random.default_rng(seed)
    lessons = []
    for query in islice(cycle(range(len(task))), count):
        order = order_QK[query, : found_Q[query]]
        chosen = np.concatenate([order[:BEST_DOCUMENTS], rng.permutation(order[BEST_DOCUMENTS:])])[:LESSON_DOCUMENTS]
        lesson = TrainingList(
            query=task.queries.texts[query],
            documents=tuple(task.document_texts[row] for row in task.doc_rows_QK[query, chosen].tolist()),
            teacher=tuple(round(score, 3) for score in teacher_QK[query, chosen].tolist()),
            is_lesson=True,
        )
        lessons.append(lesson)
    return tuple(lessons)
