"""Judges of what a rule has chosen: the start as a cross-encoder, or the encoders one by one.

Candidates are document rows of each pair, in the order of the rule; what a judge keeps stays in that order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hnmine.mining.guards import RowScores
from hnmine.types import Float64, Int64, Pairs, Space, distance

Rows = Sequence[Sequence[int]]
"""Of each pair some document rows."""


def agreed(pairs: Pairs, candidates: Rows, spaces: Sequence[Space]) -> list[list[int]]:
    """Keep the candidates that satisfy both conditions in every space; `pairs` has rows of the spaces' queries."""
    pair_F, doc_F = _flat(candidates)
    query_F, positive_F = pairs.query_rows_P[pair_F], pairs.doc_rows_P[pair_F]
    keep_F = np.ones(len(pair_F), dtype=bool)
    for space in spaces:
        queries, positives, docs = space.queries_QR[query_F], space.docs_NR[positive_F], space.docs_NR[doc_F]
        d_query_F = distance(queries, docs)
        keep_F &= (d_query_F < distance(queries, positives)) & (d_query_F < distance(positives, docs))
    return _by_pair(len(pairs), pair_F[keep_F], doc_F[keep_F])


def denoised(pairs: Pairs, candidates: Rows, scores: RowScores) -> list[list[int]]:
    """Keep the candidates that a re-ranker scores no higher than the positive; the others may be right."""
    pair_F, doc_F, score_F, score_P = _scored(pairs, candidates, scores)
    keep_F = score_F <= score_P[pair_F]
    return _by_pair(len(pairs), pair_F[keep_F], doc_F[keep_F])


def mistakes(pairs: Pairs, candidates: Rows, scores: RowScores, count: int) -> list[list[int]]:
    """Return up to `count` candidates that a re-ranker scores highest, but no higher than the positive.

    What it finds more relevant than the positive may be right and not labelled.
    """
    pair_F, doc_F, score_F, score_P = _scored(pairs, candidates, scores)
    order_F = np.argsort(-score_F, kind="stable")
    order_F = order_F[score_F[order_F] <= score_P[pair_F[order_F]]]
    return [rows[:count] for rows in _by_pair(len(pairs), pair_F[order_F], doc_F[order_F])]


def _flat(candidates: Rows) -> tuple[Int64, Int64]:
    """Return the candidates of all pairs, one after the other: the position of the pair, and the document row."""
    pair_F = np.repeat(np.arange(len(candidates)), [len(rows) for rows in candidates])
    return pair_F, np.array([row for rows in candidates for row in rows], dtype=np.int64)


def _scored(pairs: Pairs, candidates: Rows, scores: RowScores) -> tuple[Int64, Int64, Float64, Float64]:
    """Return pairs and documents of the candidates, their scores, and those of each pair's positive; in one call."""
    pair_F, doc_F = _flat(candidates)
    query_rows = np.concatenate([pairs.query_rows_P[pair_F], pairs.query_rows_P])
    score_F, score_P = np.split(scores(query_rows, np.concatenate([doc_F, pairs.doc_rows_P])), [len(doc_F)])
    return pair_F, doc_F, score_F, score_P


def _by_pair(pairs: int, pair_F: Int64, doc_F: Int64) -> list[list[int]]:
    """Return the documents of each of so many pairs, in the order in which they stand."""
    rows: list[list[int]] = [[] for _ in range(pairs)]
    for pair, doc in zip(pair_F.tolist(), doc_F.tolist(), strict=True):
        rows[pair].append(doc)
    return rows
