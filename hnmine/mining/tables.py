"""The two tables that leave mining: the negatives with their proof, and triplets of texts to train on."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from hnmine.mining.mine import Judged
from hnmine.types import Int64, Negatives, Texts


def negatives_table(negatives: Negatives, judged: Judged, documents: Texts) -> pa.Table:
    """Return the negatives with ids, distances and certificates, one row a negative."""
    return pa.table(
        _ids(negatives, judged, documents)
        | {
            "rank": pa.array(negatives.rank_M, pa.int32()),
            "d_query_positive": negatives.d_query_positive_M,
            "d_query_negative": negatives.d_query_negative_M,
            "d_positive_negative": negatives.d_positive_negative_M,
            "certificate": pa.array(negatives.certificate_M.tolist(), pa.string()),
        }
    )


def triplets_table(negatives: Negatives, judged: Judged, documents: Texts) -> pa.Table:
    """Return texts, then ids: sentence-transformers trains on the columns query, positive, negative as they stand."""
    queries, positives, negative_rows = _rows(negatives, judged)
    texts = {
        "query": _column(judged.queries.texts, queries, pa.large_string()),
        "positive": _column(documents.texts, positives, pa.large_string()),
        "negative": _column(documents.texts, negative_rows, pa.large_string()),
    }
    return pa.table(texts | _ids(negatives, judged, documents))


def _ids(negatives: Negatives, judged: Judged, documents: Texts) -> dict[str, pa.Array]:
    queries, positives, negative_rows = _rows(negatives, judged)
    return {
        "query_id": _column(judged.queries.ids, queries, pa.string()),
        "positive_id": _column(documents.ids, positives, pa.string()),
        "negative_id": _column(documents.ids, negative_rows, pa.string()),
    }


def _rows(negatives: Negatives, judged: Judged) -> tuple[Int64, Int64, Int64]:
    """Return the rows of query, positive and negative of each negative (M)."""
    pairs = judged.pairs.take(negatives.pair_M)
    return pairs.query_rows_P, pairs.doc_rows_P, negatives.doc_rows_M


def _column(values: Sequence[str], rows_M: Int64, kind: pa.DataType) -> pa.Array:
    return pa.array([values[row] for row in rows_M.tolist()], kind)
