"""What trainings on a collection share, and what a re-ranker is trained on: lists of documents, one a query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hnmine.config.training import TrainConfig
from hnmine.corpus.collection import Collection
from hnmine.ranking.measures import Task
from hnmine.ranking.splits import Splits
from hnmine.types import NO_ROW, Int64, Pairs, Texts


@dataclass(frozen=True, kw_only=True)
class TrainingList:
    """A query and documents, as texts: the positive first, then its negatives."""

    query: str
    documents: tuple[str, ...]
    judged: frozenset[str] = frozenset()
    """The texts judged positive for the query; needed where negatives are drawn from the batch."""
    teacher: tuple[float, ...] = ()
    """A score for each document, in the units of the student's scores; empty without a teacher."""
    is_lesson: bool = False
    """Whether the list says what its teacher thinks, and not which document was judged."""

    def __post_init__(self) -> None:
        assert self.documents, "a list begins with its positive"
        assert len(self.teacher) in (0, len(self.documents))


Lists = tuple[TrainingList, ...]


def training_lists(
    documents: Texts,
    queries: Texts,
    pairs: Pairs,
    negatives: Sequence[Sequence[int]],
    *,
    bare: bool = False,
    positives: Mapping[int, set[int]] | None = None,
) -> Lists:
    """Return the lists of all judged pairs that have a negative; if `bare`, also of those without.

    `negatives` are document rows by pair; one that is named twice stands in the list once. `positives` are the document
    rows judged positive by query row, which is asked for where a step adds negatives of its batch.
    """
    lists = []
    for query, positive, rows in zip(pairs.query_rows_P.tolist(), pairs.doc_rows_P.tolist(), negatives, strict=True):
        listed = [positive, *dict.fromkeys(rows)]
        if len(listed) > 1 or bare:
            texts = tuple(documents.texts[row] for row in listed)
            judged = frozenset(documents.texts[row] for row in positives[query]) if positives else frozenset[str]()
            lists.append(TrainingList(query=queries.texts[query], documents=texts, judged=judged))
    return tuple(lists)


def step_lists(lists: Lists, batch: Sequence[int], in_batch: int, seed: Sequence[int]) -> Lists:
    """Return the lists of one step, each with up to `in_batch` positives of the others as further negatives.

    These are drawn by the seed, and are distinct texts, none in the list already, none judged positive for its query.
    Lessons neither give nor take any: nobody has judged theirs.
    """
    chosen = tuple(lists[i] for i in batch)
    if not in_batch:
        return chosen
    rng = np.random.default_rng(seed)
    positives = dict.fromkeys(each.documents[0] for each in chosen if not each.is_lesson)

    def longer(each: TrainingList) -> TrainingList:
        if each.is_lesson:
            return each
        assert each.judged, "in-batch negatives need to know what was judged positive"
        pool = [text for text in positives if text not in each.documents and text not in each.judged]
        drawn = [pool[at] for at in rng.permutation(len(pool))[:in_batch]]
        return replace(each, documents=(*each.documents, *drawn))

    return tuple(map(longer, chosen))


def random_negatives(
    pairs: Pairs, positives: Mapping[int, set[int]], documents: int, per_pair: int, seed: int
) -> list[list[int]]:
    """Draw distinct document rows of so many documents for every pair, none judged positive for its query."""
    rng = np.random.default_rng(seed)
    drawn = []
    for query in pairs.query_rows_P.tolist():
        known = positives[query]
        pool = rng.choice(documents, size=min(documents, per_pair + len(known)), replace=False).tolist()
        drawn.append([row for row in pool if row not in known][:per_pair])
    return drawn


def first_stage_negatives(
    pairs: Pairs, positives: Mapping[int, set[int]], first: Mapping[int, Int64], per_pair: int, seed: int
) -> list[list[int]]:
    """Draw distinct document rows for every pair from its query's first stage, none judged positive for the query."""
    rng = np.random.default_rng(seed)
    drawn = []
    for query in pairs.query_rows_P.tolist():
        known = positives[query]
        pool = [row for row in first[query].tolist() if row != NO_ROW and row not in known]
        drawn.append(rng.permutation(pool)[:per_pair].astype(int).tolist())
    return drawn


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The data; rows are those of `documents` and `queries`."""

    documents: Texts
    queries: Texts
    pairs: Pairs
    """The train pairs."""
    never_negative: Mapping[int, set[int]]
    """By query row, the document rows that are no negatives: judged positives of any split, and their copies."""
    dev: Task
    dev_name: str

    @classmethod
    def of(cls, splits: Splits, settings: TrainConfig, seed: int) -> TrainingData:
        """Take the train pairs and the dev queries; of more than train.max_pairs or train.dev_queries, a sample."""
        pairs = splits.train
        if settings.max_pairs is not None and settings.max_pairs < len(pairs):
            chosen = np.random.default_rng(seed).choice(len(pairs), settings.max_pairs, replace=False)
            pairs = pairs.take(np.sort(chosen))
        splits.first_stage(np.union1d(pairs.query_rows_P, splits.dev.query_rows_P))  # in one search
        return cls(
            documents=splits.collection.documents,
            queries=splits.collection.queries,
            pairs=pairs,
            never_negative=_with_copies(splits.collection),
            dev=splits.task(splits.dev, settings.dev_queries, seed),
            dev_name=splits.dev_name,
        )


def _with_copies(collection: Collection) -> dict[int, set[int]]:
    """Return, by query row, its judged positives and the documents of the same text."""
    texts = collection.documents.texts
    rows_of: dict[str, set[int]] = {}
    for row, text in enumerate(texts):
        rows_of.setdefault(text, set()).add(row)
    positives = collection.positives()
    return {query: set().union(*(rows_of[texts[row]] for row in rows)) for query, rows in positives.items()}
