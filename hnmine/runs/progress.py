"""The messages of a run: lines on standard error, a live one on a terminal, or JSON objects for a log collector."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Literal, TextIO

from hnmine.runs import stopping

LIVE_SECONDS = 0.2  # between two updates of the live line
LOG_SECONDS = 10.0  # between two lines of a log about the same work
_as_json = False

Level = Literal["info", "warning", "error"]
Field = str | float | None | Mapping[str, int]


def say(step: str, message: str, *, level: Level = "info", **fields: Field) -> None:
    """Print one line about a step; only JSON objects have the `fields`, which are for programs."""
    text = f"warning: {message}" if level == "warning" else message
    emit(f"{step:>10} │ {text}", step, message, level=level, stream=sys.stderr, **fields)


def emit(
    line: str, step: str, message: str, *, level: Level = "info", stream: TextIO | None = None, **fields: Field
) -> None:
    """Print `line` as it is, or in JSON mode an object of the other arguments; on standard error by default."""
    text = _json_object(level, step, message, fields) if _as_json else line
    print(text, file=stream or sys.stderr, flush=True)


def is_json() -> bool:
    """Whether JSON objects are printed in place of lines."""
    return _as_json


@contextmanager
def json_lines() -> Iterator[None]:
    """Print one JSON object a line while the block runs, also for logs and warnings of other libraries.

    Keys: `time` (UTC, ISO 8601), `level`, `step` (for other libraries the logger's name), `message`, and figures. An
    unforeseen error is an object as well, with its `traceback`, and ends the program with exit code 1.
    """
    global _as_json
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonFormatter())
    root = logging.getLogger()
    earlier, root.handlers = root.handlers, [handler]
    logging.captureWarnings(True)
    _as_json = True
    try:
        yield
    except Exception as error:
        emit("", "hnmine", repr(error), level="error", traceback=traceback.format_exc())
        sys.exit(1)
    finally:
        _as_json = False
        logging.captureWarnings(False)
        root.handlers = earlier


class _JsonFormatter(logging.Formatter):
    """Makes JSON objects of what other libraries log."""

    def format(self, record: logging.LogRecord) -> str:
        return _json_object(record.levelname.lower(), record.name, super().format(record).strip(), {})


def _json_object(level: str, step: str, message: str, fields: dict[str, Field]) -> str:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"time": now, "level": level, "step": step, "message": message} | fields, ensure_ascii=False)


class Progress:
    """Counts finished units of one task and prints how far it is. Made by `track`."""

    def __init__(self, step: str, task: str, total: int, unit: str) -> None:
        self.step, self.task, self.total, self.unit = step, task, total, unit
        self.done, self._note = 0, ""
        self._start = self._end = time.monotonic()
        self._live = sys.stderr.isatty() and not _as_json
        self._last = 0.0 if self._live else self._start

    def advance(self, amount: int, note: str = "") -> None:
        """Add finished units, and optionally a short note that is shown beside them.

        Raises:
            KeyboardInterrupt: the program was asked to end, and a library has swallowed that.
        """
        stopping.check()
        self.done += amount
        self._note = f", {note}" if note else self._note
        self._end = time.monotonic()
        if self._end - self._last < (LIVE_SECONDS if self._live else LOG_SECONDS) or self.done >= self.total:
            return
        self._last = self._end
        seconds_left = (self.total - self.done) * self._seconds / max(self.done, 1)
        left = f", {self._rate}, {clock(seconds_left)} left" if self.done else ""
        done = f"{self.done:,} of {self.total:,} {self.unit} ({self.done / self.total:.0%})"
        text = f"{self.task}: {done}{left}{self._note}"
        if self._live:
            sys.stderr.write(f"\r\033[K{self.step:>10} │ {text}")
            sys.stderr.flush()
        else:
            self._say(text)

    def finish(self) -> None:
        """Print the closing line."""
        if self._live:
            sys.stderr.write("\r\033[K")
        self._say(f"{self.task}: {self.done:,} {self.unit} in {clock(self._seconds)} ({self._rate}{self._note})")

    @property
    def _seconds(self) -> float:
        """Seconds from the start to the last finished unit."""
        return self._end - self._start

    @property
    def _rate(self) -> str:
        rate = self.done / max(self._seconds, 1e-9)
        return f"{rate:,.0f} {self.unit}/s" if rate >= 10 else f"{rate:.2g} {self.unit}/s"

    def _say(self, text: str) -> None:
        seconds = round(self._seconds, 3)
        say(self.step, text, what=self.task, done=self.done, total=self.total, unit=self.unit, seconds=seconds)


@contextmanager
def track(step: str, task: str, total: int, unit: str) -> Iterator[Progress]:
    """Follow `total` units of work; the closing line is printed only if the block succeeds."""
    progress = Progress(step, task, total, unit)
    yield progress
    progress.finish()


def clock(seconds: float) -> str:
    """Return a duration for people: 3.2 s, 40 s, 2 min 05 s."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"
