"""Curves of a training as files that TensorBoard reads; a disk without room ends the curves and not the training.

The writer of tensorboardX has a thread of its own: where that cannot write, the training would wait for it for good.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hnmine.runs.progress import say

_FLUSH_SECONDS = 10.0


class Curves:
    """The file of one training."""

    def __init__(self, folder: Path) -> None:
        """Begin a file in this folder, which is made; the name of this machine is no part of its name."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._event, self._flushed = folder, Event, time.monotonic()
        self._writer = RecordWriter(str(folder / f"events.out.tfevents.{time.time_ns()}.hnmine"))
        self._write(file_version="brain.Event:2")

    def add(self, name: str, value: float, step: int) -> None:
        """Add a value of a step to the curve of this name."""
        from tensorboardX.summary import scalar

        self._write(summary=scalar(name, value), step=step)

    def close(self) -> None:
        """Write what is left, and close the file."""
        if self._writer is not None:
            try:
                self._writer.close()
            except OSError as error:
                self._give_up(error)

    def _write(self, **what_happened: object) -> None:
        if self._writer is None:
            return
        try:
            self._writer.write(self._event(wall_time=time.time(), **what_happened).SerializeToString())
            if time.monotonic() - self._flushed > _FLUSH_SECONDS:
                self._writer.flush()
                self._flushed = time.monotonic()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self._writer = None
        message = f"curves cannot be written to {self._folder} ({error.strerror}); the training goes on without them"
        say("train", message, level="warning")


@contextmanager
def curves(folder: Path) -> Iterator[Curves]:
    """Write curves for the time of a block."""
    opened = Curves(folder)
    try:
        yield opened
    finally:
        opened.close()
