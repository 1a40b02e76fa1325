"""Last night's selection brought up to date: the result of `select` on tonight's texts, row for row, for less work.

What is told apart by *identity*: a key of the text and of its vector (`identities`), so that an edit, another encoder,
another basis and another machine's rounding are one case, a text that vanished and one that came. Whether a document
qualifies for a pair depends on no third text: only on the identities of query, positive and document, and on what else
was judged for the query. So a pair is known by these (`_pair_keys`), and of a known pair all that can change is which
documents there are.

Of every pair a *reserve* is kept: more qualifying documents than were wanted, all those nearer than a bound (infinite
if these are all there are). Tonight those that vanished are struck out, and new documents below the bound come in,
found by one scan of the new documents alone. If enough remain, the nearest are the negatives: nothing below the bound
is missed, and equal distances are put in order by tonight's rows. Else, or if the pair is not known, it is searched in
full. Documents *at* the bound are not all known, so none of them is kept.

Guards are not known here: a rank window depends on the whole corpus. With them, all pairs go through `select`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hnmine.mining.conditions import NEARER_ONES_RESEMBLE_POSITIVE, POSITIVE_IS_NEAREST, Known, Search, select
from hnmine.types import Float32, Float64, Int64, Negatives, Pairs, Space, distance

Identities = NDArray[np.bytes_]
"""Of n things, 16 bytes each: shape (n,), dtype S16."""
_BYTES = 16
IDENTITY = f"S{_BYTES}"
RESERVE = 8
"""Qualifying documents that are kept of a pair beside the wanted ones."""

_NONE, _UNKNOWN = -1, -2
_FLAT_NUMBERS = 2**23  # float64 numbers in one gathered matrix; bounds memory
_SCANNED_CELLS = 2**24  # (pair, document) cells that one scan may return


@dataclass(frozen=True, kw_only=True)
class Night:
    """What one night leaves to the next. Of p known pairs, sorted by identity."""

    documents: Identities
    """Those that were there, sorted, each once."""
    pairs_p: Identities
    bound_p: Float64
    """Every document that qualifies below this distance is in `reserve`."""
    nearer_p: Identities
    """A document nearer than the positive and no known positive; empty: there is none."""
    count_p: Int64
    """Of each pair, how many of `reserve` are its own, one pair after the other."""
    reserve: Identities

    @classmethod
    def first(cls) -> Night:
        """Return the night before the first: nothing is known."""
        none = np.empty(0, dtype=IDENTITY)
        count = np.empty(0, dtype=np.int64)
        return cls(documents=none, pairs_p=none, bound_p=np.empty(0), nearer_p=none, count_p=count, reserve=none)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What was done: each pair counts once."""

    kept: int
    """Pairs whose reserve no change touched."""
    mended: int
    """Pairs whose reserve lost or gained documents, and sufficed."""
    searched: int
    """Pairs that were searched in full."""
    new_documents: int
    """Distinct texts that were not there last night, which all kept and mended pairs were compared with."""


def identities(text_keys_n2: NDArray[np.uint64], vectors_nR: Float32) -> Identities:
    """Return what tells texts apart, over nights: their key and their vector, to the last bit."""
    keys, vectors = np.ascontiguousarray(text_keys_n2), np.ascontiguousarray(vectors_nR)
    joined = b"".join(
        hashlib.blake2b(key.tobytes() + vector.tobytes(), digest_size=_BYTES).digest()
        for key, vector in zip(keys, vectors, strict=True)
    )
    return np.frombuffer(joined, dtype=IDENTITY)


