"""The first stage a re-ranker works behind: BM25 over the corpus, by bm25s."""

from __future__ import annotations

import numpy as np

from hnmine.progress import track
from hnmine.types import Float32, Int64, Texts

NO_ROW = -1


def bm25(documents: Texts, queries: Texts, depth: int, *, k1: float, b: float) -> tuple[Int64, Float32]:
    """Return the rows (Q, depth) of the best documents of every query and their scores, best first.

    Lucene's variant of BM25 with English stop words and no stemming. Documents that share no term with the query
    are not returned: the tail of such a row is NO_ROW with score 0. Ties break by row.
    """
    import bm25s

    depth = min(depth, len(documents))
    with track("bm25", "index", len(documents), "documents") as progress:
        tokens = bm25s.tokenize(list(documents.texts), stopwords="en", show_progress=False)
        index = bm25s.BM25(method="lucene", k1=k1, b=b)
        index.index(tokens, show_progress=False)
        progress.advance(len(documents))
    with track("bm25", f"first {depth} documents", len(queries), "queries") as progress:
        rows, scores = index.retrieve(
            bm25s.tokenize(list(queries.texts), stopwords="en", show_progress=False, return_ids=False),
            k=depth,
            show_progress=False,
        )
        progress.advance(len(queries))
    rows, scores = np.asarray(rows, dtype=np.int64), np.asarray(scores, dtype=np.float32)
    order = np.lexsort((rows, -scores), axis=1)
    rows, scores = np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)
    rows[scores <= 0] = NO_ROW
    return rows, np.maximum(scores, 0)
