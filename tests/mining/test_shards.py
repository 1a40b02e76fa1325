"""Shards against the one searcher, the negatives that come of both, and shards that die."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hnmine.errors import DeviceError
from hnmine.mining import shards as shards_module
from hnmine.mining.conditions import select
from hnmine.mining.search import Ivf, Searcher
from hnmine.mining.shards import ShardedSearcher
from hnmine.runs.device import Choice
from hnmine.types import unit_rows
from tests.builders.devices import CPU
from tests.builders.vectors import awkward_space, negatives_as_rows

SHARDS = (1, 2, 5)
SPACE, JUDGED, KNOWN = awkward_space(8, docs=600, queries=40, pairs=80, width=6)


@pytest.fixture(scope="module")
def sharded() -> Iterator[dict[int, ShardedSearcher]]:
    searchers = {shards: ShardedSearcher(SPACE.docs_NR, CPU, shards) for shards in SHARDS}
    yield searchers
    for searcher in searchers.values():
        searcher.close()


@pytest.mark.ray
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shards=st.sampled_from(SHARDS),
    sent=st.sampled_from([1, 5_000, 2**26]),
    wanted=st.integers(1, 5),
    length=st.sampled_from([1, 4, 64, 599, 900]),
)
def test_the_negatives_depend_neither_on_shards_nor_on_blocks_nor_on_the_first_length(
    sharded: dict[int, ShardedSearcher], shards: int, sent: int, wanted: int, length: int
) -> None:
    one = select(SPACE, JUDGED, KNOWN, Searcher(SPACE.docs_NR, CPU), negatives=wanted)
    sharded[shards].sent_bytes = sent
    many = select(SPACE, JUDGED, KNOWN, sharded[shards], negatives=wanted, candidates=length)
    assert negatives_as_rows(many) == negatives_as_rows(one)
    assert many.dropped == one.dropped
    assert len(one) > 10


@pytest.mark.ray
@pytest.mark.parametrize("k", [1, 7, 300, 900])
def test_the_lists_of_all_shards_together_are_those_of_one(sharded: dict[int, ShardedSearcher], k: int) -> None:
    expected_rows, expected_distances = Searcher(SPACE.docs_NR, CPU).nearest(SPACE.queries_QR, k)
    rows, distances = sharded[5].nearest(SPACE.queries_QR, k)
    assert rows.shape == expected_rows.shape
    np.testing.assert_allclose(distances, expected_distances, atol=1e-6)
    assert all(len(set(row)) == len(row) for row in rows.tolist())
    assert len(sharded[5].nearest(SPACE.queries_QR[:0], k)[0]) == 0


@pytest.mark.ray
@pytest.mark.parametrize("method", ["nearest", "within"])
def test_a_killed_shard_is_started_again_and_asked_once_more(
    sharded: dict[int, ShardedSearcher], method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import ray

    searcher = sharded[2]
    argument = {"nearest": 9, "within": np.full(40, 0.4)}[method]
    before = getattr(searcher, method)(SPACE.queries_QR, argument)
    ray.kill(searcher.actors[1])
    after = getattr(searcher, method)(SPACE.queries_QR, argument)
    assert "search shard 2 of 2 died; it is started again" in capsys.readouterr().err
    for expected, found in zip(before, after, strict=True):
        assert np.array_equal(found, expected)
    assert len(before[0])


@pytest.mark.ray
def test_a_shard_that_cannot_live_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dying(shards_module.Shard):
        def fill(self, start: int, docs_mR: np.ndarray) -> None:
            import os

            os._exit(1)

    whole = ShardedSearcher(SPACE.docs_NR, CPU, 2)
    monkeypatch.setattr(shards_module, "Shard", Dying)
    with pytest.raises(DeviceError, match=r"search shard 1 of 2 died .*add nodes"):
        ShardedSearcher(SPACE.docs_NR, CPU, 2)
    import ray

    ray.kill(whole.actors[0])
    with pytest.raises(DeviceError, match=r"search shard 1 of 2 died .*add nodes"):
        whole.nearest(SPACE.queries_QR, 3)
    whole.close()


@pytest.mark.ray
def test_documents_travel_in_pieces_and_leave_the_object_store(
    sharded: dict[int, ShardedSearcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    state = get_state_from_address(ray.get_runtime_context().gcs_address)
    put, sizes = ray.put, []

    def used() -> int:
        return get_memory_info_reply(state).store_stats.object_store_bytes_used

    before = used()  # by whatever else this Ray was used for

    def watched(value: object) -> ray.ObjectRef:
        sizes.append(np.asarray(value).nbytes)
        return put(value)

    monkeypatch.setattr(ray, "put", watched)
    docs = unit_rows(np.random.default_rng(0).normal(size=(40_000, 100)).astype(np.float32))
    monkeypatch.setattr(ShardedSearcher, "sent_bytes", 2**20)
    searcher = ShardedSearcher(docs, CPU, 2)
    assert sum(sizes) == docs.nbytes
    assert max(sizes) <= 2**20
    deadline = time.monotonic() + 10
    while used() > before + 1e5:
        assert time.monotonic() < deadline, "the documents stay in the object store"
        time.sleep(0.1)
    asked = docs[::7999]
    assert searcher.nearest(asked, 1)[0][:, 0].tolist() == list(range(0, 40_000, 7999))
    searcher.close()


@pytest.mark.ray
def test_shards_of_an_approximate_index_leave_gaps_at_the_end() -> None:
    ivf = Ivf(probes=1)
    searcher = ShardedSearcher(SPACE.docs_NR, CPU, 2, ivf)
    found, _ = searcher.nearest(SPACE.queries_QR, 600)
    halves = [Searcher(half, CPU, ivf).nearest(SPACE.queries_QR, 300)[0] for half in np.split(SPACE.docs_NR, 2)]
    for query in range(40):
        rows = found[query]
        seen = {int(row) + 300 * at for at, half in enumerate(halves) for row in half[query] if row >= 0}
        assert set(rows[: len(seen)].tolist()) == seen
        assert set(rows[len(seen) :].tolist()) == {-1}
    result = select(SPACE, JUDGED, KNOWN, searcher, negatives=3)
    assert set(result.certificate_M) == {"approximate"}
    searcher.close()


@pytest.mark.ray
def test_more_shards_than_gpus_is_an_error_that_says_so() -> None:
    with pytest.raises(DeviceError, match="needs 2 GPUs, one a shard, and the Ray cluster has 0"):
        ShardedSearcher(np.eye(4, dtype=np.float32), Choice(kind="gpu", reason="test"), 2)