def renew(
    last: Night,
    space: Space,
    pairs: Pairs,
    positives: Sequence[Collection[int]],
    groups_N: Int64,
    docs_N: Identities,
    queries_Q: Identities,
    index: Callable[[Float32], Search],
    *,
    negatives: int = 1,
    reserve: int = RESERVE,
    candidates: int = 64,
    done: Callable[[int], None] = lambda _pairs: None,
) -> tuple[Negatives, Night, Work]:
    """Return the hard negatives of tonight's pairs, what the next night needs, and how much was done.

    The negatives equal those of `select` with the same arguments and no guards.

    Args:
        last: what the night before left.
        space: tonight's documents and queries.
        pairs: tonight's judged pairs.
        positives: rows of all documents judged positive for each pair's query.
        groups_N: a number for each document: equal text, equal number.
        docs_N: identities of the documents.
        queries_Q: identities of the queries.
        index: makes an exact index over the documents it is given.
        negatives: wanted of each pair.
        reserve: how many more are kept; changes the time of later nights, never a result.
        candidates: first length of the short lists; changes the time, never the result.
        done: is told how many pairs were finished since the last call.
    """
    texts, first_rows = np.unique(docs_N, return_index=True)
    hidden = len(texts) != len(np.unique(groups_N))  # behind copies with other vectors: no reserve tells of such
    last = Night.first() if hidden else last
    lists = _Lists(space, pairs, _pair_keys(pairs, positives, docs_N, queries_Q))
    at_P = _find(last.pairs_p, lists.keys_P)
    known = np.flatnonzero(at_P >= 0)
    lists.recall(known, at_P[known], last, lambda wanted: _rows(texts, first_rows, wanted))
    touched_P = lists.lost_P
    new_rows = np.sort(first_rows[_find(last.documents, texts) < 0])
    if len(new_rows) and len(known):
        touched_P = touched_P | lists.admit(known, new_rows, index(space.docs_NR[new_rows]))
    open_P = lists.insufficient(negatives)
    open_P[at_P < 0] = True
    done(int((~open_P).sum()))
    if open_P.any():
        chosen = np.flatnonzero(open_P)
        judged = Known.of([positives[pair] for pair in chosen.tolist()], groups_N)
        full = select(
            space,
            pairs.take(chosen),
            judged,
            index(space.docs_NR),
            negatives=negatives + reserve,
            candidates=candidates,
            done=done,
        )
        lists.replace(chosen, full, negatives + reserve)
    lists.sort()
    searched = int(open_P.sum())
    mended = int((touched_P & ~open_P).sum())
    work = Work(kept=len(pairs) - searched - mended, mended=mended, searched=searched, new_documents=len(new_rows))
    night = Night.first() if hidden else lists.night(texts, docs_N, negatives + reserve)
    return lists.negatives(negatives), night, work


