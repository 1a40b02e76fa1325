"""Guards against false negatives: further tests on documents that satisfy the two conditions, off by default.

Condition 1 keeps what is nearer to the query than the judged positive, where unlabelled right answers live
(NV-Retriever, arXiv 2407.15831, and RocketQA, arXiv 2010.08191, clear that region). Each guard removes the more
suspicious of these documents. All but `denoise_guard`, which asks a cross-encoder, look at distances alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hnmine.types import Float64, Int64, Space, distances

RowScores = Callable[[Int64, Int64], Float64]
"""A cross-encoder over rows: (query rows (F), document rows (F)) → scores (F), the log-odds of being relevant."""


@dataclass(frozen=True, kw_only=True)
class Suspects:
    """Documents that satisfy both conditions, one row a (pair, document)."""

    query_rows_F: Int64
    positive_rows_F: Int64
    doc_rows_F: Int64
    d_query_F: Float64
    d_positive_F: Float64
    radius_F: Float64  # d(Q, PD)
    rank_F: Int64  # among all documents that may be negatives; 1 is the nearest to the query


@dataclass(frozen=True)
class Guard:
    """A test on suspects, row by row: no row's answer depends on another row."""

    name: str  # under which its removals are counted
    keep: Callable[[Suspects], NDArray[np.bool_]]  # returns which rows (F) stay


def rank_window_guard(first: int, last: int | None) -> Guard:
    """Keep ranks first to last: the very nearest documents are the likeliest false negatives."""
    high = np.inf if last is None else last
    return Guard("rank_window", lambda suspects: (suspects.rank_F >= first) & (suspects.rank_F <= high))


def margin_guard(most: float) -> Guard:
    """Keep d(Q,PD) - d(Q,D) <= `most`: a document far nearer than the positive is a better answer."""
    return Guard("margin", lambda suspects: suspects.radius_F - suspects.d_query_F <= most)


def near_duplicate_guard(least: float) -> Guard:
    """Keep d(PD,D) >= `least`: what is almost the positive answers what it answers."""
    return Guard("near_duplicate", lambda suspects: suspects.d_positive_F >= least)


def agreement_guard(spaces: Sequence[Space], least: int) -> Guard:
    """Keep what satisfies both conditions in the spaces of at least `least` single encoders."""

    def keep(suspects: Suspects) -> NDArray[np.bool_]:
        return votes(spaces, suspects.query_rows_F, suspects.positive_rows_F, suspects.doc_rows_F) >= least

    return Guard("agreement", keep)


def votes(spaces: Sequence[Space], query_rows_F: Int64, positive_rows_F: Int64, doc_rows_F: Int64) -> Int64:
    """Return in how many of the spaces each document satisfies both conditions (F)."""
    votes_F = np.zeros(len(doc_rows_F), dtype=np.int64)
    for space in spaces:
        d_query_F = distances(space.queries_QR, query_rows_F, space.docs_NR, doc_rows_F)
        radius_F = distances(space.queries_QR, query_rows_F, space.docs_NR, positive_rows_F)
        d_positive_F = distances(space.docs_NR, positive_rows_F, space.docs_NR, doc_rows_F)
        votes_F += (d_query_F < radius_F) & (d_query_F < d_positive_F)
    return votes_F


def denoise_guard(scores: RowScores, margin: float | None, most: float | None) -> Guard:
    """Keep p(Q,D) <= p(Q,PD) - `margin` and p(Q,D) <= `most` (RocketQA: 0.1), p being the sigmoid of the score."""

    def keep(suspects: Suspects) -> NDArray[np.bool_]:
        queries = np.concatenate([suspects.query_rows_F, suspects.query_rows_F])
        docs = np.concatenate([suspects.doc_rows_F, suspects.positive_rows_F])  # one call fills batches better
        p_F = 0.5 * (1 + np.tanh(0.5 * scores(queries, docs)))  # the sigmoid: exp would overflow
        document_F, positive_F = np.split(p_F, 2)
        below_positive_F = document_F <= (np.inf if margin is None else positive_F - margin)
        return below_positive_F & (document_F <= (np.inf if most is None else most))

    return Guard("denoise", keep)
