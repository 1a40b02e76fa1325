"""SIGTERM ends the program as Ctrl-C does, also where a library swallows that; a second SIGTERM ends it at once."""

from __future__ import annotations

import os
import signal
import threading
import time

EXIT_CODE = 143
"""Of a program that SIGTERM ended."""
ONE_REQUEST_SECONDS = 1.0
"""Signals that come so close together are one request: a process and its group may both be sent one."""

_asked_at: float | None = None  # seconds of the monotonic clock


def listen() -> None:
    """Raise KeyboardInterrupt in the main thread when SIGTERM comes; all libraries pass that on, or most."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)


def is_asked() -> bool:
    """Whether SIGTERM has come."""
    return _asked_at is not None


def check() -> None:
    """Raise KeyboardInterrupt in the main thread if SIGTERM has come; called wherever work is counted."""
    if is_asked() and threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt


def _terminate(_signal: int, _frame: object) -> None:
    global _asked_at
    now = time.monotonic()
    if _asked_at is None:
        _asked_at = now
        raise KeyboardInterrupt
    if now - _asked_at >= ONE_REQUEST_SECONDS:
        os.write(2, b"terminated at once, by a second SIGTERM\n")
        os._exit(EXIT_CODE)  # what was being closed stays as a kill would leave it
