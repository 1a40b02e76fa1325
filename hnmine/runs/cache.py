"""The one cache of a run folder: what a piece of finished work found, under an identity of all that decided it.

    OUT/cache/<name>.json    {"identity": …, "files": {path in OUT: sha256}, "found": {…}}

An entry is believed only if its identity is the one that is asked for and every file it names is as it was recorded;
else the work is done again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from hnmine.runs.files import file_sha256, write_json
from hnmine.runs.progress import say

FoundT = TypeVar("FoundT", bound=BaseModel)


class FilesAlone(BaseModel):
    """What was found where the files of an entry say all."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    identity: str
    files: dict[str, str]
    found: dict[str, Any]


class Cache:
    """Findings of finished work, by name and identity."""

    def __init__(self, out: Path) -> None:
        self._out = out

    def get(self, name: str, identity: str, kind: type[FoundT]) -> FoundT | None:
        """Return what is kept under this name, if it has this identity and all its files are as they were left.

        The identity is a digest of all that decides the result; `kind` is the model of what was found.
        """
        entry = self._read(name)
        if entry is None or entry.identity != identity:
            return None
        for path, sha256 in ((self._out / file, sha256) for file, sha256 in entry.files.items()):
            if not path.is_file() or file_sha256(path) != sha256:
                say("cache", f"{path} is not as {name} left it, so the work is done again")
                return None
        try:
            return kind.model_validate_json(json.dumps(entry.found))
        except ValidationError:
            say("cache", f"{self._path(name)} does not hold what {name} finds today, so the work is done again")
            return None

    def put(self, name: str, identity: str, found: BaseModel, files: Iterable[Path] = ()) -> None:
        """Keep what was found; `files` lie in OUT and belong to it. The entry is written last, by one rename."""
        named = {path.relative_to(self._out).as_posix(): file_sha256(path) for path in sorted(files)}
        entry = _Entry(identity=identity, files=named, found=found.model_dump(mode="json"))
        write_json(self._path(name), entry.model_dump())

    def files(self, name: str) -> dict[str, str]:
        """Return the sha256 of an entry's files, by path in OUT; empty if there is no entry."""
        entry = self._read(name)
        return {} if entry is None else entry.files

    def claim(self, name: str) -> bool:
        """Note that work of this name begins; return whether it was noted, or done, before."""
        if known := self._path(name).exists():
            return known
        write_json(self._path(name), _Entry(identity="", files={}, found={}).model_dump())
        return False

    def all(self, folder: str, kind: type[FoundT]) -> dict[str, FoundT]:
        """Return what is kept in a folder of names, by the rest of the name, where all files are as they were left."""
        names = sorted(path.stem for path in (self._out / "cache" / folder).glob("*.json"))
        found: dict[str, FoundT] = {}
        for name in names:
            entry = self._read(f"{folder}/{name}")
            kept = None if entry is None else self.get(f"{folder}/{name}", entry.identity, kind)
            if kept is not None:
                found[name] = kept
        return found

    def drop(self, name: str) -> None:
        """Forget an entry; its files stay."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._out / "cache" / f"{name}.json"

    def _read(self, name: str) -> _Entry | None:
        path = self._path(name)
        try:
            return _Entry.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError):
            say("cache", f"{path} is not an entry of this hnmine and is passed over")
            return None
