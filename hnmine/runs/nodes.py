"""What the nodes of a Ray cluster have for each of several processes, and how many threads such a process may use.

Ray gives a process as many threads as it has whole CPUs, and one where it has none or where it is the driver of a
submitted job; numerical libraries read that number when they are first imported.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hnmine.runs.memory import cgroup_folders
from hnmine.runs.ray_session import start_ray

_QUOTAS = (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us"))  # of version 2, of 1
_THREADS = "OMP_NUM_THREADS"
_SECONDS_TO_NOTICE = 45  # Ray asks a node five times, every three seconds, and waits ten for an answer


def in_cluster() -> bool:
    """Whether this process is to work in a cluster that others started, and that may grow."""
    return bool(os.environ.get("RAY_ADDRESS"))


def resources_by_node(kind: str) -> dict[str, float]:
    """Return how many CPUs or GPUs each living node has, by the node's id."""
    start_ray()
    import ray

    return {node["NodeID"]: node["Resources"].get(kind, 0.0) for node in ray.nodes() if node["Alive"]}


def is_node_lost(before: Collection[str]) -> bool:
    """Return whether one of these nodes, by their ids, is dead; Ray notices within seconds, for which this waits."""
    deadline = time.monotonic() + _SECONDS_TO_NOTICE * (len(before) > 1)  # the driver's own does not die without it
    while not (is_lost := bool(set(before) - set(resources_by_node("CPU")))) and time.monotonic() < deadline:
        time.sleep(0.5)
    return is_lost


def this_node() -> Any:
    """Return a scheduling strategy: on the node of this process alone, so that no other node's death takes it away."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def cpus_each(cpus_by_node: Sequence[float], processes: int) -> float:
    """Return the most CPUs that each of so many processes can have, each on one node; whole ones, or below one a share.

    0: no node has a CPU.
    """
    nodes = Counter(cpus for cpus in cpus_by_node if cpus)
    shares = {cpus / part for cpus in nodes for part in range(1, processes + 1)}
    most = max((share for share in shares if _fit(nodes, share) >= processes), default=0.0)
    return float(int(most)) if most >= 1 else int(most * 1e4) / 1e4  # Ray counts in ten thousandths


def _fit(nodes: Mapping[float, int], share: float) -> int:
    return sum(count * int(cpus / share + 1e-9) for cpus, count in nodes.items())


def usable_cpus(cgroups: Path = Path("/sys/fs/cgroup"), memberships: Path = Path("/proc/self/cgroup")) -> int:
    """Return how many CPUs this process may use: those that it is bound to, at most its control groups' quota."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [float(bound)]
    for folder in cgroup_folders(cgroups, memberships, "cpu"):
        for names in _QUOTAS:
            with suppress(OSError, ValueError, ZeroDivisionError):  # absent, or "max"
                quota, period = " ".join((folder / name).read_text("ascii").strip() for name in names).split()
                if int(quota) > 0:
                    quotas.append(int(quota) / int(period))
    return max(1, round(min(quotas)))


def use_cpus_of_a_driver() -> None:
    """Let the driver of a submitted job, which Ray gives one thread, use the CPUs of its node or container.

    To be called before numerical libraries are imported. A number that is not Ray's own, as another than one or in a
    process that no job of Ray started, stays.
    """
    if in_cluster() and os.environ.get(_THREADS) == "1":
        os.environ[_THREADS] = str(usable_cpus())


def use_threads(count: int) -> None:
    """Let this thread's libraries that are loaded compute on so many threads: BLAS, OpenMP (FAISS), torch."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(count)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)
