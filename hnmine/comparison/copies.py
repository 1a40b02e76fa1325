"""How many judged positives stand in the corpus again: as the same text, or as nearly the same.

Copies (`identity`) are never negatives of their twins' queries. Near copies may be mined: they answer what
the positive answers, and nobody judged them. A document is a near copy here if it is one of the positive's `NEIGHBOURS`
nearest documents and shares with it at least `NEAR` of the strings of `GRAM` letters that either has (Jaccard); of long
texts the beginning counts, `LETTERS` of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hnmine.corpus.identity import identity
from hnmine.types import NO_ROW, Int64

NEAR, GRAM, NEIGHBOURS, LETTERS = 0.8, 5, 10, 10_000
MOST = 2000
"""Positives that are compared with their neighbours; of more, a seeded sample."""


@dataclass(frozen=True, kw_only=True)
class Copies:
    """What was counted; the manner of counting is that of the module."""

    documents: int  # of the corpus that have a copy
    positives: int  # documents that are judged right for some query
    positives_with_copy: int
    examined: int  # positives that were compared with their neighbours
    with_near_copy: int  # of these

    def lines(self) -> list[str]:
        """Say it."""
        share = self.with_near_copy / max(1, self.examined)
        copies = f"{self.positives_with_copy:,} of {self.positives:,} judged positives have a copy in the corpus"
        near = f"{self.with_near_copy:,} of {self.examined:,} ({share:.1%}) have a near copy"
        rule = f"of the {NEIGHBOURS} nearest documents one with {NEAR:.0%} of the same strings of {GRAM} letters"
        return [
            f"{copies}, which is never a negative; {self.documents:,} documents of all have one",
            f"{near}, {rule}" + ("; guards.near_duplicate keeps such away" if share else ""),
        ]


def sample_of(doc_rows_P: Int64, seed: int) -> Int64:
    """Return the distinct documents, or a seeded sample of `MOST`, in ascending order."""
    rows = np.unique(doc_rows_P)
    return rows if len(rows) <= MOST else np.sort(np.random.default_rng(seed).choice(rows, MOST, replace=False))


def count_copies(
    texts: Sequence[str], groups_N: Int64, doc_rows_P: Int64, examined_E: Int64, nearest_EK: Int64
) -> Copies:
    """Count the copies of the positives in these rows, and the near copies of those examined.

    Documents of one text have one number in `groups_N`. `nearest_EK` has the rows of the nearest documents of each that
    is examined, itself perhaps among them; NO_ROW fills up.
    """
    has_copy_N = np.bincount(groups_N)[groups_N] > 1
    positives = np.unique(doc_rows_P)
    near = 0
    for doc, found in zip(examined_E.tolist(), nearest_EK.tolist(), strict=True):
        others = [row for row in found if row not in (doc, NO_ROW) and groups_N[row] != groups_N[doc]]
        grams = _grams(texts[doc])
        near += any(_overlap(grams, _grams(texts[row])) >= NEAR for row in others)
    return Copies(
        documents=int(has_copy_N.sum()),
        positives=len(positives),
        positives_with_copy=int(has_copy_N[positives].sum()),
        examined=len(examined_E),
        with_near_copy=near,
    )


def _grams(text: str) -> set[str]:
    same = identity(text[:LETTERS])
    return {same[start : start + GRAM] for start in range(max(1, len(same) - GRAM + 1))}


def _overlap(grams: set[str], others: set[str]) -> float:
    shared = len(grams & others)
    return shared / (len(grams) + len(others) - shared)
