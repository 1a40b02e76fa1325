"""Judges of negatives against plain loops over a re-ranker's scores, and over the encoders' spaces."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hnmine.arms.judges import agreed, denoised, mistakes
from hnmine.types import Float32, Float64, Int64, Pairs, Space

Case = tuple[Pairs, list[list[int]], np.random.Generator]


def case(seed: int, documents: int, queries: int) -> Case:
    """Eight pairs, and of each some documents, its positive not among them, in any order."""
    rng = np.random.default_rng(seed)
    pairs = Pairs(query_rows_P=rng.integers(0, queries, 8), doc_rows_P=rng.integers(0, documents, 8))
    candidates = [
        [row for row in rng.permutation(documents)[: rng.integers(0, documents + 1)].tolist() if row != positive]
        for positive in pairs.doc_rows_P.tolist()
    ]
    return pairs, candidates, rng


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 5), st.integers(0, 4))
def test_the_start_keeps_what_it_scores_no_higher_than_the_positive(
    seed: int, documents: int, queries: int, count: int
) -> None:
    pairs, candidates, rng = case(seed, documents, queries)
    score_QN = rng.integers(0, 6, (queries, documents)).astype(float)

    def scores(query_rows_F: Int64, doc_rows_F: Int64) -> Float64:
        return score_QN[query_rows_F, doc_rows_F]

    kept, wrong = denoised(pairs, candidates, scores), mistakes(pairs, candidates, scores, count)
    for at, (query, positive) in enumerate(zip(pairs.query_rows_P.tolist(), pairs.doc_rows_P.tolist(), strict=True)):
        below = [row for row in candidates[at] if score_QN[query, row] <= score_QN[query, positive]]
        assert kept[at] == below
        assert wrong[at] == sorted(below, key=lambda row: -score_QN[query, row])[:count]


def unit(rows: np.ndarray) -> Float32:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def conditions(space: Space, query: int, positive: int, doc: int) -> bool:
    """Both conditions, as written."""
    q, p, d = (row.astype(np.float64) for row in (space.queries_QR[query], space.docs_NR[positive], space.docs_NR[doc]))
    return bool(1 - q @ d < 1 - q @ p and 1 - q @ d < 1 - p @ d)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 5), st.integers(1, 3))
def test_encoders_keep_what_satisfies_both_conditions_in_every_space(
    seed: int, documents: int, queries: int, encoders: int
) -> None:
    pairs, candidates, rng = case(seed, documents, queries)
    spaces = [
        Space(docs_NR=unit(rng.normal(size=(documents, 3))), queries_QR=unit(rng.normal(size=(queries, 3))))
        for _ in range(encoders)
    ]
    kept = agreed(pairs, candidates, spaces)
    for at, (query, positive) in enumerate(zip(pairs.query_rows_P.tolist(), pairs.doc_rows_P.tolist(), strict=True)):
        wanted = [row for row in candidates[at] if all(conditions(space, query, positive, row) for space in spaces)]
        assert kept[at] == wanted
