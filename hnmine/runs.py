"""The folder of a run: one writer at a time, files complete or absent, the manifest last.

OUT/manifest.json        what went in, what was counted, the resolved configuration, versions, seconds a step
OUT/quarantine.jsonl     every bad row, with its reason
OUT/negatives.parquet    OUT/triplets.parquet    OUT/basis.safetensors
OUT/store/               vectors
OUT/rerankers/<name>/    models; OUT/reranker points to the best on dev
OUT/evaluation/          scores and metrics a query
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hnmine.config import Config
from hnmine.errors import DataError

_VERSIONS = (
    "hnmine",
    "faiss-cpu",
    "faiss-gpu",
    "cuml-cu13",
    "numpy",
    "pyarrow",
    "ray",
    "scikit-learn",
    "sentence-transformers",
    "torch",
    "transformers",
)


@dataclass
class Run:
    """An open run folder. Made by `open_run`."""

    out: Path
    manifest: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Add the seconds of the block to a step."""
        start = time.monotonic()
        yield
        self.seconds[step] = round(self.seconds.get(step, 0.0) + time.monotonic() - start, 3)

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a Parquet file, complete or not at all; `name` may have folders in it."""
        path = self.out / name
        hidden = path.with_name(f".{path.name}.tmp")
        hidden.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, hidden, compression="zstd")
        hidden.replace(path)

    def commit(self, **sections: Any) -> None:
        """Write the manifest with these sections renewed; readers trust what it names."""
        self.manifest |= sections
        self.manifest["seconds"] = self.manifest.get("seconds", {}) | self.seconds
        self.manifest["versions"] = versions()
        files = sorted(self.out.glob("*.parquet")) + sorted(self.out.glob("*.jsonl"))
        self.manifest["files"] = {path.name: sha256(path) for path in files}
        write_json(self.out / "manifest.json", self.manifest)


@contextmanager
def open_run(out: Path, config: Config) -> Iterator[Run]:
    """Open OUT for writing; a second process on the same folder is told so and stops.

    Raises:
        DataError: the folder cannot be written, is in use, or its manifest is not ours.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = os.open(out / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise DataError(f"--out {out} cannot be written: {error}") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataError(f"another hnmine is working on {out}; wait for it or choose another --out") from None
        manifest = read_manifest(out)
        manifest["config"] = config.model_dump(mode="json")
        yield Run(out=out, manifest=manifest)
    finally:
        os.close(lock)


def read_manifest(out: Path) -> dict[str, Any]:
    """Return the manifest of a run folder, empty if there is none yet."""
    path = out / "manifest.json"
    if not path.exists():
        return {}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not a manifest of hnmine ({error}); remove it or choose another --out") from None
    if not isinstance(manifest, dict):
        raise DataError(f"{path} is not a manifest of hnmine; remove it or choose another --out")
    return manifest


def write_json(path: Path, value: Any) -> None:
    """Write JSON, complete or not at all."""
    hidden = path.with_name(f".{path.name}.tmp")
    hidden.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    hidden.replace(path)


def sha256(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Return a short name for a JSON-able value: equal values, equal names."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def versions() -> dict[str, str]:
    """Return the versions that matter for a result."""
    found = {"python": platform.python_version(), "machine": f"{platform.machine()}, {os.cpu_count()} CPUs"}
    for name in _VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
