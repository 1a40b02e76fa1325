"""What a run says: lines on standard error, a live one on a terminal, or JSON objects for a log collector."""

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

_LIVE_SECONDS = 0.2
_LOG_SECONDS = 10.0
_as_json = False

Level = Literal["info", "warning", "error"]
Field = str | float | None | Mapping[str, int]


def say(step: str, message: str, *, level: Level = "info", **fields: Field) -> None:
    """Print one line of news about a step; `fields` are what a program wants to read of it, so only JSON has them."""
    told = f"warning: {message}" if level == "warning" else message
    tell(f"{step:>10} │ {told}", step, message, level=level, stream=sys.stderr, **fields)


def tell(
    line: str, step: str, message: str, *, level: Level = "info", stream: TextIO | None = None, **fields: Field
) -> None:
    """Print `line` as it is, or the object of what follows; on standard error, if no other stream is given."""
    text = _object(level, step, message, fields) if _as_json else line
    print(text, file=stream or sys.stderr, flush=True)


def is_json() -> bool:
    """Whether objects are printed."""
    return _as_json


@contextmanager
def json_lines() -> Iterator[None]:
    """Print one JSON object a line while the block runs; what other libraries log or warn of becomes one too.

    Keys: `time` (UTC, ISO 8601), `level`, `step` (for others' lines the logger's name), `message`, and figures. An
    error that nobody has foreseen is an object as well, with its `traceback`, and ends the program with exit code 1.
    """
    global _as_json
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonFormatter())
    root = logging.getLogger()
    before, root.handlers = root.handlers, [handler]
    logging.captureWarnings(True)
    _as_json = True
    try:
        yield
    except Exception as error:
        tell("", "hnmine", repr(error), level="error", traceback=traceback.format_exc())
        sys.exit(1)
    finally:
        _as_json = False
        logging.captureWarnings(False)
        root.handlers = before


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Return the object of a line that another library logs."""
        return _object(record.levelname.lower(), record.name, super().format(record).strip(), {})


def _object(level: str, step: str, message: str, fields: dict[str, Field]) -> str:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"time": now, "level": level, "step": step, "message": message} | fields, ensure_ascii=False)


class Progress:
    """Counts work done and says how far it is; made by `track`."""

    def __init__(self, step: str, what: str, total: int, unit: str, *, begun: float = 0.0) -> None:
        """Begin the clock, or say that it began so many seconds ago."""
        self.step, self.what, self.total, self.unit = step, what, total, unit
        self.done = 0
        self.note = ""
        self._start = self._end = time.monotonic() - begun
        self._live = sys.stderr.isatty() and not _as_json
        self._last = self._start if not self._live else 0.0

    def advance(self, amount: int, note: str = "") -> None:
        """Add finished units, and optionally a short note to show beside them."""
        self.done += amount
        self.note = note or self.note
        now = self._end = time.monotonic()
        if now - self._last >= (_LIVE_SECONDS if self._live else _LOG_SECONDS) and self.done < self.total:
            self._last = now
            self._show()

    @property
    def seconds(self) -> float:
        """Seconds from the start to the last unit that was finished."""
        return self._end - self._start

    def finish(self) -> None:
        """Print the closing line."""
        rate = self.done / max(self.seconds, 1e-9)
        note = f", {self.note}" if self.note else ""
        text = f"{self.what}: {self.done:,} {self.unit} in {clock(self.seconds)} ({_figure(rate)} {self.unit}/s{note})"
        if self._live:
            sys.stderr.write("\r\033[K")
        self._say(text)

    def _show(self) -> None:
        rate = self.done / max(self.seconds, 1e-9)
        left = f", {_figure(rate)} {self.unit}/s, {clock((self.total - self.done) / rate)} left" if rate else ""
        share = self.done / self.total if self.total else 1.0
        note = f", {self.note}" if self.note else ""
        text = f"{self.what}: {self.done:,} of {self.total:,} {self.unit} ({share:.0%}){left}{note}"
        if self._live:
            sys.stderr.write(f"\r\033[K{self.step:>10} │ {text}")
            sys.stderr.flush()
        else:
            self._say(text)

    def _say(self, text: str) -> None:
        seconds = round(self.seconds, 3)
        say(self.step, text, what=self.what, done=self.done, total=self.total, unit=self.unit, seconds=seconds)


@contextmanager
def track(step: str, what: str, total: int, unit: str) -> Iterator[Progress]:
    """Follow `total` units of work; the closing line is printed only if all went well."""
    progress = Progress(step, what, total, unit)
    yield progress
    progress.finish()


def clock(seconds: float) -> str:
    """Return a time as people read it."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def _figure(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
