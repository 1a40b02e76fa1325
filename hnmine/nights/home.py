"""The home of the nights: versions, rankers, and one pointer that says which of them hold.

    HOME/home.json              says that this folder is a home
    HOME/current.json           the pointer and the history, replaced together by one write
    HOME/current                a link to the ranker that holds, if HOME is a folder
    HOME/versions/<number>/     the files of a night; `version.json` is written last
    HOME/rankers/<digest>/      named by the digest of their files; several versions may share one
    HOME/rerankers/<digest>/    what earlier releases deployed in place of rankers
    HOME/lock/                  see `lease`
    HOME/store/                 vectors and lexical fits, unless the store or the work folder is chosen
    HOME/work                   the run folder of the nights, if HOME is a folder

Only what a night made is ever removed, and only in a home: a folder that was empty when its first night began.
A version that the history does not name is a night that was broken off. The older ones are kept for `rollback`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from hnmine.errors import ConfigError, DataError
from hnmine.models.folder import folder_sha256
from hnmine.nights.lease import Lease, LockLostError, hold
from hnmine.ranker.place import POINTER
from hnmine.ranker.ranker import RankerSpec
from hnmine.ranking.evaluate import RERANKER
from hnmine.runs.directory import Directory
from hnmine.runs.files import digest, file_sha256
from hnmine.runs.folder import HOME_MARK
from hnmine.runs.progress import say
from hnmine.runs.tables import text_table

_LINK = "current"
_DIGEST = re.compile(r"[0-9a-f]{20}")
_VERSION = "version.json"
_FILES = "files.json"
_KindT = TypeVar("_KindT")


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Row(_Record):
    """One row of the history: a night, or a rollback."""

    when: str = Field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M", time.gmtime()))
    version: str
    added: int = 0  # documents
    changed: int = 0
    removed: int = 0
    pairs: int = 0
    searched: int = 0  # pairs
    negatives_changed: int = 0  # pairs with other negatives than the night before
    epoch: int = 1  # how many bases there were
    mrr: float | None = None  # MRR@10 on held-out queries of what was deployed when the night began
    mrr_trained: float | None = None  # of what dev chose after a training
    decision: str


class PinnedFit(_Record):
    """A fit of a lexical encoder, in the store under the name `fit`, and the settings that it was made by."""

    fit: str
    settings: dict[str, Any]


class Facts(_Record):
    """What a night must know of the nights before it."""

    epoch: int = 0
    fused: list[str] = []  # identities of the encoders whose vectors the basis was fitted on
    reduce: dict[str, Any] = {}  # settings that the basis was fitted by
    fits: dict[str, PinnedFit] = {}  # as made when the epoch began, by encoder name
    came: int = 0  # documents with a new text since the epoch began
    pairs_changed: int = 0  # pairs with other negatives since the last training, summed over the nights
    train: dict[str, Any] = {}  # settings of the last training, evaluation and choice
    reads: dict[str, Any] = {}  # how a re-ranker of an earlier release reads texts: `kind` and `max_tokens`


class Version(_Record):
    """What a night leaves; without the number, the content of version.json."""

    number: str = Field("", exclude=True)  # empty before the first night
    files: list[str]
    sha256: dict[str, str] = {}  # of the files, by name; versions of earlier releases have none
    ranker: str = ""  # name in HOME/rankers
    identity: str = ""  # of the ranker, see `identity_of`
    reranker: str = ""  # name in HOME/rerankers, of versions of earlier releases that have no ranker
    facts: Facts

    @property
    def deployed(self) -> str:
        """The place in HOME of what it deploys."""
        return f"rankers/{self.ranker}" if self.ranker else f"rerankers/{self.reranker}"


class _Pointer(_Record):
    version: str = ""
    ranker: str = ""  # its place in HOME, for who looks for it; empty: the version has none
    history: list[Row] = []
    rejected: list[str] = []  # identities of what was rolled back from: no night deploys it again


class Home:
    """The home of a series of nights. Reading it creates nothing."""

    def __init__(self, address: str | Path) -> None:
        if "@" in str(address).partition("://")[2].partition("/")[0]:
            raise ConfigError("--home: credentials belong in the environment (AWS_ACCESS_KEY_ID …), not in an address")
        self.address, self.directory = str(address), Directory.at(address, "home", "--home")
        self._versions, self._rankers = self.directory / "versions", self.directory / "rankers"

    @contextmanager
    def hold(self) -> Iterator[Lease]:
        """Hold the lock of the home for the block; refuse a folder that is neither a home nor empty.

        Raises:
            DataError: the folder holds other things.
            InUseError: another job works on this home.
        """
        there = {*self.directory.files(), *self.directory.folders()} - {"lock"}
        is_home = bool(there & {HOME_MARK, POINTER})  # homes of earlier releases have the pointer alone
        if there and not is_home:
            raise DataError(
                f"--home {self.directory} is no home of nights and not empty, it holds {', '.join(sorted(there)[:5])}; "
                "choose an empty or a new folder, since nights remove what is old there"
            )
        with hold(self.directory) as lease:
            if HOME_MARK not in there:
                self.directory.write(HOME_MARK, b'{"hnmine": "home of nights"}\n')
            yield lease

    def current(self) -> Version:
        """Return the version that holds; before the first night, one without a number and without files."""
        number = self._pointer().version
        return self._version(number) if number else Version(files=[], facts=Facts())

    def history(self) -> list[Row]:
        """Return all nights and rollbacks, oldest first."""
        return self._pointer().history

    def nights(self) -> list[Row]:
        """Return the history of a home that has one; else a DataError says so."""
        if not (history := self.history()):
            raise DataError(f"home {self.directory} has no version yet; run `hnmine nightly` first")
        return history

    def next_number(self) -> str:
        """Return the number of the next version."""
        return f"{1 + max((int(row.version) for row in self.history()), default=0):04d}"

    def file(self, version: Version, name: str, work: Path) -> Path | None:
        """Return a file of a version; from an object store, a copy below `work`.

        Returns None if the version lacks it, and, which is said, if it is not as it was written.
        """
        if name not in version.files:
            return None
        folder = self._versions / version.number
        path = folder.on_this_machine(name, work / "last" / name) if name in folder.files() else None
        recorded = version.sha256.get(name)
        if path is not None and recorded in (None, file_sha256(path)):
            return path
        say("nightly", f"{folder}/{name} is {'damaged' if path else 'gone'}; this night does without", level="warning")
        return None

    def keep_store(self, work: Path) -> str:
        """Return the address of HOME/store, where what a work folder holds of a store is brought first."""
        base, mark, query = self.address.partition("?")
        if (work / "store").is_dir():
            (self.directory / "store").take(work / "store")
        return f"{base.rstrip('/')}/store{mark}{query}"

    def write(self, version: Version, files: dict[str, Path]) -> None:
        """Write a version, which nobody sees before `point`; what a broken night left under its number is removed."""
        self._remove(f"versions/{version.number}", _VERSION)
        for name, path in files.items():
            (self._versions / version.number).write(name, path.read_bytes())
        sha256 = {name: file_sha256(path) for name, path in files.items()}
        version = version.model_copy(update={"files": sorted(files), "sha256": sha256})
        (self._versions / version.number).write(_VERSION, version.model_dump_json(indent=1).encode())

    def point(self, version: str, row: Row, keep: int, *, after: str) -> None:
        """Let a new version hold, by one write; then remove all but the last `keep` versions and their rankers.

        Raises:
            LockLostError: it is not the version `after` that holds, so another job was here.
        """
        if (found := self._pointer().version) != after:
            raise LockLostError(f"version {found} holds in {self.directory}, and {after} did before; start again")
        self._write_pointer(version, row, self._pointer().rejected)
        kept, made = self._published()[-keep:], {row.version for row in self.history()}
        for number in self._versions.folders():
            if number in made and number not in kept:
                self._remove(f"versions/{number}", _VERSION)
        needed = {self._version(number).deployed for number in kept}
        for kind in ("rankers", "rerankers"):
            for name in (self.directory / kind).folders():
                if _DIGEST.fullmatch(name) and f"{kind}/{name}" not in needed:  # a night put it there, whole or not
                    self._remove(f"{kind}/{name}", _FILES)

    def _remove(self, name: str, mark: str) -> None:
        """Remove a folder, first the file that says that it is whole: a removal may be broken off."""
        self.directory.remove(f"{name}/{mark}")
        self.directory.remove_folder(name)

    def rollback(self, to: str | None = None) -> Row:
        """Let an older version hold again: `to`, or what `rollback_target` says.

        No version is removed. No night deploys the current ranker, or its re-ranker, again; another rollback can.

        Raises:
            DataError: there is no such version, or it deploys what the current one does.
        """
        nights = self.nights()  # before a lock makes a folder
        with self.hold():
            number, others = self.current().number, self.others()
            kept = ", ".join(self._published())
            if to is not None and to not in others:
                if to not in self._published():
                    raise DataError(f"home {self.directory} has no version {to}; it keeps {kept}")
                raise DataError(f"version {to} deploys what {number} does; with another ranker: {_listed(others)}")
            if (target := to or self.rollback_target()) is None:
                raise DataError(
                    f"home {self.directory} keeps no version before {number} with another ranker, only {kept}; "
                    f"later or rolled back from, for --to: {_listed(others)}"
                )
            rejected = {*self._pointer().rejected, self._identity(self._version(number))}
            night = next(row for row in nights if row.version == target)
            said = f"rolled back from {number}"
            row = Row(version=target, pairs=night.pairs, epoch=night.epoch, decision=said)
            self._write_pointer(target, row, sorted(rejected - {self._identity(self._version(target))}))
            return row

    def others(self) -> list[str]:
        """Return the numbers of the kept versions that deploy another ranker than the current one, oldest first."""
        deployed = {each: self._version(each).deployed for each in self._published()}
        return [each for each, place in deployed.items() if place != deployed.get(self._pointer().version)]

    def rollback_target(self) -> str | None:
        """Return the newest version before the current one with another ranker that was not rolled back from.

        One with the same parts as the current ranker, but of another night, only if there is no other.
        """
        number, rejected = self.current().number, self._pointer().rejected
        names = {each: self._identity(self._version(each)) for each in self.others() if each < number}
        earlier = [each for each, name in names.items() if name not in rejected]
        other = [each for each in earlier if names[each] != self._identity(self.current())]
        return max(other or earlier, default=None)

    def add_ranker(self, folder: Path) -> str:
        """Keep the ranker in a folder; return its name."""
        files = folder_sha256(folder)
        name = digest(files)
        kept = self._rankers / name
        if _FILES not in kept.files():
            for file in (*files, *(["README.md"] if (folder / "README.md").is_file() else [])):
                kept.write(file, (folder / file).read_bytes())
            kept.write(_FILES, json.dumps(files, indent=1).encode())
        return name

    def deployed(self, version: Version, work: Path) -> Path:
        """Return the folder of what a version deploys; from an object store, a copy below `work`, found there again.

        Raises:
            DataError: a file of it is gone, or is not as it was written.
        """
        above, _, name = version.deployed.rpartition("/")
        files, copy = self._files(version.deployed), work / "deployed" / name
        if files.items() <= folder_sha256(copy).items():
            return copy
        for earlier in (work / "deployed").glob("*"):
            shutil.rmtree(earlier)
        folder = (self.directory / above).on_this_machine(name, copy)
        found = folder_sha256(folder)
        if damaged := [file for file, sha256 in files.items() if found.get(file) != sha256]:
            raise DataError(
                f"{self.directory}/{version.deployed}/{damaged[0]} is gone or damaged; bring it back, or deploy an "
                "earlier one with `hnmine rollback`"
            )
        return folder

    def is_rejected(self, folder: Path) -> bool:
        """Whether the ranker in this folder, or its re-ranker, was rolled back from."""
        return not set(identities_of(folder)).isdisjoint(self._pointer().rejected)

    def _identity(self, version: Version) -> str:
        return version.identity or _of_weights(self._files(version.deployed))

    def _published(self) -> list[str]:
        """Return the numbers of the versions that the history names and that are kept, oldest first."""
        published = {row.version for row in self.history()}
        there = (number for number in self._versions.folders() if number in published)
        return [number for number in there if _VERSION in (self._versions / number).files()]

    def _pointer(self) -> _Pointer:
        return self._read(POINTER, _Pointer, absent=_Pointer())

    def _write_pointer(self, version: str, row: Row, rejected: list[str]) -> None:
        known = self._version(version)
        place = known.deployed if known.ranker else ""
        pointer = _Pointer(version=version, ranker=place, history=[*self.history(), row], rejected=rejected)
        self.directory.write(POINTER, pointer.model_dump_json(indent=1).encode())
        if self.directory.local is not None:  # for people and servers; what reads the pointer needs no link
            link, hidden = self.directory.local / _LINK, self.directory.local / f".{_LINK}.tmp"
            with suppress(OSError):
                hidden.unlink(missing_ok=True)
                hidden.symlink_to(known.deployed)
                os.replace(hidden, link)

    def _version(self, number: str) -> Version:
        return self._read(f"versions/{number}/{_VERSION}", Version).model_copy(update={"number": number})

    def _files(self, deployed: str) -> dict[str, str]:
        """Return the sha256 of a folder's files, without the record that earlier releases put beside them."""
        files = self._read(f"{deployed}/{_FILES}", dict[str, str])
        return {name: sha256 for name, sha256 in files.items() if name != "hnmine.json"}

    def _read(self, name: str, kind: type[_KindT], absent: _KindT | None = None) -> _KindT:
        """Return what a JSON file of the home holds, or `absent` if there is no such file."""
        raw = self.directory.read(name)
        if raw is None and absent is not None:
            return absent
        problem = "missing"
        if raw is not None:
            try:
                return TypeAdapter(kind).validate_json(raw.to_pybytes())
            except ValidationError as error:
                first = error.errors()[0]
                problem = f"not what a night leaves ({'.'.join(map(str, first['loc'])) or 'JSON'}: {first['msg']})"
        raise DataError(f"{self.directory}/{name} is {problem}; bring it back, or begin anew with another --home")


