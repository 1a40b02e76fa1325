"""What becomes of every row: it is counted, and one that cannot be used is quarantined with a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from hnmine.corpus.collection import Quarantined
from hnmine.corpus.files import Row
from hnmine.errors import DataError


class BadRowError(Exception):
    """A row that goes to quarantine: reason, detail and, where known, id."""


@dataclass
class Account:
    """Rows that were read, by file, and those that were bad."""

    bad: list[Quarantined]
    read: Counter[str] = field(default_factory=Counter)

    def reject(self, row: Row, reason: str, detail: str, row_id: str | None = None) -> Quarantined:
        """Quarantine a row."""
        row_id = row_id and row_id.encode(errors="backslashreplace").decode()  # half characters do not print
        detail = detail[:120].encode(errors="backslashreplace").decode()
        self.bad.append(Quarantined(file=row.file, line=row.line, reason=reason, id=row_id, detail=detail))
        return self.bad[-1]

    def good(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Count the rows; yield those that are not known to be bad."""
        for row in rows:
            self.read[row.file] += 1
            if row.reason:
                self.reject(row, row.reason, row.detail)
            else:
                yield row

    def nothing(self, address: str, kind: str, expected: str) -> DataError:
        """Return the error of a file or folder with nothing usable: the reasons, and one bad row."""
        bad = Counter(f"{row.reason} in {row.file}" for row in self.bad)
        got = ", ".join(f"{n:,} {reason}" for reason, n in bad.most_common(4)) or "none"
        row = self.bad[-1] if self.bad else None
        example = f"; line {row.line} of {row.file}: {row.detail}" if row else ""
        if row and row.reason == "not_utf8":
            expected = "expected UTF-8: iconv -f LATIN1 -t UTF-8 OLD > NEW, with the encoding that it has for LATIN1"
        rows = ", ".join(f"{n:,} of {file}" for file, n in self.read.items()) or "none"
        return DataError(f"{address} has no {kind}; rows read: {rows}; quarantined: {got}{example}; {expected}")


def shown(value: object) -> str:
    """Return a value as it stands in a message."""
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        text = "a huge number"
    return text if len(text) <= 48 else text[:47] + "…"
