"""The messages of a run: lines on standard error, live ones on a terminal, or JSON objects for a log collector."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, TextIO

from hnmine.redaction import redacted, redacted_all
from hnmine.runs import stopping, streams
from hnmine.runs.printable import printable

if TYPE_CHECKING:
    from rich.progress import Progress as Live
LIVE_SECONDS = 0.2  # between two updates of a live line
LOG_SECONDS = 10.0  # between two lines of a log about the same work
_as_json = False
_live: Live | None = None
"""What shows the live lines, as long as there are some; what others print meanwhile stands above them."""

Level = Literal["info", "warning", "error"]
Field = str | float | None | Mapping[str, int]


def say(step: str, message: str, *, level: Level = "info", **fields: Field) -> None:
    """Print one line about a step; only JSON objects have the `fields`, which are for programs."""
    text = f"warning: {message}" if level == "warning" else message
    emit(f"{step:>10} │ {text}", step, message, level=level, stream=sys.stderr, **fields)


def emit(
    line: str, step: str, message: str, *, level: Level = "info", stream: TextIO | None = None, **fields: Field
) -> bool:
    """Print `line` as it is, or in JSON mode an object of the other arguments; on standard error by default.

    Return whether it could be written. A stream that is full or closed ends no run, and nothing in a text steers a
    terminal.
    """
    line = redacted(printable(line))
    if _live is not None and stream is None:
        return _above_live_lines(line)
    stream = stream or sys.stderr
    error = streams.write(_json_object(level, step, message, fields, stream) if _as_json else line, stream)
    if error is not None and stream is sys.stdout and not isinstance(error, BrokenPipeError):
        problem = f"standard output cannot be written: {error}"
        emit(f"error: {problem}", step, problem, level="error")
    return error is None


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
        return _json_object(record.levelname.lower(), record.name, super().format(record).strip(), {}, sys.stderr)


def _json_object(level: str, step: str, message: str, fields: dict[str, Field], stream: TextIO | None) -> str:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    found = {"time": now, "level": level, "step": step, "message": message} | fields
    return json.dumps(redacted_all(found), ensure_ascii=stream is not None and not streams.takes_all_signs(stream))


def _open_live() -> Live:
    """Return what shows live lines; a thread draws them anew, so that the clock goes on while nothing is counted."""
    global _live
    if _live is None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.table import Column

        # Standard output is only taken if it is the same terminal: what is piped elsewhere stays as it is.
        console = Console(stderr=True, markup=False, emoji=False, highlight=False)
        task = Column(no_wrap=True, max_width=max(20, console.width * 2 // 5))
        _live = Progress(
            TextColumn("{task.fields[step]:>10} │ {task.description}", markup=False, table_column=task),
            *([BarColumn(12)] if console.width >= 80 else []),
            TimeElapsedColumn(),
            TextColumn("{task.fields[text]}", markup=False, table_column=Column(no_wrap=True, ratio=1)),
            console=console,
            expand=True,
            refresh_per_second=2,
            transient=True,
            redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
        )
        _live.start()
        _live.console.show_cursor(True)  # a process that is killed would leave it hidden
    return _live


def close_live() -> None:
    """Take the live lines away, however the work ended."""
    global _live
    if _live is not None:
        live, _live = _live, None
        try:
            live.stop()
        except (OSError, ValueError):  # the terminal is gone
            streams.give_up(sys.stderr)


def _above_live_lines(line: str) -> bool:
    """Print a line where no live line is."""
    from rich.text import Text

    assert _live is not None
    try:
        _live.console.print(Text(line), soft_wrap=True)
    except (OSError, ValueError):
        close_live()
        return False
    return True


class Progress:
    """Counts finished units of one task and prints how far it is. Made by `track`, or to be closed by its maker."""

    def __init__(self, step: str, task: str, total: int, unit: str) -> None:
        self.step, self.task, self.total, self.unit = step, task, total, unit
        self.done, self._note = 0, ""
        self._start = self._end = time.monotonic()
        self._live = _open_live() if streams.is_live() and not _as_json else None
        self._last = 0.0 if self._live else self._start
        if self._live:
            self._line = self._live.add_task(printable(task), total=max(total, 1), step=step, text=self._counted)

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
        text = f"{self._counted} ({self.done / self.total:.0%}){left}{self._note}"
        if self._live is None:
            self._say(f"{self.task}: {text}")
        elif self._live is _live:
            try:
                self._live.update(self._line, completed=self.done, text=text, refresh=True)
            except (OSError, ValueError):
                close_live()

    def finish(self) -> None:
        """Print the closing line."""
        self.close()
        self._say(f"{self.task}: {self.done:,} {self.unit} in {clock(self._seconds)} ({self._rate}{self._note})")

    def close(self) -> None:
        """Take the live line away."""
        if self._live is not None and self._live is _live:
            self._live.remove_task(self._line)
            if not self._live.tasks:
                close_live()
        self._live = None

    @property
    def _counted(self) -> str:
        return f"{self.done:,} of {self.total:,} {self.unit}"

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
    try:
        yield progress
        progress.finish()
    finally:
        progress.close()


def clock(seconds: float) -> str:
    """Return a duration for people: 3.2 s, 40 s, 2 min 05 s."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"
