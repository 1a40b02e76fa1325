"""Progress of long work on standard error: a live line on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

_LIVE_SECONDS = 0.2
_LOG_SECONDS = 10.0


def say(step: str, message: str) -> None:
    """Print one line of news about a step."""
    print(f"{step:>10} │ {message}", file=sys.stderr, flush=True)  # noqa: T201


class Progress:
    """Counts work done and says how far it is; made by `track`."""

    def __init__(self, step: str, what: str, total: int, unit: str) -> None:
        self.step, self.what, self.total, self.unit = step, what, total, unit
        self.done = 0
        self.note = ""
        self._start = self._end = time.monotonic()
        self._live = sys.stderr.isatty()
        self._last = self._start if not self._live else 0.0

    def advance(self, amount: int, note: str = "") -> None:
        """Add finished units, and optionally a short note to show beside them."""
        self.done += amount
        self.note = note or self.note
        now = self._end = time.monotonic()
        if now - self._last >= (_LIVE_SECONDS if self._live else _LOG_SECONDS) and self.done < self.total:
            self._last = now
            self._show("\r\033[K" if self._live else "", "" if self._live else "\n")

    @property
    def seconds(self) -> float:
        """Seconds from the start to the last unit that was finished."""
        return self._end - self._start

    def finish(self) -> None:
        """Print the closing line."""
        rate = self.done / max(self.seconds, 1e-9)
        note = f", {self.note}" if self.note else ""
        text = f"{self.what}: {self.done:,} {self.unit} in {_clock(self.seconds)} ({_figure(rate)} {self.unit}/s{note})"
        if self._live:
            sys.stderr.write("\r\033[K")
        say(self.step, text)

    def _show(self, before: str, after: str) -> None:
        rate = self.done / max(self.seconds, 1e-9)
        left = f", {_figure(rate)} {self.unit}/s, {_clock((self.total - self.done) / rate)} left" if rate else ""
        share = self.done / self.total if self.total else 1.0
        note = f", {self.note}" if self.note else ""
        sys.stderr.write(
            f"{before}{self.step:>10} │ {self.what}: {self.done:,} of {self.total:,} {self.unit} ({share:.0%})"
            f"{left}{note}{after}"
        )
        sys.stderr.flush()


@contextmanager
def track(step: str, what: str, total: int, unit: str) -> Iterator[Progress]:
    """Follow `total` units of work; the closing line is printed only if all went well."""
    progress = Progress(step, what, total, unit)
    yield progress
    progress.finish()


def _clock(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def _figure(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
