"""CPUs for several processes, each on one node, against all that could be tried; quotas of containers; threads."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hnmine.runs.nodes import cpus_each, usable_cpus, use_cpus_of_a_driver, use_threads


@given(st.lists(st.integers(0, 9), max_size=4), st.integers(1, 9))
def test_processes_get_the_most_cpus_with_which_all_of_them_fit(nodes: list[int], processes: int) -> None:
    def fit(share: Fraction) -> bool:
        return sum(cpus // share for cpus in nodes) >= processes

    every = {Fraction(cpus, part) for cpus in nodes if cpus for part in range(1, processes + 1)}
    most = max(filter(fit, every), default=Fraction(0))
    expected = int(most) if most >= 1 else float(most)
    assert cpus_each(nodes, processes) == pytest.approx(expected, abs=1e-4)
    assert cpus_each(nodes, processes) <= float(most)


@pytest.mark.parametrize(
    ("nodes", "processes", "expected"),
    [([0, 1, 1], 1, 1), ([0, 1, 1], 2, 1), ([0, 1, 1], 3, 0.5), ([1, 64], 2, 32), ([8, 8], 3, 4), ([2], 5, 0.4)],
)
def test_one_node_is_asked_for_what_it_has_and_not_for_what_the_cluster_has(nodes, processes, expected) -> None:
    assert cpus_each(nodes, processes) == expected


@pytest.mark.parametrize(
    ("files", "membership", "expected"),
    [
        ({"pod/cpu.max": "150000 100000"}, "0::/pod", 1.5),
        ({"pod/cpu.max": "max 100000", "cpu.max": "100000 100000"}, "0::/pod", 1),
        ({"cpu/pod/cpu.cfs_quota_us": "100000", "cpu/pod/cpu.cfs_period_us": "50000"}, "5:cpu,cpuacct:/pod", 2),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "5:cpu:/", None),
        ({"pod/cpu.max": "1000 100000"}, "0::/pod", 1),
    ],
)
def test_a_container_s_quota_limits_the_threads(files, membership, expected, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "membership").write_text(membership)
    bound = len(os.sched_getaffinity(0))
    found = usable_cpus(tmp_path, tmp_path / "membership")
    assert found == max(1, round(min(bound, expected or bound)))


@pytest.mark.parametrize(
    ("address", "before", "after"), [("", "1", "1"), ("ray://x", "1", str(usable_cpus())), ("ray://x", "3", "3")]
)
def test_a_submitted_driver_gets_the_threads_that_ray_kept_from_it(monkeypatch, address, before, after) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setenv("OMP_NUM_THREADS", before)
    use_cpus_of_a_driver()
    assert os.environ["OMP_NUM_THREADS"] == after


def test_torch_faiss_and_blas_compute_on_the_threads_that_they_are_given() -> None:
    import faiss
    import torch
    from threadpoolctl import threadpool_info, threadpool_limits

    before = torch.get_num_threads()
    with threadpool_limits():  # puts back what was
        for count in (2, 1):
            use_threads(count)
            assert {faiss.omp_get_max_threads(), torch.get_num_threads()} == {count}
            assert {each["num_threads"] for each in threadpool_info()} == {count}
    torch.set_num_threads(before)
