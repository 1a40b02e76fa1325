"""The two conditions: which documents are hard negatives of a pair (Q, PD), and the proof that none was missed.

D is a hard negative of (Q, PD) iff (arXiv 2505.18366, section 3.3)

    d(Q, D) < d(Q, PD)      D is nearer to the query than the positive, and      (condition 1)
    d(Q, D) < d(PD, D)      nearer to the query than to the positive,            (condition 2)

and D is no judged positive of Q nor equal in text to one. Of these, the nearest to Q come first; `<` is strict and
ties break by row. All distances are `distance` below: float64 sums over the float32 rows of one space, so the
result does not depend on how the candidates were found.

Why a short list suffices: candidates are taken in ascending d(Q, D). A pair is *certified*
    found       it has all the negatives it asked for, and nothing outside the list can be nearer than the last
    radius      it has fewer, and nothing outside the list can be nearer than the positive (condition 1)
    exhausted   it has fewer, and every other document of the corpus is nearer than the positive and was examined
What a list cannot certify is searched again with a longer one, and at last by a full scan. The certificate is a
property of the pair, not of the path: any first length gives the same rows and the same words. An index that looks
into part of the corpus is taken at its word, the part for the whole, and every row it leads to says `approximate`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hnmine.guards import Guard, Suspects
from hnmine.search import error_bound
from hnmine.types import Candidates, Float32, Float64, Int64, Negatives, Pairs, Space, distance

POSITIVE_IS_NEAREST = "positive_is_nearest"
NEARER_ONES_RESEMBLE_POSITIVE = "nearer_ones_resemble_positive"
GUARDS_LEAVE_NONE = "guards_leave_none"

_LONGER = 8  # factor from one list to the next
_LISTS = 2  # tries with a list before the full scan
_JUDGED_NUMBERS = 2**23  # float64 numbers in one gathered matrix; bounds memory
_SCANNED_CELLS = 2**24  # (query, document) cells that one full scan may return


class Search(Protocol):
    """What `select` needs of an index; see `search.Searcher`."""

    max_candidates: int
    approximate: bool
    """Whether documents may be missed: those of its answers are all that is examined."""

    def nearest(self, queries_QR: Float32, k: int) -> Candidates:
        """Return the k nearest documents of each query, by approximate distance."""

    def within(self, queries_QR: Float32, radius_Q: Float64) -> tuple[Int64, Int64]:
        """Return all (query position, document row) that can be nearer than the radius."""


@dataclass(frozen=True)
class Known:
    """Documents that are never negatives of a query: its judged positives, and documents with the same text."""

    codes: Int64
    groups_N: Int64

    @classmethod
    def of(cls, positives: dict[int, set[int]], groups_N: Int64) -> Known:
        """Take judged positives by query row, and a group number per document: equal text, equal number."""
        size = int(groups_N.max(initial=0)) + 1
        codes = [query * size + int(groups_N[doc]) for query, docs in positives.items() for doc in docs]
        return cls(np.unique(np.array(codes, dtype=np.int64)), groups_N)

    def mask(self, query_rows_F: Int64, doc_rows_F: Int64) -> NDArray[np.bool_]:
        """Return for each (query, document) whether it is excluded."""
        size = int(self.groups_N.max(initial=0)) + 1
        codes = query_rows_F * size + self.groups_N[doc_rows_F]
        return np.isin(codes, self.codes)


def select(
    space: Space,
    pairs: Pairs,
    known: Known,
    search: Search,
    *,
    negatives: int = 1,
    candidates: int = 64,
    guards: Sequence[Guard] = (),
    done: Callable[[int], None] = lambda _pairs: None,
) -> Negatives:
    """Return up to `negatives` hard negatives of every pair; see the module for the rule and its certificates.

    Args:
        space: documents and queries.
        pairs: judged pairs; a query may stand in several.
        known: what is excluded.
        search: an index over the same documents.
        negatives: wanted of each pair, at least 1.
        candidates: first length of the short list; changes the time, never the result.
        guards: further tests, applied in order to what satisfies both conditions.
        done: is told how many pairs were certified since the last call.
    """
    return _Selection(space, pairs, known, negatives, guards, done).run(search, candidates)


class _Selection:
    """The state of one selection: what was found for the pairs certified so far."""

    def __init__(
        self,
        space: Space,
        pairs: Pairs,
        known: Known,
        negatives: int,
        guards: Sequence[Guard],
        done: Callable[[int], None],
    ) -> None:
        self._guards, self._done = guards, done
        self._space, self._pairs, self._known, self._wanted = space, pairs, known, negatives
        self._error = error_bound(space.width)
        self._flat = max(1, _JUDGED_NUMBERS // space.width)
        self._radius_P = np.concatenate(
            [
                distance(space.queries_QR[pairs.query_rows_P[at]], space.docs_NR[pairs.doc_rows_P[at]])
                for at in _slices(len(pairs), self._flat)
            ]
            or [np.empty(0)]
        )
        self._why_P = np.full(len(pairs), "", dtype=object)
        self._rows: list[_Judged] = []
        self._dropped = {POSITIVE_IS_NEAREST: 0, NEARER_ONES_RESEMBLE_POSITIVE: 0}
        if guards:
            self._dropped[GUARDS_LEAVE_NONE] = 0
        self._guarded = {guard.name: 0 for guard in guards}

    def run(self, search: Search, candidates: int) -> Negatives:
        """Certify all pairs: short lists first, then longer ones, then full scans."""
        self._approximate = search.approximate
        open_pairs = np.arange(len(self._pairs), dtype=np.int64)
        length = candidates
        for _ in range(_LISTS):
            if not len(open_pairs):
                break
            open_pairs = self._by_list(search, open_pairs, length)
            length *= _LONGER
        for at in _slices(len(open_pairs), max(1, _SCANNED_CELLS // len(self._space.docs_NR))):
            self._by_scan(search, open_pairs[at])
        return self._collect()

    def _by_list(self, search: Search, pair_p: Int64, length: int) -> Int64:
        """Judge pairs by the short lists of their queries; return the pairs that these do not certify."""
        query_rows, at = np.unique(self._pairs.query_rows_P[pair_p], return_inverse=True)
        found = search.nearest(self._space.queries_QR[query_rows], length)
        rest = []
        k = found.doc_rows_QK.shape[1]
        whole = k >= len(self._space.docs_NR)
        for part in _slices(len(pair_p), max(1, self._flat // k)):
            chosen, lists = pair_p[part], at[part]
            # what is farther than the positive beyond doubt need not be judged
            near = found.distances_QK[lists] < (self._radius_P[chosen] + self._error)[:, None]
            position, column = np.nonzero(near)
            judged = self._judge(chosen[position], found.doc_rows_QK[lists[position], column])
            outside = np.full(len(chosen), np.inf) if whole else found.distances_QK[lists, -1] - self._error
            rest.append(chosen[~self._settle(chosen, judged, outside)])
        return np.concatenate(rest)

    def _by_scan(self, search: Search, pair_p: Int64) -> None:
        """Judge pairs by every document that can be nearer than the positive; certifies them all."""
        position, docs = search.within(self._space.queries_QR[self._pairs.query_rows_P[pair_p]], self._radius_P[pair_p])
        parts = [self._judge(pair_p[position[at]], docs[at]) for at in _slices(len(docs), self._flat)]
        judged = _Judged.concatenate(parts)
        assert self._settle(pair_p, judged, np.full(len(pair_p), np.inf)).all()

    def _judge(self, pair_F: Int64, docs_F: Int64) -> _Judged:
        """Keep the documents nearer than their pair's positive, with all that decides over them."""
        query_rows, positives = self._pairs.query_rows_P[pair_F], self._pairs.doc_rows_P[pair_F]
        d_query = distance(self._space.queries_QR[query_rows], self._space.docs_NR[docs_F])
        nearer = d_query < self._radius_P[pair_F]
        pair_F, docs_F, d_query = pair_F[nearer], docs_F[nearer], d_query[nearer]
        d_positive = distance(self._space.docs_NR[positives[nearer]], self._space.docs_NR[docs_F])
        return _Judged(pair_F, docs_F, d_query, d_positive, self._known.mask(query_rows[nearer], docs_F))

    def _settle(self, pair_p: Int64, judged: _Judged, outside_p: Float64) -> NDArray[np.bool_]:
        """Keep the rows of the pairs that are certified, given a lower bound on what lies outside; return which."""
        nearer = judged.nearest_first()
        slot = np.searchsorted(pair_p, nearer.pair)  # pair_p is ascending
        passed, guarded_by = self._test(nearer)
        chosen = passed & (_count_in_run(slot, passed) <= self._wanted)
        count = np.bincount(slot[chosen], minlength=len(pair_p))
        last = np.full(len(pair_p), -1, dtype=np.int64)  # position of the last chosen row
        np.maximum.at(last, slot[chosen], np.flatnonzero(chosen))
        full = count == self._wanted
        reached = np.where(full, nearer.d_query[last] if len(nearer.d_query) else 0.0, self._radius_P[pair_p])
        certified = np.where(full, reached < outside_p, reached <= outside_p)
        all_nearer = np.bincount(slot, minlength=len(pair_p)) == len(self._space.docs_NR) - 1
        why = np.where(full, "found", np.where(all_nearer, "exhausted", "radius"))
        self._why_P[pair_p[certified]] = "approximate" if self._approximate else why[certified]
        self._rows.append(nearer.keep(chosen & certified[slot]))
        self._account(nearer, slot, guarded_by, certified, full, count, last)
        self._done(int(certified.sum()))
        return certified

    def _test(self, nearer: _Judged) -> tuple[NDArray[np.bool_], Int64]:
        """Apply condition 2, what is known, and the guards; return what passed, and the guard that removed a row."""
        passed = ~nearer.known & (nearer.d_query < nearer.d_positive)
        guarded_by = np.full(len(nearer.pair), -1, dtype=np.int64)
        if self._guards:
            rank = _count_in_run(nearer.pair, ~nearer.known)
        for number, guard in enumerate(self._guards):
            rows = np.flatnonzero(passed)
            pair = nearer.pair[rows]
            kept = guard.keep(
                Suspects(
                    query_rows_F=self._pairs.query_rows_P[pair],
                    positive_rows_F=self._pairs.doc_rows_P[pair],
                    doc_rows_F=nearer.docs[rows],
                    d_query_F=nearer.d_query[rows],
                    d_positive_F=nearer.d_positive[rows],
                    radius_F=self._radius_P[pair],
                    rank_F=rank[rows],
                )
            )
            guarded_by[rows[~kept]] = number
            passed[rows[~kept]] = False
        return passed, guarded_by

    def _account(
        self,
        nearer: _Judged,
        slot: Int64,
        guarded_by: Int64,
        certified: NDArray[np.bool_],
        full: NDArray[np.bool_],
        count: Int64,
        last: Int64,
    ) -> None:
        """Count what was dropped, for the certified pairs; of a guard, what came before the last chosen row."""
        end = np.where(full, last, len(nearer.pair))
        counted = certified[slot] & (np.arange(len(slot)) < end[slot])
        for number, guard in enumerate(self._guards):
            self._guarded[guard.name] += int((counted & (guarded_by == number)).sum())
        empty = certified & (count == 0)
        unlabelled = np.bincount(slot[~nearer.known], minlength=len(empty)) > 0
        guarded = np.bincount(slot[guarded_by >= 0], minlength=len(empty)) > 0
        self._dropped[POSITIVE_IS_NEAREST] += int((empty & ~unlabelled).sum())
        self._dropped[NEARER_ONES_RESEMBLE_POSITIVE] += int((empty & unlabelled & ~guarded).sum())
        if self._guards:
            self._dropped[GUARDS_LEAVE_NONE] += int((empty & guarded).sum())

    def _collect(self) -> Negatives:
        rows = _Judged.concatenate(self._rows)
        rows = rows.nearest_first()
        return Negatives(
            pair_M=rows.pair,
            doc_rows_M=rows.docs,
            rank_M=_count_in_run(rows.pair, np.ones(len(rows.pair), dtype=bool)),
            d_query_positive_M=self._radius_P[rows.pair],
            d_query_negative_M=rows.d_query,
            d_positive_negative_M=rows.d_positive,
            certificate_M=self._why_P[rows.pair],
            pairs=len(self._pairs),
            dropped=self._dropped,
            guarded=self._guarded,
        )


