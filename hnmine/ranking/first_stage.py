"""The first stage a re-ranker works behind: BM25 over the corpus by bm25s, or a run file made elsewhere."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence

import numpy as np

from hnmine.config.steps import EvaluateConfig
from hnmine.corpus.analyzer import STOP_WORDS, words
from hnmine.errors import DataError
from hnmine.ranking.run_files import check_run_file, read_run
from hnmine.runs.progress import say, track
from hnmine.types import NO_ROW, Float32, Int64, Texts

FirstStage = Callable[[Int64, int], tuple[Int64, Float32]]
"""Maps (query rows (Q,), depth) to document rows (Q, depth) and scores, best first; NO_ROW fills up."""


def bm25_or_run_file(evaluate: EvaluateConfig, documents: Texts, queries: Texts) -> FirstStage:
    """Index the documents by BM25, or read the run file that `evaluate.first_stage` names."""
    if evaluate.first_stage != "bm25":
        try:
            return read_run(evaluate.first_stage, documents, queries)
        except DataError as error:
            raise DataError(f"evaluate.first_stage: {error}; bm25 and dense need no file") from None
    index = Bm25(documents, k1=evaluate.k1, b=evaluate.b)
    return lambda query_rows, depth: index.first(queries.take(query_rows.tolist()), depth)


def check_first_stage(evaluate: EvaluateConfig) -> None:
    """Raise DataError if the first stage is a run file that is not there."""
    if evaluate.first_stage not in ("bm25", "dense"):
        try:
            check_run_file(evaluate.first_stage)
        except DataError as error:
            raise DataError(f"evaluate.first_stage: {error}; bm25 and dense need no file") from None


def excluding(first: FirstStage, excluded: Callable[[int], Collection[int]]) -> FirstStage:
    """Return the first stage without the documents that are excluded by query row; it is asked for as many more."""

    def others(query_rows: Int64, depth: int) -> tuple[Int64, Float32]:
        docs = [excluded(row) for row in query_rows.tolist()]
        doc_rows_QK, scores_QK = without(*first(query_rows, depth + max(map(len, docs), default=0)), docs)
        return doc_rows_QK[:, :depth], scores_QK[:, :depth]

    return others


def without(doc_rows_QK: Int64, scores_QK: Float32, excluded: Sequence[Collection[int]]) -> tuple[Int64, Float32]:
    """Return the lists without these documents of each query, filled up at the end."""
    gone = [np.isin(rows, list(docs)) for rows, docs in zip(doc_rows_QK, excluded, strict=True)]
    gone_QK = np.array(gone, dtype=bool).reshape(doc_rows_QK.shape)
    order_QK = np.argsort(gone_QK, axis=1, kind="stable")
    kept = np.where(gone_QK, NO_ROW, doc_rows_QK), np.where(gone_QK, np.float32(0), scores_QK)
    return np.take_along_axis(kept[0], order_QK, axis=1), np.take_along_axis(kept[1], order_QK, axis=1)


def lacking_text(queries: Texts, doc_rows_QK: Int64) -> str:
    """Return how many queries have no document, and the first of them; empty if all have one."""
    lacking = np.flatnonzero((doc_rows_QK == NO_ROW).all(axis=1)).tolist()
    if not lacking:
        return ""
    example = f"first {queries.ids[lacking[0]]!r}: {queries.texts[lacking[0]][:80]!r}"
    return f"the first stage has nothing for {len(lacking):,} of {len(queries):,} queries, {example}"


def say_lacking(queries: Texts, doc_rows_QK: Int64) -> None:
    """Warn of the queries that have no document."""
    if lacking := lacking_text(queries, doc_rows_QK):
        say("evaluate", lacking, level="warning")


class Bm25:
    """An index of the corpus: Lucene's variant of BM25 over the words of the analyzer, without stemming.

    English stop words are asked for only where a query has no other word.
    """

    def __init__(self, documents: Texts, *, k1: float, b: float) -> None:
        import bm25s

        self._documents = len(documents)
        self._number: dict[str, int] = defaultdict(lambda: len(self._number))
        number, tokens = self._number.__getitem__, []
        with track("bm25", "index", len(documents), "documents") as progress:
            for text in documents.texts:
                tokens.append(list(map(number, words(text))))
                progress.advance(1)
            self._number = dict(self._number)  # a word that the corpus lacks gets no number
            self._index = bm25s.BM25(method="lucene", k1=k1, b=b)
            if self._number:
                self._index.index((tokens, self._number), create_empty_token=False, show_progress=False)

    def first(self, queries: Texts, depth: int) -> tuple[Int64, Float32]:
        """Return the rows (Q, depth) of the documents with a term of the query, best first, ties by row; and scores."""
        depth = min(depth, self._documents)
        rows_QK = np.full((len(queries), depth), NO_ROW, dtype=np.int64)
        scores_QK = np.zeros((len(queries), depth), dtype=np.float32)
        with track("bm25", f"first {depth} documents", len(queries), "queries") as progress:
            for query, text in enumerate(queries.texts):
                if known := [self._number[term] for term in _asked(text) if term in self._number]:
                    rows = _first(scores_N := self._index.get_scores(known), depth)
                    rows_QK[query, : len(rows)], scores_QK[query, : len(rows)] = rows, scores_N[rows]
                progress.advance(1)
        return rows_QK, scores_QK


def _asked(query: str) -> list[str]:
    terms = words(query)
    return [term for term in terms if term not in STOP_WORDS] or terms


def _first(scores_N: Float32, depth: int) -> Int64:
    """Return the rows of the `depth` highest scores above 0, best first; ties break by row, also at the cut."""
    rows = np.flatnonzero(scores_N > 0)
    if len(rows) > depth:
        cut = np.partition(scores_N[rows], -depth)[-depth]
        rows = rows[scores_N[rows] >= cut]
    return rows[np.lexsort((rows, -scores_N[rows]))][:depth]
