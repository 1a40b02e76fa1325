"""Checkpoints of a training: model folders that say how far it was, and what the sha256 of each of their files is.

Only one that is whole is gone on from or becomes a model. One that is not is said and passed over, and with it every
later one whose best step so far is lost. One that lacks files is unfinished: it was being written or removed when its
training ended. One whose files are others than were written is damaged.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from hnmine.runs.files import file_sha256, settle, write_json
from hnmine.runs.progress import say

STATE = "training.safetensors"
"""The file in a checkpoint with AdamW's moments, the step, and the metric by step so far."""
SUMS = "checkpoint.json"
"""The file in a checkpoint with the sha256 of all others."""


def best_step(history: Mapping[int, float]) -> int:
    """Return the step with the highest metric, the earliest of equals: a later one must beat the start strictly."""
    return min(history, key=lambda step: (-history[step], step))


def seal(folder: Path) -> None:
    """Say of a checkpoint's files what they are, and wait until they are on the disk."""
    write_json(folder / SUMS, _sums(folder))
    for path in (*folder.rglob("*"), folder):
        settle(path)


def progress(folder: Path) -> tuple[int, dict[int, float]]:
    """Return the step of a checkpoint and the metric by step until then, the start's among them under 0."""
    with safe_open(folder / STATE, "pt") as file:
        step, history = json.loads(file.metadata()["hnmine"])
    return step, {int(at): value for at, value in history}


def remove(folder: Path) -> None:
    """Remove a checkpoint, or all of a training; if that is broken off, nothing of the folder's name is left."""
    hidden = folder.with_name(f".{folder.name.removeprefix('.')}.removed")
    shutil.rmtree(hidden, ignore_errors=True)
    if folder.exists():
        folder.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def whole(folders: Iterable[Path]) -> dict[int, Path]:
    """Return the checkpoints among these folders whose files are as they were left, by step; others are said."""
    found = {}
    for folder in sorted(folders):
        is_unfinished = not (folder / SUMS).exists()  # it is written last
        try:
            wanted, there = json.loads((folder / SUMS).read_bytes()), _sums(folder)
            if wanted == there:
                found[progress(folder)[0]] = folder
                continue
            is_unfinished = there.items() < wanted.items()
        except (OSError, ValueError, SafetensorError, AttributeError):
            pass
        if is_unfinished:
            say("train", f"checkpoint {folder} is unfinished and passed over: its training was stopped meanwhile")
        else:
            say("train", f"checkpoint {folder} is damaged and passed over", level="warning")
    return found


def latest(found: Mapping[int, Path]) -> Path | None:
    """Return the last of these checkpoints whose best step is the start or among them; None: there is none."""
    usable = [step for step, folder in found.items() if best_step(progress(folder)[1]) in {0, *found}]
    return found[max(usable)] if usable else None


def _sums(folder: Path) -> dict[str, str]:
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: file_sha256(path) for name, path in sorted(paths.items()) if name != SUMS}
