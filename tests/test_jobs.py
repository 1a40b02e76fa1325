"""`ray job submit` of the entry points in jobs/, to a Ray that is really started for these tests, and ended after."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from tests.test_pipeline import LEXICAL, write_collection

REPOSITORY = Path(__file__).parents[1]
Submit = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.ray


def free_ports(count: int) -> list[int]:
    """Ask the system for ports nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def ray(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ray.scripts.scripts", *arguments]


def wait_for_dashboard(process: subprocess.Popen[bytes], port: int, token: str, log: Path) -> None:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/api/jobs/", headers={"Authorization": f"Bearer {token}"})
    for _ in range(300):
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(request, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    pytest.fail(f"no dashboard on port {port}:\n{log.read_text()}")


def end(process: subprocess.Popen[bytes]) -> None:
    """End the processes of this Ray and no other: `ray stop` would end every Ray of the user."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    os.killpg(process.pid, signal.SIGKILL)
    for each in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait(20)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive, f"still there: {alive}"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git would hold, and the ignored things that a working folder collects beside it."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("hnmine", "jobs"):
        shutil.copytree(REPOSITORY / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", ".gitignore"):
        shutil.copy(REPOSITORY / name, copy / name)
    for ignored in (".venv", "out"):
        (copy / ignored).mkdir()
        (copy / ignored / "large.bin").write_bytes(secrets.token_bytes(2**20))
    return copy


@pytest.fixture(scope="module")
def submit(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Submit]:
    home = tmp_path_factory.mktemp("home")
    token = secrets.token_hex(32)
    ray_files = tempfile.mkdtemp(prefix="hnmine-ray-")  # short: it holds sockets
    port, dashboard, agent, client, metrics = free_ports(5)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "HOME": str(home),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    start = ray("start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}")
    start += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--temp-dir={ray_files}"]
    start += [f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"]
    start += [f"--metrics-export-port={metrics}"]
    start += ["--num-cpus=2", "--object-store-memory=200000000", "--disable-usage-stats"]
    log = home / "ray-start.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(start, env=environment, stdout=stream, stderr=stream, start_new_session=True)
    try:
        wait_for_dashboard(process, dashboard, token, log)

        def submitted(*entrypoint: str) -> subprocess.CompletedProcess[str]:
            command = ray("job", "submit", "--address", f"http://127.0.0.1:{dashboard}")
            command += ["--working-dir", str(checkout), "--", *entrypoint]
            for _ in range(60):
                done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180)
                if "No available agent to submit job" not in done.stderr:  # the dashboard is up before the node's agent
                    break
                time.sleep(0.5)
            return done

        yield submitted
    finally:
        end(process)
        shutil.rmtree(ray_files, ignore_errors=True)


def test_a_submitted_job_mines_with_the_uploaded_code_and_leaves_its_files(tmp_path: Path, submit: Submit) -> None:
    write_collection(tmp_path / "data")
    look = "import hnmine, os; print('FOUND', hnmine.__file__, sorted(os.listdir('.')))"
    step = [sys.executable, "jobs/mine.py", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    step += ["--set", LEXICAL, "--set", "embed.block_texts=16"]  # several blocks: encoded by the cluster's actors
    done = submit("sh", "-c", f'"$0" -c "{look}" && exec "$0" "$@"', *step)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["mining"]["counts"]["texts_encoded"] == 42
    assert len(pq.read_table(tmp_path / "out" / "negatives.parquet")) == manifest["mining"]["counts"]["negatives"] > 0
    assert "connected to" in output
    assert "2 CPUs" in output
    found = next(line for line in output.splitlines() if line.startswith("FOUND"))
    assert str(REPOSITORY) not in found, "the uploaded copy of hnmine is the one that runs"
    assert "_ray_pkg_" in found
    assert ".venv" not in found
    assert "'out'" not in found
    assert "'jobs'" in found


def test_a_users_mistake_fails_the_submitted_job(tmp_path: Path, submit: Submit) -> None:
    done = submit(sys.executable, "jobs/mine.py", "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out"))
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert f"error: {tmp_path / 'nowhere'} does not exist; expected a BEIR folder" in output
    assert "exit code 2" in output
    assert 'File "' not in output, "a message, not a traceback"
