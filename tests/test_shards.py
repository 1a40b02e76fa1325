"""Shards against the one searcher, and the negatives that come of both."""

from __future__ import annotations

import numpy as np
import pytest

from hnmine.device import Choice
from hnmine.errors import DeviceError
from hnmine.fuse import unit_rows
from hnmine.search import Searcher
from hnmine.select import select
from hnmine.shards import ShardedSearcher
from tests.test_select import as_rows, awkward

CPU = Choice(kind="cpu", reason="test")


@pytest.mark.ray
@pytest.mark.parametrize("shards", [2, 5])
def test_one_shard_or_many_give_the_same_negatives(shards: int) -> None:
    space, judged, known = awkward(8, docs=600, queries=40, pairs=80, width=6)
    one = select(space, judged, known, Searcher(space.docs_NR, CPU), negatives=3, candidates=4)
    sharded = ShardedSearcher(space.docs_NR, CPU, shards)
    many = select(space, judged, known, sharded, negatives=3, candidates=4)
    assert as_rows(many) == as_rows(one)
    assert many.dropped == one.dropped
    assert len(one) > 20
    docs, queries = (
        unit_rows(np.random.default_rng(i).normal(size=(n, 6)).astype(np.float32)) for i, n in ((0, 600), (1, 9))
    )
    sharded.close()
    sharded = ShardedSearcher(docs, CPU, shards)
    for k in (1, 7, 300, 900):
        expected, found = Searcher(docs, CPU).nearest(queries, k), sharded.nearest(queries, k)
        np.testing.assert_allclose(found.distances_QK, expected.distances_QK, atol=1e-6)
        assert (np.sort(found.doc_rows_QK, axis=1) == np.sort(expected.doc_rows_QK, axis=1)).all()
    sharded.close()


@pytest.mark.ray
def test_more_shards_than_gpus_is_an_error_that_says_so() -> None:
    with pytest.raises(DeviceError, match="needs 2 GPUs, one a shard, and the Ray cluster has 0"):
        ShardedSearcher(np.eye(4, dtype=np.float32), Choice(kind="gpu", reason="test"), 2)
