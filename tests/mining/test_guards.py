"""Guards by hand; all of them are compared with the double loop in test_conditions too."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from hnmine.mining.guards import Suspects, denoise_guard, margin_guard, near_duplicate_guard, rank_window_guard

# log-odds of (query, document); document 0 is the positive
SCORES_QN = np.array([[2.0, 1.9, 0.5, -3.0, 2.0, 2.1], [-1.0, -1.1, 3.0, -6.0, -1.0, 900.0]])


def suspects(rows: list[tuple[int, int]]) -> Suspects:
    query_rows, doc_rows = np.array(rows, dtype=np.int64).reshape(-1, 2).T
    nothing = np.zeros(len(rows))
    return Suspects(
        query_rows_F=query_rows,
        positive_rows_F=np.zeros_like(query_rows),
        doc_rows_F=doc_rows,
        d_query_F=nothing,
        d_positive_F=nothing,
        radius_F=nothing,
        rank_F=np.ones_like(query_rows),
    )


@pytest.mark.parametrize("margin", [None, 0.0, 0.02, 0.3, 1.0])
@pytest.mark.parametrize("most", [None, 0.0, 0.1, 0.7, 1.0])
def test_what_the_cross_encoder_finds_as_relevant_as_the_positive_is_removed(
    margin: float | None, most: float | None
) -> None:
    def p(query: int, doc: int) -> float:
        return 1 / (1 + math.exp(-SCORES_QN[query, doc]))

    rows = [(query, doc) for query in (0, 1) for doc in range(1, 6)]
    keep = denoise_guard(lambda q, d: SCORES_QN[q, d], margin=margin, most=most).keep(suspects(rows))
    expected = [(margin is None or p(q, d) <= p(q, 0) - margin) and (most is None or p(q, d) <= most) for q, d in rows]
    assert keep.tolist() == expected
    assert denoise_guard(lambda q, d: SCORES_QN[q, d], margin=0.0, most=None).keep(suspects([])).tolist() == []


def test_scores_that_overflow_are_probabilities_all_the_same() -> None:
    extreme = denoise_guard(lambda q, d: np.where(d == 0, 5000.0, -5000.0), margin=1.0, most=0.0)
    assert extreme.keep(suspects([(0, 1)])).tolist() == [True]


def three_suspects() -> Suspects:
    """The first is far nearer to the query than the positive, the last is almost the positive."""
    given = suspects([(0, 1), (0, 2), (0, 3)])
    return replace(
        given,
        d_query_F=np.array([0.1, 0.3, 0.4]),
        d_positive_F=np.array([0.6, 0.5, 0.01]),
        radius_F=np.full(3, 0.5),
        rank_F=np.array([1, 2, 3]),
    )


def test_the_margin_guard_removes_what_is_far_nearer_than_the_positive() -> None:
    assert margin_guard(0.25).keep(three_suspects()).tolist() == [False, True, True]


def test_the_near_duplicate_guard_removes_what_is_almost_the_positive() -> None:
    assert near_duplicate_guard(0.02).keep(three_suspects()).tolist() == [True, True, False]


def test_the_rank_window_has_a_first_and_maybe_a_last_rank() -> None:
    assert rank_window_guard(2, None).keep(three_suspects()).tolist() == [False, True, True]
    assert rank_window_guard(1, 2).keep(three_suspects()).tolist() == [True, True, False]
