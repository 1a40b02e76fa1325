"""Guards against false negatives: further tests on documents that satisfy the two conditions, off by default.

Condition 1 keeps what is nearer to the query than the judged positive, where unlabelled right answers live
(NV-Retriever, arXiv 2407.15831, and RocketQA, arXiv 2010.08191, clear that region). Each guard removes the more
suspicious of these documents; every removal is counted under the guard's name.

All but one look at distances that are known already. `Denoise` asks a cross-encoder, which is expensive: `select` asks
it only about what may be chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hnmine.types import Float64, Int64, Space, distance


@dataclass(frozen=True, kw_only=True)
class Suspects:
    """Documents that satisfy both conditions, one row a (pair, document)."""

    query_rows_F: Int64
    positive_rows_F: Int64
    doc_rows_F: Int64
    d_query_F: Float64
    d_positive_F: Float64
    radius_F: Float64
    """d(Q, PD)."""
    rank_F: Int64
    """Rank among all documents that are not known positives; 1 is the nearest to the query."""


class Guard(Protocol):
    """A test on suspects, row by row: no row's answer depends on another row."""

    @property
    def name(self) -> str:
        """Names the guard where its removals are counted."""

    def keep(self, suspects: Suspects) -> NDArray[np.bool_]:
        """Return which rows stay."""


@dataclass(frozen=True, kw_only=True)
class RankWindow:
    """Keep ranks first to last: the very nearest documents are the likeliest false negatives."""

    first: int
    last: int | None
    name: str = "rank_window"

    def keep(self, suspects: Suspects) -> NDArray[np.bool_]:
        """Return which rows stay."""
        high = np.inf if self.last is None else self.last
        return (suspects.rank_F >= self.first) & (suspects.rank_F <= high)


@dataclass(frozen=True, kw_only=True)
class Margin:
    """Keep d(Q,PD) - d(Q,D) <= `most`: a document far nearer than the positive is a better answer."""

    most: float
    name: str = "margin"

    def keep(self, suspects: Suspects) -> NDArray[np.bool_]:
        """Return which rows stay."""
        return suspects.radius_F - suspects.d_query_F <= self.most


@dataclass(frozen=True, kw_only=True)
class NearDuplicate:
    """Keep d(PD,D) >= `least`: what is almost the positive answers what it answers."""

    least: float
    name: str = "near_duplicate"

    def keep(self, suspects: Suspects) -> NDArray[np.bool_]:
        """Return which rows stay."""
        return suspects.d_positive_F >= self.least


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Keep what satisfies both conditions in the spaces of at least `least` single encoders."""

    spaces: Sequence[Space]
    least: int
    name: str = "agreement"

    def keep(self, suspects: Suspects) -> NDArray[np.bool_]:
        """Return which rows stay."""
        votes = np.zeros(len(suspects.doc_rows_F), dtype=np.int64)
        for space in self.spaces:
            queries = space.queries_QR[suspects.query_rows_F]
            positives, docs = space.docs_NR[suspects.positive_rows_F], space.docs_NR[suspects.doc_rows_F]
            d_query = distance(queries, docs)
            votes += (d_query < distance(queries, positives)) & (d_query < distance(positives, docs))
        return votes >= self.least


RowScores = Callable[[Int64, Int64], Float64]
"""A cross-encoder over rows: (query rows (F), document rows (F)) → scores (F), the log-odds of being relevant."""


@dataclass(frozen=True, kw_only=True)
class Denoise:
    """Keep p(Q,D) <= p(Q,PD) - `margin` and p(Q,D) <= `most` (RocketQA: 0.1), p being the sigmoid of the score.

    A limit that is None does not apply.
    """

    scores: RowScores
    margin: float | None
    most: float | None
    name: str = "denoise"

    def keep(self, suspects: Suspects) -> NDArray[np.bool_]:
        """Return which rows stay."""
        queries = np.concatenate([suspects.query_rows_F, suspects.query_rows_F])
        docs = np.concatenate([suspects.doc_rows_F, suspects.positive_rows_F])  # one call fills batches better
        document, positive = np.split(_sigmoid(self.scores(queries, docs)), 2)
        stays = np.ones(len(document), dtype=bool)
        if self.margin is not None:
            stays &= document <= positive - self.margin
        if self.most is not None:
            stays &= document <= self.most
        return stays


def _sigmoid(scores_F: Float64) -> Float64:
    return 0.5 * (1 + np.tanh(0.5 * scores_F))  # exp would overflow
