"""The two conditions: which documents are hard negatives of a pair (Q, PD), and the proof that none was missed.

D is a hard negative of (Q, PD) iff (arXiv 2505.18366, section 3.3)

    d(Q, D) < d(Q, PD)      D is nearer to the query than the positive, and      (condition 1)
    d(Q, D) < d(PD, D)      nearer to the query than to the positive,            (condition 2)

and D is no judged positive of Q nor equal in text to one. Of documents of one text only the nearest stands; every
guard that is on must keep it. Of what remains, the nearest to Q come first; `<` is strict and ties break by row. All
distances are `distance` below: float64 sums over the float32 rows of one space, so the result does not depend on how
the candidates were found.

Why a short list suffices: candidates are taken in ascending d(Q, D), as far as nothing outside the list can be nearer.
A pair is *certified*
    found       it has all the negatives it asked for
    radius      it has fewer, and nothing outside the list can be nearer than the positive (condition 1)
    exhausted   it has fewer, and every other document of the corpus is nearer than the positive and was examined
What a list cannot certify is searched again with a longer one, and at last by a full scan. The certificate is a
property of the pair, not of the path: any first length gives the same rows and the same words. An index that looks
into part of the corpus is taken at its word, the part for the whole, and every row it leads to says `approximate`.

A *dear* guard (a cross-encoder) is asked last, in rounds, each over all pairs at once: only about the documents that
come first among those still waiting, and only while their pair lacks negatives. What it is not asked about lies behind
the last negative of its pair, where no answer could change the result or a count.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hnmine.mining.guards import Guard, Suspects
from hnmine.mining.search import error_bound
from hnmine.types import Candidates, Float32, Float64, Int64, Negatives, Pairs, Space, distance

POSITIVE_IS_NEAREST = "positive_is_nearest"
NEARER_ONES_RESEMBLE_POSITIVE = "nearer_ones_resemble_positive"
GUARDS_LEAVE_NONE = "guards_leave_none"

_LONGER = 8  # factor from one list to the next
_LISTS = 2  # tries with a list before the full scan
_JUDGED_NUMBERS = 2**23  # float64 numbers in one gathered matrix; bounds memory
_LISTED_CELLS = 2**20  # (pair, candidate) cells that are settled at once
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
    """What is known of the texts: which documents are never negatives of a pair, and which are copies of each other."""

    codes: Int64
    groups_N: Int64

    @classmethod
    def of(cls, positives: Sequence[Collection[int]], groups_N: Int64) -> Known:
        """Take the judged positives of each pair's query, and a group number per document: equal text, equal number."""
        pair = np.repeat(np.arange(len(positives)), np.array([len(docs) for docs in positives], dtype=np.int64))
        docs = np.array([doc for docs in positives for doc in docs], dtype=np.int64)
        known = cls(np.empty(0, dtype=np.int64), groups_N)
        return cls(np.unique(known._codes_of(pair, docs)), groups_N)

    def mask(self, pair_F: Int64, doc_rows_F: Int64) -> NDArray[np.bool_]:
        """Return for each (pair, document) whether its text is a judged positive's."""
        return np.isin(self._codes_of(pair_F, doc_rows_F), self.codes)

    def first_of_text(self, pair_F: Int64, doc_rows_F: Int64) -> NDArray[np.bool_]:
        """Return for each (pair, document) whether it is the first of its pair with its text."""
        first = np.zeros(len(pair_F), dtype=bool)
        first[np.unique(self._codes_of(pair_F, doc_rows_F), return_index=True)[1]] = True
        return first

    def _codes_of(self, pair_F: Int64, doc_rows_F: Int64) -> Int64:
        """Return a number for each (pair, text)."""
        return pair_F * (int(self.groups_N.max(initial=0)) + 1) + self.groups_N[doc_rows_F]


def select(
    space: Space,
    pairs: Pairs,
    known: Known,
    search: Search,
    *,
    negatives: int = 1,
    candidates: int = 64,
    guards: Sequence[Guard] = (),
    dear: Guard | None = None,
    done: Callable[[int], None] = lambda _pairs: None,
) -> Negatives:
    """Return up to `negatives` hard negatives of every pair; see the module for the rule and its certificates.

    Args:
        space: documents and queries.
        pairs: judged pairs; a query may stand in several.
        known: what is excluded, by position in `pairs`.
        search: an index over the same documents.
        negatives: wanted of each pair, at least 1.
        candidates: first length of the short list; changes the time, never the result.
        guards: further tests, applied in order to what satisfies both conditions.
        dear: a test that costs much: applied last, and only to what may be chosen.
        done: is told how many pairs were certified since the last call.
    """
    return _Selection(space, pairs, known, negatives, guards, dear, done).run(search, candidates)


