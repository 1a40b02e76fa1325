"""Files of a collection, here or at an address of pyarrow.fs: found, and opened as what their content is.

Content decides, not the name: gzip, bzip2, zstd, xz and lz4 are unpacked; Parquet and Arrow are recognised.
"""

from __future__ import annotations

import bz2
import difflib
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.fs as pafs

from hnmine.errors import DataError
from hnmine.runs.directory import Directory

HEAD = 2**16  # bytes that can be looked at before a file is read
DEPTH = 8  # folders in folders that are looked into; also the end of a circle of links
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\0": "xz",
    b"\x04\x22\x4d\x18": "lz4",
}
_BINARY = {b"PAR1": "parquet", b"ARROW1\0\0": "arrow_file", b"\xff\xff\xff\xff": "arrow_stream"}
_ROLE = ("collection", "--data")
_BROKEN = (EOFError, zlib.error, lzma.LZMAError, OSError, pa.ArrowException, UnicodeError, OverflowError)


class Row(NamedTuple):
    """One row of a file: its fields by name, or the reason why it cannot be used."""

    file: str  # relative to the folder of the collection
    line: int  # the first is 1; of Parquet and Arrow the number of the row
    fields: Mapping[str, Any]
    reason: str = ""  # of a bad row: in one word, as in quarantine.jsonl
    detail: str = ""


@dataclass(frozen=True)
class File:
    """A file of a folder."""

    folder: Directory
    name: str  # relative to the folder

    def __str__(self) -> str:
        return f"{self.folder}/{self.name}"

    @contextmanager
    def opened(self) -> Iterator[tuple[str, io.BufferedReader]]:
        """Yield the kind of the content (text, parquet, arrow_file, arrow_stream) and its unpacked bytes.

        Raises:
            DataError: the file is not there, damaged, or ends too early; also while its bytes are read.
        """
        try:
            with self._stream() as raw:
                packing = _known(_PACKED, raw.peek(8))
                with _unpacked(raw, packing) as stream:
                    kind = _known(_BINARY, stream.peek(8)) or "text"
                    if packing and kind != "text":
                        raise DataError(f"{self} is packed {kind}; expected it as it is: unpack it")
                    yield kind, stream
        except _BROKEN as error:
            problem = " ".join(str(error).split())
            raise DataError(f"{self}: {problem}; expected a whole, readable file: copy it again") from None

    def head(self) -> bytes:
        """Return the first bytes, unpacked."""
        with self.opened() as (_, stream):
            return stream.read(HEAD)

    def _stream(self) -> Any:
        local = self.folder.local
        if local is not None:
            return (local / self.name).open("rb", buffering=2 * HEAD)
        raw = self.folder.filesystem.open_input_file(f"{self.folder.path}/{self.name}")
        return io.BufferedReader(raw, 2**20)


@dataclass(frozen=True)
class Folder:
    """The folder of a collection, or one file in its place, with all that lies in it."""

    address: str
    files: tuple[File, ...]  # sorted; none that is hidden
    strange: tuple[str, ...] = ()  # what else lies there, each "name (why)": empty folders, links to nothing


def open_folder(address: str | Path) -> Folder:
    """List the files of a folder, with those in folders below.

    Raises:
        ConfigError: the address cannot be understood, or has a password in it.
        DataError: there is nothing, or it cannot be listed.
    """
    directory = Directory.at(address, *_ROLE)
    kind, names = directory.below(DEPTH)
    if kind == pafs.FileType.NotFound:
        raise DataError(f"{directory} does not exist{_near(directory)}")
    if kind == pafs.FileType.File:
        above, _, name = directory.path.rpartition("/")
        parent = Directory(directory.filesystem, above or "/", str(directory).rpartition("/")[0] or ".", *_ROLE)
        return Folder(str(directory), (File(parent, name),))
    shown = {name: each for name, each in names.items() if not re.search(r"(^|/)(\.|_SUCCESS$|__MACOSX(/|$))", name)}
    files = tuple(File(directory, name) for name, each in shown.items() if each == pafs.FileType.File)
    filled = {name.rpartition("/")[0] for name in shown}
    empty = (f"{n} (an empty folder)" for n, e in shown.items() if e == pafs.FileType.Directory and n not in filled)
    other = (f"{n} (no file)" for n, e in shown.items() if e not in (pafs.FileType.File, pafs.FileType.Directory))
    return Folder(str(directory), files, (*empty, *other))


def _near(directory: Directory) -> str:
    """Return the folder beside it whose name is nearest to one that is missing, as a question."""
    missing = directory.local
    if missing is None or not missing.parent.is_dir():
        return "; give the folder of a collection"
    names = {path.name.lower(): path.name for path in missing.parent.iterdir() if not path.name.startswith(".")}
    near = difflib.get_close_matches(missing.name.lower(), names, n=1)
    shown = f"{str(directory).rstrip('/').removesuffix(missing.name)}{names[near[0]]}" if near else ""
    return f"; did you mean {shown}?" if near else "; give the folder of a collection"


def _known(table: Mapping[bytes, str], start: bytes) -> str | None:
    return next((kind for magic, kind in table.items() if start.startswith(magic)), None)


def _unpacked(raw: Any, packing: str | None) -> Any:
    """Return a stream of unpacked bytes that one can look ahead in."""
    if packing is None:
        return raw
    if packing == "gzip":
        unpacked: Any = gzip.GzipFile(fileobj=raw)
    elif packing in ("bz2", "xz"):
        unpacked = bz2.BZ2File(raw) if packing == "bz2" else lzma.LZMAFile(raw)  # noqa: SIM115 (the caller closes)
    else:
        unpacked = pa.CompressedInputStream(pa.PythonFile(raw), packing)
    return io.BufferedReader(unpacked, 2 * HEAD)
