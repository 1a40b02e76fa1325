"""SIGTERM against programs that swallow what it raises, or that never end."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

SWALLOWS = """
import sys, time
from hnmine.runs import stopping
from hnmine.runs.progress import track
stopping.listen()
try:
    print("ready", flush=True)
    time.sleep(60)
except BaseException:  # as an import may do
    print("swallowed", flush=True)
"""
COUNTS = """
try:
    with track("test", "counting", 10**6, "rounds") as progress:
        for _ in range(10**6):
            time.sleep(0.01)
            progress.advance(1)
except KeyboardInterrupt:
    sys.exit(143 if stopping.is_asked() else 1)
"""
NEVER_ENDS = """
while True:
    time.sleep(1)
"""


def started(code: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SWALLOWS + code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "swallowed\n"
    return process


def test_a_signal_that_was_swallowed_ends_the_program_where_work_is_counted():
    with started(COUNTS) as process:
        assert process.wait(20) == 143
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_signals_close_together_are_one_request_and_a_second_request_ends_at_once():
    with started(NEVER_ENDS) as process:
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=20)
        assert process.returncode == 143
        assert said == "terminated at once, by a second SIGTERM\n"
