"""Files that are complete or absent; digests of files, remembered while this process lives, and of values."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import stat
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

_PRIVATE = 0o600
CLOCK_TICK = 0.1  # seconds; file systems note times in steps below this, so two changes may bear the same time


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a hidden path to write; one rename makes it `path` if the block succeeds. Missing folders are made.

    The content is on the disk before the rename, and the rename before this returns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{path.name}.tmp")
    try:
        yield hidden
        if stat.S_IMODE(hidden.stat().st_mode) == _PRIVATE:  # as safetensors writes
            hidden.chmod(_usual_mode(path.parent))
        settle(hidden)
        hidden.replace(path)
        settle(path.parent)
    finally:
        hidden.unlink(missing_ok=True)


def settle(path: Path) -> None:
    """Wait until a file's content, or a folder's entries, are on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def put_in_place(hidden: Path, folder: Path, made: Collection[str] = ()) -> Path | None:
    """Give a folder that was written beside `folder` that name, replacing what is there.

    All has the modes that new files get here, whatever a library gave it, and is on the disk before the names change.
    A folder before it with files that neither stand in `made` nor in the new one is kept; its new path is returned.
    """
    mode = _usual_mode(hidden)
    for path in (*hidden.rglob("*"), hidden):
        path.chmod(mode | (mode & 0o444) >> 2 if path.is_dir() else mode)  # who reads a folder may enter it
        settle(path)
    before = folder.with_name(f".{folder.name}.before")
    shutil.rmtree(before, ignore_errors=True)  # left by a call that was killed
    if folder.exists() and _names(folder) - _names(hidden) - {*made, "README.md"}:
        numbered = (folder.with_name(f"{folder.name}.kept-{number}") for number in itertools.count(1))
        before = next(path for path in numbered if not path.exists())
    if folder.exists():
        folder.rename(before)
    hidden.rename(folder)
    settle(folder.parent)
    if before.name.startswith("."):
        shutil.rmtree(before, ignore_errors=True)
        return None
    return before if before.exists() else None


def _names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def _usual_mode(folder: Path) -> int:
    """Return the mode that a new file gets in a folder."""
    probe = folder / ".mode"
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    return mode


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, complete or not at all."""
    with whole_file(path) as hidden:
        hidden.write_text(
            json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", errors="backslashreplace"
        )


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's content, as 64 hexadecimal digits.

    A process reads a file once, as long as its size, its times of change and its inode stay the same. A file of this
    very moment is not remembered, since a second change might not show in its times.
    """
    status = path.stat()
    signature = (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_dev, status.st_ino)
    if time.time() - status.st_ctime < CLOCK_TICK:
        return _read_sha256(path)
    return _remembered_sha256(path.resolve(), signature)


@lru_cache(maxsize=4096)
def _remembered_sha256(path: Path, _signature: tuple[int, ...]) -> str:
    return _read_sha256(path)


def _read_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Return 20 hexadecimal digits that name a JSON-able value: equal values, equal names; any sequence is a list."""

    def plain(each: Any) -> Any:
        return list(each) if isinstance(each, Sequence) else str(each)

    text = json.dumps(value, sort_keys=True, default=plain)
    return hashlib.sha256(text.encode()).hexdigest()[:20]
