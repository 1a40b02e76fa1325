"""No standard stream, however it is, breaks a run or shows a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LONG_WORK = """
import os, sys
from hnmine.runs import progress, streams
from hnmine.runs.progress import emit, say, track
streams.mend()
progress.LOG_SECONDS = 0.0
opened = open(sys.argv[1], "w")
with track("embed", "größe → 値", 3, "texts") as work:
    for _ in range(3):
        work.advance(1)
        emit("shown … │", "run", "shown", stream=sys.stdout)
        print("printed by a library", file=sys.stderr)
        os.write(2, b"written by native code\\n")
opened.write("done")
opened.close()
streams.flush()
sys.exit(0)
"""


def shell(redirections: str, *command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    line = [f'"$0" "$@" {redirections}', sys.executable, *map(str, command)]
    return subprocess.run(["bash", "-c", *line], capture_output=True, text=True, env=os.environ | environment)


REDIRECTIONS = (
    ">/dev/full",
    "2>/dev/full",
    ">/dev/full 2>/dev/full",
    ">&-",
    "2>&-",
    "<&- >&- 2>&-",
    "| true",
    "2>&1 | true",
)


@pytest.mark.parametrize("redirections", REDIRECTIONS)
def test_work_goes_on_without_its_streams(redirections: str, tmp_path: Path) -> None:
    file = tmp_path / "file.txt"
    done = shell(redirections, "-c", LONG_WORK, file)
    assert done.returncode == 0
    assert file.read_text() == "done", "nothing that is printed gets into a file with the number of a closed stream"
    for text in ("Traceback", "Exception ignored", "Errno 32"):
        assert text not in done.stdout + done.stderr


@pytest.mark.parametrize("redirections", REDIRECTIONS)
@pytest.mark.parametrize("command", ["config", "--help", "--version", "inspect --data /there/is/none"])
def test_commands_end_without_a_traceback(command: str, redirections: str) -> None:
    done = shell(f"{redirections}; exit ${{PIPESTATUS[0]}}", "-m", "hnmine.cli", *command.split())
    expected = {0, 1} if "inspect" not in command else {2}
    assert done.returncode in expected, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "Exception ignored" not in done.stdout + done.stderr


def test_a_result_that_cannot_be_written_is_said_and_is_no_success() -> None:
    done = shell(">/dev/full", "-m", "hnmine.cli", "config")
    assert done.returncode == 1
    assert done.stderr == "error: standard output cannot be written: [Errno 28] No space left on device\n"


def test_in_json_mode_this_is_an_object_too() -> None:
    done = shell(">/dev/full", "-m", "hnmine.cli", "config", "--log", "json")
    said = json.loads(done.stderr)
    assert (done.returncode, said["level"]) == (1, "error")
    assert said["message"] == "standard output cannot be written: [Errno 28] No space left on device"


def test_an_ascii_terminal_gets_signs_that_it_has(tmp_path: Path) -> None:
    done = shell("", "-c", LONG_WORK, tmp_path / "file.txt", PYTHONIOENCODING="ascii")
    assert done.stdout.splitlines() == ["shown ... |"] * 3
    assert "     embed | gr??e -> ?: 1 of 3 texts (33%)" in done.stderr
    done = shell("", "-m", "hnmine.cli", "--help", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "training triples ...:" in done.stdout


def test_json_stays_json_where_signs_are_few(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom hnmine.runs import streams\nfrom hnmine.runs.progress import json_lines, say\n"
        "streams.mend()\n"
        "with json_lines(): say('read', 'größe → 値 \\x1b[2J')"
    )
    for encoding in ("ascii", "latin-1", "utf-8"):
        done = shell(
            "2>&1 | python3 -c 'import json; print(ascii(json.loads(input())[\"message\"]))'",
            "-c",
            code,
            PYTHONIOENCODING=encoding,
        )
        assert done.stdout.strip() == ascii("größe → 値 \x1b[2J"), (encoding, done.stderr)


TERMINAL_GONE = """
import sys, time
from hnmine.runs import progress, streams
from hnmine.runs.progress import say, track
streams.mend()
progress.LIVE_SECONDS = 0.0
with track("embed", "minilm", 40, "texts") as work:
    for at in range(40):
        work.advance(1)
        say("embed", f"line {at}")
        print("a library", file=sys.stderr)
        time.sleep(0.05)
say("embed", "after")
open(sys.argv[1], "w").write("done")
progress.close_live()
streams.flush()
"""


def test_work_goes_on_when_its_terminal_is_closed(tmp_path: Path) -> None:
    plain = {name: text for name, text in os.environ.items() if name not in ("CI", "NO_COLOR")}
    ours, theirs = os.openpty()
    command = [sys.executable, "-c", TERMINAL_GONE, str(tmp_path / "file.txt")]
    child = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=plain | {"TERM": "xterm"})
    os.close(theirs)
    assert os.read(ours, 4096)
    os.close(ours)
    assert child.wait(timeout=60) == 0
    assert (tmp_path / "file.txt").read_text() == "done"