class _Selection:
    """The state of one selection: what was found for the pairs certified so far."""

    def __init__(
        self,
        space: Space,
        pairs: Pairs,
        known: Known,
        negatives: int,
        guards: Sequence[Guard],
        dear: Guard | None,
        done: Callable[[int], None],
    ) -> None:
        self._guards = [*guards, *([dear] if dear else [])]
        self._cheap, self._done = len(guards), done
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
        self._nearer_P = np.full(len(pairs), -1, dtype=np.int64)
        self._rows: list[_Judged] = []
        self._dropped = {POSITIVE_IS_NEAREST: 0, NEARER_ONES_RESEMBLE_POSITIVE: 0}
        if self._guards:
            self._dropped[GUARDS_LEAVE_NONE] = 0
        self._guarded = {guard.name: 0 for guard in self._guards}

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
        for part in _slices(len(pair_p), max(1, _LISTED_CELLS // k)):
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
        assert self._settle(pair_p, self._judge(pair_p[position], docs), np.full(len(pair_p), np.inf)).all()

    def _judge(self, pair_F: Int64, docs_F: Int64) -> _Judged:
        """Keep the documents nearer than their pair's positive, with all that decides over them."""
        parts = [self._judge_slice(pair_F[at], docs_F[at]) for at in _slices(len(docs_F), self._flat)]
        return _Judged.concatenate(parts)

    def _judge_slice(self, pair_F: Int64, docs_F: Int64) -> _Judged:
        query_rows, positives = self._pairs.query_rows_P[pair_F], self._pairs.doc_rows_P[pair_F]
        d_query = distance(self._space.queries_QR[query_rows], self._space.docs_NR[docs_F])
        nearer = d_query < self._radius_P[pair_F]
        pair_F, docs_F, d_query = pair_F[nearer], docs_F[nearer], d_query[nearer]
        d_positive = distance(self._space.docs_NR[positives[nearer]], self._space.docs_NR[docs_F])
        return _Judged(pair_F, docs_F, d_query, d_positive, self._known.mask(pair_F, docs_F))

    def _settle(self, pair_p: Int64, judged: _Judged, outside_p: Float64) -> NDArray[np.bool_]:
        """Keep the rows of the pairs that are certified, given a lower bound on what lies outside; return which."""
        judged = judged.nearest_first()
        slot = np.searchsorted(pair_p, judged.pair)  # pair_p is ascending
        in_order = judged.d_query < outside_p[slot]  # of the others, something outside may be nearer
        nearer, slot = judged.keep(in_order), slot[in_order]
        passed, guarded_by = self._test(nearer, slot)
        chosen = passed & (_count_in_run(slot, passed) <= self._wanted)
        count = np.bincount(slot[chosen], minlength=len(pair_p))
        last = np.full(len(pair_p), -1, dtype=np.int64)  # position of the last chosen row
        np.maximum.at(last, slot[chosen], np.flatnonzero(chosen))
        full = count == self._wanted
        certified: NDArray[np.bool_] = full | (self._radius_P[pair_p] <= outside_p)
        all_nearer = np.bincount(slot, minlength=len(pair_p)) == len(self._space.docs_NR) - 1
        why = np.where(full, "found", np.where(all_nearer, "exhausted", "radius"))
        self._why_P[pair_p[certified]] = "approximate" if self._approximate else why[certified]
        self._rows.append(nearer.keep(chosen & certified[slot]))
        unlabelled = np.flatnonzero(certified[slot] & ~nearer.known)
        slots, first = np.unique(slot[unlabelled], return_index=True)
        self._nearer_P[pair_p[slots]] = nearer.docs[unlabelled[first]]
        self._account(pair_p, nearer, slot, guarded_by, certified, full, count, last)
        self._done(int(certified.sum()))
        return certified

    def _test(self, nearer: _Judged, slot: Int64) -> tuple[NDArray[np.bool_], Int64]:
        """Apply all but condition 1; return what passed, and the number of the guard that removed a row, or -1.

        What the dear guard was not asked about has not passed.
        """
        passed = ~nearer.known & (nearer.d_query < nearer.d_positive)
        passed[passed] = self._known.first_of_text(nearer.pair[passed], nearer.docs[passed])
        guarded_by = np.full(len(nearer.pair), -1, dtype=np.int64)
        rank = _count_in_run(slot, ~nearer.known)

        def ask(number: int, rows: Int64) -> None:
            passed[rows] = self._guards[number].keep(self._suspects(nearer.keep(rows), rank[rows]))
            guarded_by[rows[~passed[rows]]] = number

        for number in range(self._cheap):
            ask(number, np.flatnonzero(passed))
        if self._cheap < len(self._guards):
            waiting = passed.copy()
            passed[:] = False
            for turn in itertools.count(1):  # more in each, so that few rounds do, and little is asked in vain
                missing = self._wanted - np.bincount(slot[passed], minlength=slot.max(initial=0) + 1)
                rows = np.flatnonzero(waiting & (_count_in_run(slot, waiting) <= turn * missing[slot]))
                if not len(rows):
                    break
                ask(self._cheap, rows)
                waiting[rows] = False
        return passed, guarded_by

    def _suspects(self, rows: _Judged, rank_F: Int64) -> Suspects:
        return Suspects(
            query_rows_F=self._pairs.query_rows_P[rows.pair],
            positive_rows_F=self._pairs.doc_rows_P[rows.pair],
            doc_rows_F=rows.docs,
            d_query_F=rows.d_query,
            d_positive_F=rows.d_positive,
            radius_F=self._radius_P[rows.pair],
            rank_F=rank_F,
        )

    def _account(
        self,
        pair_p: Int64,
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
        unlabelled = self._nearer_P[pair_p] >= 0
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
            nearer_P=self._nearer_P,
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
