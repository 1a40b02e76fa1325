"""The lock on a folder and on a real S3 server, by real processes: never two, and none forever."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from hnmine.errors import DataError, HnmineError, InUseError
from hnmine.nights.lease import Lease, LockLostError, hold
from hnmine.runs.directory import Directory

SECONDS = 2.0

HOLD = """
import sys, time
from hnmine.errors import InUseError
from hnmine.nights.lease import hold
from hnmine.runs.directory import Directory
directory, seconds, turns, stay = Directory.at(sys.argv[1]), *map(float, sys.argv[2:])
print("ready", flush=True)
sys.stdin.readline()
while turns:
    try:
        with hold(directory, seconds):
            began = time.monotonic()
            print("held", began, flush=True)
            time.sleep(stay)
            print("span", began, time.monotonic(), flush=True)
        turns -= 1
    except InUseError:
        pass
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(root: str) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def run(turns: int, stay: float, seconds: float = SECONDS) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLD, root, str(seconds), str(turns), str(stay)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def wait_until_held(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline().startswith("held")


def claims(directory: Directory) -> int:
    return sum(name.startswith("claim_") for name in (directory / "lock").files())


def test_the_claim_of_a_holder_is_in_every_listing_also_during_a_renewal(root):
    directory, over = Directory.at(root), time.monotonic() + 1.5
    with hold(directory, 2.0) as lease:
        seen = []
        while time.monotonic() < over or len(seen) <= 20:  # a busy machine lists more slowly, and not less
            seen.append(claims(directory))
            lease.renew()
            lease.check()
    assert set(seen) == {1}


def test_of_processes_that_start_at_once_never_two_hold_the_lock_and_each_has_its_turn(start):
    processes = [start(turns=3, stay=0.1, seconds=20) for _ in range(4)]
    for process in processes:
        go(process)
    spans = []
    for process in processes:
        out, _ = process.communicate(timeout=100)
        assert process.returncode == 0
        spans += [tuple(map(float, line.split()[1:])) for line in out.splitlines() if line.startswith("span")]
    assert len(spans) == 12
    spans.sort()
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


def test_a_second_start_says_who_holds_the_lock(root):
    directory = Directory.at(root)
    with hold(directory, 60):
        message = rf"another job holds .*lock: process-{os.getpid()}-on-.*, since \d{{4}}-.* expires 60 s after"
        with pytest.raises(InUseError, match=message), hold(directory, 60):
            pytest.fail("held twice")
        assert claims(directory) == 1
    assert (directory / "lock").files() == []
    with hold(directory, 60) as again:
        again.check()


def test_no_other_job_gets_the_lock_between_the_listing_and_the_mark(root, monkeypatch):
    directory, look, seen = Directory.at(root), Lease.check, []

    def look_while_another_starts(lease: Lease) -> None:
        monkeypatch.setattr(Lease, "check", look)
        with pytest.raises(InUseError, match="several jobs want"), hold(directory):
            pytest.fail("held by two")
        seen.append(True)

    monkeypatch.setattr("hnmine.nights.lease.TRIES", 2)
    monkeypatch.setattr(Lease, "check", look_while_another_starts)
    with hold(directory) as lease:
        lease.check()
    assert seen


def test_a_holder_learns_that_others_have_removed_its_claim(root):
    directory = Directory.at(root)
    with hold(directory, 60) as lease:
        (directory / "lock").remove(lease.claim)
        with pytest.raises(LockLostError, match=r"has taken .* over"):
            lease.check()


def test_the_lock_is_given_back_when_the_block_fails(root):
    directory = Directory.at(root)
    with pytest.raises(ZeroDivisionError), hold(directory):
        _ = 1 / 0
    with hold(directory):
        pass


def test_the_lock_is_renewed_while_its_holder_lives_and_expires_after_its_death(root, start):
    directory, process = Directory.at(root), start(turns=1, stay=60)
    go(process)
    wait_until_held(process)
    end = time.monotonic() + 2.5 * SECONDS
    while time.monotonic() < end:
        with pytest.raises(InUseError), hold(directory, SECONDS):
            pytest.fail("the owner lives")
        time.sleep(0.3)
    process.kill()
    process.wait()
    end = time.monotonic() + 4 * SECONDS  # S3 tells times in whole seconds
    while True:
        try:
            with hold(directory, SECONDS) as mine:
                mine.check()
                break
        except InUseError:
            assert time.monotonic() < end, "the lock of a dead owner stands"
            time.sleep(0.1)


def test_a_holder_that_slept_too_long_learns_it_and_does_not_disturb_its_successor(root):
    code = """
import sys
from hnmine.nights.lease import LockLostError, hold
from hnmine.runs.directory import Directory
with hold(Directory.at(sys.argv[1]), float(sys.argv[2])) as lease:
    print("held", flush=True)
    sys.stdin.readline()
    try:
        lease.check()
    except LockLostError as error:
        print(error, flush=True)
"""
    command = [sys.executable, "-c", code, root, str(SECONDS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        wait_until_held(process)
        process.send_signal(signal.SIGSTOP)
        time.sleep(2 * SECONDS)
        directory = Directory.at(root)
        with hold(directory, 60) as mine:
            process.send_signal(signal.SIGCONT)
            out, _ = process.communicate("\n", timeout=30)
            assert "could not be renewed for" in out
            assert claims(directory) == 1
            mine.check()


def test_a_store_that_does_not_answer_loses_the_lock(tmp_path):
    home = tmp_path / "home"
    with hold(Directory.at(home), 0.4) as lease:
        lease.check()
        (home / "lock").rename(home / "away")
        (home / "lock").touch()
        time.sleep(0.5)
        with pytest.raises(LockLostError, match="could not be renewed"):
            lease.check()
        (home / "lock").unlink()


def test_a_foreign_file_in_the_folder_of_the_lock_is_said_and_left_alone(root, capfd):
    directory = Directory.at(root)
    directory.write("lock/notes.txt", b"1")
    with hold(directory) as lease:
        lease.check()
    assert "notes.txt is none of hnmine's and is left alone" in capfd.readouterr().err
    assert (directory / "lock").files() == ["notes.txt"]


@pytest.mark.parametrize("name", ["claim_of-mine", "claim_x_y_z_0", "claim_60_now_me_not-hexadecimal", "claim_1__a_0"])
def test_what_only_looks_like_a_claim_is_refused(root, name):
    directory = Directory.at(root)
    directory.write(f"lock/{name}", b"1")
    with pytest.raises(DataError, match=rf"{name} is no claim of this hnmine; remove it if no other"), hold(directory):
        pytest.fail("held")
    assert (directory / "lock").files() == [name]


@pytest.mark.parametrize(("ahead", "message"), [(3600, r"comes from the future, by 60 min"), (20, "another job holds")])
def test_a_claim_from_the_future_is_refused_and_a_little_one_is_a_claim(tmp_path, ahead, message):
    unique = f"60_2026-01-01T00:00:00Z_process-1-on-elsewhere_{'0' * 32}"
    for kind in ("claim", "holds"):
        Directory.at(tmp_path).write(f"lock/{kind}_{unique}", b"1")
        os.utime(tmp_path / "lock" / f"{kind}_{unique}", (time.time() + ahead,) * 2)
    with pytest.raises(HnmineError, match=message), hold(Directory.at(tmp_path)):
        pytest.fail("held")


def test_a_holder_that_is_silent_is_waited_for_until_its_lease_ends(tmp_path, capfd):
    unique = f"60_2026-01-01T00:00:00Z_process-1-on-elsewhere_{'0' * 32}"
    for kind in ("claim", "holds"):
        Directory.at(tmp_path).write(f"lock/{kind}_{unique}", b"1")
        os.utime(tmp_path / "lock" / f"{kind}_{unique}", (time.time() - 58,) * 2)
    with hold(Directory.at(tmp_path)) as lease:
        lease.check()
    assert "it seems dead, waiting for" in capfd.readouterr().err
