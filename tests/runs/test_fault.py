"""An error ends a command with one message: whose fault it is, and what to do."""

from __future__ import annotations

import errno
import json
import os
import re
import tempfile
from pathlib import Path

import pytest

from hnmine import cli
from hnmine.errors import ConfigError, InUseError, UnavailableError
from hnmine.report import inspection
from hnmine.runs.fault import report
from hnmine.runs.progress import json_lines

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(("kind", "code"), [(ConfigError, 2), (InUseError, 3), (UnavailableError, 75)])
def test_what_a_user_can_mend_is_said_as_it_is(kind: type[ConfigError], code: int, capsys: Capture) -> None:
    assert report(kind("do it so"), "mine") == code
    assert capsys.readouterr().err == "error: do it so\n"


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "/x/y: No space left on device; make it readable"),
        (OSError(errno.EMFILE, "Too many open files"), "the machine refused: Too many open files"),
        (MemoryError(), "the memory of this machine, or what this process may take of it, ran out"),
        (ImportError("libx.so: failed to map segment from shared object"), "the memory of this machine"),
        (RuntimeError("could not create a primitive"), "the memory of this machine"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "the memory of this machine"),
    ],
)
def test_what_the_machine_lacks_is_named(error: Exception, part: str, temporary: Path, capsys: Capture) -> None:
    assert report(error, "mine") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {part}")
    assert not list(temporary.iterdir())


def fail() -> None:
    raise KeyError("s3://name:hunter2@bucket")


def test_what_nobody_foresaw_is_owned_and_its_traceback_is_in_a_file(
    temporary: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "inspect", lambda *_: fail())
    assert cli.main(["inspect", "--data", str(temporary)]) == 1
    said = capsys.readouterr().err
    (line,) = said.splitlines()
    file = Path(
        re.fullmatch(
            r"error: this is an error of hnmine itself, not of yours \(KeyError: .*\); please report it, with (.*)",
            line,
        )[1]
    )
    record = file.read_text()
    assert "in fail" in record
    assert re.match(r"hnmine \S+, inspect; Python 3\.\d+", record)
    assert "hunter2" not in said + record
    assert file.stat().st_mode & 0o077 == 0


def test_a_log_of_objects_has_one_of_it(capsys: Capture) -> None:
    with json_lines():
        assert report(KeyError("x"), "mine") == 1
    found = json.loads(capsys.readouterr().err)
    assert (found["level"], found["exit_code"]) == ("error", 1)
    assert found["message"].startswith("this is an error of hnmine itself")


def test_where_no_file_can_be_written_the_traceback_is_printed(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", os.devnull)
    assert report(KeyError("x"), "mine") == 1
    said = capsys.readouterr().err
    assert "KeyError: 'x'" in said
    assert said.rstrip().endswith("please report it, with what stands above")
