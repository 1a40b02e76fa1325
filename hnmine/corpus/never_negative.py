"""The one answer to "may this document be a negative of this query?"; whatever chooses negatives asks here.

A document may not if it is the same text (`identity`) as
    a document that any split judges right for the query, or for a query of the same text;
    a document of a lower grade, which is neither right nor wrong (unless sources.lower_grades makes it a negative);
    the query, with a title above it or without, or the document that has the query's id.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hnmine.corpus.identity import identity
from hnmine.corpus.text_keys import DistantTexts
from hnmine.types import Int64, Texts

Rows = Mapping[int, set[int]]
"""Document rows by query row."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NeverNegative(Mapping[int, set[int]]):
    """By query row the document rows that are no negatives, copies included; every query has an entry."""

    groups_N: Int64
    """A number for each document; equal number, same text."""
    groups_Q: Int64
    """For each query the number of the documents of its text; there need be none."""
    positives: Rows
    """Those judged right in any split, without their copies."""
    lower: Rows
    """Those of a lower grade."""
    same_id: Rows
    """The one that has the query's id."""
    titled: Rows
    """Those that are the query but for their first line (`below_a_title`)."""

    def __getitem__(self, query: int) -> set[int]:
        return self.with_copies(self.without_copies(query))

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))

    def __len__(self) -> int:
        return len(self.groups_Q)

    def without_copies(self, query: int) -> set[int]:
        """Return at least one document of each text that is no negative."""
        return self.positives.get(query, set()) | self.besides_positives(query)

    def besides_positives(self, query: int) -> set[int]:
        """Return, likewise, what is no negative of a query though nobody judged it right."""
        return self.lower.get(query, set()) | self._itself(query)

    def same_as(self, query: int) -> set[int]:
        """Return the documents that are the query itself: of its text or of its id, and copies of that."""
        return self.with_copies(self._itself(query))

    def same_as_unjudged(self, query: int) -> set[int]:
        """Return `same_as` without what is judged right."""
        return self.same_as(query) - self.positives.get(query, set())

    def _itself(self, query: int) -> set[int]:
        same_text = self._rows_of(int(self.groups_Q[query]))[:1]
        return self.same_id.get(query, set()).union(self.titled.get(query, ()), same_text)

    def with_copies(self, doc_rows: Iterable[int]) -> set[int]:
        """Return the documents and all that are of the same text."""
        return {row for group in {int(self.groups_N[doc]) for doc in doc_rows} for row in self._rows_of(group)}

    @cached_property
    def _by_group(self) -> tuple[Int64, Int64]:
        """The rows sorted by group, and where each group begins among them."""
        order_N = np.argsort(self.groups_N, kind="stable")
        groups = np.arange(int(self.groups_N.max(initial=-1)) + 2)
        return order_N, np.searchsorted(self.groups_N[order_N], groups)

    def _rows_of(self, group: int) -> list[int]:
        rows_N, starts = self._by_group
        return [] if group + 1 >= len(starts) else rows_N[starts[group] : starts[group + 1]].tolist()


def same_ids(documents: Texts, queries: Texts) -> dict[int, set[int]]:
    """Return, by query row, the document that has the query's id."""
    rows = ((query, documents.row_of.get(name)) for query, name in enumerate(queries.ids))
    return {query: {doc} for query, doc in rows if doc is not None}


def below_a_title(documents: Texts, queries: Texts) -> dict[int, set[int]]:
    """Return, by query row, the documents that are the query but for their first line."""
    ends = {_end(text) for text in queries.texts}
    rows_of: dict[str, set[int]] = {}
    if isinstance(documents.texts, DistantTexts):
        for rows_n, found in documents.texts.by_parts(_bodies, ends):
            for at, same in found:
                rows_of.setdefault(same, set()).add(int(rows_n[at]))
    else:
        for row, same in _bodies(documents.texts, ends):
            rows_of.setdefault(same, set()).add(row)
    if not rows_of:
        return {}
    asked = ((query, rows_of.get(identity(text))) for query, text in enumerate(queries.texts))
    return {query: set(rows) for query, rows in asked if rows}


def _bodies(texts: Iterable[str], ends: set[str]) -> list[tuple[int, str]]:
    """Return position and identity of what is below the first line of each text, if it ends like one of these."""
    bodies = ((at, body) for at, text in enumerate(texts) if (body := text.partition("\n")[2]))
    return [(at, same) for at, body in bodies if _end(body) in ends and (same := identity(body))]


def _end(text: str) -> str:
    """Return the end of what makes texts the same: most texts differ there."""
    return identity(text[-64:])[-8:]
