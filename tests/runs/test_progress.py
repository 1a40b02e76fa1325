"""What a log and a terminal see of long work."""

from __future__ import annotations

import json
import logging
import re
import sys
import warnings
from datetime import UTC, datetime, timedelta

import pytest

from hnmine.runs import progress
from hnmine.runs.progress import emit, json_lines, say, track
from tests.builders.terminals import screen, seen_on_a_terminal


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


WORK = """
import logging, sys
from hnmine.runs import progress
from hnmine.runs.progress import close_live, say, track
progress.LIVE_SECONDS = 0.0
with track("embed", "minilm", 3, "texts") as work:
    work.advance(1)
    say("embed", "news " * 30 + "\x1b[2J\x07")
    logging.warning("a library [bold]logs[/bold]")
    print("and prints", file=sys.stderr)
    print("a result")
    work.advance(1)
    with track("bm25", "inside", 2, "queries") as inner:
        inner.advance(1)
        inner.advance(1)
    work.advance(1)
"""
FAILS = """
from hnmine.runs.progress import track
with track("embed", "minilm", 3, "texts") as work:
    work.advance(1)
    raise SystemExit("it failed")
"""


def test_a_terminal_sees_one_line_a_step_and_what_is_printed_stands_above_it(tmp_path):
    seen = seen_on_a_terminal(WORK, stdout=tmp_path / "out.txt")
    assert "1 of 3 texts (33%)" in seen
    assert "1 of 2 queries (50%)" in seen
    lines = screen(seen)
    assert lines[0] == "     embed │ " + "news " * 30 + "\ufffd[2J\ufffd", "a long line is not cut, and nothing steers"
    assert lines[1:3] == ["WARNING:root:a library [bold]logs[/bold]", "and prints"]
    assert re.fullmatch(r" +bm25 │ inside: 2 queries in .*", lines[3])
    assert re.fullmatch(r" +embed │ minilm: 3 texts in .*", lines[4])
    assert len(lines) == 5
    assert (tmp_path / "out.txt").read_text() == "a result\n", "what is piped elsewhere is left alone"


def test_the_cursor_is_never_left_hidden_and_failed_work_leaves_no_line():
    seen = seen_on_a_terminal(FAILS)
    assert screen(seen) == ["it failed"]
    assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l")
    shown = seen.index("1 of 3")
    assert "\x1b[?25h" in seen[:shown], "also while the line is shown: a process may be killed"


@pytest.mark.parametrize(
    "environment",
    [{"CI": "true"}, {"NO_COLOR": "1"}, {"TERM": "dumb"}, {"PYTHONIOENCODING": "ascii:backslashreplace"}],
    ids=str,
)
def test_a_terminal_that_wants_plain_lines_gets_them(environment):
    seen = seen_on_a_terminal(WORK, **environment)
    assert "\x1b" not in seen
    assert "1 of 3 texts" not in seen
    assert "inside: 2 queries in" in seen


def test_a_narrow_terminal_gets_one_line_still():
    seen = seen_on_a_terminal(WORK, COLUMNS="44")
    live = [line for line in seen.splitlines() if "of 3" in line]
    assert live
    assert all(len(re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", part)) <= 44 for line in live for part in line.split("\r"))


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
