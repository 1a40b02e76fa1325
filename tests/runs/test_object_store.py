"""A store that is away, unavailable, slow or resets: waited for, and what is written meanwhile is whole."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from hnmine.errors import ConfigError, DataError, UnavailableError
from hnmine.runs import object_store
from hnmine.runs.directory import Directory
from tests.builders.object_store import Front, front_of


@pytest.fixture(scope="module")
def front(s3) -> Iterator[Front]:
    endpoint = parse_qs(urlsplit(s3("bucket")).query)["endpoint_override"][0]
    with front_of(int(endpoint.rpartition(":")[2])) as started:
        yield started


@pytest.fixture
def directory(front: Front, monkeypatch: pytest.MonkeyPatch) -> Iterator[Directory]:
    monkeypatch.setattr(object_store, "LONGEST_PAUSE_SECONDS", 0.5)
    yield Directory.at(front.address(f"bucket/{uuid.uuid4().hex}"))
    front.become("pass")


@pytest.mark.parametrize("fault", ["away", "reset", "unavailable"])
def test_what_fails_for_a_while_is_waited_for_and_it_is_said(directory, front, fault, capfd):
    directory.write("a", b"before")
    front.become(fault)
    threading.Timer(4, front.become, ["pass"]).start()
    directory.write("a", b"after")
    assert directory.read("a").to_pybytes() == b"after"
    said = capfd.readouterr().err
    assert "vector store s3://bucket/" in said
    assert "does not answer" in said
    assert "waiting, for 300 s at most" in said or "waiting, for 5 min" in said or "waiting, for 4 min" in said


def test_a_slow_answer_is_an_answer(directory, front, capfd):
    directory.write("a", b"1")
    front.become("slow", 4)  # longer than the three seconds that the library gives by default
    assert directory.read("a").to_pybytes() == b"1"
    assert "does not answer" not in capfd.readouterr().err


def test_what_is_away_for_too_long_is_an_error_of_its_own_and_the_old_content_stays(directory, front, monkeypatch):
    monkeypatch.setattr(object_store, "PATIENCE_SECONDS", 2.0)
    directory.write("a", b"before")
    front.become("away")
    with pytest.raises(UnavailableError, match=r"s3://bucket/.* has not answered for .*start again when it answers"):
        directory.write("a", b"after")
    front.become("pass")
    assert directory.read("a").to_pybytes() == b"before"


def test_what_is_refused_is_not_asked_again(front):
    began = time.monotonic()
    with pytest.raises(DataError, match="check that the bucket exists") as refused:
        Directory.at(front.address("no-such-bucket/x")).write("a", b"1")
    assert not isinstance(refused.value, UnavailableError)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_without_credentials_nothing_is_asked(scheme, tmp_path):
    code = "import sys; from hnmine.runs.directory import Directory; Directory.at(sys.argv[1], 'home', '--home')"
    hidden = ("AWS_", "GOOGLE_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    environment |= {"HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"}
    address = f"{scheme}://bucket/prefix?endpoint_override=127.0.0.1:1&scheme=http"
    done = subprocess.run(
        [sys.executable, "-c", code, address], env=environment, capture_output=True, text=True, timeout=60
    )
    assert f"--home: {scheme}://bucket/prefix: this machine has no credentials for it; set " in done.stderr
    assert "ConfigError" in done.stderr


def test_credentials_are_found_where_the_library_finds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    address = f"s3://bucket/{uuid.uuid4().hex}?endpoint_override=127.0.0.1:1&scheme=http"
    with pytest.raises(ConfigError):
        object_store.open_address(address)
    object_store.open_address(address.replace("s3://", "s3://name:secret@"))
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text("[default]\n")
    assert object_store.open_address(address)[1].startswith("bucket/")


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 7, Could not connect", True),
        ("AWS Error UNKNOWN (HTTP status 503) during HeadObject operation: No response body.", True),
        ("AWS Error SLOW_DOWN during PutObject operation", True),
        ("google::cloud::Status(UNAVAILABLE: Retry policy exhausted)", True),
        ("AWS Error ACCESS_DENIED during PutObject operation: denied", False),
        ("AWS Error NO_SUCH_BUCKET during PutObject operation", False),
        ("AWS Error UNKNOWN (HTTP status 403) during HeadObject operation", False),
    ],
)
def test_what_passes_by_itself(text, passes):
    assert object_store.passes_by_itself(OSError(text)) == passes
