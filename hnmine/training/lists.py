"""What trainings on a collection share, and what a re-ranker is trained on: lists of documents, one a query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hnmine.config.training import TrainConfig
from hnmine.corpus.never_negative import NeverNegative
from hnmine.ranking.measures import Task
from hnmine.ranking.splits import Splits
from hnmine.types import NO_ROW, Int64, Pairs, Texts


@dataclass(frozen=True, kw_only=True)
class TrainingList:
    """A query and documents, as texts: the positive first, then its negatives."""

    query: str
    documents: tuple[str, ...]
    never_negative: frozenset[str] = frozenset()
    """The texts that are no negatives of the query; needed where negatives are drawn from the batch."""
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
    never_negative: Mapping[int, set[int]] | None = None,
) -> Lists:
    """Return the lists of all judged pairs that have a negative; if `bare`, also of those without.

    `negatives` are document rows by pair; one that is named twice stands in the list once. `never_negative`, document
    rows by query row, is asked for where a step adds negatives of its batch.
    """
    lists = []
    for query, positive, rows in zip(pairs.query_rows_P.tolist(), pairs.doc_rows_P.tolist(), negatives, strict=True):
        listed = [positive, *dict.fromkeys(rows)]
        if len(listed) > 1 or bare:
            texts = tuple(documents.texts[row] for row in listed)
            spared_rows = () if never_negative is None else never_negative[query]
            spared = frozenset(documents.texts[row] for row in spared_rows)
            lists.append(TrainingList(query=queries.texts[query], documents=texts, never_negative=spared))
    return tuple(lists)


def step_lists(lists: Lists, batch: Sequence[int], in_batch: int, seed: Sequence[int]) -> Lists:
    """Return the lists of one step, each with up to `in_batch` positives of the others as further negatives.

    These are drawn by the seed, and are distinct texts, none in the list already, none that may be no negative of it.
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
        assert each.never_negative, "in-batch negatives need to know what is none"
        pool = [text for text in positives if text not in each.documents and text not in each.never_negative]
        drawn = [pool[at] for at in rng.permutation(len(pool))[:in_batch]]
        return replace(each, documents=(*each.documents, *drawn))

    return tuple(map(longer, chosen))


def random_negatives(
    pairs: Pairs, never_negative: Mapping[int, set[int]], documents: int, per_pair: int, seed: int
) -> list[list[int]]:
    """Draw distinct document rows of so many documents for every pair, without those that are no negatives of it."""
    rng = np.random.default_rng(seed)
    drawn = []
    for query in pairs.query_rows_P.tolist():
        spared = never_negative[query]
        pool = rng.choice(documents, size=min(documents, per_pair + len(spared)), replace=False).tolist()
        drawn.append([row for row in pool if row not in spared][:per_pair])
    return drawn


def first_stage_negatives(
    pairs: Pairs, never_negative: Mapping[int, set[int]], first: Mapping[int, Int64], per_pair: int, seed: int
) -> list[list[int]]:
    """Draw distinct document rows for every pair from its query's first stage, likewise."""
    rng = np.random.default_rng(seed)
    drawn = []
    for query in pairs.query_rows_P.tolist():
        spared = never_negative[query]
        pool = [row for row in first[query].tolist() if row != NO_ROW and row not in spared]
        drawn.append(rng.permutation(pool)[:per_pair].astype(int).tolist())
    return drawn


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The data; rows are those of `documents` and `queries`."""

    documents: Texts
    queries: Texts
    pairs: Pairs
    """The train pairs."""
    never_negative: NeverNegative
    """By query row, the document rows that are no negatives."""
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
            never_negative=splits.collection.never_negative,
            dev=splits.task(splits.dev, settings.dev_queries, seed),
            dev_name=splits.dev_name,
        )
