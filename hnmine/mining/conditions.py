"""The two conditions: which documents are hard negatives of a pair (Q, PD), and the proof that none was missed.

D is a hard negative of (Q, PD) iff (arXiv 2505.18366, section 3.3)

    d(Q, D) < d(Q, PD)      D is nearer to the query than the positive, and      (condition 1)
    d(Q, D) < d(PD, D)      nearer to the query than to the positive,            (condition 2)

and D is no judged positive of Q nor equal in text to one. Of documents of one text only the nearest stands. Every guard
that is on must keep D. Of what remains, the nearest to Q come first; `<` is strict and ties break by row. All distances
are `types.distance`: float64 sums over the float32 rows of one space, so the result does not depend on how the
candidates were found.

Why a short list suffices: candidates are taken in ascending d(Q, D), as far as nothing outside the list can be nearer.
A pair is *certified*
    found       it has all the negatives it asked for
    radius      it has fewer, and nothing outside the list can be nearer than the positive (condition 1)
    exhausted   it has fewer, and every other document of the corpus is nearer than the positive and was examined
What a list cannot certify is searched again with a longer one, and at last by a full scan. The certificate is a
property of the pair, not of the path: any first length gives the same rows and the same words. An index that looks into
part of the corpus is trusted as if that part were the whole, and every row it leads to says `approximate`.

An *expensive* guard (a cross-encoder) is asked last, in rounds, each over all pairs at once: only about the documents
that come first among those still waiting, and only while their pair lacks negatives. What it is not asked about lies
behind the last negative of its pair, where no answer could change the result or a count.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hnmine.mining.guards import Guard, Suspects
from hnmine.mining.search import error_bound
from hnmine.types import Candidates, Float32, Float64, Int64, Negatives, Pairs, Space, distance

POSITIVE_IS_NEAREST = "positive_is_nearest"
NEARER_ONES_RESEMBLE_POSITIVE = "nearer_ones_resemble_positive"
GUARDS_LEAVE_NONE = "guards_leave_none"

FIRST_LENGTH = 64
"""Length of the first short list of a query."""
_LONGER = 8  # factor from one list to the next
_LISTS = 2  # lists tried before the full scan


class Search(Protocol):
    """What `select` needs of an index; see `search.Searcher`."""

    approximate: bool
    """Whether documents may be missed: only those that it returns are examined."""

    def nearest(self, queries_QR: Float32, k: int) -> Candidates:
        """Return the k nearest documents of each query, by approximate distance."""

    def within(self, queries_QR: Float32, radius_Q: Float64) -> tuple[Int64, Int64]:
        """Return all (query position, document row) that can be nearer than the radius."""


@dataclass(frozen=True)
class Known:
    """Which documents are never negatives of a pair, and which documents are copies of each other."""

    codes: Int64
    """Sorted numbers of the (pair, text) that are judged positive."""
    groups_N: Int64

    @classmethod
    def of(cls, positives: Sequence[Collection[int]], groups_N: Int64) -> Known:
        """Take the judged positives of each pair's query, and a group number per document: equal text, equal number."""
        pair_F = np.repeat(np.arange(len(positives)), np.array([len(docs) for docs in positives], dtype=np.int64))
        doc_rows_F = np.array([doc for docs in positives for doc in docs], dtype=np.int64)
        known = cls(np.empty(0, dtype=np.int64), groups_N)
        return cls(np.unique(known._codes_of(pair_F, doc_rows_F)), groups_N)

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


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on what is in memory at a time. They change the time, never the result."""

    gathered_numbers: int = 2**23
    """float64 numbers in one matrix of gathered vectors."""
    listed_cells: int = 2**20
    """(pair, candidate) cells that are settled at once."""
    scanned_cells: int = 2**24
    """(query, document) cells that one full scan may return."""


def select(
    space: Space,
    pairs: Pairs,
    known: Known,
    search: Search,
    *,
    negatives: int = 1,
    candidates: int = FIRST_LENGTH,
    guards: Sequence[Guard] = (),
    expensive: Guard | None = None,
    done: Callable[[int], None] = lambda _pairs: None,
    limits: Limits = Limits(),
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
        expensive: a test that costs much: applied last, and only to what may be chosen.
        done: is told how many pairs were certified since the last call.
        limits: bounds on memory.
    """
    selection = _Selection(space, pairs, known, search, negatives, guards, expensive, done, limits)
    open_p = np.arange(len(pairs), dtype=np.int64)
    for length in [candidates * _LONGER**turn for turn in range(_LISTS)]:
        if len(open_p):
            open_p = selection.settle_by_lists(open_p, length)
    selection.settle_by_scans(open_p)
    return selection.collect()


