"""OUT/manifest.json: one section a step, with what it found and from which data, settings, versions and files."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from hnmine.config.base import Slug
from hnmine.config.training import Kind
from hnmine.errors import DataError

MANIFEST = "manifest.json"

Step = Literal["mining", "training", "evaluation", "ranker"]
_SHARED = {"seed", "device", "engine", "ray", "sources", "encoders", "embed", "reduce", "search"}
SETTINGS_READ: dict[Step, set[str]] = {
    "mining": _SHARED | {"select", "guards"},
    "training": _SHARED | {"train", "evaluate", "compare"},
    "evaluation": _SHARED | {"train", "evaluate"},
    "ranker": _SHARED | {"train", "evaluate", "ranker"},
}
"""The steps in the order of their work, and what each reads of the configuration."""

_PACKAGES = (
    "hnmine",
    "faiss-cpu",
    "faiss-gpu",
    "cuml-cu13",
    "numpy",
    "openvino",
    "pyarrow",
    "ray",
    "scikit-learn",
    "sentence-transformers",
    "torch",
    "transformers",
)


class _Recorded(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class _Section(_Recorded):
    """What every step records beside its findings."""

    inputs: dict[str, str]


class _Start(_Recorded):
    model: str
    warmed_up: bool


class _Training(_Section):
    start: _Start
    kind: Kind
    max_tokens: int
    presets: dict[Slug, dict[str, Any]]


class _Manifest(BaseModel):
    """What is relied on when a manifest is read again."""

    model_config = ConfigDict(extra="forbid", strict=True)

    mining: _Section | None = None
    training: _Training | None = None
    evaluation: _Section | None = None
    ranker: _Section | None = None
    files: dict[str, str] = {}


def read_manifest(out: Path) -> dict[str, Any]:
    """Return the manifest of a run folder, empty if there is none yet; a DataError says that it is not ours."""
    path = out / MANIFEST
    if not path.exists():
        return {}
    try:
        return _Manifest.model_validate_json(path.read_bytes()).model_dump(exclude_unset=True)
    except OSError as error:
        problem = str(error)
    except ValidationError as error:
        first = error.errors()[0]
        problem = ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
    raise DataError(f"{path} is not a manifest of this hnmine ({problem}); remove it or choose another --out")


def versions() -> dict[str, str]:
    """Return the versions that matter for a result."""
    found = {"python": platform.python_version(), "machine": f"{platform.machine()}, {os.cpu_count()} CPUs"}
    for name in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