@dataclass(frozen=True)
class _Judged:
    """Documents judged for pairs, as flat arrays: one row a (pair, document)."""

    pair: Int64
    docs: Int64
    d_query: Float64
    d_positive: Float64
    known: NDArray[np.bool_]

    def keep(self, which: NDArray[np.bool_] | Int64) -> _Judged:
        return _Judged(*(getattr(self, name)[which] for name in self.__dataclass_fields__))

    def nearest_first(self) -> _Judged:
        """Return the rows sorted by (pair, distance to the query, document row)."""
        return self.keep(np.lexsort((self.docs, self.d_query, self.pair)))

    @classmethod
    def concatenate(cls, parts: list[_Judged]) -> _Judged:
        if not parts:
            none = np.empty(0, dtype=np.int64)
            return cls(none, none, np.empty(0), np.empty(0), np.empty(0, dtype=bool))
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))


def _count_in_run(sorted_n: Int64, counts_n: NDArray[np.bool_]) -> Int64:
    """Return, for each element, how many up to and with it count within its run of equal values."""
    total = np.cumsum(counts_n)
    starts = np.flatnonzero(np.r_[True, sorted_n[1:] != sorted_n[:-1]]) if len(sorted_n) else sorted_n
    lengths = np.diff(np.r_[starts, len(sorted_n)])
    return total - np.repeat(total[starts] - counts_n[starts], lengths)


def _slices(count: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]
