"""A Ray that is not there or goes away is said within half a minute, and a local one leaves nothing."""

from __future__ import annotations

import os
import re
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hnmine.errors import UnavailableError
from hnmine.runs.ray_watch import refuse_silence
from tests.builders.commands import free_ports

_SESSION = """
import os, sys, time
from hnmine.runs.ray_session import start_ray
start_ray()
import psutil, ray
print(ray._private.worker._global_node.get_session_dir_path(), flush=True)
if sys.argv[1:]:
    [each.kill() for each in psutil.Process().children(recursive=True) if each.name() == "gcs_server"]
    time.sleep(100)
"""


@pytest.mark.parametrize("address", ["127.0.0.1:{port}", "ray://127.0.0.1:{port}"])
def test_an_address_where_nobody_listens_is_refused_at_once(address: str) -> None:
    (port,) = free_ports(1)
    with pytest.raises(UnavailableError, match=rf"RAY_ADDRESS is .*{port}, where no Ray answers; start the cluster"):
        refuse_silence(address.format(port=port))


def test_an_address_where_something_is_silent_is_refused_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        begun = time.monotonic()
        with pytest.raises(UnavailableError, match="where no Ray answers"):
            refuse_silence(f"127.0.0.1:{server.getsockname()[1]}", 0.5)
        assert time.monotonic() - begun < 5
    refuse_silence("auto")  # is Ray's to find


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    given = os.environ | {"TMPDIR": str(folder)}
    command = [sys.executable, "-c", _SESSION, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=given, umask=0o022)


@pytest.mark.ray
def test_a_local_ray_is_in_a_private_folder_that_goes_with_it(tmp_path: Path) -> None:
    code = (
        _SESSION
        + """
import pathlib, ray._private.worker
folder = pathlib.Path(ray._private.worker._global_node.get_session_dir_path())
print([oct(each.stat().st_mode & 0o777) for each in folder.parents if each.name.startswith("hnmine-ray-")])
"""
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    session, modes = done.stdout.splitlines()
    assert modes == str([oct(stat.S_IRWXU)])
    (top,) = [each for each in Path(session).parents if each.name.startswith("hnmine-ray-")]
    assert not top.exists()


@pytest.mark.ray
@pytest.mark.slow
def test_a_ray_whose_head_dies_is_said_in_half_a_minute_and_nothing_is_left(tmp_path: Path) -> None:
    begun = time.monotonic()
    done = _run(tmp_path, "kill")
    assert time.monotonic() - begun < 60, "with the start of Ray"
    assert done.returncode == 75
    (said,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert re.fullmatch(r"error: Ray at .*:\d+ does not answer any more; the same command goes on from what .*", said)
    (top,) = [each for each in Path(done.stdout.strip()).parents if each.name.startswith("hnmine-ray-")]
    assert not top.exists()
