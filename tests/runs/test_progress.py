"""What a log and a terminal see of long work."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import warnings
from datetime import UTC, datetime, timedelta

import pytest

from hnmine.runs import progress
from hnmine.runs.progress import emit, json_lines, say, track


def test_a_line_of_news_goes_to_standard_error_under_its_step(capsys):
    say("embed", "hello")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "     embed │ hello\n"


def test_short_work_in_a_log_is_one_closing_line_with_count_and_note(capsys):
    with track("embed", "minilm", 1500, "texts") as work:
        for _ in range(3):
            work.advance(500, "2 ms a text")
    assert re.fullmatch(
        r" +embed │ minilm: 1,500 texts in \d\.\d s \([\d,]+ texts/s, 2 ms a text\)\n", capsys.readouterr().err
    )


def test_long_work_in_a_log_says_how_far_it_is(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    with track("embed", "minilm", 4, "texts") as work:
        work.advance(1)
        work.advance(3)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "1 of 4 texts (25%)" in lines[0]
    assert " left" in lines[0]


def test_failed_work_has_no_closing_line(capsys):
    def fail() -> None:
        with track("embed", "minilm", 2, "texts") as work:
            work.advance(1)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert capsys.readouterr().err == ""


def test_work_of_no_units_and_minutes_of_work_are_printed(capsys):
    with track("embed", "nothing", 0, "texts"):
        pass
    assert "0 texts in 0.0 s" in capsys.readouterr().err
    assert [progress.clock(s) for s in (0.04, 12.4, 89, 125)] == ["0.0 s", "12 s", "89 s", "2 min 05 s"]


def test_a_terminal_sees_one_line_that_is_rewritten():
    code = (
        "from hnmine.runs.progress import track\n"
        "with track('embed', 'minilm', 3, 'texts') as work:\n"
        "    work.advance(1)\n"
        "    work.advance(2)\n"
    )
    ours, theirs = os.openpty()
    child = subprocess.Popen([sys.executable, "-c", code], stderr=theirs)
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # Linux: the other end is closed
            break
        if not part:
            break
        seen += part
    os.close(ours)
    assert child.wait() == 0
    text = seen.decode()
    assert "\r\033[K" in text
    assert "1 of 3 texts (33%)" in text
    assert text.count("\n") == 1
    assert "minilm: 3 texts in" in text


def test_json_lines_have_time_level_step_message_and_figures(capsys):
    with json_lines():
        say("embed", "two\nlines of größe", encoded=3, dropped={"a": 1}, kept=None)
        say("read", "odd", level="warning")
        emit("a table", "mine", "a table", stream=sys.stdout)
    say("embed", "text again", encoded=3)
    captured = capsys.readouterr()
    first, second, *rest = captured.err.splitlines()
    parsed = json.loads(first)
    assert parsed | {"time": ""} == {
        "time": "",
        "level": "info",
        "step": "embed",
        "message": "two\nlines of größe",
        "encoded": 3,
        "dropped": {"a": 1},
        "kept": None,
    }
    assert parsed["time"].endswith("Z")
    assert abs(datetime.fromisoformat(parsed["time"]) - datetime.now(UTC)) < timedelta(minutes=1)
    assert (json.loads(second)["level"], json.loads(second)["message"]) == ("warning", "odd")
    assert rest == ["     embed │ text again"]
    assert json.loads(captured.out)["message"] == "a table"


def test_a_warning_says_so_in_text(capsys):
    say("read", "odd", level="warning")
    assert capsys.readouterr().err == "      read │ warning: odd\n"


def test_json_progress_has_figures(capsys, monkeypatch):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.0)
    with json_lines(), track("embed", "minilm", 4, "texts") as work:
        work.advance(1)
        work.advance(3)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["what"], line["done"], line["total"], line["unit"]) for line in lines] == [
        ("minilm", 1, 4, "texts"),
        ("minilm", 4, 4, "texts"),
    ]
    assert all(line["seconds"] >= 0 for line in lines)


def test_what_others_log_and_warn_of_and_what_nobody_foresaw_are_objects_too(capsys):
    before = logging.getLogger().handlers

    def fail() -> None:
        with json_lines():
            logging.getLogger("some.library").warning("it said %s", "so")
            warnings.warn("odd", stacklevel=1)
            raise KeyError("nobody knew")

    with pytest.raises(SystemExit) as stop:
        fail()
    assert stop.value.code == 1
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert (lines[0]["step"], lines[0]["level"], lines[0]["message"]) == ("some.library", "warning", "it said so")
    assert (lines[1]["step"], lines[1]["level"]) == ("py.warnings", "warning")
    assert "UserWarning: odd" in lines[1]["message"]
    assert (lines[-1]["level"], lines[-1]["message"]) == ("error", "KeyError('nobody knew')")
    assert "in fail" in lines[-1]["traceback"]
    assert logging.getLogger().handlers == before
