"""A local Ray that leaves nothing in the home folder, listens to this machine only and asks for a token."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from hnmine.runs.ray_session import start_ray

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def ray():
    start_ray()
    import ray

    return ray


def test_the_local_ray_works_and_leaves_nothing_in_the_home_folder(ray):
    start_ray()  # a second call finds the first
    assert ray.is_initialized()
    assert ray.get(ray.put([1, 2])) == [1, 2]
    assert not (Path.home() / ".ray").exists()


def test_the_local_ray_asks_for_a_token_and_listens_to_this_machine_only(ray):
    import psutil

    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(os.environ["RAY_AUTH_TOKEN"]) >= 32
    assert ray.get_runtime_context().gcs_address.startswith("127.0.0.1:")
    listening = set()
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):  # workers come and go
            listening |= {c.laddr.ip for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    assert listening
    assert listening <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
