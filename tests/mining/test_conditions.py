"""The selection against the obvious double loop, on inputs made to be awkward."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnmine import types
from hnmine.mining import conditions
from hnmine.mining.conditions import (
    GUARDS_LEAVE_NONE,
    NEARER_ONES_RESEMBLE_POSITIVE,
    POSITIVE_IS_NEAREST,
    Known,
    select,
    trace,
)
from hnmine.mining.guards import (
    agreement_guard,
    denoise_guard,
    margin_guard,
    near_duplicate_guard,
    rank_window_guard,
)
from hnmine.mining.search import Searcher
from hnmine.runs.device import Choice
from hnmine.types import Pairs, Space, distance, unit_rows
from tests.builders.devices import CPU
from tests.builders.vectors import awkward_space, negatives_as_rows


@dataclass(frozen=True, kw_only=True)
class One:
    """One document as a person looks at it."""

    query: int
    positive: int
    doc: int
    rank: int
    d_q: float
    d_p: float
    radius: float


Test = Callable[[One], bool]
"""A guard as a person writes it: keep?"""


def by_double_loop(
    space: Space, pairs: Pairs, known: Known, wanted: int, guards: dict[str, Test] | None = None
) -> tuple[list[tuple], dict[str, int], dict[str, int]]:
    """The rule as the paper writes it, one pair and one document at a time."""
    guards = guards or {}
    rows, dropped = [], {POSITIVE_IS_NEAREST: 0, NEARER_ONES_RESEMBLE_POSITIVE: 0}
    if guards:
        dropped[GUARDS_LEAVE_NONE] = 0
    guarded = dict.fromkeys(guards, 0)
    everything = np.arange(len(space.docs_NR))

    def d(a: np.ndarray, b: np.ndarray) -> float:
        return float(distance(a[None], b[None])[0])

    for pair, (q, pd) in enumerate(zip(pairs.query_rows_P.tolist(), pairs.doc_rows_P.tolist(), strict=True)):
        query, positive = space.queries_QR[q], space.docs_NR[pd]
        radius = d(query, positive)
        nearer, passed, removed, all_nearer, texts = 0, [], 0, True, set()
        for d_q, doc in sorted((d(query, space.docs_NR[doc]), doc) for doc in everything.tolist()):
            d_p = d(positive, space.docs_NR[doc])
            if doc != pd and not d_q < radius:
                all_nearer = False
            if known.mask(np.array([pair]), np.array([doc]))[0] or not d_q < radius:
                continue
            nearer += 1
            if not d_q < d_p or len(passed) == wanted or known.groups_N[doc] in texts:
                continue
            texts.add(known.groups_N[doc])
            one = One(query=q, positive=pd, doc=doc, rank=nearer, d_q=d_q, d_p=d_p, radius=radius)
            asked = {} if known.is_wrong(np.array([pair]), np.array([doc]))[0] else guards
            stopped_by = next((name for name, keep in asked.items() if not keep(one)), None)
            if stopped_by is None:
                passed.append((d_q, doc, d_p))
            else:
                guarded[stopped_by] += 1
                removed += 1
        if not passed:
            none_nearer = NEARER_ONES_RESEMBLE_POSITIVE if nearer else POSITIVE_IS_NEAREST
            dropped[GUARDS_LEAVE_NONE if removed else none_nearer] += 1
        why = "found" if len(passed) >= wanted else "exhausted" if all_nearer else "radius"
        for rank, (d_q, doc, d_p) in enumerate(passed[:wanted], 1):
            rows.append((pair, doc, rank, radius, d_q, d_p, why))
    return rows, dropped, guarded


class Backwards:
    """An index that gives the last of documents at one distance, where FAISS gives the first."""

    def __init__(self, docs_NR: np.ndarray, device: Choice) -> None:
        self._searcher, self._last = Searcher(docs_NR[::-1].copy(), device), len(docs_NR) - 1
        self.approximate = False

    def nearest(self, queries_QR: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        doc_rows_QK, distances_QK = self._searcher.nearest(queries_QR, k)
        return self._last - doc_rows_QK, distances_QK

    def within(self, queries_QR: np.ndarray, radius_Q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        queries, docs = self._searcher.within(queries_QR, radius_Q)
        return queries, self._last - docs


@settings(max_examples=150, deadline=None)
@given(
    index=st.sampled_from([Searcher, Backwards]),
    seed=st.integers(0, 2**32 - 1),
    docs=st.integers(1, 40),
    queries=st.integers(1, 6),
    pairs=st.integers(1, 12),
    width=st.integers(1, 9),
    wanted=st.integers(1, 5),
    length=st.integers(1, 45),
)
def test_select_equals_the_double_loop(
    index: type[Searcher | Backwards],
    seed: int,
    docs: int,
    queries: int,
    pairs: int,
    width: int,
    wanted: int,
    length: int,
) -> None:
    space, judged, known = awkward_space(seed, docs, queries, pairs, width)
    fast = select(space, judged, known, index(space.docs_NR, CPU), negatives=wanted, candidates=length)
    rows, dropped, _ = by_double_loop(space, judged, known, wanted)
    assert negatives_as_rows(fast) == rows
    assert fast.dropped == dropped
    assert fast.selected_pairs + sum(fast.dropped.values()) == len(judged)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    docs=st.integers(2, 60),
    wanted=st.integers(1, 3),
    length=st.integers(1, 60),
    window=st.tuples(st.integers(1, 4), st.integers(4, 20)),
    margin=st.floats(0, 1),
    duplicate=st.floats(0, 1),
    wrong=st.sampled_from([0.0, 0.3]),
)
def test_guards_remove_and_count_what_the_double_loop_removes_and_counts(
    seed: int,
    docs: int,
    wanted: int,
    length: int,
    window: tuple[int, int],
    margin: float,
    duplicate: float,
    wrong: float,
) -> None:
    space, judged, known = awkward_space(seed, docs, queries=4, pairs=8, width=4, wrong=wrong)
    fast = select(
        space,
        judged,
        known,
        Searcher(space.docs_NR, CPU),
        negatives=wanted,
        candidates=length,
        guards=[
            rank_window_guard(*window),
            margin_guard(margin),
            near_duplicate_guard(duplicate),
        ],
    )
    rows, dropped, guarded = by_double_loop(
        space,
        judged,
        known,
        wanted,
        {
            "rank_window": lambda one: window[0] <= one.rank <= window[1],
            "margin": lambda one: one.radius - one.d_q <= margin,
            "near_duplicate": lambda one: one.d_p >= duplicate,
        },
    )
    assert negatives_as_rows(fast) == rows
    assert fast.dropped == dropped
    assert fast.guarded == guarded


class CrossEncoder:
    """A scorer of few different scores, which notes what it has to score in each call: what it has not before."""

    def __init__(self, seed: int, queries: int, docs: int) -> None:
        self.scores_QN = np.random.default_rng(seed).integers(-3, 4, size=(queries, docs)).astype(np.float64)
        self.calls: list[set[tuple[int, int]]] = []

    def __call__(self, query_rows: np.ndarray, doc_rows: np.ndarray) -> np.ndarray:
        new = set(zip(query_rows.tolist(), doc_rows.tolist(), strict=True)).difference(*self.calls)
        self.calls += [new] if new else []
        return self.scores_QN[query_rows, doc_rows]

    def p(self, query: int, doc: int) -> float:
        return 1 / (1 + math.exp(-self.scores_QN[query, doc]))


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    docs=st.integers(2, 60),
    wanted=st.integers(1, 5),
    length=st.integers(1, 60),
    margin=st.none() | st.sampled_from([0.0, 0.1, 0.45]),
    most=st.none() | st.sampled_from([0.1, 0.6]),
    near=st.floats(0, 1),
    wrong=st.sampled_from([0.0, 0.3]),
)
def test_denoising_equals_asking_the_cross_encoder_about_every_document(
    seed: int, docs: int, wanted: int, length: int, margin: float | None, most: float | None, near: float, wrong: float
) -> None:
    space, judged, known = awkward_space(seed, docs, queries=4, pairs=8, width=4, wrong=wrong)
    scorer = CrossEncoder(seed, 4, docs)
    fast = select(
        space,
        judged,
        known,
        Searcher(space.docs_NR, CPU),
        negatives=wanted,
        candidates=length,
        guards=[margin_guard(near)],
        expensive=denoise_guard(scorer, margin=margin, most=most),
    )

    def denoised(one: One) -> bool:
        p, positive = scorer.p(one.query, one.doc), scorer.p(one.query, one.positive)
        return (margin is None or p <= positive - margin) and (most is None or p <= most)

    rows, dropped, guarded = by_double_loop(
        space, judged, known, wanted, {"margin": lambda one: one.radius - one.d_q <= near, "denoise": denoised}
    )
    assert negatives_as_rows(fast) == rows
    assert fast.dropped == dropped
    assert fast.guarded == guarded

    # The trace of a pair alone leads to the same rows.
    for pair in range(len(judged)):
        one = Alone(known, pair)
        traced = trace(
            space,
            judged.take(np.array([pair])),
            one,
            np.arange(docs),
            negatives=wanted,
            guards=[margin_guard(near)],
            expensive=denoise_guard(scorer, margin=margin, most=most),
        )
        chosen = traced.rows_F[traced.passed_F][:wanted]
        expected = [row for row in rows if row[0] == pair]
        assert chosen["doc"].tolist() == [row[1] for row in expected]
        assert {traced.certificate} >= {row[6] for row in expected}
        assert bool(traced.dropped) == (not expected)


class Alone(Known):
    """What is known of one pair among several, seen as the only one."""

    def __init__(self, known: Known, pair: int) -> None:
        self.groups_N, self.all, self.pair = known.groups_N, known, pair

    def mask(self, pair_F: np.ndarray, doc_rows_F: np.ndarray) -> np.ndarray:
        return self.all.mask(pair_F + self.pair, doc_rows_F)

    def is_wrong(self, pair_F: np.ndarray, doc_rows_F: np.ndarray) -> np.ndarray:
        return self.all.is_wrong(pair_F + self.pair, doc_rows_F)


def test_the_cross_encoder_is_asked_in_few_calls_and_about_little_more_than_is_needed() -> None:
    space, judged, known = awkward_space(9, docs=1500, queries=60, pairs=200, width=6)
    scorer = CrossEncoder(9, 60, 1500)
    searcher = Searcher(space.docs_NR, CPU)
    denoise = denoise_guard(scorer, margin=0.0, most=None)
    found = select(space, judged, known, searcher, negatives=2, guards=[], expensive=denoise)
    every = select(space, judged, known, searcher, negatives=1500)
    suspects = set(zip(judged.query_rows_P[every.pair_M].tolist(), every.doc_rows_M.tolist(), strict=True))
    needed = len(found) + found.guarded["denoise"] + len(judged)
    asked = sum(map(len, scorer.calls))
    assert found.guarded["denoise"] > 0
    assert asked < 1.3 * needed, (asked, needed, len(suspects))
    assert asked < len(suspects) / 2, (asked, len(suspects))
    assert len(scorer.calls) < 60, len(scorer.calls)


def test_of_copies_of_one_text_only_the_nearest_is_a_negative() -> None:
    # by angle from the query: the positive at 50 degrees, copies of one text at 10, 10 and 20, another text at 30
    angles = np.radians([50, -20, -10, -10, -30])
    docs = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    space = Space(docs_NR=unit_rows(docs), queries_QR=np.array([[1, 0]], np.float32))
    pairs = Pairs(query_rows_P=np.array([0]), doc_rows_P=np.array([0]))
    known = Known([[0]], np.array([0, 1, 1, 1, 2]))
    for length in (1, 2, 5):
        found = select(space, pairs, known, Searcher(space.docs_NR, CPU), negatives=3, candidates=length)
        assert found.doc_rows_M.tolist() == [2, 4]
        assert found.certificate_M.tolist() == ["exhausted"] * 2


def test_agreement_asks_every_encoder_for_both_conditions() -> None:
    space, judged, known = awkward_space(5, docs=200, queries=20, pairs=40, width=5)
    other, _, _ = awkward_space(6, docs=200, queries=20, pairs=40, width=3)
    searcher = Searcher(space.docs_NR, CPU)
    for least in (1, 2):
        guard = agreement_guard([space, other], least)
        chosen = select(space, judged, known, searcher, negatives=200, guards=[guard])
        every = select(space, judged, known, searcher, negatives=200)
        expected = []
        for pair, doc in zip(every.pair_M.tolist(), every.doc_rows_M.tolist(), strict=True):
            q, pd = judged.query_rows_P[pair], judged.doc_rows_P[pair]
            votes = 0
            for one in (space, other):
                query, positive, document = one.queries_QR[[q]], one.docs_NR[[pd]], one.docs_NR[[doc]]
                d_q = distance(query, document)[0]
                votes += bool(d_q < distance(query, positive)[0] and d_q < distance(positive, document)[0])
            if votes >= least:
                expected.append((pair, doc))
        assert list(zip(chosen.pair_M.tolist(), chosen.doc_rows_M.tolist(), strict=True)) == expected
        assert chosen.guarded == {"agreement": len(every) - len(expected)}
    assert 0 < len(expected) < len(every)


@pytest.mark.parametrize("flat", [1, 7, 100, 2**23])
@pytest.mark.parametrize("length", [1, 2, 16, 500, 4000])
def test_the_result_depends_neither_on_the_list_nor_on_the_block(
    length: int, flat: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    space, judged, known = awkward_space(3, docs=1500, queries=40, pairs=60, width=6)
    searcher = Searcher(space.docs_NR, CPU)
    expected = select(space, judged, known, searcher, negatives=3, candidates=64)
    monkeypatch.setattr(types, "GATHERED_NUMBERS", flat * space.width)
    monkeypatch.setattr(conditions, "LISTED_CELLS", flat)
    monkeypatch.setattr(conditions, "SCANNED_CELLS", flat * 1500)
    again = select(space, judged, known, searcher, negatives=3, candidates=length)
    assert negatives_as_rows(again) == negatives_as_rows(expected)
    assert again.dropped == expected.dropped
    assert len(expected) > 20


def test_a_pair_that_no_list_certifies_is_found_by_the_full_scan() -> None:
    # 700 copies of one document lie between the query and the positive; all resemble the positive but the last
    query = np.array([[1, 0, 0]], np.float32)
    positive = np.array([[0.5, 0.8, 0]], np.float32)
    copies = np.repeat(np.array([[0.6, 0.78, 0]], np.float32), 700, axis=0)
    hard = np.array([[0.55, 0, 0.8]], np.float32)
    space = Space(docs_NR=unit_rows(np.concatenate([positive, copies, hard])), queries_QR=query)
    pairs = Pairs(query_rows_P=np.array([0]), doc_rows_P=np.array([0]))
    known = Known([[0]], np.arange(702))
    result = select(space, pairs, known, Searcher(space.docs_NR, CPU), candidates=1)
    assert result.doc_rows_M.tolist() == [701]
    assert result.certificate_M.tolist() == ["found"]


def test_no_negative_is_a_judged_positive_nor_its_copy() -> None:
    space, judged, known = awkward_space(11, docs=300, queries=30, pairs=120, width=5)
    result = select(space, judged, known, Searcher(space.docs_NR, CPU), negatives=10)
    assert not known.mask(result.pair_M, result.doc_rows_M).any()
    positives = {(q, known.groups_N[d]) for q, docs in judged.positives_of().items() for d in docs}
    queries, texts = judged.query_rows_P[result.pair_M], known.groups_N[result.doc_rows_M]
    assert not positives & set(zip(queries.tolist(), texts.tolist(), strict=True))
    assert (result.d_query_negative_M < result.d_query_positive_M).all()
    assert (result.d_query_negative_M < result.d_positive_negative_M).all()
