"""A Ray cluster of a few raylets in this machine; what works in it is a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.builders.commands import REPOSITORY

_OPTIONS = {"object_store_memory": 80_000_000, "include_dashboard": False}
_SOON_DEAD = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_failure_threshold": 6}


class Raylets:
    """A head and workers, by the CPUs of each; any but the head may be killed."""

    def __init__(self, *cpus: int, **head: Any) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": cpus[0], "_system_config": _SOON_DEAD} | head
        self._cluster = Cluster(initialize_head=True, head_node_args=_OPTIONS | head)
        self.workers = [self._cluster.add_node(num_cpus=count, **_OPTIONS) for count in cpus[1:]]
        self._cluster.wait_for_nodes()

    def kill(self, number: int) -> None:
        """End a worker node at once, with all its processes."""
        self._cluster.remove_node(self.workers[number], allow_graceful=False)

    def start(self, code: str, stdin: int | None = None, **environment: str) -> subprocess.Popen[str]:
        """Start a driver that runs `code`."""
        address = {"RAY_ADDRESS": self._cluster.address, "PYTHONPATH": str(REPOSITORY)}
        return subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | address | environment,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, code: str, seconds: float = 120, **environment: str) -> str:
        """Run `code` in a driver and return what it said; the driver must succeed."""
        driver = self.start(code, **environment)
        said, _ = driver.communicate(timeout=seconds)
        assert driver.returncode == 0, said
        return said

    def close(self) -> None:
        """End all nodes."""
        self._cluster.shutdown()


@contextmanager
def raylets(*cpus: int, **head: Any) -> Iterator[Raylets]:
    """Start a cluster, and end it."""
    cluster = Raylets(*cpus, **head)
    try:
        yield cluster
    finally:
        cluster.close()
