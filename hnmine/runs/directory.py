"""A directory of files on this machine or in an object store, through one interface.

A file is visible only when it is whole. On this machine it is written under a hidden name and renamed. In an object
store it appears when its upload is closed, and the upload is opened only when all its bytes are there.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from hnmine.config.base import plain_address
from hnmine.errors import ConfigError, DataError, HnmineError
from hnmine.runs.counters import REQUESTS, STORE_BYTES, STORE_ERRORS
from hnmine.runs.files import settle
from hnmine.runs.object_store import ask, open_address

_AnswerT = TypeVar("_AnswerT")
_REMOTE_REMEDY = "check that the bucket exists, its region, the credentials in the environment, and the network"


@dataclass(frozen=True)
class Directory:
    """A directory. Names are relative to it."""

    filesystem: pafs.FileSystem
    path: str
    address: str  # for messages: without its query, which may be long
    role: str
    setting: str  # where users choose the address
    patience: float | None = None  # seconds that an object store may be silent; None: as `object_store` says

    @classmethod
    def at(cls, address: str | Path, role: str = "vector store", setting: str = "embed.store") -> Directory:
        """Open a folder, or an address that pyarrow understands (s3://, gs://, file:///); nothing is created."""
        if not str(address).strip():
            raise ConfigError(f"{setting}: the address is empty; expected a folder, or s3://bucket/prefix")
        try:
            plain_address(str(address))
        except ValueError as error:
            raise ConfigError(f"{setting}: {error}") from None
        if "://" not in str(address):
            return cls(pafs.LocalFileSystem(), os.path.abspath(address), str(address), role, setting)
        shown = re.sub(r"//[^/@]*@", "//", str(address).partition("?")[0].rstrip("/"))
        try:
            filesystem, path = ask(f"{role} {shown}", lambda: open_address(str(address)))
        except HnmineError as error:
            raise type(error)(f"{setting}: {error}") from None
        except (pa.ArrowException, ValueError) as error:
            raise ConfigError(
                f"{setting}: {shown} cannot be understood: {error}; expected a folder, "
                "s3://bucket/prefix, gs://bucket/prefix or another address of pyarrow.fs"
            ) from None
        except OSError as error:
            raise DataError(f"{role} {shown} cannot be opened: {error}; {_REMOTE_REMEDY}") from None
        if not path.strip("/"):
            raise ConfigError(f"{setting}: {shown} names no bucket; expected for instance s3://bucket/prefix")
        return cls(filesystem, path.rstrip("/"), shown, role, setting)

    def __truediv__(self, name: str) -> Directory:
        return replace(self, path=f"{self.path}/{name}", address=f"{self.address}/{name}")

    def __str__(self) -> str:
        return self.address

    @property
    def local(self) -> Path | None:
        """The path on this machine; None in an object store."""
        return Path(self.path) if isinstance(self.filesystem, pafs.LocalFileSystem) else None

    def create(self) -> None:
        """Make the directory if it is missing; a problem that would stop a write shows here already."""

        def create() -> None:
            if self.filesystem.get_file_info(self.path).type != pafs.FileType.Directory:
                here = self.local and [path for path in (self.local, *self.local.parents) if not path.exists()]
                self.filesystem.create_dir(self.path)
                for path in here or ():
                    settle(path.parent)

        self._asked("used", create)

    def files(self, ending: str = "") -> list[str]:
        """Return the sorted names of the files with this ending; none if the directory does not exist."""
        return sorted(name for name in self.times() if name.endswith(ending))

    def times(self) -> dict[str, float]:
        """Return each file's last write by name, in seconds of the clock of the machine that keeps the files."""
        return {entry.base_name: entry.mtime_ns / 1e9 for entry in self._entries(pafs.FileType.File)}

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each file by name."""
        return {entry.base_name: entry.size for entry in self._entries(pafs.FileType.File)}

    def folders(self) -> list[str]:
        """Return the sorted names of the folders; none if the directory does not exist."""
        return sorted(entry.base_name for entry in self._entries(pafs.FileType.Directory))

    def below(self, depth: int) -> tuple[pafs.FileType, dict[str, pafs.FileType]]:
        """Return what stands at the address, and all that lies below it by its name relative to it, sorted."""

        def look() -> tuple[pafs.FileType, dict[str, pafs.FileType]]:
            kind = self.filesystem.get_file_info(self.path).type
            if kind != pafs.FileType.Directory:
                return kind, {}
            entries, level = list[pafs.FileInfo](), [self.path]
            for _ in range(depth):
                found = [each for path in level for each in self.filesystem.get_file_info(pafs.FileSelector(path))]
                entries, level = entries + found, [e.path for e in found if e.type == pafs.FileType.Directory]
            start = len(self.path.rstrip("/")) + 1
            return kind, dict(sorted((entry.path[start:], entry.type) for entry in entries))

        return self._asked("listed", look)

    def _entries(self, kind: pafs.FileType) -> list[pafs.FileInfo]:
        def look() -> list[pafs.FileInfo]:
            try:
                return list(self.filesystem.get_file_info(pafs.FileSelector(self.path)))
            except FileNotFoundError:  # allow_not_found fails if the folder is made during the call
                return []

        return [entry for entry in self._asked("listed", look) if entry.type == kind]

    def read(self, name: str) -> pa.Buffer | None:
        """Return the bytes of a file, or None if there is no such file."""

        def read() -> pa.Buffer | None:
            try:
                with self.filesystem.open_input_file(f"{self.path}/{name}") as stream:
                    return stream.read_buffer()
            except FileNotFoundError:
                return None

        return self._asked("read", read)

    def read_parts(self, name: str, ranges: list[tuple[int, int]]) -> list[pa.Buffer] | None:
        """Return parts of a file, each given by where it begins and its bytes; None if there is no such file."""

        def read() -> list[pa.Buffer] | None:
            try:
                with self.filesystem.open_input_file(f"{self.path}/{name}") as stream:
                    return [pa.py_buffer(stream.read_at(length, start)) for start, length in ranges]
            except FileNotFoundError:
                return None

        return self._asked("read", read)

    def on_this_machine(self, name: str, copy: Path) -> Path:
        """Return the path of a file or a folder; from an object store, that of a copy made at `copy`."""
        if self.local is not None:
            return self.local / name

        def bring() -> None:
            source = self.filesystem.get_file_info(f"{self.path}/{name}")
            (copy.parent if source.is_file else copy).mkdir(parents=True, exist_ok=True)
            pafs.copy_files(source.path, str(copy), self.filesystem, pafs.LocalFileSystem())

        self._asked("read", bring)
        return copy

    def take(self, folder: Path) -> None:
        """Bring what a folder of this machine holds here, and remove the folder; may be broken off and done again."""
        self.create()
        self._asked("written", lambda: pafs.copy_files(str(folder), self.path, pafs.LocalFileSystem(), self.filesystem))
        shutil.rmtree(folder)

    def write(self, name: str, content: bytes | pa.Buffer) -> None:
        """Write a file, whole or not at all; a file of that name is replaced, and missing folders are made."""
        above, _, last = name.rpartition("/")
        if above:
            (self / above).write(last, content)
            return
        if self.local:
            self._asked("written", lambda: self._write_here(name, content))
            return
        # In a thread of its own, which no signal breaks off: a stream that is closed early leaves part of the bytes.
        whole = pa.py_buffer(content)
        with ThreadPoolExecutor(1) as thread:
            self._asked("written", lambda: thread.submit(self._upload, name, whole).result())
        STORE_BYTES.add(whole.size, action="written")

    def _write_here(self, name: str, content: bytes | pa.Buffer) -> None:
        self.create()
        hidden = f"{self.path}/.{name}.{uuid.uuid4().hex}.tmp"
        try:
            self._upload(Path(hidden).name, content)
            settle(Path(hidden))
            self.filesystem.move(hidden, f"{self.path}/{name}")
            settle(Path(self.path))
        except BaseException:
            with contextlib.suppress(OSError):
                self.filesystem.delete_file(hidden)
            raise

    def _upload(self, name: str, content: bytes | pa.Buffer) -> None:
        with self.filesystem.open_output_stream(f"{self.path}/{name}") as stream:
            stream.write(content)

    def touch(self, name: str) -> None:
        """Make a small file, or renew its time; from then on every listing has its name, also during a renewal.

        `write` does not promise that: it renames, and a listing at that moment may see neither name.
        """
        self.create()
        self._asked("written", lambda: self._upload(name, b"."))

    def remove(self, name: str) -> None:
        """Remove a file; it may be gone already."""

        def remove() -> None:
            with contextlib.suppress(FileNotFoundError):
                self.filesystem.delete_file(f"{self.path}/{name}")

        self._asked("cleared", remove)

    def remove_folder(self, name: str) -> None:
        """Remove a folder with its content; it may be gone already."""

        def remove() -> None:
            with contextlib.suppress(FileNotFoundError):
                self.filesystem.delete_dir(f"{self.path}/{name}")

        self._asked("cleared", remove)

    def set_aside(self, name: str) -> str:
        """Rename a damaged file to `<stem>.corrupt`, so that nobody reads it again; return the new name."""
        aside = f"{name.rpartition('.')[0]}.corrupt"

        def move() -> None:
            try:
                self.filesystem.move(f"{self.path}/{name}", f"{self.path}/{aside}")
            except OSError:
                if name in self.files():  # otherwise another reader has renamed it first
                    raise

        self._asked("mended", move)
        return aside

    def _asked(self, action: str, call: Callable[[], _AnswerT]) -> _AnswerT:
        """Return what `call` returns, asked again while an object store does not answer (see `object_store.ask`).

        Other errors of the file system become a DataError that names the directory and the remedy.
        """
        try:
            return call() if self.local else ask(f"{self.role} {self.address}", _counted(action, call), self.patience)
        except HnmineError:
            raise
        except Exception as error:
            known = isinstance(error, OSError | pa.ArrowException | ValueError)  # the last: a name that is no UTF-8
            if not known and not isinstance(self.filesystem, pafs.PyFileSystem):  # of others, with errors of their own
                raise
            remedy = f"choose another {self.setting}, or mend this folder" if self.local else _REMOTE_REMEDY
            raise DataError(f"{self.role} {self.address} cannot be {action}: {error}; {remedy}") from None


def _counted(action: str, call: Callable[[], _AnswerT]) -> Callable[[], _AnswerT]:
    """Return `call`, which then counts as a question to an object store, and the bytes that it brings."""

    def counting() -> _AnswerT:
        REQUESTS.add(1, action=action)
        try:
            found = call()
        except Exception:
            STORE_ERRORS.add(1, action=action)
            raise
        for part in found if isinstance(found, list) else [found]:
            STORE_BYTES.add(part.size if isinstance(part, pa.Buffer) else 0, action=action)
        return found

    return counting
