"""The first stage a re-ranker works behind: BM25 over the corpus by bm25s, or a run file made elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np

from hnmine.config.steps import EvaluateConfig
from hnmine.errors import DataError
from hnmine.runs.progress import say, track
from hnmine.types import NO_ROW, Float32, Int64, Texts

FirstStage = Callable[[Int64, int], tuple[Int64, Float32]]
"""Maps (query rows (Q,), depth) to document rows (Q, depth) and scores, best first; NO_ROW fills up."""


def bm25_or_run_file(evaluate: EvaluateConfig, documents: Texts, queries: Texts) -> FirstStage:
    """Index the documents by BM25, or read the run file that `evaluate.first_stage` names."""
    if evaluate.first_stage != "bm25":
        return read_run(Path(evaluate.first_stage), documents, queries)
    index = Bm25(documents, k1=evaluate.k1, b=evaluate.b)
    return lambda query_rows, depth: index.first(queries.take(query_rows.tolist()), depth)


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


class Bm25:
    """An index of the corpus: Lucene's variant of BM25 with English stop words and no stemming."""

    def __init__(self, documents: Texts, *, k1: float, b: float) -> None:
        import bm25s

        with track("bm25", "index", len(documents), "documents") as progress:
            tokens = bm25s.tokenize(list(documents.texts), stopwords="en", show_progress=False)
            self._index = bm25s.BM25(method="lucene", k1=k1, b=b)
            self._known = tokens.vocab
            if self._known:
                self._index.index(tokens, show_progress=False)
            progress.advance(len(documents))
        self._documents = len(documents)

    def first(self, queries: Texts, depth: int) -> tuple[Int64, Float32]:
        """Return the rows (Q, depth) of the documents with a term of the query, best first, ties by row; and scores."""
        import bm25s

        depth = min(depth, self._documents)
        rows_QK = np.full((len(queries), depth), NO_ROW, dtype=np.int64)
        scores_QK = np.zeros((len(queries), depth), dtype=np.float32)
        with track("bm25", f"first {depth} documents", len(queries), "queries") as progress:
            asked = bm25s.tokenize(list(queries.texts), stopwords="en", show_progress=False, return_ids=False)
            for query, terms in enumerate(asked):
                if known := [term for term in terms if term in self._known]:
                    rows = _first(scores_N := self._index.get_scores(known), depth)
                    rows_QK[query, : len(rows)], scores_QK[query, : len(rows)] = rows, scores_N[rows]
                progress.advance(1)
        return rows_QK, scores_QK


def read_run(path: Path, documents: Texts, queries: Texts) -> FirstStage:
    """Read a TREC run file: `query_id Q0 doc_id rank score tag`; documents are ordered by score, then by rank.

    Lines of queries or documents that the collection does not have are ignored, and counted.
    """
    # Read.
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"evaluate.first_stage: {path} cannot be read: {error}; bm25 and dense need no file") from None
    # Collect each query's documents, and order them.
    lists: dict[int, list[tuple[float, int, int]]] = {}
    foreign = 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            query_id, _, doc_id, rank, score, _ = line.split()
            entry = (-float(score), int(rank))
        except ValueError:
            raise DataError(
                f"{path}, line {number}: expected `query_id Q0 doc_id rank score tag`, got {line[:80]!r}"
            ) from None
        query, doc = queries.row_of.get(query_id), documents.row_of.get(doc_id)
        if query is None or doc is None:
            foreign += 1
        else:
            lists.setdefault(query, []).append((*entry, doc))
    ranked = {query: sorted(entries) for query, entries in lists.items()}
    say("evaluate", f"{path}: {len(ranked):,} queries" + (f", {foreign:,} lines of others ignored" if foreign else ""))

    def first(query_rows: Int64, depth: int) -> tuple[Int64, Float32]:
        rows_QK = np.full((len(query_rows), depth), NO_ROW, dtype=np.int64)
        scores_QK = np.zeros((len(query_rows), depth), dtype=np.float32)
        for at, query in enumerate(query_rows.tolist()):
            for place, (score, _, doc) in enumerate(ranked.get(query, [])[:depth]):
                rows_QK[at, place], scores_QK[at, place] = doc, -score
        if lacking := sum(query not in ranked for query in query_rows.tolist()):
            say("evaluate", f"{path} has nothing for {lacking:,} of {len(query_rows):,} queries", level="warning")
        return rows_QK, scores_QK

    return first


def _first(scores_N: Float32, depth: int) -> Int64:
    """Return the rows of the `depth` highest scores above 0, best first; ties break by row, also at the cut."""
    rows = np.flatnonzero(scores_N > 0)
    if len(rows) > depth:
        cut = np.partition(scores_N[rows], -depth)[-depth]
        rows = rows[scores_N[rows] >= cut]
    return rows[np.lexsort((rows, -scores_N[rows]))][:depth]
