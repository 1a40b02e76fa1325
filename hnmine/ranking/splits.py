"""Which pairs serve which purpose, and the first stage's documents for their queries, searched once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from hnmine.config.root import Config
from hnmine.config.steps import SourcesConfig
from hnmine.corpus.collection import Collection, hold_out
from hnmine.errors import DataError
from hnmine.ranking.first_stage import FirstStage, say_lacking, without
from hnmine.ranking.measures import Task
from hnmine.runs.progress import say
from hnmine.types import Float32, Int64, Pairs

FIRST_DOCUMENTS = 50
"""Of a query's first stage, those that anchors are drawn from and among which mistakes are looked for."""


def _warn_of_missing(sources: SourcesConfig, collection: Collection) -> None:
    """Warn of splits that are configured by name and that the data lack; those of the default may be lacking."""
    for key, field in SourcesConfig.model_fields.items():
        if key.endswith("_split") and (name := getattr(sources, key)) not in (field.default, *collection.splits):
            message = f"sources.{key}={name} is no split of these data, which have {', '.join(collection.splits)}"
            say("read", message, level="warning")


class Splits:
    """Train, dev and test pairs. Where the data lack train or dev queries, a share of another split is taken for them.

    Shares are of queries, drawn by their texts and the seed (`hold_out`), and a name says what it is a share of.
    """

    def __init__(self, collection: Collection, config: Config, open_first_stage: Callable[[], FirstStage]) -> None:
        """Divide the collection's pairs; `open_first_stage` is called once, when the first documents are asked for."""
        self.collection, sources, queries = collection, config.sources, collection.queries
        self._depth, self._open_first_stage = config.evaluate.depth, cache(open_first_stage)
        self._found: dict[int, tuple[Int64, Float32]] = {}
        names, share = (sources.train_split, sources.dev_split, sources.test_split), sources.dev_share
        named = {name: (name, collection.pairs(name)) for name in names if name in collection.splits}
        _warn_of_missing(sources, collection)
        # Train on most queries of dev, or else of test, where there is no train split.
        if (divided := next(iter(named), sources.train_split)) != sources.train_split:
            kept, rest = hold_out(named[divided][1], queries, share, config.seed + 1, divided)
            named[divided] = f"{share:.0%} of {divided}", kept
            named[sources.train_split] = f"{1 - share:.0%} of {divided}", rest
            say("read", f"no {sources.train_split} split: {1 - share:.0%} of {divided} queries are trained on")
        self.train_name, self.train = named.get(sources.train_split) or (divided, collection.pairs(divided))
        # Hold out train queries where there is no dev split, and report dev where there is no test split.
        if sources.dev_split in named:
            self.dev_name, self.dev = named[sources.dev_split]
        else:
            self.dev, self.train = hold_out(self.train, queries, share, config.seed, self.train_name)
            self.dev_name = f"{share:.0%} of {self.train_name}"
            say("read", f"no {sources.dev_split} split: {self.dev_name} queries are held out for early stopping")
        self.test_name, self.test = named.get(sources.test_split) or (self.dev_name, self.dev)
        if sources.test_split not in named:
            say("read", f"no {sources.test_split} split: {self.dev_name} is reported, which also chose the step")
        # Warn of queries that are trained on too, and of those that find themselves.
        _, groups_Q = collection.identities
        train = groups_Q[self.train.query_rows_P]
        for name, pairs in ((self.dev_name, self.dev), (self.test_name, self.test)):
            if shared := int(np.isin(groups_Q[np.unique(pairs.query_rows_P)], train).sum()):
                message = f"{shared:,} queries of {name} are train queries too; its figures flatter"
                say("read", message, level="warning")
        tested = np.intersect1d(self.test.query_rows_P, collection.queries_that_are_documents)
        found = sum(bool(collection.never_negative.same_as_unjudged(row)) for row in tested.tolist())
        if found and not config.evaluate.exclude_self:
            message = f"{found:,} queries of {self.test_name} are documents of the corpus and find themselves"
            say("read", f"{message}; evaluate.exclude_self=true leaves these out", level="warning")

    def first_stage(self, rows_Q: Int64) -> tuple[Int64, Float32]:
        """Return the first stage's document rows (Q, K) for these queries and their scores; each is searched once."""
        wanted = np.setdiff1d(rows_Q, list(self._found))
        if len(wanted):
            found = self._open_first_stage()(wanted, max(self._depth, FIRST_DOCUMENTS))
            say_lacking(self.collection.queries.take(wanted), found[0])
            self._found |= dict(zip(wanted.tolist(), zip(*found, strict=True), strict=True))
        doc_rows, scores = zip(*(self._found[row] for row in rows_Q.tolist()), strict=True)
        return np.stack(doc_rows), np.stack(scores)

    def task(self, pairs: Pairs, limit: int | None, seed: int) -> Task:
        """Return the re-ranking task of the pairs' queries, or of a seeded sample of them."""
        task = self.task_if_any(pairs, limit, seed)
        if task is None:
            name = self.dev_name if pairs is self.dev and pairs is not self.test else self.test_name
            queries = self.collection.queries.take(np.unique(pairs.query_rows_P))
            raise DataError(
                f"the first stage finds no document for any of {len(queries):,} queries of {name}, first "
                f"{queries.ids[0]!r}: {queries.texts[0][:80]!r}: "
                "nothing can be re-ranked. Expected words that documents have too, or a run file with these ids; set "
                "evaluate.first_stage=dense to ask the encoders in its place"
            )
        return task

    def task_if_any(self, pairs: Pairs, limit: int | None, seed: int) -> Task | None:
        """Return the same, or None where the first stage has no document for any of the queries."""
        rows_Q = np.unique(pairs.query_rows_P)
        if limit is not None and limit < len(rows_Q):
            rows_Q = np.sort(np.random.default_rng(seed).choice(rows_Q, size=limit, replace=False))
        task = self._task(rows_Q, pairs, *self.first_stage(rows_Q))
        return task if task.exists_QK.any() else None

    def unjudged(self, rows_Q: Int64) -> Task:
        """Return the re-ranking task of these queries, in this order: nothing is known to be right or is the query."""
        themselves = [self.collection.never_negative.same_as(row) for row in rows_Q.tolist()]
        return self._task(rows_Q, None, *without(*self.first_stage(rows_Q), themselves))

    def _task(self, rows_Q: Int64, pairs: Pairs | None, doc_rows_QK: Int64, scores_QK: Float32) -> Task:
        documents, queries, depth = self.collection.documents, self.collection.queries, self._depth
        return Task.of(documents, queries, pairs, rows_Q, doc_rows_QK[:, :depth], scores_QK[:, :depth])
