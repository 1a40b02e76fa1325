"""Held-out queries: drawn by their texts and the seed alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnmine.corpus.splits import hold_out
from hnmine.errors import DataError
from hnmine.types import Pairs
from tests.builders.texts import as_texts


def pairs_of(query_rows: list[int]) -> Pairs:
    """One pair for each query row, each with another document."""
    return Pairs(query_rows_P=np.array(query_rows, np.int64), doc_rows_P=np.arange(len(query_rows)))


@settings(max_examples=100, deadline=None)
@given(
    texts=st.lists(st.sampled_from([f"query {i}" for i in range(12)]), min_size=2, max_size=20),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 3),
)
def test_every_pair_is_on_one_side_and_queries_of_one_text_are_together(texts, share, seed):
    pairs, queries = pairs_of([*range(len(texts)), 0]), as_texts(texts)
    if len(set(texts)) < 2:
        with pytest.raises(DataError, match="one train query only"):
            hold_out(pairs, queries, share, seed)
        return
    held, rest = hold_out(pairs, queries, share, seed)
    assert sorted([*held.doc_rows_P.tolist(), *rest.doc_rows_P.tolist()]) == list(range(len(pairs)))
    sides = [{queries.texts[row] for row in side.query_rows_P} for side in (held, rest)]
    assert all(sides)
    assert not sides[0] & sides[1]


def test_the_share_is_held_out_and_more_of_it_keeps_what_was():
    seed = 7
    pairs, queries = pairs_of(list(range(2000))), as_texts([f"query {i}" for i in range(2000)])
    few, many = (set(hold_out(pairs, queries, share, seed)[0].query_rows_P.tolist()) for share in (0.1, 0.3))
    assert few < many
    assert len(few) / 2000 == pytest.approx(0.1, abs=0.03)
    assert len(many) / 2000 == pytest.approx(0.3, abs=0.04)
    other = set(hold_out(pairs, queries, 0.1, seed + 1)[0].query_rows_P.tolist())
    assert other != few
