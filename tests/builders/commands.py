"""Processes that tests start: the command line, a fresh interpreter, a Ray on free ports."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

REPOSITORY = Path(__file__).parents[2]


def run_hnmine(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Call the installed command line in a process of its own, with additions to the environment."""
    command = [sys.executable, "-m", "hnmine.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, env=os.environ | environment)


def modules_loaded_by(code: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has loaded after `code`."""
    report = "import json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def free_ports(count: int) -> list[int]:
    """Ask the system for ports nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def ray_command(*arguments: str) -> list[str]:
    """Return the command line of Ray, run by this interpreter."""
    return [sys.executable, "-m", "ray.scripts.scripts", *arguments]


def wait_until_it_answers(process: subprocess.Popen[bytes], address: str, token: str, log: Path) -> None:
    """Ask `address` until it answers; fail with the log if the process ends or a minute is over."""
    request = urllib.request.Request(address, headers={"Authorization": f"Bearer {token}"})
    for _ in range(300):
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(request, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    pytest.fail(f"nothing at {address}:\n{log.read_text()}")


def end_process_tree(process: subprocess.Popen[bytes]) -> None:
    """End a Ray that a test started, and no other: `ray stop` would end every Ray of the user."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    os.killpg(process.pid, signal.SIGKILL)
    for each in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait(20)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive, f"still there: {alive}"
