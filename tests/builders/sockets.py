"""Which addresses a process and its children listen at, while something runs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import psutil

LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
_SECONDS = 0.3  # between two looks


@contextlib.contextmanager
def listening(root: int) -> Iterator[dict[str, set[str]]]:
    """Look at the process `root` and all below it while the block runs; yield the addresses by name of the process."""
    found: dict[str, set[str]] = {}
    done = threading.Event()

    def look() -> None:
        while not done.wait(_SECONDS):
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in [psutil.Process(root), *psutil.Process(root).children(recursive=True)]:
                    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                        listened = [c for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
                        for each in listened:
                            found.setdefault(process.name(), set()).add(each.laddr.ip)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()