@dataclass(frozen=True)
class _Examined:
    """Documents that are nearer to a query than its positive, as flat arrays: one row a (pair, document)."""

    pair_F: Int64
    doc_rows_F: Int64
    d_query_F: Float64
    d_positive_F: Float64
    is_positive_F: NDArray[np.bool_]
    """Whether the text is a judged positive's."""

    def __len__(self) -> int:
        return len(self.pair_F)

    def keep(self, rows: NDArray[np.bool_] | Int64) -> _Examined:
        return _Examined(*(getattr(self, field.name)[rows] for field in fields(self)))

    def nearest_first(self) -> _Examined:
        """Return the rows sorted by (pair, distance to the query, document row)."""
        return self.keep(np.lexsort((self.doc_rows_F, self.d_query_F, self.pair_F)))

    @classmethod
    def concatenate(cls, parts: list[_Examined]) -> _Examined:
        if not parts:
            no_rows, no_distances = np.empty(0, dtype=np.int64), np.empty(0)
            return cls(no_rows, no_rows, no_distances, no_distances, np.empty(0, dtype=bool))
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


@dataclass
class _Selection:
    """The state of one selection: what was found for the pairs that are certified so far.

    Letters of shapes here: P all pairs, p the pairs that are settled together, F rows of (pair, document).
    """

    space: Space
    pairs: Pairs
    known: Known
    search: Search
    wanted: int
    cheap: Sequence[Guard]
    expensive: Guard | None
    done: Callable[[int], None]
    limits: Limits

    def __post_init__(self) -> None:
        self.guards = [*self.cheap, self.expensive] if self.expensive else [*self.cheap]
        self.error = error_bound(self.space.width)
        self.gathered_rows = max(1, self.limits.gathered_numbers // self.space.width)
        self.radius_P = np.empty(len(self.pairs))  # d(Q, PD)
        for part in _slices(len(self.pairs), self.gathered_rows):
            queries = self.space.queries_QR[self.pairs.query_rows_P[part]]
            self.radius_P[part] = distance(queries, self.space.docs_NR[self.pairs.doc_rows_P[part]])
        self.certificate_P = np.full(len(self.pairs), "", dtype=object)
        self.chosen: list[_Examined] = []
        reasons = [POSITIVE_IS_NEAREST, NEARER_ONES_RESEMBLE_POSITIVE] + [GUARDS_LEAVE_NONE] * bool(self.guards)
        self.dropped = dict.fromkeys(reasons, 0)
        self.guarded = {guard.name: 0 for guard in self.guards}

    def settle_by_lists(self, pair_p: Int64, length: int) -> Int64:
        """Examine the short lists of the pairs' queries; return the pairs that these do not certify."""
        query_rows, list_p = np.unique(self.pairs.query_rows_P[pair_p], return_inverse=True)
        found = self.search.nearest(self.space.queries_QR[query_rows], length)
        k = found.doc_rows_QK.shape[1]
        is_whole_corpus = k >= len(self.space.docs_NR)
        still_open = []
        for part in _slices(len(pair_p), max(1, self.limits.listed_cells // k)):
            pairs_here, lists_here = pair_p[part], list_p[part]
            # Examine what is not farther than the positive beyond doubt.
            reach_p = self.radius_P[pairs_here] + self.error
            position_F, column_F = np.nonzero(found.distances_QK[lists_here] < reach_p[:, None])
            examined = self._examine(pairs_here[position_F], found.doc_rows_QK[lists_here[position_F], column_F])
            # Settle by what the last distance of a list says of all documents outside it.
            nothing = np.full(len(pairs_here), np.inf)
            outside_p = nothing if is_whole_corpus else found.distances_QK[lists_here, -1] - self.error
            still_open.append(pairs_here[~self._settle(pairs_here, examined, outside_p)])
        return np.concatenate(still_open)

    def settle_by_scans(self, pair_p: Int64) -> None:
        """Examine every document that can be nearer than the positive; this certifies all the pairs."""
        for part in _slices(len(pair_p), max(1, self.limits.scanned_cells // len(self.space.docs_NR))):
            pairs_here = pair_p[part]
            queries_pR = self.space.queries_QR[self.pairs.query_rows_P[pairs_here]]
            position_F, doc_rows_F = self.search.within(queries_pR, self.radius_P[pairs_here])
            examined = self._examine(pairs_here[position_F], doc_rows_F)
            certified_p = self._settle(pairs_here, examined, np.full(len(pairs_here), np.inf))
            assert certified_p.all()

    def collect(self) -> Negatives:
        """Return the negatives of all pairs; call this when every pair is certified."""
        rows = _Examined.concatenate(self.chosen).nearest_first()
        return Negatives(
            pair_M=rows.pair_F,
            doc_rows_M=rows.doc_rows_F,
            rank_M=_running_count(rows.pair_F, np.ones(len(rows), dtype=bool)),
            d_query_positive_M=self.radius_P[rows.pair_F],
            d_query_negative_M=rows.d_query_F,
            d_positive_negative_M=rows.d_positive_F,
            certificate_M=self.certificate_P[rows.pair_F],
            pairs=len(self.pairs),
            dropped=self.dropped,
            guarded=self.guarded,
        )

    def _examine(self, pair_F: Int64, doc_rows_F: Int64) -> _Examined:
        """Keep the documents nearer than their pair's positive (condition 1), with all that decides over them."""
        space, parts = self.space, []
        for part in _slices(len(doc_rows_F), self.gathered_rows):
            pair, docs = pair_F[part], doc_rows_F[part]
            d_query = distance(space.queries_QR[self.pairs.query_rows_P[pair]], space.docs_NR[docs])
            is_nearer = d_query < self.radius_P[pair]
            pair, docs, d_query = pair[is_nearer], docs[is_nearer], d_query[is_nearer]
            d_positive = distance(space.docs_NR[self.pairs.doc_rows_P[pair]], space.docs_NR[docs])
            parts.append(_Examined(pair, docs, d_query, d_positive, self.known.mask(pair, docs)))
        return _Examined.concatenate(parts)

    def _settle(self, pair_p: Int64, examined: _Examined, outside_p: Float64) -> NDArray[np.bool_]:
        """Record the pairs that are certified; return which are.

        Args:
            pair_p: the pairs, ascending.
            examined: of each pair, every document nearer than its positive that is not outside.
            outside_p: a lower bound on the distance of all other documents to the query.
        """
        # Take the documents that are nearer than everything outside.
        examined = examined.nearest_first()
        slot_F = np.searchsorted(pair_p, examined.pair_F)
        in_order_F = examined.d_query_F < outside_p[slot_F]
        nearer, slot_F = examined.keep(in_order_F), slot_F[in_order_F]

        # Choose the first of each pair that pass all tests.
        passed_F, removed_by_F = self._test(nearer, slot_F)
        passed_so_far_F = _running_count(slot_F, passed_F)
        chosen_F = passed_F & (passed_so_far_F <= self.wanted)
        count_p = np.bincount(slot_F[chosen_F], minlength=len(pair_p))

        # Certify the pairs that are complete, or whose positive is nearer than everything outside.
        complete_p = count_p == self.wanted
        certified_p: NDArray[np.bool_] = complete_p | (self.radius_P[pair_p] <= outside_p)
        all_nearer_p = np.bincount(slot_F, minlength=len(pair_p)) == len(self.space.docs_NR) - 1
        certificate_p = np.where(complete_p, "found", np.where(all_nearer_p, "exhausted", "radius"))
        self.certificate_P[pair_p[certified_p]] = (
            "approximate" if self.search.approximate else certificate_p[certified_p]
        )

        # Record what was chosen for them, and what the guards removed before a pair was complete.
        certified_F = certified_p[slot_F]
        self.chosen.append(nearer.keep(chosen_F & certified_F))
        counted_F = certified_F & (passed_so_far_F < self.wanted)
        for number, guard in enumerate(self.guards):
            self.guarded[guard.name] += int((counted_F & (removed_by_F == number)).sum())

        # Count the pairs without negatives, by reason.
        empty_p = certified_p & (count_p == 0)
        has_nearer_p = np.bincount(slot_F[~nearer.is_positive_F], minlength=len(pair_p)) > 0
        was_guarded_p = np.bincount(slot_F[removed_by_F >= 0], minlength=len(pair_p)) > 0
        self.dropped[POSITIVE_IS_NEAREST] += int((empty_p & ~has_nearer_p).sum())
        self.dropped[NEARER_ONES_RESEMBLE_POSITIVE] += int((empty_p & has_nearer_p & ~was_guarded_p).sum())
        if self.guards:
            self.dropped[GUARDS_LEAVE_NONE] += int((empty_p & was_guarded_p).sum())
        self.done(int(certified_p.sum()))
        return certified_p

    def _test(self, nearer: _Examined, slot_F: Int64) -> tuple[NDArray[np.bool_], Int64]:
        """Apply all tests but condition 1, in order.

        Returns:
            passed (F): what the expensive guard was not asked about has not passed.
            removed_by (F): the number of the guard that removed a row, or -1.
        """
        # Apply condition 2, remove the known positives, and keep one document of each text.
        passed_F = ~nearer.is_positive_F & (nearer.d_query_F < nearer.d_positive_F)
        passed_F[passed_F] = self.known.first_of_text(nearer.pair_F[passed_F], nearer.doc_rows_F[passed_F])

        # Ask the guards one after the other.
        removed_by_F = np.full(len(nearer), -1, dtype=np.int64)
        rank_F = _running_count(slot_F, ~nearer.is_positive_F)

        def ask(guard: Guard, number: int, rows: Int64) -> None:
            passed_F[rows] = guard.keep(self._suspects(nearer.keep(rows), rank_F[rows]))
            removed_by_F[rows[~passed_F[rows]]] = number

        for number, guard in enumerate(self.cheap):
            ask(guard, number, np.flatnonzero(passed_F))

        # Ask the expensive guard about the first that wait, more in each round: few rounds, little asked in vain.
        if self.expensive is not None:
            waiting_F = passed_F.copy()
            passed_F[:] = False
            for turn in itertools.count(1):
                missing_p = self.wanted - np.bincount(slot_F[passed_F], minlength=slot_F.max(initial=0) + 1)
                rows = np.flatnonzero(waiting_F & (_running_count(slot_F, waiting_F) <= turn * missing_p[slot_F]))
                if not len(rows):
                    break
                ask(self.expensive, len(self.cheap), rows)
                waiting_F[rows] = False
        return passed_F, removed_by_F

    def _suspects(self, rows: _Examined, rank_F: Int64) -> Suspects:
        return Suspects(
            query_rows_F=self.pairs.query_rows_P[rows.pair_F],
            positive_rows_F=self.pairs.doc_rows_P[rows.pair_F],
            doc_rows_F=rows.doc_rows_F,
            d_query_F=rows.d_query_F,
            d_positive_F=rows.d_positive_F,
            radius_F=self.radius_P[rows.pair_F],
            rank_F=rank_F,
        )


def _running_count(sorted_n: Int64, counts_n: NDArray[np.bool_]) -> Int64:
    """Return, for each element, how many up to and with it count within its run of equal values."""
    total_n = np.cumsum(counts_n)
    starts = np.flatnonzero(np.r_[True, sorted_n[1:] != sorted_n[:-1]]) if len(sorted_n) else sorted_n
    lengths = np.diff(np.r_[starts, len(sorted_n)])
    return total_n - np.repeat(total_n[starts] - counts_n[starts], lengths)


def _slices(count: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, count)) for start in range(0, count, step))
