"""Which pairs serve which purpose, and the first stage's documents for their queries, searched once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hnmine.config.corpus import SourcesConfig
from hnmine.config.ranking import EvaluateConfig
from hnmine.corpus.collection import Collection, hold_out
from hnmine.ranking.first_stage import FirstStage
from hnmine.ranking.task import Task
from hnmine.runs.progress import say
from hnmine.types import Float32, Int64, Pairs

FIRST_DOCUMENTS = 50
"""Of a query's first stage, those that anchors are drawn from and among which mistakes are looked for."""


class Splits:
    """Train, dev and test pairs. Without a dev split a share of the train queries is held out for it."""

    def __init__(
        self,
        collection: Collection,
        sources: SourcesConfig,
        evaluate: EvaluateConfig,
        seed: int,
        open_first_stage: Callable[[], FirstStage],
    ) -> None:
        """Divide the collection's pairs; `open_first_stage` is called once, when the first documents are asked for.

        Raises:
            DataError: the train split is missing, or one query cannot be divided.
        """
        self.collection = collection
        self._depth, self._open_first_stage = evaluate.depth, open_first_stage
        self._search: FirstStage | None = None
        self._found: dict[int, tuple[Int64, Float32]] = {}
        # Take the files' splits where they exist, else held-out queries.
        self.train, self.dev_name = collection.pairs(sources.train_split), sources.dev_split
        if self.dev_name in collection.splits:
            self.dev = collection.pairs(self.dev_name)
        else:
            self.dev, self.train = hold_out(self.train, collection.queries, sources.dev_share, seed)
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

    def first_stage(self, query_rows: Int64) -> dict[int, tuple[Int64, Float32]]:
        """Return the first stage's documents and their scores of every query asked about so far, these included."""
        wanted = np.setdiff1d(query_rows, np.array(sorted(self._found), dtype=np.int64))
        if len(wanted):
            self._search = self._search or self._open_first_stage()
            doc_rows_QK, scores_QK = self._search(wanted, max(self._depth, FIRST_DOCUMENTS))
            self._found |= {int(query): (doc_rows_QK[i], scores_QK[i]) for i, query in enumerate(wanted)}
        return self._found

    def task(self, pairs: Pairs, limit: int | None, seed: int) -> Task:
        """Return the re-ranking task of the pairs' queries, or of a seeded sample of them."""
        queries = np.unique(pairs.query_rows_P)
        if limit is not None and limit < len(queries):
            queries = np.sort(np.random.default_rng(seed).choice(queries, size=limit, replace=False))
        return self._task(queries, pairs)

    def unjudged(self, query_rows: Int64) -> Task:
        """Return the re-ranking task of these queries, in this order, with nothing known to be right."""
        return self._task(query_rows, self.train.take(np.zeros(len(self.train), dtype=bool)))

    def _task(self, query_rows: Int64, pairs: Pairs) -> Task:
        found, rows = self.first_stage(query_rows), query_rows.tolist()
        first = {row: (found[row][0][: self._depth], found[row][1][: self._depth]) for row in rows}
        return Task.of(self.collection.documents, self.collection.queries, pairs, first, rows)