class _Lists:
    """The reserve of every pair of tonight, in rows of tonight: flat, one row a (pair, document)."""

    def __init__(self, space: Space, pairs: Pairs, keys_P: Identities) -> None:
        self._space, self._pairs, self.keys_P = space, pairs, keys_P
        self._radius_P = _distances(space.queries_QR, pairs.query_rows_P, space.docs_NR, pairs.doc_rows_P)
        self._bound_P = np.zeros(len(pairs))
        self._nearer_P = np.full(len(pairs), _UNKNOWN, dtype=np.int64)
        self._pair_F = np.empty(0, dtype=np.int64)
        self._doc_F = np.empty(0, dtype=np.int64)
        self.lost_P = np.zeros(len(pairs), dtype=bool)

    def recall(self, known: Int64, at: Int64, last: Night, rows_of: Callable[[Identities], Int64]) -> None:
        """Take over what last night knew of these pairs, which stand `at` there; what vanished is struck out."""
        self._bound_P[known] = last.bound_p[at]
        nearer = rows_of(last.nearer_p[at])
        self._nearer_P[known] = np.where(last.nearer_p[at] == b"", _NONE, np.where(nearer < 0, _UNKNOWN, nearer))
        count = last.count_p[at]
        starts = (np.cumsum(last.count_p) - last.count_p)[at]
        self._pair_F = np.repeat(known, count)
        rows = rows_of(last.reserve)
        self._doc_F = rows[np.repeat(starts - np.cumsum(count) + count, count) + np.arange(count.sum())]
        gone = self._doc_F < 0
        self.lost_P[self._pair_F[gone]] = True
        self._keep(~gone)

    def admit(self, known: Int64, new_rows: Int64, search: Search) -> NDArray[np.bool_]:
        """Let new documents in where they qualify below the bound; return which pairs have gained."""
        gained_P = np.zeros(len(self._pairs), dtype=bool)
        reach_P = np.minimum(self._radius_P, self._bound_P)
        step = max(1, _SCANNED_CELLS // len(new_rows))
        for start in range(0, len(known), step):
            asked = known[start : start + step]
            position, at = search.within(self._space.queries_QR[self._pairs.query_rows_P[asked]], reach_P[asked])
            pair, doc = asked[position], new_rows[at]
            d_query, d_positive = self._measure(pair, doc)
            near = d_query < reach_P[pair]
            self._nearer_P[pair[near]] = doc[near]
            chosen = near & (d_query < d_positive)
            self._pair_F, self._doc_F = np.r_[self._pair_F, pair[chosen]], np.r_[self._doc_F, doc[chosen]]
            gained_P[pair[chosen]] = True
        return gained_P

    def insufficient(self, negatives: int) -> NDArray[np.bool_]:
        """Return which pairs have fewer negatives than wanted, or none, and cannot tell whether or why."""
        count_P = np.bincount(self._pair_F, minlength=len(self._pairs))
        too_few: NDArray[np.bool_] = (count_P < negatives) & np.isfinite(self._bound_P)
        too_few |= (count_P == 0) & (self._nearer_P == _UNKNOWN)
        return too_few

    def replace(self, chosen: Int64, full: Negatives, most: int) -> None:
        """Put what a full search found, `most` of each pair, in the place of what there was of these pairs."""
        self._keep(~np.isin(self._pair_F, chosen))
        self._pair_F = np.r_[self._pair_F, chosen[full.pair_M]]
        self._doc_F = np.r_[self._doc_F, full.doc_rows_M]
        self._nearer_P[chosen] = np.where(full.nearer_P < 0, _NONE, full.nearer_P)
        self._bound_P[chosen] = np.inf
        last = full.rank_M == most
        self._bound_P[chosen[full.pair_M[last]]] = full.d_query_negative_M[last]

    def sort(self) -> None:
        """Put every list in order: nearest to the query first, ties by row."""
        self._d_query, _ = self._measure(self._pair_F, self._doc_F)
        order = np.lexsort((self._doc_F, self._d_query, self._pair_F))
        self._pair_F, self._doc_F, self._d_query = self._pair_F[order], self._doc_F[order], self._d_query[order]
        count_P = np.bincount(self._pair_F, minlength=len(self._pairs))
        starts_P = np.cumsum(count_P) - count_P
        self._rank_F = np.arange(len(self._pair_F)) - starts_P[self._pair_F] + 1
        unknown = np.flatnonzero(self._nearer_P == _UNKNOWN)  # gone, but a list that is not empty has another
        self._nearer_P[unknown] = self._doc_F[starts_P[unknown]]

    def negatives(self, wanted: int) -> Negatives:
        """Return the nearest of every list."""
        first = self._rank_F <= wanted
        pair = self._pair_F[first]
        count_P = np.bincount(pair, minlength=len(self._pairs))
        short = np.flatnonzero((count_P > 0) & (count_P < wanted))
        why_P = np.full(len(self._pairs), "found", dtype=object)
        why_P[short] = np.where(self._all_nearer(short), "exhausted", "radius")
        empty = count_P == 0
        dropped = {
            POSITIVE_IS_NEAREST: int((empty & (self._nearer_P == _NONE)).sum()),
            NEARER_ONES_RESEMBLE_POSITIVE: int((empty & (self._nearer_P != _NONE)).sum()),
        }
        return Negatives(
            pair_M=pair,
            doc_rows_M=self._doc_F[first],
            rank_M=self._rank_F[first],
            d_query_positive_M=self._radius_P[pair],
            d_query_negative_M=self._d_query[first],
            d_positive_negative_M=self._measure(pair, self._doc_F[first])[1],
            certificate_M=why_P[pair],
            nearer_P=self._nearer_P,
            pairs=len(self._pairs),
            dropped=dropped,
            guarded={},
        )

    def night(self, texts: Identities, docs_N: Identities, most: int) -> Night:
        """Return what the next night needs: of each pair `most` documents, and those as near as the last of them."""
        bound_P = self._bound_P.copy()
        last, pair = self._rank_F == most, self._pair_F
        bound_P[pair[last]] = np.minimum(bound_P[pair[last]], np.nextafter(self._d_query[last], np.inf))
        below = self._d_query < bound_P[pair]
        pairs_p, one = np.unique(self.keys_P, return_index=True)
        place_P = np.full(len(self._pairs), -1, dtype=np.int64)
        place_P[one] = np.arange(len(one))
        stays = below & (place_P[pair] >= 0)  # pairs of one identity have one list
        pair, doc = pair[stays], self._doc_F[stays]
        order = np.argsort(place_P[pair], kind="stable")
        nearer_p = docs_N[self._nearer_P[one]]
        nearer_p[self._nearer_P[one] == _NONE] = b""
        return Night(
            documents=texts,
            pairs_p=pairs_p,
            bound_p=bound_P[one],
            nearer_p=nearer_p,
            count_p=np.bincount(place_P[pair], minlength=len(one)),
            reserve=docs_N[doc[order]],
        )

    def _keep(self, which: NDArray[np.bool_]) -> None:
        self._pair_F, self._doc_F = self._pair_F[which], self._doc_F[which]

    def _measure(self, pair_F: Int64, doc_F: Int64) -> tuple[Float64, Float64]:
        """Return d(Q, D) and d(PD, D) of each."""
        space, pairs = self._space, self._pairs
        return (
            _distances(space.queries_QR, pairs.query_rows_P[pair_F], space.docs_NR, doc_F),
            _distances(space.docs_NR, pairs.doc_rows_P[pair_F], space.docs_NR, doc_F),
        )

    def _all_nearer(self, chosen: Int64) -> NDArray[np.bool_]:
        """Return for which pairs every document but the positive is nearer; nearly always the first few refute it."""
        holds = np.ones(len(chosen), dtype=bool)
        docs, start, step = len(self._space.docs_NR), 0, 1
        while start < docs and holds.any():
            rows, left = np.arange(start, min(start + step, docs)), np.flatnonzero(holds)
            pair, doc = np.repeat(chosen[left], len(rows)), np.tile(rows, len(left))
            nearer = self._measure(pair, doc)[0] < self._radius_P[pair]
            nearer |= doc == self._pairs.doc_rows_P[pair]
            holds[left] = nearer.reshape(len(left), -1).all(axis=1)
            start, step = start + step, 2 * step
        return holds


def _pair_keys(
    pairs: Pairs, positives: Sequence[Collection[int]], docs_N: Identities, queries_Q: Identities
) -> Identities:
    """Return what a pair's result depends on beside the other documents: query, positive, all judged positives."""
    docs, queries = (np.ascontiguousarray(each).view(f"V{_BYTES}").tolist() for each in (docs_N, queries_Q))
    keys = []
    for query, doc, judged in zip(pairs.query_rows_P.tolist(), pairs.doc_rows_P.tolist(), positives, strict=True):
        parts = [queries[query], docs[doc], *sorted({docs[row] for row in judged})]
        keys.append(hashlib.blake2b(b"".join(parts), digest_size=_BYTES).digest())
    return np.frombuffer(b"".join(keys), dtype=IDENTITY)


def _find(ordered: Identities, wanted: Identities) -> Int64:
    """Return where each wanted one stands among the ordered, or -1."""
    if not len(ordered):
        return np.full(len(wanted), -1, dtype=np.int64)
    at = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    return np.where(ordered[at] == wanted, at, -1)


def _rows(texts: Identities, first_rows: Int64, wanted: Identities) -> Int64:
    """Return the first row of each wanted text, or -1."""
    at = _find(texts, wanted)
    return np.where(at < 0, -1, first_rows[at])


def _distances(a_nR: Float32, a_F: Int64, b_nR: Float32, b_F: Int64) -> Float64:
    step = max(1, _FLAT_NUMBERS // a_nR.shape[1])
    parts = [distance(a_nR[a_F[i : i + step]], b_nR[b_F[i : i + step]]) for i in range(0, len(a_F), step)]
    return np.concatenate([np.empty(0), *parts])
