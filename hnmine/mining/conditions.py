"""The two conditions: which documents are hard negatives of a pair (Q, PD), and the proof that none was missed.

D is a hard negative of (Q, PD) iff (arXiv 2505.18366, section 3.3)

    d(Q, D) < d(Q, PD)      D is nearer to the query than the positive, and      (condition 1)
    d(Q, D) < d(PD, D)      nearer to the query than to the positive,            (condition 2)

and D may be a negative of Q at all (`corpus.never_negative`). Of documents of one text only the nearest stands. Every
guard must keep D. Of what remains, the nearest to Q come first; `<` is strict and ties break by row. All distances are
`types.distance`, in float64, so the result does not depend on how the candidates were found.

Why a short list suffices: candidates are taken in ascending d(Q, D), as far as nothing outside the list can be nearer.
A pair is *certified*
    found       it has all the negatives it asked for
    radius      it has fewer, and nothing outside the list can be nearer than the positive (condition 1)
    exhausted   it has fewer, and every other document of the corpus is nearer than the positive and was examined
What a list cannot certify is searched again with a longer one, and at last by a full scan. Any first length gives the
same rows and certificates. An index that looks into part of the corpus is trusted as if that part were the whole, and
every row it leads to says `approximate`.

An *expensive* guard (a cross-encoder) is asked last, in rounds, each over all pairs at once: only about the documents
that come first among those still waiting, and only while their pair lacks negatives. What it is not asked about lies
behind the last negative of its pair, where no answer could change the result or a count.

No guard is asked about a document that a person judged wrong (`Known.is_wrong`): a guard is a suspicion, and that
settles it. The two conditions hold for it as for any other.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hnmine.mining.guards import Guard, Suspects
from hnmine.mining.scan import error_bound
from hnmine.types import Done, Float32, Float64, Int64, Negatives, Pairs, Space, distances

POSITIVE_IS_NEAREST = "positive_is_nearest"
NEARER_ONES_RESEMBLE_POSITIVE = "nearer_ones_resemble_positive"
GUARDS_LEAVE_NONE = "guards_leave_none"

FIRST_LENGTH = 64  # of a query's short list
_LONGER = 8  # times longer is the second list, the last before the full scan

# Bounds on what is in memory at a time. They change the time, never the result.
LISTED_CELLS = 2**20  # (pair, candidate) that are settled at once
SCANNED_CELLS = 2**24  # (query, document) that one full scan may return

EXAMINED = np.dtype([("pair", "i8"), ("doc", "i8"), ("d_query", "f8"), ("d_positive", "f8"), ("is_known", "?")])
"""A document that is nearer to the query of a pair than its positive; whether it is known to be no negative."""
Examined = NDArray[np.void]  # rows (F) of EXAMINED


class Search(Protocol):
    """What `select` needs of an index; see `search.Searcher`."""

    approximate: bool  # documents may be missed: only those that it returns are examined

    def nearest(self, queries_QR: Float32, k: int) -> tuple[Int64, Float32]:
        """Return rows and distances (Q, k) of the nearest documents of each query."""

    def within(self, queries_QR: Float32, radius_Q: Float64) -> tuple[Int64, Int64]:
        """Return all (query position, document row) that can be nearer than the radius."""


class Known:
    """Which documents are never negatives of a pair, which people judged wrong, and which are copies of each other."""

    def __init__(
        self, known: Sequence[Collection[int]], groups_N: Int64, wrong: Sequence[Collection[int]] = ()
    ) -> None:
        """Take what is no negative of each pair, and what is judged wrong.

        `groups_N` has a number for each document: equal number, same text.
        """
        self.groups_N = groups_N
        self._known, self._wrong = self._all_codes(known), self._all_codes(wrong)

    def is_wrong(self, pair_F: Int64, doc_rows_F: Int64) -> NDArray[np.bool_]:
        """Return for each (pair, document) whether its text is that of a document which a person judged wrong."""
        return np.isin(self._codes(pair_F, doc_rows_F), self._wrong)

    def mask(self, pair_F: Int64, doc_rows_F: Int64) -> NDArray[np.bool_]:
        """Return for each (pair, document) whether its text is that of a document which is no negative."""
        return np.isin(self._codes(pair_F, doc_rows_F), self._known)

    def first_of_text(self, pair_F: Int64, doc_rows_F: Int64) -> NDArray[np.bool_]:
        """Return for each (pair, document) whether it is the first of its pair with its text."""
        first = np.zeros(len(pair_F), dtype=bool)
        first[np.unique(self._codes(pair_F, doc_rows_F), return_index=True)[1]] = True
        return first

    def _all_codes(self, docs_P: Sequence[Collection[int]]) -> Int64:
        pair_F = np.repeat(np.arange(len(docs_P)), np.array([len(docs) for docs in docs_P], dtype=np.int64))
        doc_rows_F = np.array([doc for docs in docs_P for doc in docs], dtype=np.int64)
        return np.unique(self._codes(pair_F, doc_rows_F))

    def _codes(self, pair_F: Int64, doc_rows_F: Int64) -> Int64:
        """Return a number for each (pair, text)."""
        return pair_F * (int(self.groups_N.max(initial=0)) + 1) + self.groups_N[doc_rows_F]


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
    done: Done = lambda _pairs: None,
) -> Negatives:
    """Return up to `negatives` hard negatives of every pair; see the module for the rule and its certificates.

    `known` goes by position in `pairs`; `search` is over the documents of the space. The guards are applied in order.
    `candidates` is the first length of the short list. `done` hears how many pairs were certified.
    """
    selection = _Selection(space, pairs, known, search, negatives, guards, expensive, done)
    open_p = np.arange(len(pairs), dtype=np.int64)
    for length in (candidates, _LONGER * candidates):
        if len(open_p):
            open_p = selection.settle_by_lists(open_p, length)
    selection.settle_by_scans(open_p)
    return selection.collect()


@dataclass(frozen=True, kw_only=True)
class Trace:
    """How every document that is nearer to the query of one pair than its positive fared, the nearest first."""

    rows_F: Examined
    passed_F: NDArray[np.bool_]  # all tests; the first of them are the negatives
    removed_by_F: Int64  # number of the guard, the expensive one is the last; -1: none
    rank_F: Int64  # among all documents that may be negatives
    certificate: str
    dropped: str  # why there is no negative; empty if there is one


def trace(
    space: Space,
    pair: Pairs,
    known: Known,
    doc_rows_F: Int64,
    *,
    negatives: int,
    guards: Sequence[Guard] = (),
    expensive: Guard | None = None,
) -> Trace:
    """Return how `select` decides over each document, for one pair; the rows have all that is nearer than PD."""
    everything = _Everything(doc_rows_F)
    selection = _TracedSelection(space, pair, known, everything, negatives, guards, expensive, lambda _pairs: None)
    selection.settle_by_scans(np.zeros(1, dtype=np.int64))
    rows_F, passed_F, removed_by_F = selection.tested
    return Trace(
        rows_F=rows_F,
        passed_F=passed_F,
        removed_by_F=removed_by_F,
        rank_F=_running_count(rows_F["pair"], ~rows_F["is_known"]),
        certificate=str(selection.certificate_P[0]),
        dropped=next((reason for reason, pairs in selection.dropped.items() if pairs), ""),
    )


@dataclass(frozen=True)
class _Everything:
    """A search that returns these documents for every query."""

    doc_rows: Int64
    approximate = False

    def nearest(self, queries_QR: Float32, k: int) -> tuple[Int64, Float32]:
        raise NotImplementedError

    def within(self, queries_QR: Float32, radius_Q: Float64) -> tuple[Int64, Int64]:  # noqa: ARG002
        queries = len(queries_QR)
        return np.repeat(np.arange(queries), len(self.doc_rows)), np.tile(self.doc_rows, queries)


@dataclass
class _Selection:
    """The state of one selection. Letters of shapes: P all pairs, p those settled together, F (pair, document)."""

    space: Space
    pairs: Pairs
    known: Known
    search: Search
    wanted: int
    cheap: Sequence[Guard]
    expensive: Guard | None
    done: Done

    def __post_init__(self) -> None:
        self.guards = [*self.cheap, self.expensive] if self.expensive else [*self.cheap]
        self.error = error_bound(self.space.width)
        self.radius_P = self._to_query(np.arange(len(self.pairs)), self.pairs.doc_rows_P)
        self.certificate_P = np.full(len(self.pairs), "", dtype=object)
        self.chosen = [np.empty(0, EXAMINED)]
        reasons = [POSITIVE_IS_NEAREST, NEARER_ONES_RESEMBLE_POSITIVE] + [GUARDS_LEAVE_NONE] * bool(self.guards)
        self.dropped = dict.fromkeys(reasons, 0)
        self.guarded = {guard.name: 0 for guard in self.guards}

    def settle_by_lists(self, pair_p: Int64, length: int) -> Int64:
        """Examine the short lists of the pairs' queries; return the pairs that these do not certify."""
        query_rows, list_p = np.unique(self.pairs.query_rows_P[pair_p], return_inverse=True)
        doc_rows_QK, distances_QK = self.search.nearest(self.space.queries_QR[query_rows], length)
        last_Q = distances_QK[:, -1].astype(np.float64) - self.error
        if doc_rows_QK.shape[1] >= len(self.space.docs_NR):
            last_Q = np.full(len(query_rows), np.inf)  # nothing is outside the whole corpus
        still_open = [pair_p[:0]]
        for part in _slices(len(pair_p), max(1, LISTED_CELLS // doc_rows_QK.shape[1])):
            pairs, lists = pair_p[part], list_p[part]
            # Examine what is not farther than the positive beyond doubt.
            reach_p = self.radius_P[pairs] + self.error
            position_F, column_F = np.nonzero(distances_QK[lists] < reach_p[:, None])
            examined_F = self._examine(pairs[position_F], doc_rows_QK[lists[position_F], column_F])
            # Settle by what the last distance of a list says of all documents outside it.
            still_open.append(pairs[~self._settle(pairs, examined_F, last_Q[lists])])
        return np.concatenate(still_open)

    def settle_by_scans(self, pair_p: Int64) -> None:
        """Examine every document that can be nearer than the positive; this certifies all the pairs."""
        for part in _slices(len(pair_p), max(1, SCANNED_CELLS // len(self.space.docs_NR))):
            pairs = pair_p[part]
            queries_pR = self.space.queries_QR[self.pairs.query_rows_P[pairs]]
            position_F, doc_rows_F = self.search.within(queries_pR, self.radius_P[pairs])
            examined_F = self._examine(pairs[position_F], doc_rows_F)
            assert self._settle(pairs, examined_F, np.full(len(pairs), np.inf)).all()

    def collect(self) -> Negatives:
        """Return the negatives of all pairs; call this when every pair is certified."""
        rows_M = _nearest_first(np.concatenate(self.chosen))
        pair_M = rows_M["pair"]
        return Negatives(
            pair_M=pair_M,
            doc_rows_M=rows_M["doc"],
            rank_M=_running_count(pair_M, np.ones(len(pair_M), dtype=bool)),
            d_query_positive_M=self.radius_P[pair_M],
            d_query_negative_M=rows_M["d_query"],
            d_positive_negative_M=rows_M["d_positive"],
            certificate_M=self.certificate_P[pair_M],
            pairs=len(self.pairs),
            dropped=self.dropped,
            guarded=self.guarded,
        )

    def _examine(self, pair_F: Int64, doc_rows_F: Int64) -> Examined:
        """Keep the documents nearer than their pair's positive (condition 1), with all that decides over them."""
        d_query_F = self._to_query(pair_F, doc_rows_F)
        is_nearer_F = d_query_F < self.radius_P[pair_F]
        pair_F, doc_rows_F = pair_F[is_nearer_F], doc_rows_F[is_nearer_F]
        docs_NR, nearer_F = self.space.docs_NR, np.empty(len(pair_F), EXAMINED)
        nearer_F["pair"], nearer_F["doc"], nearer_F["d_query"] = pair_F, doc_rows_F, d_query_F[is_nearer_F]
        nearer_F["d_positive"] = distances(docs_NR, self.pairs.doc_rows_P[pair_F], docs_NR, doc_rows_F)
        nearer_F["is_known"] = self.known.mask(pair_F, doc_rows_F)
        return nearer_F

    def _to_query(self, pair_F: Int64, doc_rows_F: Int64) -> Float64:
        """Return the distances of documents to the queries of pairs."""
        return distances(self.space.queries_QR, self.pairs.query_rows_P[pair_F], self.space.docs_NR, doc_rows_F)

    def _settle(self, pair_p: Int64, examined_F: Examined, outside_p: Float64) -> NDArray[np.bool_]:
        """Record the pairs, given in ascending order, that are certified; return which are.

        `examined_F` has of each pair every document nearer than its positive, except those that are at `outside_p` from
        the query or farther.
        """
        # Take the documents that are nearer than everything outside.
        slot_F = np.searchsorted(pair_p, examined_F["pair"])
        nearer_F = _nearest_first(examined_F[examined_F["d_query"] < outside_p[slot_F]])
        slot_F = np.searchsorted(pair_p, nearer_F["pair"])

        # Choose the first of each pair that pass all tests.
        passed_F, removed_by_F = self._test(nearer_F)
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
        self.chosen.append(nearer_F[chosen_F & certified_F])
        counted_F = certified_F & (passed_so_far_F < self.wanted)
        for number, guard in enumerate(self.guards):
            self.guarded[guard.name] += int((counted_F & (removed_by_F == number)).sum())

        # Count the pairs without negatives, by reason.
        empty_p = certified_p & (count_p == 0)
        has_nearer_p = np.bincount(slot_F[~nearer_F["is_known"]], minlength=len(pair_p)) > 0
        was_guarded_p = np.bincount(slot_F[removed_by_F >= 0], minlength=len(pair_p)) > 0
        self.dropped[POSITIVE_IS_NEAREST] += int((empty_p & ~has_nearer_p).sum())
        self.dropped[NEARER_ONES_RESEMBLE_POSITIVE] += int((empty_p & has_nearer_p & ~was_guarded_p).sum())
        if self.guards:
            self.dropped[GUARDS_LEAVE_NONE] += int((empty_p & was_guarded_p).sum())
        self.done(int(certified_p.sum()))
        return certified_p

    def _test(self, nearer_F: Examined) -> tuple[NDArray[np.bool_], Int64]:
        """Apply all tests but condition 1, in order, to rows sorted by pair.

        Return which passed (what the expensive guard was not asked about did not), and the number of the guard that
        removed a row, or -1.
        """
        # Apply condition 2, remove what is known, and keep one document of each text.
        pair_F = nearer_F["pair"]
        passed_F = ~nearer_F["is_known"] & (nearer_F["d_query"] < nearer_F["d_positive"])
        passed_F[passed_F] = self.known.first_of_text(pair_F[passed_F], nearer_F["doc"][passed_F])

        # Ask the guards one after the other.
        removed_by_F = np.full(len(nearer_F), -1, dtype=np.int64)
        rank_F = _running_count(pair_F, ~nearer_F["is_known"])

        def ask(number: int, rows: Int64) -> None:
            is_wrong_f = self.known.is_wrong(pair_F[rows], nearer_F["doc"][rows])
            passed_F[rows[is_wrong_f]] = True
            rows = rows[~is_wrong_f]
            asked = pair_F[rows]
            suspects = Suspects(
                query_rows_F=self.pairs.query_rows_P[asked],
                positive_rows_F=self.pairs.doc_rows_P[asked],
                doc_rows_F=nearer_F["doc"][rows],
                d_query_F=nearer_F["d_query"][rows],
                d_positive_F=nearer_F["d_positive"][rows],
                radius_F=self.radius_P[asked],
                rank_F=rank_F[rows],
            )
            passed_F[rows] = self.guards[number].keep(suspects)
            removed_by_F[rows[~passed_F[rows]]] = number

        for number in range(len(self.cheap)):
            ask(number, np.flatnonzero(passed_F))
        if self.expensive is None:
            return passed_F, removed_by_F

        # Ask the expensive guard about the first that wait, more in each round: few rounds, little asked in vain.
        waiting_F = passed_F.copy()
        passed_F[:] = False
        for turn in itertools.count(1):
            missing_P = self.wanted - np.bincount(pair_F[passed_F], minlength=len(self.pairs))
            rows = np.flatnonzero(waiting_F & (_running_count(pair_F, waiting_F) <= turn * missing_P[pair_F]))
            if not len(rows):
                break
            ask(len(self.cheap), rows)
            waiting_F[rows] = False
        return passed_F, removed_by_F


class _TracedSelection(_Selection):
    """A selection that remembers what was tested last, and how that ended."""

    tested: tuple[Examined, NDArray[np.bool_], Int64]

    def _test(self, nearer_F: Examined) -> tuple[NDArray[np.bool_], Int64]:
        found = super()._test(nearer_F)
        self.tested = nearer_F, *found
        return found


def _nearest_first(rows_F: Examined) -> Examined:
    """Return the rows sorted by (pair, distance to the query, document row)."""
    return rows_F[np.lexsort((rows_F["doc"], rows_F["d_query"], rows_F["pair"]))]


def _running_count(sorted_n: Int64, counts_n: NDArray[np.bool_]) -> Int64:
    """Return, for each element, how many up to and with it count within its run of equal values."""
    before_n: Int64 = np.concatenate([[0], np.cumsum(counts_n)])
    return before_n[1:] - before_n[np.searchsorted(sorted_n, sorted_n)]


def _slices(count: int, step: int) -> list[slice]:
    return [slice(start, start + step) for start in range(0, count, step)]
