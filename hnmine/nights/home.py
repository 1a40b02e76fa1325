"""What the nights leave: versions, re-rankers, and one pointer that says which of them hold; a folder or a bucket.

    HOME/current.json           the pointer, and the history: replaced as a whole, so readers see one night or the next
    HOME/versions/<number>/     what a night mined and what the next one compares with; `version.json` is its last file
    HOME/rerankers/<digest>/    models, named by their content; several versions may have the same
    HOME/lock/                  see `lease`
    HOME/work                   the run folder of the nights (of a home that is a folder)

A version that the pointer does not name is a night that was broken off, or an older one kept for `rollback`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs
from pydantic import BaseModel, ConfigDict, ValidationError

from hnmine.errors import DataError
from hnmine.models import folder as weights
from hnmine.runs.folder import digest
from hnmine.runs.places import Place

_POINTER = "current.json"
_VERSION = "version.json"
_Model = TypeVar("_Model", bound=BaseModel)


class Row(BaseModel):
    """One line of the history: a night, or a rollback."""

    model_config = ConfigDict(extra="forbid", strict=True)

    when: str
    version: str
    added: int = 0
    """Documents."""
    changed: int = 0
    removed: int = 0
    pairs: int = 0
    searched: int = 0
    """Pairs that were searched in full."""
    negatives_changed: int = 0
    """Pairs whose negatives are others than the night before."""
    epoch: int = 1
    """How many bases there were."""
    mrr: float | None = None
    """MRR@10 of the re-ranker that was deployed at the night's beginning, on that night's held-out queries."""
    mrr_trained: float | None = None
    decision: str


class Version(BaseModel):
    """What a version says of itself."""

    model_config = ConfigDict(extra="forbid", strict=True)

    files: list[str]
    reranker: str
    """Name in HOME/rerankers."""
    facts: dict[str, Any]


class _Pointer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    version: str
    history: list[Row]
    rejected: list[str] = []
    """Digests of models that were rolled back from: no night deploys one again."""


@dataclass(frozen=True)
class Home:
    """The home of a series of nights."""

    place: Place

    @classmethod
    def at(cls, address: str | Path) -> Home:
        """Open a home; nothing is created.

        Raises:
            ConfigError: the address cannot be understood.
            DataError: the object store does not answer.
        """
        return cls(Place.at(address, "home", "--home"))

    @property
    def folder(self) -> Path | None:
        """The home as a folder of this machine, if it is one."""
        return Path(self.place.path) if isinstance(self.place.filesystem, pafs.LocalFileSystem) else None

    def current(self) -> tuple[str, Version] | None:
        """Return the version that holds, and its number; None before the first night.

        Raises:
            DataError: the home is not as a night leaves it.
        """
        pointer = self._pointer()
        return None if pointer is None else (pointer.version, self._version(pointer.version))

    def history(self) -> list[Row]:
        """Return all nights and rollbacks, oldest first."""
        pointer = self._pointer()
        return [] if pointer is None else pointer.history

    def next_number(self) -> str:
        """Return the number of the next version."""
        return f"{1 + max((int(row.version) for row in self.history()), default=0):04d}"

    def write(self, version: str, files: dict[str, Path], reranker: str, facts: dict[str, Any]) -> None:
        """Write a version, which nobody sees until `point`; what a night broken off left under its number goes."""
        self._versions.remove_folder(version)
        for name, path in files.items():
            (self._versions / version).write(name, _bytes(path))
        own = Version(files=sorted(files), reranker=reranker, facts=facts)
        (self._versions / version).write(_VERSION, own.model_dump_json(indent=1).encode())

    def add_reranker(self, folder: Path) -> str:
        """Keep a model folder; return its name."""
        files = weights.folder_sha256(folder)
        name = digest(files)
        if name not in (self.place / "rerankers").folders() or not self._whole(name):
            for file in files:
                above, _, last = f"{name}/{file}".rpartition("/")
                (self.place / "rerankers" / above).write(last, _bytes(folder / file))
            (self.place / "rerankers" / name).write("files.json", json.dumps(files, indent=1).encode())
        return name

    def reranker(self, name: str, work: Path) -> Path:
        """Return the folder of a model; of a home in an object store, its copy below `work`."""
        if self.folder is not None:
            return self.folder / "rerankers" / name
        copy = work / "deployed" / name
        listed = self._read(self.place / "rerankers" / name, "files.json")
        files: dict[str, str] = json.loads(listed)
        if not copy.is_dir() or weights.folder_sha256(copy) != files:
            for file in files:
                above, _, last = f"{name}/{file}".rpartition("/")
                (copy / file).parent.mkdir(parents=True, exist_ok=True)
                (copy / file).write_bytes(self._read(self.place / "rerankers" / above, last))
        return copy

    def file(self, version: str, name: str, work: Path) -> Path:
        """Return a file of a version; of a home in an object store, its copy below `work`."""
        if self.folder is not None:
            return self.folder / "versions" / version / name
        copy = work / "last" / version / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(self._read(self._versions / version, name))
        return copy

    def rejected(self, reranker: Path) -> bool:
        """Whether the model in this folder was rolled back from."""
        pointer = self._pointer()
        return pointer is not None and _model(weights.folder_sha256(reranker)) in pointer.rejected

    def point(self, version: str, row: Row, keep: int) -> None:
        """Let a version hold, by one write, and remove all but the last `keep` and what they need."""
        pointer = self._pointer()
        self._point(version, row, [] if pointer is None else pointer.rejected)
        self._prune(version, keep)

    def _point(self, version: str, row: Row, rejected: list[str]) -> None:
        pointer = _Pointer(version=version, history=[*self.history(), row], rejected=rejected)
        self.place.write(_POINTER, pointer.model_dump_json(indent=1).encode())

    def rollback(self, to: str | None, when: str) -> Row:
        """Let an older version hold again: `to`, or the newest before the current one with another re-ranker.

        No version is removed. The re-ranker that goes is not deployed again, unless by another rollback.

        Raises:
            DataError: there is no such version.
        """
        current = self.current()
        if current is None:
            raise DataError(f"home {self.place} has no version yet; run `hnmine nightly` first")
        number, version = current
        kept = self._kept()
        pointer, away = self._pointer(), self._model_of(version)
        assert pointer is not None
        bad = {*pointer.rejected, away}
        before = [each for each in kept if each < number and self._model_of(self._version(each)) not in bad]
        if to is not None and to not in kept:
            raise DataError(f"home {self.place} has no version {to}; it keeps {', '.join(kept)}")
        if to is None and not before:
            raise DataError(
                f"home {self.place} keeps no version before {number} with another re-ranker, only {', '.join(kept)}"
            )
        target = to or before[-1]
        row = Row(when=when, version=number, decision=f"rolled back to {target}")
        self._point(target, row, sorted(bad - {self._model_of(self._version(target))}))
        return row

    def _model_of(self, version: Version) -> str:
        return _model(json.loads(self._read(self.place / "rerankers" / version.reranker, "files.json")))

    @property
    def _versions(self) -> Place:
        return self.place / "versions"

    def _kept(self) -> list[str]:
        """Return the versions that are whole and were published."""
        published = {row.version for row in self.history()}
        return [each for each in self._versions.folders() if each in published]

    def _prune(self, current: str, keep: int) -> None:
        kept = self._kept()
        stay = {current, *kept[-keep:]}
        for version in kept:
            if version not in stay:
                self._versions.remove_folder(version)
        needed = {self._version(version).reranker for version in stay}
        for name in (self.place / "rerankers").folders():
            if name not in needed:
                (self.place / "rerankers").remove_folder(name)

    def _whole(self, reranker: str) -> bool:
        return "files.json" in (self.place / "rerankers" / reranker).files()

    def _pointer(self) -> _Pointer | None:
        raw = self.place.read(_POINTER)
        return None if raw is None else _checked(_Pointer, raw.to_pybytes(), f"{self.place}/{_POINTER}")

    def _version(self, number: str) -> Version:
        return _checked(Version, self._read(self._versions / number, _VERSION), f"{self._versions / number}/{_VERSION}")

    def _read(self, place: Place, name: str) -> bytes:
        raw = place.read(name)
        if raw is None:
            raise DataError(f"{place}/{name} is missing; bring it back, or begin anew with another --home")
        content: bytes = raw.to_pybytes()
        return content


def _model(files: dict[str, str]) -> str:
    """Return a digest of a model, whatever its training's record says."""
    return digest({name: sha for name, sha in files.items() if name != weights.RECORD})


def _checked(model: type[_Model], raw: bytes, shown: str) -> _Model:
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        problem = ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
    raise DataError(f"{shown} is not what a night leaves ({problem}); bring it back, or begin anew with another --home")


def _bytes(path: Path) -> pa.Buffer:
    if not path.stat().st_size:
        return pa.py_buffer(b"")
    with pa.memory_map(str(path)) as mapped:
        return mapped.read_buffer()


def table(rows: list[Row]) -> str:
    """Return the history for people, one line a night."""
    heads = ["night", "version", "added", "changed", "removed", "pairs", "negatives changed", "epoch", "MRR@10"]
    lines = [[*heads, "trained", "decision"]]
    for row in rows:
        counts = (row.added, row.changed, row.removed, row.pairs, row.negatives_changed, row.epoch)
        figures = ["-" if value is None else f"{value:.3f}" for value in (row.mrr, row.mrr_trained)]
        lines.append([row.when, row.version, *(f"{count:,}" for count in counts), *figures, row.decision])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    left = {0, len(heads) + 1}
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at in left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
