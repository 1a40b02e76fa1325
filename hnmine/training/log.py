"""How far a training is: its workers log events, the driver reads them and shows them."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from hnmine.ranking.measures import MAIN_METRIC
from hnmine.runs.progress import Progress, say
from hnmine.training.recipe import Recipe
from hnmine.training.trackers import Track

_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Event:
    """What happened after a step."""

    kind: Literal["begun", "resumed", "trained", "evaluated"]
    step: int
    value: float = 0.0
    """The loss of a trained step; MAIN_METRIC of an evaluation."""
    pairs: int = 0
    padding: float = 0.0
    """The share of a trained step's tokens that was padding."""
    time: float = field(default_factory=time.time)


class TrainingLog:
    """The events of one training. What a restarted worker logs again counts once."""

    def __init__(self) -> None:
        self._unread: list[Event] = []
        self._history: dict[int, float] = {}
        self._failure = ""
        self._last_step = 0

    def add(self, event: Event) -> None:
        """Take an event."""
        if event.kind == "trained":
            if event.step <= self._last_step:
                return
            self._last_step = event.step
        if event.kind == "evaluated":
            if event.step in self._history:
                return
            self._history[event.step] = event.value
        self._unread.append(event)

    def read(self) -> list[Event]:
        """Return the events since the last call."""
        unread, self._unread = self._unread, []
        return unread

    def history(self) -> dict[int, float]:
        """Return MAIN_METRIC by step, of all evaluations."""
        return self._history

    def fail(self, message: str) -> None:
        """Take a failure that a new try cannot mend."""
        self._failure = message

    def failure(self) -> str:
        """Return that failure, or an empty text."""
        return self._failure

    def close(self) -> None:
        """Release what the log holds: nothing."""


class EventPrinter:
    """Shows events as messages and a progress line, and passes their values on to a tracker."""

    def __init__(self, name: str, recipe: Recipe, lists: int, track: Track) -> None:
        """Take the training's name in messages, and how many lists an epoch has."""
        self._name, self._recipe, self._lists, self._track = name, recipe, lists, track
        self._progress: Progress | None = None  # its clock starts with the first step, not with the workers
        self._loss = self._padding = math.nan

    def show(self, event: Event) -> None:
        """Show one event."""
        match event.kind:
            case "resumed":
                say("train", f"{self._name}: goes on from the checkpoint of step {event.step}")
            case "begun":
                total = self._lists * self._recipe.epochs - event.step * self._recipe.pairs_per_batch
                if self._progress is None and total > 0:
                    begun = time.time() - event.time
                    self._progress = Progress("train", self._name, total, "lists", begun=begun)
            case "evaluated":
                self._track(MAIN_METRIC, event.value, event.step)
                message = f"{self._name}: step {event.step}: {MAIN_METRIC} {event.value:.3f} on dev"
                say("train", message, model=self._name, training_step=event.step, mrr_at_10=event.value)
            case "trained":
                self._show_step(event)

    def _show_step(self, event: Event) -> None:
        rate = self._recipe.rate(event.step - 1, self._recipe.steps(self._lists))
        for name, value in (("loss", event.value), ("learning_rate", rate), ("padding", event.padding)):
            self._track(name, value, event.step)
        self._loss, self._padding = _smooth(self._loss, event.value), _smooth(self._padding, event.padding)
        if self._progress is not None:
            self._progress.advance(event.pairs, f"loss {self._loss:.3f}, {self._padding:.1%} padding")

    def finish(self) -> None:
        """Close the progress line."""
        if self._progress is not None:
            self._progress.finish()


@contextmanager
def shown(read: Callable[[], list[Event]], printer: EventPrinter) -> Iterator[None]:
    """Show what `read` returns, again and again while the block runs, and once more at its end."""
    stop = threading.Event()

    def poll() -> None:
        last = False
        while not last:
            last = stop.wait(_POLL_SECONDS)
            for event in read():
                printer.show(event)
        printer.finish()

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _smooth(before: float, now: float) -> float:
    return now if math.isnan(before) else 0.9 * before + 0.1 * now
