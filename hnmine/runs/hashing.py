"""Digests: of files, remembered while this process lives, and of values."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's content, as 64 hexadecimal digits.

    A process reads a file once, as long as its size, its time of change and its inode stay the same: weights are
    hashed once in a run, however many steps ask for them.
    """
    status = path.stat()
    return _sha256(path.resolve(), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


@lru_cache(maxsize=4096)
def _sha256(path: Path, *_status: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Return 20 hexadecimal digits that name a JSON-able value: equal values, equal names."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]