def identities_of(folder: Path) -> list[str]:
    """Return what names a ranker, by its weights: a training that was resumed may write other settings beside them.

    One with a re-ranker has its re-ranker's names. Another one is named by what it sums and in which proportions: its
    statistics follow the corpus of the night.
    """
    spec = RankerSpec.read(folder)
    if (part := spec.parts.get(RERANKER)) is not None:
        return [_of_weights(part.sha256), digest(dict(part.sha256))]
    parts = {
        name: [part.kind, part.encoder and part.encoder.model_dump(mode="json", exclude={"model"}), weights]
        for name, part in spec.parts.items()
        for weights in [{} if part.encoder is None or part.encoder.lexical else dict(part.sha256)]
    }
    return [digest([spec.kind, parts, {name: round(weight, 2) for name, weight in spec.weights.items()}])]


def ranks_as(folder: Path, other: Path) -> bool:
    """Whether two rankers give all documents the same scores: whatever figures were written beside their parts."""
    found = []
    for spec in map(RankerSpec.read, (folder, other)):
        parts = {name: part.model_dump(mode="json", exclude={"mean", "deviation"}) for name, part in spec.parts.items()}
        found.append([spec.weights, spec.standardised, spec.depth, parts])
    return found[0] == found[1]


def _listed(versions: Sequence[str]) -> str:
    return ", ".join(versions) or "none"


def _of_weights(files: Mapping[str, str]) -> str:
    return digest({name: sha256 for name, sha256 in files.items() if name.endswith(".safetensors")} or dict(files))


def history_table(rows: Sequence[Row]) -> str:
    """Return the history for people, one line a night."""
    headers = ["night", "version", "added", "changed", "removed", "pairs", "negatives changed", "epoch"]
    cells = []
    for row in rows:
        counts = (row.added, row.changed, row.removed, row.pairs, row.negatives_changed, row.epoch)
        figures = ["-" if value is None else f"{value:.3f}" for value in (row.mrr, row.mrr_trained)]
        cells.append([row.when, row.version, *(f"{count:,}" for count in counts), *figures, row.decision])
    headers += ["MRR@10 deployed before", "MRR@10 of tonight's choice", "decision"]
    return text_table(cells, headers, left=(0, 10))
