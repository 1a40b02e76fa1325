"""Documents that stay in the Parquet files of a collection: the workers of a Ray cluster read them, part by part.

The process that leads holds 60 bytes a text: where it is, how long it is and what it is compared by. A step that asks
for texts one by one, as BM25 and training do, has all of them brought into a temporary file of this machine.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar, overload

import numpy as np

from hnmine.corpus.account import BadRowError
from hnmine.corpus.columnar import parquet_rows, rows_by_group
from hnmine.corpus.files import File, Row
from hnmine.corpus.identity import identity_keys
from hnmine.corpus.text_keys import KEY_BYTES, PLAIN, DistantTexts, Keys, Reading, keys_of
from hnmine.corpus.text_rows import RowParser
from hnmine.errors import DataError
from hnmine.runs.progress import say
from hnmine.runs.ray_tasks import in_order
from hnmine.text_column import TextColumn
from hnmine.types import Int64

PART_ROWS = 50_000
"""Of a part, at least, if its file has as many."""
_GROUPS_HELD = 2  # row groups whose texts a process keeps, since what it is asked for next is near
_ASKED_ALONE = 16  # texts that are asked for one by one, before all are brought here
_Answer = TypeVar("_Answer")


class DistantText(NamedTuple):
    """What is known of a text that stays in its file."""

    place: int  # among the rows of all files; the first is 0
    identity: bytes  # key of its identity
    key: bytes
    characters: int


@dataclass(frozen=True)
class PartRead:
    """What a worker found in some row groups of one file."""

    file: str
    before: int  # the place of a row less its line
    rows: int
    ids: tuple[str, ...]
    places_n: Int64
    identities_n2: Keys
    keys_n2: Keys
    lengths_n: Int64
    bad: list[tuple[int, tuple[str, ...]]]  # lines, and what was wrong
    parser: RowParser

    def texts(self) -> Iterator[DistantText]:
        """Yield what is known of each text."""
        identities, keys = map(_each, (self.identities_n2, self.keys_n2))
        return map(DistantText, self.places_n.tolist(), identities, keys, self.lengths_n.tolist())


@dataclass(frozen=True, eq=False)
class ParquetFiles:
    """Parquet files whose rows are documents; small, and travels to workers."""

    files: tuple[File, ...]
    template: str
    groups: tuple[tuple[int, int], ...]  # number of the file, and of the row group in it
    starts: Int64  # place of the first row of each group, and at last the number of rows
    _held: dict[int, TextColumn] = field(default_factory=dict)

    @classmethod
    def of(cls, files: Sequence[File], template: str) -> ParquetFiles:
        """Read how many rows the files have."""
        sizes = [rows_by_group(file) for file in files]
        groups = tuple((at, group) for at, counts in enumerate(sizes) for group in range(len(counts)))
        starts = np.cumsum([0, *itertools.chain(*sizes)])
        return cls(tuple(files), template, groups, starts)

    @property
    def rows(self) -> int:
        """How many rows all files have."""
        return int(self.starts[-1])

    def __reduce__(self) -> tuple[Any, ...]:
        return ParquetFiles, (self.files, self.template, self.groups, self.starts)

    def parts(self) -> list[range]:
        """Return which groups are read together: of one file, and `PART_ROWS` or more."""
        parts: list[range] = []
        for group, (file, _) in enumerate(self.groups):
            last = parts[-1] if parts else None
            if last and self.groups[last.start][0] == file and self._rows_of(last) < PART_ROWS:
                parts[-1] = range(last.start, group + 1)
            else:
                parts.append(range(group, group + 1))
        return parts

    def _rows_of(self, part: range) -> int:
        return int(self.starts[part.stop] - self.starts[part.start])

    def read(self) -> Iterator[PartRead]:
        """Read all rows by the workers of the cluster; yield part after part."""
        return in_order(_read_part, ((self, part) for part in self.parts()))

    def parse(self, part: range, parser: RowParser) -> Iterator[tuple[Row, tuple[str, str] | BadRowError]]:
        """Yield each row of a part with its id and text, or with what is wrong."""
        file, first = self.groups[part.start]
        before = self.starts[part.start] - self.starts[part.start - first]
        for number, fields in parquet_rows(self.files[file], [self.groups[group][1] for group in part]):
            row = Row(self.files[file].name, int(before) + number, fields)
            try:
                yield row, parser.parse(row)
            except BadRowError as bad:
                yield row, bad

    def texts(self, places_n: Int64) -> list[str]:
        """Return the texts at these places."""
        found = [""] * len(places_n)
        groups_n = np.searchsorted(self.starts, places_n, side="right") - 1
        for group in np.unique(groups_n).tolist():
            texts = self._texts_of(group)
            for at in np.flatnonzero(groups_n == group).tolist():
                found[at] = texts[int(places_n[at] - self.starts[group])]
        return found

    def _texts_of(self, group: int) -> TextColumn:
        """Return the text of each row of a group; empty where the row is bad."""
        if group not in self._held:
            while len(self._held) >= _GROUPS_HELD:
                del self._held[next(iter(self._held))]
            parsed = self.parse(range(group, group + 1), RowParser("document", self.template))
            self._held[group] = TextColumn("" if isinstance(each, BadRowError) else each[1] for _, each in parsed)
        return self._held[group]


class ParquetTexts(DistantTexts):
    """The texts of documents that stay in Parquet files, in the order of the files; some rows may be left out."""

    def __init__(self, files: ParquetFiles) -> None:
        """Begin without texts; `append` takes them."""
        self.files = files
        self._places, self._lengths = array("q"), array("q")
        self._identities, self._keys = bytearray(), bytearray()
        self._here: TextColumn | None = None
        self._asked = 0

    def append(self, text: DistantText) -> None:
        """Put a text at the end."""
        self._places.append(text.place)
        self._lengths.append(text.characters)
        self._identities += text.identity
        self._keys += text.key

    def is_same(self, row: int, text: DistantText) -> bool:
        """Return whether the text of a row is the same for people as this one."""
        return self._identities[KEY_BYTES * row : KEY_BYTES * (row + 1)] == text.identity

    def kept(self, keep: Iterable[bool]) -> ParquetTexts:
        """Return the texts of which this is true, in their order."""
        rows_n = np.flatnonzero(np.fromiter(keep, bool, len(self)))
        found = ParquetTexts(self.files)
        for mine, other in ((self._places, found._places), (self._lengths, found._lengths)):
            other.frombytes(np.frombuffer(mine, np.int64)[rows_n].tobytes())
        found._identities += self.identity_keys[rows_n].tobytes()
        found._keys += self.keys(PLAIN)[rows_n].tobytes()
        return found

    @property
    def places(self) -> Int64:
        """The place of each text in the files (N)."""
        return np.frombuffer(self._places, np.int64)

    @property
    def lengths(self) -> Int64:
        """The characters of each text (N)."""
        return np.frombuffer(self._lengths, np.int64)

    @property
    def identity_keys(self) -> Keys:
        """Of each text the key of its `identity` (N, 2)."""
        return np.frombuffer(self._identities, np.uint64).reshape(-1, 2)

    def keys(self, reading: Reading = PLAIN) -> Keys:
        """Return the key of each text as it is read (N, 2); with a prompt, the workers read the texts for it."""
        if reading == PLAIN:
            return np.frombuffer(self._keys, np.uint64).reshape(-1, 2)
        keys_N2 = np.empty((len(self), 2), np.uint64)
        for rows_n, found in self.by_parts(keys_of, reading):
            keys_N2[rows_n] = found
        return keys_N2

    def by_parts(self, work: Callable[..., _Answer], *arguments: Any) -> Iterator[tuple[Int64, _Answer]]:
        """Yield what `work(texts, *arguments)` returns on a worker for the texts of each part, with their rows."""
        rows = self._rows_by_part(np.arange(len(self)))
        calls = ((self.files, self.places[rows_n], work, arguments) for rows_n in rows)
        return zip(rows, in_order(_work_on, calls), strict=True)

    def work_on(self, rows_n: Int64, work: Callable[..., _Answer], *arguments: Any) -> _Answer:
        """Return what `work(texts, *arguments)` returns on a worker for the texts of these rows, in their order."""
        answer: _Answer = next(in_order(_work_on, [(self.files, self.places[rows_n], work, arguments)]))
        return answer

    def _rows_by_part(self, rows_n: Int64) -> list[Int64]:
        """Return these rows, which ascend, as those of each part that has some."""
        borders = self.files.starts[[part.start for part in self.files.parts()]]
        return [part for part in np.split(rows_n, np.searchsorted(self.places[rows_n], borders[1:])) if len(part)]

    def take(self, rows: Iterable[int]) -> tuple[str, ...]:
        """Return the texts of these rows, in their order; the workers read those of several parts."""
        # Ask for each text once.
        rows_n = np.fromiter(rows, np.int64)
        if self._here is not None:
            return self._here.take(rows_n.tolist())
        distinct, position_n = np.unique(rows_n, return_inverse=True)
        parts = self._rows_by_part(distinct)
        calls = ((self.files, self.places[part], list, ()) for part in parts)
        found = in_order(_work_on, calls) if len(parts) > 1 else itertools.starmap(_work_on, calls)

        # Refuse what is not what was read before.
        texts = dict[int, str]()
        for part, some in zip(parts, found, strict=True):
            self._require_same(part, some)
            texts |= zip(part.tolist(), some, strict=True)
        return tuple(texts[row] for row in distinct[position_n].tolist())

    def _require_same(self, rows_n: Int64, texts: Sequence[str]) -> None:
        is_same_n = (keys_of(texts) == self.keys(PLAIN)[rows_n]).all(axis=1)
        if not is_same_n.all():
            raise DataError(
                f"{int((~is_same_n).sum())} documents of {self.files.files[0].folder} have changed since they were "
                "read; start again when nobody writes there"
            )

    def _brought(self) -> TextColumn:
        """Return all texts, here."""
        if self._here is None:
            say("read", f"all {len(self):,} documents are brought to this machine, into a temporary file")
            here = TextColumn()
            for rows_n in np.split(np.arange(len(self)), range(PART_ROWS, len(self), PART_ROWS)):
                some = self.files.texts(self.places[rows_n])
                self._require_same(rows_n, some)
                for text in some:
                    here.append(text)
            self._here = here
        return self._here

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> tuple[str, ...]: ...
    def __getitem__(self, row: int | slice) -> str | tuple[str, ...]:
        if isinstance(row, slice):
            return self.take(range(*row.indices(len(self))))
        self._asked += 1
        if self._here is None and self._asked <= _ASKED_ALONE:
            if not -len(self) <= row < len(self):
                raise IndexError(f"row {row} of {len(self)} texts")
            return self.take([row % len(self)])[0]
        return self._brought()[row]

    def __iter__(self) -> Iterator[str]:
        return iter(self._brought())

    def __len__(self) -> int:
        return len(self._places)


def _each(keys_n2: Keys) -> list[bytes]:
    joined = keys_n2.tobytes()
    return [joined[at : at + KEY_BYTES] for at in range(0, len(joined), KEY_BYTES)]


def _read_part(files: ParquetFiles, part: range) -> PartRead:
    """Read some row groups: what a worker does."""
    # Parse the rows.
    parser, ids, lines, texts, bad = RowParser("document", files.template), [], array("q"), TextColumn(), []
    file, first = files.groups[part.start]
    before, rows = int(files.starts[part.start - first]) - 1, 0
    for row, parsed in files.parse(part, parser):
        rows += 1
        if isinstance(parsed, BadRowError):
            bad.append((row.line, parsed.args))
            continue
        ids.append(parsed[0])
        texts.append(parsed[1])
        lines.append(row.line)

    # Note what is known of the texts without them.
    return PartRead(
        file=files.files[file].name,
        before=before,
        rows=rows,
        ids=tuple(ids),
        places_n=np.array(lines, np.int64) + before,
        identities_n2=identity_keys(texts),
        keys_n2=keys_of(texts),
        lengths_n=np.fromiter(map(len, texts), np.int64, len(texts)),
        bad=bad,
        parser=parser,
    )


def _work_on(files: ParquetFiles, places_n: Int64, work: Callable[..., _Answer], arguments: Sequence[Any]) -> _Answer:
    """Return what work on the texts at these places returns: what a worker does."""
    return work(files.texts(places_n), *arguments)
