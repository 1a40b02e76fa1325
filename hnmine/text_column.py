"""Texts of a collection outside Python's heap: millions of ids and texts cost their bytes, and the long ones none.

A `str` costs 50 bytes beside its characters, a place in a dictionary 100 more. What a column holds beyond its first
64 MiB lies in a temporary file without a name, which goes with the process, whatever ends it.
"""

from __future__ import annotations

import itertools
import operator
import os
import sys
import tempfile
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any, overload

import numpy as np

IN_MEMORY = 2**26
"""Bytes of a column that stay in memory."""
_PART = 2**20  # bytes that go to the file together
_ROWS = 512  # that are read together


class TextColumn(Sequence[str]):
    """A sequence of texts that grows at its end; equal to any other sequence of the same texts."""

    def __init__(self, texts: Iterable[str] = (), in_memory: int = IN_MEMORY) -> None:
        """Begin with `texts`; at most `in_memory` bytes and a mebibyte are held, as long as the disk has room."""
        self._ends = array("q", [0])
        """Where each text ends in bytes, after a 0."""
        self._file: IO[bytes] | None = None
        self._in_file = 0
        """Bytes in the file; what comes after them is `_tail`."""
        self._tail, self._most = bytearray(), in_memory
        for text in texts:
            self.append(text)

    def append(self, text: str) -> None:
        """Put a text at the end."""
        self._tail += text.encode(errors="surrogatepass")
        self._ends.append(self._in_file + len(self._tail))
        if len(self._tail) >= self._most:
            self._move()

    def kept(self, keep: Iterable[bool]) -> TextColumn:
        """Return the texts of which this is true, in their order."""
        return TextColumn(itertools.compress(self, keep))

    def take(self, rows: Iterable[int]) -> tuple[str, ...]:
        """Return the texts of these rows, in their order."""
        return tuple(self[row] for row in rows)

    def _move(self) -> None:
        """Move the tail into the file; if there is no room, all that comes stays in memory."""
        try:
            self._file = self._file or tempfile.TemporaryFile(prefix="hnmine-", buffering=0)  # noqa: SIM115
            view, done = memoryview(self._tail), 0
            while done < len(view):
                done += os.pwrite(self._file.fileno(), view[done:], self._in_file + done)
            view.release()
        except OSError:
            self._most = sys.maxsize
            return
        self._in_file, self._tail, self._most = self._in_file + done, bytearray(), min(self._most, _PART)

    def _bytes(self, start: int, end: int) -> bytes:
        """Return these bytes; they lie in the file or in the tail, unless they are of several texts."""
        if start >= self._in_file:
            return bytes(self._tail[start - self._in_file : end - self._in_file])
        assert self._file is not None
        found, left = [], min(end, self._in_file) - start
        while left:
            found.append(os.pread(self._file.fileno(), left, start))
            if not found[-1]:
                raise OSError(f"a temporary file of texts lacks {left} bytes; did something cut it?")
            start, left = start + len(found[-1]), left - len(found[-1])
        return b"".join([*found, self._bytes(start, end)] if end > start else found)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> tuple[str, ...]: ...
    def __getitem__(self, row: int | slice) -> str | tuple[str, ...]:
        if isinstance(row, slice):
            return tuple(self[each] for each in range(*row.indices(len(self))))
        at = operator.index(row)
        at += len(self) * (at < 0)
        if not 0 <= at < len(self):
            raise IndexError(f"row {row} of {len(self)} texts")
        return self._bytes(self._ends[at], self._ends[at + 1]).decode(errors="surrogatepass")

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), _ROWS):
            ends = self._ends[first : first + _ROWS + 1].tolist()
            part = self._bytes(ends[0], ends[-1])
            for start, end in itertools.pairwise(ends):
                yield part[start - ends[0] : end - ends[0]].decode(errors="surrogatepass")

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str) or not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(one == another for one, another in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<TextColumn: {len(self):,} texts, {self._ends[-1]:,} bytes, {self._in_file:,} of them in a file>"

    def __reduce__(self) -> tuple[Any, ...]:
        return TextColumn, (tuple(self),)


class RowsById(Mapping[str, int]):
    """The row of each id: 16 bytes an id."""

    def __init__(self, ids: Sequence[str]) -> None:
        """Index the ids, which must be unique."""
        hashes_N = np.fromiter(map(hash, ids), np.int64, len(ids))
        order_N = np.argsort(hashes_N, kind="stable")
        self.ids, self._hashes, self._rows = ids, array("q"), array("q")
        self._hashes.frombytes(hashes_N[order_N].tobytes())
        self._rows.frombytes(order_N.astype(np.int64).tobytes())
        for at in np.flatnonzero(np.diff(hashes_N[order_N]) == 0).tolist():
            text = ids[self._rows[at + 1]]
            assert self[text] == self._rows[at + 1], f"ids must be unique, {text!r} is not"

    def __getitem__(self, text_id: str) -> int:
        wanted = hash(text_id)
        at = bisect_left(self._hashes, wanted)
        while at < len(self._hashes) and self._hashes[at] == wanted:
            if self.ids[self._rows[at]] == text_id:
                return self._rows[at]
            at += 1
        raise KeyError(text_id)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def __reduce__(self) -> tuple[Any, ...]:
        return RowsById, (self.ids,)  # hashes of strings are those of one process
