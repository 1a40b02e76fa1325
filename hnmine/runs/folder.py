"""The folder of a run: one writer at a time, files complete or absent, the manifest last.

OUT/manifest.json        one section a step: what it found, and from which data, settings, versions and files
OUT/quarantine.jsonl     every bad row, with its reason
OUT/negatives.parquet    OUT/triplets.parquet    OUT/basis.safetensors
OUT/store/               vectors; OUT/scored/ what cross-encoders said
OUT/rerankers/<name>/    models; OUT/reranker points to the best on dev
OUT/evaluation/          scores and metrics a query
OUT/audit.json           the last audit
OUT/compare.md           the last comparison; OUT/compare/ and OUT/encoders/ what it goes on from
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError

from hnmine.config.base import Slug
from hnmine.config.root import Config
from hnmine.config.training import Kind
from hnmine.errors import DataError
from hnmine.runs.cache import Cache
from hnmine.runs.counters import SECONDS
from hnmine.runs.files import whole_file, write_json
from hnmine.runs.hashing import file_sha256
from hnmine.runs.progress import say

_VERSIONS = (
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


Step = Literal["mining", "training", "evaluation"]
_USES: dict[Step, set[str]] = {
    "mining": {"sources", "encoders", "embed", "reduce", "search", "select", "guards"},
    "training": {"sources", "encoders", "embed", "reduce", "search", "train", "evaluate", "compare"},
    "evaluation": {"sources", "encoders", "embed", "reduce", "search", "train", "evaluate"},
}
"""The steps in the order of their work, and the sections of the configuration that each reads."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


class Kept(BaseModel):
    """What a finished piece of work leaves as JSON, under a digest of all that decides it."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    identity: str


KeptT = TypeVar("KeptT", bound=Kept)


def read_kept(path: Path, kind: type[KeptT], identity: str) -> KeptT | None:
    """Return what was kept under this identity, if that is what the file holds."""
    try:
        kept = kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return kept if kept.identity == identity else None


class _Section(BaseModel):
    """What every step records beside its findings."""

    model_config = ConfigDict(extra="allow", strict=True)

    inputs: dict[str, str]


class _Start(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

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
    files: dict[str, str] = {}


@dataclass
class Run:
    """An open run folder. Made by `open_run`."""

    out: Path
    config: Config
    manifest: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)
    """Of what was done since the last commit."""

    @property
    def cache(self) -> Cache:
        """Findings of finished work in this folder."""
        return Cache(self.out)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Add the seconds of the block to a step."""
        start = time.monotonic()
        yield
        seconds = time.monotonic() - start
        self.seconds[step] = round(self.seconds.get(step, 0.0) + seconds, 3)
        SECONDS.add(seconds, step=step)

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a Parquet file, complete or not at all; `name` may have folders in it."""
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as hidden, hidden.open("wb") as sink:
            pq.write_table(table, sink, compression="zstd")

    def write_text(self, name: str, text: str) -> None:
        """Write a text file, complete or not at all; `name` may have folders in it."""
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as hidden:
            hidden.write_text(text, encoding="utf-8")

    def require_mined(self) -> None:
        """Raise DataError unless something was mined into the run, and is as the manifest says."""
        path = self.out / "negatives.parquet"
        if not path.is_file():
            raise DataError(f"{path} does not exist; run `hnmine mine` with the same --data and --out first")
        told = self.manifest.get("files", {}).get(path.name)
        if told is not None and told != file_sha256(path):
            raise DataError(
                f"{path} is not as {self.out / 'manifest.json'} says, perhaps since a later `hnmine mine` was stopped; "
                "run it again"
            )

    def require_trained(self) -> None:
        """Raise DataError unless a re-ranker was trained in the run."""
        if not self.manifest.get("training"):
            raise DataError(
                f"{self.out} holds no trained re-ranker; run `hnmine train` with the same --data and --out first"
            )

    def sha256_of(self, *names: str) -> dict[str, str]:
        """Return the sha256 of those of these files that exist, by path in OUT."""
        return {name: file_sha256(self.out / name) for name in names if (self.out / name).is_file()}

    def commit(self, step: Step, *, inputs: dict[str, str], files: dict[str, str], **found: Any) -> None:
        """Write the manifest with the section of this step renewed, and without what no longer follows from it.

        A later step's section stays only if the files it was made from are unchanged.

        Args:
            step: the section.
            inputs: sha256 of the files of the run that the step was made from, by path in OUT.
            files: the same of those that it leaves.
            found: what it found.
        """
        named: dict[str, str] = self.manifest.get("files", {}) | files
        named = {name: value for name, value in sorted(named.items()) if (self.out / name).is_file()}
        steps = list(_USES)
        kept: dict[str, Any] = {}
        for each in steps:
            section = self.manifest.get(each)
            if each == step:
                kept[each] = found | {
                    "config": self.config.model_dump(mode="json", include=_USES[step]),
                    "versions": versions(),
                    "seconds": self.seconds,
                    "inputs": inputs,
                }
            elif section and steps.index(each) > steps.index(step) and not section["inputs"].items() <= named.items():
                say("write", f"{self.out / 'manifest.json'}: {each} was made from other files, so it is left out now")
                break  # and what follows from it
            elif section:
                kept[each] = section
        self.manifest, self.seconds = kept | {"files": named}, {}
        write_json(self.out / "manifest.json", self.manifest)


@contextmanager
def open_run(out: Path, config: Config) -> Iterator[Run]:
    """Open OUT for writing; a second process on the same folder is told so and stops.

    Raises:
        DataError: the folder cannot be written, is in use, holds a collection, or its manifest is not ours.
    """
    with _writing(out):
        if out.is_symlink() and not out.exists():
            raise DataError(f"--out {out} is a link to {out.readlink()}, which does not exist; make that folder first")
        if any((out / name).exists() for name in ("corpus.jsonl", "corpus.jsonl.gz")):
            raise DataError(f"--out {out} holds a collection; choose another folder for what is made of it")
        out.mkdir(parents=True, exist_ok=True)
        lock = os.open(out / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise DataError(f"another hnmine is working on {out}; wait for it or choose another --out") from None
            yield Run(out=out, config=config, manifest=read_manifest(out))
        finally:
            os.close(lock)


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Say in words which file of OUT cannot be written; other errors pass."""
    try:
        yield
    except (shutil.Error, SafetensorError) as error:  # these name files in their text alone, if at all
        if isinstance(error, SafetensorError) and "I/O error" not in str(error):
            raise
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"--out {out} cannot be written: {reason}; make way or room there, or choose another --out"
        ) from None
    except OSError as error:
        name = error.filename2 or error.filename or (out if error.errno in _NO_ROOM else os.devnull)
        path = Path(os.fsdecode(name))
        if not path.absolute().is_relative_to(out.absolute()):
            raise
        raise DataError(
            f"--out {out} cannot be written: {path}: {error.strerror}; make way or room there, or choose another --out"
        ) from None


def read_manifest(out: Path) -> dict[str, Any]:
    """Return the manifest of a run folder, empty if there is none yet.

    Raises:
        DataError: it cannot be read or is not ours.
    """
    path = out / "manifest.json"
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
    for name in _VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
