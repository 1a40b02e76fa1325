"""The short list against a full sort, the scan against brute force, the approximate index and shards against one."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hnmine.errors import DeviceError
from hnmine.mining import search
from hnmine.mining.conditions import select
from hnmine.mining.scan import error_bound, nearer, recall
from hnmine.mining.search import Ivf, Searcher, ShardedSearcher
from hnmine.runs.device import Choice
from hnmine.types import distance, unit_rows
from tests.builders.devices import CPU
from tests.builders.raylets import raylets
from tests.builders.vectors import awkward_space, negatives_as_rows

SHARDS = (1, 2, 5)
SPACE, JUDGED, KNOWN = awkward_space(8, docs=600, queries=40, pairs=80, width=6)


def unit(seed: int, count: int, width: int) -> np.ndarray:
    return unit_rows(np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32))


def exact(queries: np.ndarray, docs: np.ndarray) -> np.ndarray:
    return 1 - queries.astype(np.float64) @ docs.astype(np.float64).T


@pytest.mark.parametrize("k", [1, 7, 300])
@pytest.mark.parametrize("width", [1, 5, 384])
def test_the_nearest_equal_a_full_sort_up_to_ties(k, width):
    docs, queries = unit(0, 300, width), unit(1, 30, width)
    docs[50:60] = docs[40:50]  # exact ties
    doc_rows_QK, distances_QK = Searcher(docs, CPU).nearest(queries, k)
    distances = exact(queries, docs)
    expected = np.sort(distances, axis=1)[:, :k]
    assert doc_rows_QK.shape == (30, k)
    assert (doc_rows_QK.dtype, distances_QK.dtype) == (np.int64, np.float32)
    assert np.abs(np.take_along_axis(distances, doc_rows_QK, axis=1) - expected).max() <= 2 * error_bound(width)
    assert np.abs(distances_QK - expected).max() <= 2 * error_bound(width)
    assert (np.diff(distances_QK, axis=1) >= 0).all()
    assert all(len(set(row)) == k for row in doc_rows_QK.tolist())


def test_more_than_there_is_gives_all_documents():
    docs, queries = unit(2, 9, 4), unit(3, 5, 4)
    searcher = Searcher(docs, CPU)
    assert searcher.max_candidates == 9
    doc_rows_QK, _ = searcher.nearest(queries, 1000)
    assert all(sorted(row) == list(range(9)) for row in doc_rows_QK.tolist())


def test_one_document_is_the_nearest_of_all():
    doc_rows_QK, _ = Searcher(unit(4, 1, 4), CPU).nearest(unit(5, 3, 4), 10)
    assert doc_rows_QK.tolist() == [[0], [0], [0]]


def test_blocks_of_queries_change_nothing():
    docs, queries = unit(6, 200, 8), unit(7, 50, 8)
    whole, _ = Searcher(docs, CPU).nearest(queries, 10)
    searcher = Searcher(docs, CPU)
    searcher.query_block = 7
    assert np.array_equal(whole, searcher.nearest(queries, 10)[0])
    assert searcher.nearest(queries[:0], 10)[0].shape == (0, 10)


@pytest.mark.parametrize("scan_bytes", [1, 4 * 20 * 33, 2**28])
def test_within_equals_brute_force(scan_bytes):
    docs, queries = unit(8, 200, 6), unit(9, 20, 6)
    distances = exact(queries, docs)
    radius = np.linspace(0, 2, 20)
    radius[5] = distances[5, 17]  # a document exactly at the radius may or may not be given
    searcher = Searcher(docs, CPU)
    searcher.scan_bytes = scan_bytes
    found_queries, found_docs = searcher.within(queries, radius)
    found = set(zip(found_queries.tolist(), found_docs.tolist(), strict=True))
    assert len(found) == len(found_queries)
    nearer = {(int(q), int(d)) for q, d in np.argwhere(distances < radius[:, None])}
    reach = {(int(q), int(d)) for q, d in np.argwhere(distances < radius[:, None] + 2 * error_bound(6))}
    assert nearer <= found <= reach
    assert len(nearer) > 1000


def test_nothing_within_a_radius_is_nothing():
    found_queries, found_docs = Searcher(unit(10, 50, 6), CPU).within(unit(11, 4, 6), np.full(4, -1.0))
    assert len(found_queries) == len(found_docs) == 0


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    docs=st.integers(1, 400),
    wanted=st.integers(1, 4),
    length=st.integers(1, 60),
)
def test_with_all_lists_probed_only_the_certificate_differs(seed, docs, wanted, length):
    space, judged, known = awkward_space(seed, docs, queries=5, pairs=10, width=5)
    exact_rows, ivf_rows = (
        select(space, judged, known, searcher, negatives=wanted, candidates=length)
        for searcher in (
            Searcher(space.docs_NR, CPU),
            Searcher(space.docs_NR, CPU, Ivf(probes=2048, seed=seed % 100)),
        )
    )
    assert [row[:-1] for row in negatives_as_rows(ivf_rows)] == [row[:-1] for row in negatives_as_rows(exact_rows)]
    assert ivf_rows.dropped == exact_rows.dropped
    assert set(ivf_rows.certificate_M) <= {"approximate"}


def clustered(seed: int, count: int) -> np.ndarray:
    centres = unit(99, 12, 16)
    rng = np.random.default_rng(seed)
    return unit_rows((centres[rng.integers(0, 12, count)] + 0.2 * rng.normal(size=(count, 16))).astype(np.float32))


@pytest.mark.parametrize("scan_bytes", [64, 2**28])
def test_lists_and_scan_of_an_approximate_index_see_the_same_part_of_the_corpus(scan_bytes):
    docs, queries = clustered(1, 900), clustered(2, 20)
    searcher = Searcher(docs, CPU, Ivf(probes=3))
    searcher.scan_bytes = scan_bytes
    doc_rows_QK, distances_QK = searcher.nearest(queries, 900)
    seen = [set(row[row >= 0].tolist()) for row in doc_rows_QK]
    assert all(0 < len(rows) < 600 for rows in seen)
    assert (distances_QK[doc_rows_QK < 0] == np.inf).all()
    scanned = list(zip(*(part.tolist() for part in searcher.within(queries, np.full(20, 3.0))), strict=True))
    assert len(scanned) == len(set(scanned))
    assert [{doc for q, doc in scanned if q == query} for query in range(20)] == seen
    near = set(zip(*(part.tolist() for part in searcher.within(queries, np.full(20, 0.3))), strict=True))
    distances = exact(queries, docs)
    assert near == {(q, doc) for q, doc in scanned if distances[q, doc] < 0.3}
    assert 0 < len(near) < len(scanned)
    assert len(searcher.within(queries[:0], np.empty(0))[0]) == 0


def test_an_approximate_selection_is_the_same_for_any_first_length_and_never_scans_the_corpus(monkeypatch):
    space, judged, known = awkward_space(4, docs=1500, queries=40, pairs=60, width=12)
    searcher = Searcher(space.docs_NR, CPU, Ivf(probes=2))
    scanned = []

    def watched(queries_QR: np.ndarray, docs_NR: np.ndarray, *rest: object) -> tuple[np.ndarray, np.ndarray]:
        scanned.append(len(docs_NR))
        return nearer(queries_QR, docs_NR, *rest)

    monkeypatch.setattr(search, "nearer", watched)
    results = [select(space, judged, known, searcher, negatives=3, candidates=length) for length in (1, 16, 1500)]
    assert 0 < max(scanned) < 750
    assert negatives_as_rows(results[0]) == negatives_as_rows(results[1]) == negatives_as_rows(results[2])
    assert results[0].dropped == results[1].dropped
    assert set(results[0].certificate_M) == {"approximate"}
    exact_one = select(space, judged, known, Searcher(space.docs_NR, CPU, Ivf(probes=2048)), negatives=3)
    assert negatives_as_rows(results[0]) != negatives_as_rows(
        exact_one
    )  # two of 38 lists miss something, else this shows nothing


@pytest.mark.parametrize("documents", [1, 2, 38, 39, 77, 78, 500])
def test_few_documents_make_few_lists_and_no_warning(documents, capfd):
    ivf = Ivf(probes=7)
    assert ivf.lists_for(documents) == max(1, documents // 39)
    doc_rows_QK, _ = Searcher(unit(1, documents, 5), CPU, ivf).nearest(unit(2, 3, 5), 10)
    assert doc_rows_QK.shape == (3, min(10, documents))
    output = capfd.readouterr()
    assert output.out == output.err == ""


def test_the_number_of_lists():
    assert Ivf().lists_for(1_000_000) == 4000
    assert Ivf().lists_for(400) == 10


def test_the_division_is_seeded():
    docs, queries = unit(1, 800, 8), unit(2, 30, 8)
    first, again, other = (Searcher(docs, CPU, Ivf(probes=1, seed=seed)).nearest(queries, 5)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_recall_is_the_share_of_the_true_list():
    docs, queries = unit(1, 1200, 16), unit(2, 50, 16)
    docs[600:] = docs[:600]  # either of two equals is right
    found = [Searcher(docs, CPU, Ivf(probes=probes)).nearest(queries, 10) for probes in (1, 4, 30)]
    shares = [recall(distances, docs, queries) for _, distances in found]
    assert shares[0] < shares[1] < shares[2] == 1.0
    last = np.sort(exact(queries, docs), axis=1)[:, 9:10]
    rows, _ = found[1]
    right = (np.take_along_axis(exact(queries, docs), rows, axis=1) <= last + 1e-6) & (rows >= 0)
    assert shares[1] == pytest.approx(right.mean())


def test_the_scan_by_torch_finds_what_the_scan_by_numpy_finds():
    docs, queries = unit(1, 300, 24), unit(2, 40, 24)
    reach = np.linspace(0, 2, 40)
    by_numpy, by_torch = nearer(queries, docs, reach, None), nearer(queries, docs, reach, "cpu")
    assert len(by_numpy[0]) > 1000
    for ours, theirs in zip(by_numpy, by_torch, strict=True):
        assert theirs.dtype == np.int64
        assert np.array_equal(ours, theirs)


def test_the_scan_by_torch_computes_in_true_float32_and_leaves_the_setting_as_it_was(monkeypatch):
    import torch

    seen = []
    nonzero = torch.nonzero

    def watched(hits: torch.Tensor) -> torch.Tensor:
        seen.append(torch.backends.cuda.matmul.fp32_precision)
        return nonzero(hits)

    monkeypatch.setattr(torch, "nonzero", watched)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        nearer(unit(1, 5, 4), unit(2, 5, 4), np.ones(5), "cpu")
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == ["ieee"]


def test_the_error_bound_holds_for_the_search() -> None:
    rng = np.random.default_rng(1)
    for width in (4, 100, 768):
        docs, queries = (unit_rows(rng.normal(size=(n, width)).astype(np.float32)) for n in (2000, 20))
        doc_rows_QK, distances_QK = Searcher(docs, CPU).nearest(queries, 2000)
        distances = distance(np.repeat(queries, 2000, axis=0), docs[doc_rows_QK.reshape(-1)])
        assert np.abs(distances - distances_QK.reshape(-1)).max() <= error_bound(width)


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
    searcher = sharded[2]
    argument = {"nearest": 9, "within": np.full(40, 0.4)}[method]
    before = getattr(searcher, method)(SPACE.queries_QR, argument)
    _killed(searcher.actors[1])
    after = getattr(searcher, method)(SPACE.queries_QR, argument)
    assert "search shard 2 of 2 died; it is started again" in capsys.readouterr().err
    for expected, found in zip(before, after, strict=True):
        assert np.array_equal(found, expected)
    assert len(before[0])


def _killed(actor: Any) -> None:
    """Kill an actor and wait for its death: `ray.kill` returns before it, and a call sent in between is answered."""
    import ray

    ray.kill(actor)
    try:
        while True:
            ray.get(actor.__ray_ready__.remote())
    except ray.exceptions.RayActorError:
        return


@pytest.mark.ray
def test_a_shard_that_cannot_live_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dying(search.Shard):
        def fill(self, start: int, docs_mR: np.ndarray) -> None:
            import os

            os._exit(1)

    whole = ShardedSearcher(SPACE.docs_NR, CPU, 2)
    monkeypatch.setattr(search, "Shard", Dying)
    with pytest.raises(DeviceError, match=r"search shard 1 of 2 died .*add nodes"):
        ShardedSearcher(SPACE.docs_NR, CPU, 2)
    _killed(whole.actors[0])
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


# Over the nodes of a cluster, in a driver of its own

IN_A_CLUSTER = """
import json, ray
from hnmine.mining.conditions import select
from hnmine.mining.search import Searcher, Shard, ShardedSearcher
from hnmine.runs.device import Choice
from tests.builders.devices import CPU
from tests.builders.vectors import awkward_space, negatives_as_rows
space, judged, known = awkward_space(8, docs=600, queries=40, pairs=80, width=6)

