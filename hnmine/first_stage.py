"""The first stage a re-ranker works behind: BM25 over the corpus, by bm25s."""

from __future__ import annotations

import numpy as np

from hnmine.progress import track
from hnmine.types import Float32, Int64, Texts

NO_ROW = -1


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
        """Return the rows (Q, depth) of the best documents of every query and their scores, best first.

        Documents that share no term with the query are not returned: the tail of such a row is NO_ROW with score 0.
        Ties break by row.
        """
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


def _first(scores_N: Float32, depth: int) -> Int64:
    """Return the rows of the `depth` highest scores above 0, best first; ties break by row, also at the cut."""
    rows = np.flatnonzero(scores_N > 0)
    if len(rows) > depth:
        cut = np.partition(scores_N[rows], -depth)[-depth]
        rows = rows[scores_N[rows] >= cut]
    return rows[np.lexsort((rows, -scores_N[rows]))][:depth]
