"""What trainings on a collection share: documents, queries, train pairs, and the task of the dev queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hnmine.config.training import TrainConfig
from hnmine.corpus.collection import Collection
from hnmine.ranking.splits import Splits
from hnmine.ranking.task import Task
from hnmine.types import Pairs, Texts


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
