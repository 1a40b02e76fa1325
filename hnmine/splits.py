"""Which pairs serve which purpose, and the first stage's documents for their queries, searched once."""

from __future__ import annotations

import numpy as np

from hnmine.config import Config
from hnmine.errors import DataError
from hnmine.evaluation import Task
from hnmine.first_stage import Bm25
from hnmine.progress import say
from hnmine.sources import Collection
from hnmine.types import Float32, Int64, Pairs


class Splits:
    """Train, dev and test pairs. Without a dev split a share of the train queries is held out for it."""

    def __init__(self, collection: Collection, config: Config) -> None:
        self.collection = collection
        self._config = config
        sources = config.sources
        train = collection.pairs(sources.train_split)
        self.dev_name = sources.dev_split
        if sources.dev_split in collection.splits:
            self.dev, self.train = collection.pairs(sources.dev_split), train
        else:
            self.dev, self.train = _hold_out(train, sources.dev_share, sources.seed)
            self.dev_name = f"{sources.dev_share:.0%} of {sources.train_split}"
            say(
                "read",
                f"no {sources.dev_split} split: {self.dev_name} queries are held out for early stopping",
            )
        if sources.test_split in collection.splits:
            self.test_name, self.test = sources.test_split, collection.pairs(sources.test_split)
        else:
            self.test_name, self.test = self.dev_name, self.dev
            say(
                "read",
                f"no {sources.test_split} split: {self.dev_name} is reported, which also chose the step",
            )
        self._warn_of_shared_queries()
        self._bm25: Bm25 | None = None
        self._first: dict[int, tuple[Int64, Float32]] = {}

    def _warn_of_shared_queries(self) -> None:
        texts = self.collection.queries.texts
        train = {texts[row] for row in self.train.query_rows_P}
        for name, pairs in ((self.dev_name, self.dev), (self.test_name, self.test)):
            shared = sum(texts[row] in train for row in np.unique(pairs.query_rows_P))
            if shared:
                say("read", f"warning: {shared:,} queries of {name} are train queries too; its figures flatter")

    def first_stage(self, query_rows: Int64) -> dict[int, tuple[Int64, Float32]]:
        """Return each query row's first documents and their scores."""
        wanted = np.setdiff1d(query_rows, np.array(sorted(self._first), dtype=np.int64))
        if len(wanted):
            settings = self._config.evaluate
            if self._bm25 is None:
                self._bm25 = Bm25(self.collection.documents, k1=settings.k1, b=settings.b)
            depth = max(settings.depth, self._config.train.anchors.depth)
            rows, scores = self._bm25.first(self.collection.queries.take(wanted.tolist()), depth)
            self._first |= {int(query): (rows[i], scores[i]) for i, query in enumerate(wanted)}
        return self._first

    def task(self, pairs: Pairs, limit: int | None, seed: int) -> Task:
        """Return the re-ranking task of the pairs' queries, or of a seeded sample of them."""
        queries = np.unique(pairs.query_rows_P)
        if limit is not None and limit < len(queries):
            queries = np.sort(np.random.default_rng(seed).choice(queries, size=limit, replace=False))
            pairs = pairs.take(np.isin(pairs.query_rows_P, queries))
        depth = self._config.evaluate.depth
        first = {row: (docs[:depth], scores[:depth]) for row, (docs, scores) in self.first_stage(queries).items()}
        return Task.of(self.collection.documents, self.collection.queries, pairs, first)


def _hold_out(pairs: Pairs, share: float, seed: int) -> tuple[Pairs, Pairs]:
    """Return (held out, rest): a seeded share of the queries with all their pairs."""
    queries = np.unique(pairs.query_rows_P)
    if len(queries) < 2:
        raise DataError("one train query only, and no dev split to stop early on; add qrels/dev.tsv or more queries")
    count = min(len(queries) - 1, max(1, round(share * len(queries))))
    held = np.isin(pairs.query_rows_P, np.random.default_rng(seed).choice(queries, size=count, replace=False))
    return pairs.take(held), pairs.take(~held)
