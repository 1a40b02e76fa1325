"""The folder of a run: one writer at a time, files complete or absent, the manifest last.

OUT/manifest.json        one section a step: what it found, and from which data, settings, versions and files
OUT/quarantine.jsonl     every bad row, with its reason
OUT/negatives.parquet    OUT/triplets.parquet    OUT/basis.safetensors
OUT/store/               vectors; OUT/scored/ scores of cross-encoders
OUT/rerankers/<name>/    models; OUT/reranker points to the best on dev
OUT/evaluation/          scores and metrics a query
OUT/ranker/              what dev chose of all that can be deployed, see `ranker.ranker`
OUT/audit.json           the last audit; OUT/compare.md the last comparison, OUT/encoders/ what it goes on from
OUT/cache/               what finished work found, see `runs.cache`
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError

from hnmine.config.root import Config
from hnmine.errors import DataError
from hnmine.redaction import redacted_all
from hnmine.runs.cache import Cache
from hnmine.runs.counters import SECONDS
from hnmine.runs.files import file_sha256, put_in_place, whole_file, write_json
from hnmine.runs.manifest import MANIFEST, SETTINGS_READ, Step, read_manifest, versions
from hnmine.runs.memory import peak_memory
from hnmine.runs.progress import say

RERANKERS = "rerankers"
"""The folder in OUT, and in the cache, of all re-rankers that were trained."""
START = "start"
"""The name there of the model that all trainings begin with, where it had no ranking head and was warmed up."""
HOME_MARK = "home.json"
"""The file that makes a folder a home of nights."""
_REPLACED = (RERANKERS, "ranker", "encoders")
"""Folders in OUT whose content steps replace."""
_OURS = {
    *_REPLACED, *("reranker", "evaluation", "cache", "store", "scored", "vectors", "tensorboard"),
    *("negatives.parquet", "triplets.parquet", "basis.safetensors", "quarantine.jsonl", "audit.json"),
    *("compare.json", "compare.md"),
}  # fmt: skip
_MARK = ".lock"  # made with the first file
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


@dataclass
class Run:
    """An open run folder. Made by `open_run`."""

    out: Path
    config: Config
    manifest: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)
    """Of what was done since the last commit."""
    peak_bytes: dict[str, int] = field(default_factory=dict)
    """The most memory that this process had held when each of these steps ended."""

    @property
    def cache(self) -> Cache:
        """Findings of finished work in this folder."""
        return Cache(self.out)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Add the seconds of the block to a step."""
        start = time.monotonic()
        try:
            yield
        finally:  # what failed took its seconds too
            seconds = time.monotonic() - start
            self.seconds[step] = round(self.seconds.get(step, 0.0) + seconds, 3)
            self.peak_bytes[step] = peak_memory()
            SECONDS.add(seconds, step=step)

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a Parquet file, complete or not at all; `name` may have folders in it."""
        with whole_file(self.out / name) as hidden, hidden.open("wb") as sink:
            pq.write_table(table, sink, compression="zstd")

    def write_text(self, name: str, text: str) -> None:
        """Write a text file, complete or not at all; `name` may have folders in it."""
        with whole_file(self.out / name) as hidden:
            hidden.write_text(text, encoding="utf-8", errors="backslashreplace")

    def claim(self, name: str) -> None:
        """Note that what stands under this name in OUT is made here, and may be replaced, whole or not.

        Raises:
            DataError: it is there, and nothing says that it was made here.
        """
        is_there = os.path.lexists(self.out / name)
        is_named = any(file.startswith(f"{name}/") for file in self.manifest.get("files", {}))
        if not self.cache.claim(name) and is_there and not is_named:
            self.cache.drop(name)
            raise DataError(
                f"{self.out / name} was not made by hnmine, and would be replaced; move it away, or choose another "
                "--out"
            )

    def place(self, hidden: Path, name: str) -> None:
        """Give a folder beside it this name in OUT; one before it with files that were not made here is kept."""
        recorded = {**self.manifest.get("files", {}), **self.cache.files(name)}
        made = {file.removeprefix(f"{name}/") for file in recorded if file.startswith(f"{name}/")}
        if (kept := put_in_place(hidden, self.out / name, made)) is not None:
            say("write", f"{self.out / name} had files that hnmine did not make; it is kept as {kept}", level="warning")

    def replaces(self, path: Path) -> bool:
        """Whether a path is in a folder of OUT whose content steps replace."""
        return any(path.resolve().is_relative_to((self.out / name).resolve()) for name in _REPLACED)

    def require_mined(self) -> None:
        """Raise DataError unless something was mined into the run, and is as the manifest says."""
        path = self.out / "negatives.parquet"
        if not path.is_file():
            raise DataError(f"{path} does not exist; run `hnmine mine` with the same --data and --out first")
        recorded = self.manifest.get("files", {}).get(path.name)
        if recorded is not None and recorded != file_sha256(path):
            raise DataError(
                f"{path} is not as {self.out / MANIFEST} says, perhaps since a later `hnmine mine` was stopped; "
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
        """Write the manifest with what this step found, and without what no longer follows from it.

        A later step's section stays only if the files it was made from are unchanged. `inputs` are the sha256 of the
        files of the run that the step was made from, by path in OUT; `files` those of the files that it leaves.
        """
        # Renew the section, and name the files that are there
        section = found | {
            "config": self.config.model_dump(mode="json", include=SETTINGS_READ[step]),
            "versions": versions(),
            "seconds": self.seconds,
            "peak_bytes": self.peak_bytes,
            "inputs": inputs,
        }
        sections = self.manifest | {step: section}
        known = sorted((self.manifest.get("files", {}) | files).items())
        named = {name: sha256 for name, sha256 in known if (self.out / name).is_file()}
        # Keep the sections before it, and those after it as long as they follow
        self.manifest, self.seconds, self.peak_bytes, is_later = {}, {}, {}, False
        for other in SETTINGS_READ:
            if other not in sections:
                continue
            if is_later and not sections[other]["inputs"].items() <= named.items():
                say("write", f"{self.out / MANIFEST}: {other} was made from other files, so it is left out now")
                break  # and what follows from it
            self.manifest[other] = sections[other]
            is_later = is_later or other == step
        self.manifest["files"] = named
        write_json(self.out / MANIFEST, redacted_all(self.manifest))


def refuse_source(data: object, out: str | Path, option: str = "--out") -> None:
    """Raise DataError if what is written would be, or lie in, the folder that is read; a link is followed."""
    local = [str(each).removeprefix("file://") for each in (data, out)]
    if not isinstance(data, str | Path) or any("://" in each or "\0" in each for each in local):
        return
    source, target = (Path(os.path.realpath(each)) for each in local)
    if target.is_relative_to(source):
        where = "is" if target == source else "lies in"
        raise DataError(f"{option} {out} {where} the folder of --data, {data}; choose a folder outside it")


@contextmanager
def open_run(out: Path, config: Config) -> Iterator[Run]:
    """Open OUT for writing; a DataError says that it cannot be, is in use, holds a collection, or is not ours."""
    if "\0" in str(out):
        raise DataError(f"--out {str(out)!r} cannot be written: no path has the character NUL; choose another --out")
    if str(out).startswith("~"):  # what reads Parquet would look elsewhere than what writes it
        raise DataError(f"--out {out}: there is no such user, or nobody has expanded it; write the folder in full")
    with _writing(out):
        if out.is_symlink() and not out.exists():
            raise DataError(f"--out {out} is a link to {out.readlink()}, which does not exist; make that folder first")
        if any((out / name).exists() for name in ("corpus.jsonl", "corpus.jsonl.gz")):
            raise DataError(f"--out {out} holds a collection; choose another folder for what is made of it")
        if (out / HOME_MARK).exists():
            raise DataError(f"--out {out} is a home of nights, which remove what is old there; choose another folder")
        out.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in out.iterdir()}
        if not names & {_MARK, MANIFEST} and (taken := sorted(names & _OURS)):
            raise DataError(
                f"--out {out} is no folder of hnmine, and has {', '.join(taken[:5])}, which would be replaced; choose "
                "another folder"
            )
        with (out / _MARK).open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise DataError(f"another hnmine is working on {out}; wait for it or choose another --out") from None
            yield Run(out=out, config=config, manifest=read_manifest(out))


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Say in words which file of OUT cannot be written; other errors pass."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, shutil.Error | SafetensorError):  # these name files in their text alone, if at all
            is_ours = isinstance(error, shutil.Error) or "I/O error" in str(error)
            problem = " ".join(str(error).split())[:300]
        else:
            unnamed = out if error.errno in _NO_ROOM else os.devnull
            path = Path(os.fsdecode(error.filename2 or error.filename or unnamed))
            is_ours = path.absolute().is_relative_to(out.absolute())
            problem = f"{path}: {error.strerror}"
        if not is_ours:
            raise
        raise DataError(
            f"--out {out} cannot be written: {problem}; make way or room there, or choose another --out"
        ) from None
