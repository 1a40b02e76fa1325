"""Environment and fixtures of all tests; a private home keeps Ray and the hub out of the user's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_HOME = tempfile.TemporaryDirectory(prefix="hnmine-home-")
os.environ |= {
    "HOME": _HOME.name,
    "HF_HUB_OFFLINE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # with Ray's 15, workers starve on a busy machine
    "TOKENIZERS_PARALLELISM": "false",
    "AWS_ACCESS_KEY_ID": "test",  # for the S3 server below; set here, so that Ray's workers have it too
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_EC2_METADATA_DISABLED": "true",
}
os.environ.pop("RAY_ADDRESS", None)
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # one core for each test process; torch reads it when it is imported
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it, its children too


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real retrieval sets; skip the test where there is none."""
    folder = Path(os.environ.get("HNMINE_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real retrieval sets in {folder}; set HNMINE_DATA")
    return folder


_S3_SERVER = """
import logging, sys
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="session")
def s3() -> Iterator[Callable[[str], str]]:
    """Run a real S3 server with one bucket; yield a function from `bucket/prefix` to an address.

    The server has a process of its own: pyarrow may hold this one's interpreter lock while it waits for an answer.
    """
    import pyarrow.fs as pafs

    with subprocess.Popen(
        [sys.executable, "-c", _S3_SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        query = f"endpoint_override=127.0.0.1:{int(server.stdout.readline())}&scheme=http"
        pafs.FileSystem.from_uri(f"s3://bucket/?{query}&allow_bucket_creation=true")[0].create_dir("bucket")
        yield lambda path: f"s3://{path}?{query}"
        server.stdin.close()


@pytest.fixture(params=["folder", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return an address for a store, in a folder and on S3; nothing is there yet."""
    if request.param == "folder":
        return str(tmp_path / "store")
    address: str = request.getfixturevalue("s3")(f"bucket/{uuid.uuid4().hex}/store")
    return address
