"""Where files are kept: a folder, or a prefix in an object store, through one interface.

A file is visible only when it is whole. On a folder it is written under a hidden name and renamed; in an object store
it appears when its upload is closed, and the upload is opened only when all its bytes are there.
"""

from __future__ import annotations

import contextlib
import functools
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from hnmine.errors import ConfigError, DataError


@dataclass(frozen=True)
class Place:
    """A folder of files. Names are relative to it and may not hold a slash."""

    filesystem: pafs.FileSystem
    path: str
    shown: str
    """As people are told of it: an address without its query, which may be long."""
    what: str = "vector store"
    setting: str = "embed.store"
    """Where people say which place it is."""

    @classmethod
    def at(cls, address: str | Path, what: str = "vector store", setting: str = "embed.store") -> Place:
        """Open a folder, or an address that pyarrow understands (s3://, gs://, file:///); nothing is created.

        Raises:
            ConfigError: the address cannot be understood.
            DataError: the object store does not answer.
        """
        if "://" not in str(address):
            return cls(pafs.LocalFileSystem(), os.path.abspath(address), str(address), what, setting)
        filesystem, path = _open(str(address), what, setting)
        return cls(filesystem, path.rstrip("/"), _shown(str(address)), what, setting)

    def __truediv__(self, name: str) -> Place:
        return replace(self, path=f"{self.path}/{name}", shown=f"{self.shown}/{name}")

    def __str__(self) -> str:
        return self.shown

    def create(self) -> None:
        """Make the folder if it is not there; this finds out early what would stop a write.

        Raises:
            DataError: it cannot be made.
        """
        with self._telling("used"):
            if self.filesystem.get_file_info(self.path).type != pafs.FileType.Directory:
                self.filesystem.create_dir(self.path)

    def files(self, ending: str = "") -> list[str]:
        """Return the names of the files in it that end so, sorted; none if it does not exist."""
        return sorted(name for name in self.times() if name.endswith(ending))

    def times(self) -> dict[str, float]:
        """Return by name when each file in it was last written: seconds by the clock of what keeps the files."""
        infos = self._infos()
        return {info.base_name: info.mtime_ns / 1e9 for info in infos if info.type == pafs.FileType.File}

    def folders(self) -> list[str]:
        """Return the names of the folders in it, sorted; none if it does not exist."""
        return sorted(info.base_name for info in self._infos() if info.type == pafs.FileType.Directory)

    def _infos(self) -> list[pafs.FileInfo]:
        with self._telling("listed"):
            try:
                infos: list[pafs.FileInfo] = self.filesystem.get_file_info(pafs.FileSelector(self.path))
            except FileNotFoundError:  # allow_not_found would not do: it fails if the folder is made meanwhile
                return []
        return infos

    def read(self, name: str) -> pa.Buffer | None:
        """Return the bytes of a file, or None if there is no such file."""
        with self._telling("read"):
            try:
                with self.filesystem.open_input_file(f"{self.path}/{name}") as stream:
                    return stream.read_buffer()
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes | pa.Buffer) -> None:
        """Write a file, whole or not at all; one of that name is replaced."""
        local = isinstance(self.filesystem, pafs.LocalFileSystem)
        path = f"{self.path}/{name}"
        target = f"{self.path}/.{name}.{uuid.uuid4().hex}.tmp" if local else path
        if local:
            self.create()
        with self._telling("written"):
            try:
                with self.filesystem.open_output_stream(target) as stream:
                    stream.write(content)
                if local:
                    self.filesystem.move(target, path)
            except BaseException:  # closing the stream has made a file of what there was
                with contextlib.suppress(OSError):
                    self.filesystem.delete_file(target)
                raise

    def touch(self, name: str) -> None:
        """Make a small file, or renew its time; its name is in every listing from then on, also while it is renewed.

        `write` renames, and who lists a folder meanwhile may see neither name.
        """
        self.create()
        with self._telling("written"), self.filesystem.open_output_stream(f"{self.path}/{name}") as stream:
            stream.write(b".")

    def remove(self, name: str) -> None:
        """Remove a file; it may be gone already."""
        with self._telling("cleared"), contextlib.suppress(FileNotFoundError):
            self.filesystem.delete_file(f"{self.path}/{name}")

    def remove_folder(self, name: str) -> None:
        """Remove a folder and what is in it; it may be gone already."""
        with self._telling("cleared"), contextlib.suppress(FileNotFoundError):
            self.filesystem.delete_dir(f"{self.path}/{name}")

    def set_aside(self, name: str) -> str:
        """Rename a damaged file to `<stem>.corrupt`, so that nobody reads it again; return the new name."""
        aside = f"{name.rpartition('.')[0]}.corrupt"
        with self._telling("mended"):
            try:
                self.filesystem.move(f"{self.path}/{name}", f"{self.path}/{aside}")
            except OSError:
                if name in self.files():  # else another reader was first
                    raise
        return aside

    @contextlib.contextmanager
    def _telling(self, done: str) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{self.what} {self.shown} cannot be {done}: {error}; {self._remedy()}") from None

    def _remedy(self) -> str:
        if isinstance(self.filesystem, pafs.LocalFileSystem):
            return f"choose another {self.setting}, or mend this folder"
        return _REMOTE


@functools.cache
def _open(address: str, what: str, setting: str) -> tuple[pafs.FileSystem, str]:
    """Open an address once per process: for a bucket this may ask the network for its region."""
    try:
        filesystem, path = pafs.FileSystem.from_uri(address)
    except pa.ArrowException as error:
        raise ConfigError(
            f"{setting}: {_shown(address)} cannot be understood: {error}; expected a folder, s3://bucket/prefix, "
            "gs://bucket/prefix or another address of pyarrow.fs"
        ) from None
    except OSError as error:
        raise DataError(f"{what} {_shown(address)} cannot be opened: {error}; {_REMOTE}") from None
    if not path.strip("/"):
        raise ConfigError(f"{setting}: {address} names no bucket; expected for instance s3://bucket/prefix")
    return filesystem, path


def _shown(address: str) -> str:
    return address.partition("?")[0].rstrip("/")


_REMOTE = "check that the bucket exists, its region, the credentials in the environment, and the network"