class Placed(Shard):
    def place(self):
        import os, torch
        return ray.get_runtime_context().get_node_id(), os.environ["OMP_NUM_THREADS"], torch.get_num_threads()

from hnmine.mining import search
search.Shard = Placed
"""
SPREAD = """
one = select(space, judged, known, Searcher(space.docs_NR, CPU), negatives=3)
searcher = ShardedSearcher(space.docs_NR, CPU, 2)
nodes = {node for node, _, _ in ray.get([actor.place.remote() for actor in searcher.actors])}
print("APART", len(nodes) == 2 and ray.get_runtime_context().get_node_id() not in nodes, flush=True)
input()
many = select(space, judged, known, searcher, negatives=3)
print("SAME", negatives_as_rows(many) == negatives_as_rows(one) and len(one) > 10)
"""
GPUS = """
ShardedSearcher.room_seconds = 2
try:
    ShardedSearcher(space.docs_NR, Choice(kind="gpu", reason="test"), 2)
except Exception as error:
    print("ERROR", error)
"""


@pytest.mark.ray
@pytest.mark.slow
def test_shards_lie_on_every_node_but_the_head_and_one_that_is_lost_moves_to_what_is_left() -> None:
    with raylets(0, 1, 1) as cluster:
        driver = cluster.start(f"{IN_A_CLUSTER}ShardedSearcher.taken_seconds = 25{SPREAD}", stdin=subprocess.PIPE)
        for line in driver.stdout:
            if line.startswith("APART"):
                assert line.split() == ["APART", "True"]
                break
        cluster.kill(0)
        said, _ = driver.communicate("go on\n", timeout=150)
    assert driver.returncode == 0, said
    assert "died; it is started again" in said
    assert "SAME True" in said


@pytest.mark.ray
@pytest.mark.slow
def test_gpu_shards_ask_a_cluster_that_may_grow_and_end_in_an_error_if_it_does_not() -> None:
    with raylets(0, 1) as cluster:
        said = cluster.run(IN_A_CLUSTER + GPUS)
    assert "ERROR search shard 1 of 2 asks for num_gpus 1, and for 2 s no node of the Ray cluster had room" in said
