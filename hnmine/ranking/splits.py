"""Which pairs serve which purpose, and the first stage's documents for their queries, searched once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from hnmine.config.root import Config
from hnmine.corpus.collection import Collection, hold_out
from hnmine.ranking.first_stage import FirstStage
from hnmine.ranking.measures import Task
from hnmine.runs.progress import say
from hnmine.types import Float32, Int64, Pairs

FIRST_DOCUMENTS = 50
"""Of a query's first stage, those that anchors are drawn from and among which mistakes are looked for."""


class Splits:
    """Train, dev and test pairs. Without a dev split a share of the train queries is held out for it."""

    def __init__(self, collection: Collection, config: Config, open_first_stage: Callable[[], FirstStage]) -> None:
        """Divide the collection's pairs; `open_first_stage` is called once, when the first documents are asked for."""
        self.collection, sources = collection, config.sources
        self._depth, self._open_first_stage = config.evaluate.depth, cache(open_first_stage)
        self._found: dict[int, tuple[Int64, Float32]] = {}
        # Take the files' splits where they exist, else held-out queries.
        self.train, self.dev_name = collection.pairs(sources.train_split), sources.dev_split
        if self.dev_name in collection.splits:
            self.dev = collection.pairs(self.dev_name)
        else:
            self.dev, self.train = hold_out(self.train, collection.queries, sources.dev_share, config.seed)
            self.dev_name = f"{sources.dev_share:.0%} of {sources.train_split}"
            say("read", f"no {sources.dev_split} split: {self.dev_name} queries are held out for early stopping")
        self.test_name, self.test = self.dev_name, self.dev
        if sources.test_split in collection.splits:
            self.test_name, self.test = sources.test_split, collection.pairs(sources.test_split)
        else:
            say("read", f"no {sources.test_split} split: {self.dev_name} is reported, which also chose the step")
        # Warn of queries that are trained on too.
        texts = collection.queries.texts
        train = {texts[row] for row in self.train.query_rows_P}
        for name, pairs in ((self.dev_name, self.dev), (self.test_name, self.test)):
            if shared := sum(texts[row] in train for row in np.unique(pairs.query_rows_P)):
                message = f"{shared:,} queries of {name} are train queries too; its figures flatter"
                say("read", message, level="warning")

    def first_stage(self, rows_Q: Int64) -> tuple[Int64, Float32]:
        """Return the first stage's document rows (Q, K) for these queries and their scores; each is searched once."""
        wanted = np.setdiff1d(rows_Q, list(self._found))
        if len(wanted):
            found = self._open_first_stage()(wanted, max(self._depth, FIRST_DOCUMENTS))
            self._found |= dict(zip(wanted.tolist(), zip(*found, strict=True), strict=True))
        doc_rows, scores = zip(*(self._found[row] for row in rows_Q.tolist()), strict=True)
        return np.stack(doc_rows), np.stack(scores)

    def task(self, pairs: Pairs, limit: int | None, seed: int) -> Task:
        """Return the re-ranking task of the pairs' queries, or of a seeded sample of them."""
        rows_Q = np.unique(pairs.query_rows_P)
        if limit is not None and limit < len(rows_Q):
            rows_Q = np.sort(np.random.default_rng(seed).choice(rows_Q, size=limit, replace=False))
        return self._task(rows_Q, pairs)

    def unjudged(self, rows_Q: Int64) -> Task:
        """Return the re-ranking task of these queries, in this order, with nothing known to be right."""
        return self._task(rows_Q, self.train.take(np.zeros(len(self.train), dtype=bool)))

    def _task(self, rows_Q: Int64, pairs: Pairs) -> Task:
        documents, queries, depth = self.collection.documents, self.collection.queries, self._depth
        doc_rows_QK, scores_QK = self.first_stage(rows_Q)
        return Task.of(documents, queries, pairs, rows_Q, doc_rows_QK[:, :depth], scores_QK[:, :depth])
