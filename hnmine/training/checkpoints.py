"""Checkpoints: folders of a model and, beside it, of what the optimizer and the history were; where they lie."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hnmine.errors import ModelError
from hnmine.training.gradient import Optimizer

STATE = "training"
"""The folder beside a checkpoint's model."""
_MOMENTS, _PROGRESS = "adamw.safetensors", "progress.json"


def best_step(history: Mapping[int, float]) -> int:
    """Return the step with the highest metric, the earliest of equals: a later one must beat the start strictly."""
    return min(history, key=lambda step: (-history[step], step))


def save_state(checkpoint: Path, optimizer: Optimizer, step: int, history: Mapping[int, float]) -> None:
    """Write what a checkpoint holds beside the model: AdamW's moments, the step, and the metric by step so far."""
    folder = checkpoint / STATE
    folder.mkdir()
    save_file(optimizer.moments(), folder / _MOMENTS)
    (folder / _PROGRESS).write_text(json.dumps({"step": step, "dev": list(history.items())}), encoding="utf-8")


def load_state(checkpoint: Path, optimizer: Optimizer) -> tuple[int, dict[int, float]]:
    """Restore the optimizer; return the step and the metric by step."""
    optimizer.restore(load_file(checkpoint / STATE / _MOMENTS))
    progress = json.loads((checkpoint / STATE / _PROGRESS).read_text(encoding="utf-8"))
    return progress["step"], {int(step): float(value) for step, value in progress["dev"]}


@contextmanager
def readable(checkpoint: Path | None) -> Iterator[None]:
    """Turn what is raised while a checkpoint is read into a ModelError that says what becomes of it."""
    try:
        yield
    except (ModelError, OSError, ValueError, KeyError, SafetensorError) as error:
        if checkpoint is None:
            raise
        raise ModelError(
            f"checkpoint {checkpoint} cannot be read ({error}) and is given up; the same command trains from the start"
        ) from None


def work_folder(out: Path, identity: str) -> Path:
    """Return the folder of the checkpoints of the model folder `out`; what another identity left there is removed."""
    prefix = f".train-{out.name}-"
    work = out.parent / f"{prefix}{identity[:20]}"
    for other in out.parent.glob(f"{prefix}*"):
        if other != work and "-" not in other.name.removeprefix(prefix):  # else it is of a longer name
            shutil.rmtree(other, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    return work


def publish(model: Path, out: Path) -> None:
    """Put a copy of a model folder at `out`, replacing what is there, without what a checkpoint holds beside it."""
    hidden = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(hidden, ignore_errors=True)  # left by a call that was killed
    shutil.copytree(model, hidden, ignore=shutil.ignore_patterns(STATE))
    hidden.chmod(0o755)
    if out.exists():
        shutil.rmtree(out)
    hidden.rename(out)
