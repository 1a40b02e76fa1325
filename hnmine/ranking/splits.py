"""Which pairs serve which purpose, and the first stage's documents for their queries, searched once."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from hnmine.config.root import Config
from hnmine.corpus.beir import Collection
from hnmine.errors import DataError
from hnmine.mining.mine import dense
from hnmine.ranking.first_stage import Bm25, FirstStage, read_run
from hnmine.ranking.task import Task
from hnmine.runs.folder import Run
from hnmine.runs.progress import say
from hnmine.types import Float32, Int64, Pairs, Texts

_LEAST_DEPTH = 50  # what ways to choose negatives look at: their names say it


class Splits:
    """Train, dev and test pairs. Without a dev split a share of the train queries is held out for it."""

    def __init__(self, collection: Collection, config: Config, run: Run | None = None) -> None:
        """Take the pairs; `run` is needed where the first stage is the ensemble, whose vectors it stores."""
        self.collection = collection
        self._config, self._run = config, run
        sources = config.sources
        train = collection.pairs(sources.train_split)
        self.dev_name = sources.dev_split
        if sources.dev_split in collection.splits:
            self.dev, self.train = collection.pairs(sources.dev_split), train
        else:
            self.dev, self.train = _hold_out(train, collection.queries, sources.dev_share, sources.seed)
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
        self._search: FirstStage | None = None
        self._first: dict[int, tuple[Int64, Float32]] = {}

    def _warn_of_shared_queries(self) -> None:
        texts = self.collection.queries.texts
        train = {texts[row] for row in self.train.query_rows_P}
        for name, pairs in ((self.dev_name, self.dev), (self.test_name, self.test)):
            shared = sum(texts[row] in train for row in np.unique(pairs.query_rows_P))
            if shared:
                told = f"{shared:,} queries of {name} are train queries too; its figures flatter"
                say("read", told, level="warning")

    def look_in(self, config: Config) -> None:
        """Let a dense first stage look in the space of this configuration; nothing was asked of it so far."""
        assert not self._first
        self._config = config

    def first_stage(self, query_rows: Int64) -> dict[int, tuple[Int64, Float32]]:
        """Return each query row's first documents and their scores."""
        wanted = np.setdiff1d(query_rows, np.array(sorted(self._first), dtype=np.int64))
        if len(wanted):
            self._search = self._search or self._open()
            depth = max(self._config.evaluate.depth, self._config.train.anchors.depth, _LEAST_DEPTH)
            rows, scores = self._search(wanted, depth)
            self._first |= {int(query): (rows[i], scores[i]) for i, query in enumerate(wanted)}
        return self._first

    def _open(self) -> FirstStage:
        """Make the first stage that is configured."""
        documents, queries, settings = self.collection.documents, self.collection.queries, self._config.evaluate
        if settings.first_stage == "bm25":
            index = Bm25(documents, k1=settings.k1, b=settings.b)
            return lambda rows, depth: index.first(queries.take(rows.tolist()), depth)
        if settings.first_stage == "dense":
            assert self._run is not None
            return dense(self.collection, self._config, self._run)
        return read_run(Path(settings.first_stage), documents, queries)

    def task(self, pairs: Pairs, limit: int | None, seed: int) -> Task:
        """Return the re-ranking task of the pairs' queries, or of a seeded sample of them."""
        queries = np.unique(pairs.query_rows_P)
        if limit is not None and limit < len(queries):
            queries = np.sort(np.random.default_rng(seed).choice(queries, size=limit, replace=False))
            pairs = pairs.take(np.isin(pairs.query_rows_P, queries))
        return self._task(queries, pairs)

    def unjudged(self, query_rows: Int64) -> Task:
        """Return the re-ranking task of these queries, in this order, with nothing known to be right."""
        return self._task(query_rows, self.train.take(np.zeros(len(self.train), dtype=bool)))

    def _task(self, query_rows: Int64, pairs: Pairs) -> Task:
        depth, found = self._config.evaluate.depth, self.first_stage(query_rows)
        rows = query_rows.tolist()
        first = {row: (found[row][0][:depth], found[row][1][:depth]) for row in rows}
        return Task.of(self.collection.documents, self.collection.queries, pairs, first, rows)


def _hold_out(pairs: Pairs, texts: Texts, share: float, seed: int) -> tuple[Pairs, Pairs]:
    """Return (held out, rest): about this share of the queries, those of one text together, with all their pairs.

    A query's text and the seed alone decide, so that what is held out today was not trained on yesterday.
    """
    draw_of = {texts.texts[row]: 0.0 for row in pairs.query_rows_P.tolist()}
    if len(draw_of) < 2:
        raise DataError("one train query only, and no dev split to stop early on; add qrels/dev.tsv or more queries")
    for text in draw_of:
        hashed = hashlib.sha256(f"{seed} {text}".encode()).digest()
        draw_of[text] = int.from_bytes(hashed[:8]) / 2**64
    draws = sorted(draw_of.values())
    border = min(max(share, draws[1]), draws[-1])  # one at least on either side
    held = np.array([draw_of[texts.texts[row]] < border for row in pairs.query_rows_P.tolist()])
    return pairs.take(held), pairs.take(~held)
