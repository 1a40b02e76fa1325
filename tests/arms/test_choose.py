"""The rules over many pairs, and judges of what they chose, against `select` and plain loops, with ties and copies."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnmine.arms import choose as arms
from hnmine.arms.choose import agreed, choose_negatives, clusters, denoised, negatives_by_rule
from hnmine.arms.rules import GUARDED, MIXTURES, RULES, Rule, View
from hnmine.errors import ConfigError
from hnmine.mining.conditions import Known, select
from hnmine.mining.search import Searcher
from hnmine.types import NO_ROW, Float64, Int64, Pairs, Space, distance, unit_rows
from tests.builders.devices import CPU

ALL = RULES | GUARDED | MIXTURES


def awkward(seed: int, docs: int = 60, queries: int = 6, pairs: int = 14) -> tuple[Space, Pairs, Known, np.ndarray]:
    """Vectors on a coarse grid, so ties; copies of texts, and other texts with the same vector; a first stage."""
    rng = np.random.default_rng(seed)
    width = int(rng.integers(2, 9))
    grid = rng.integers(-2, 3, size=(docs + queries, width)).astype(np.float32)
    grid[rng.random(len(grid)) < 0.5] += rng.normal(size=width).astype(np.float32)
    groups = np.where(rng.random(docs) < 0.3, rng.integers(0, docs, docs), np.arange(docs)).astype(np.int64)
    grid[:docs] = grid[groups]  # equal text, equal vector
    same = rng.random(queries) < 0.2
    grid[docs:][same] = grid[rng.integers(0, docs, size=int(same.sum()))]
    unit = unit_rows(grid)
    judged = np.unique(np.stack([rng.integers(0, queries, pairs), rng.integers(0, docs, pairs)], axis=1), axis=0)
    rows = rng.permutation(judged).astype(np.int64)
    chosen = Pairs(query_rows_P=rows[:, 0].copy(), doc_rows_P=rows[:, 1].copy())
    first = np.stack([rng.permutation(docs)[: docs // 2] for _ in range(queries)])
    first[np.arange(docs // 2) >= rng.integers(0, docs // 2, queries)[:, None]] = NO_ROW
    return Space(docs_NR=unit[:docs], queries_QR=unit[docs:]), chosen, known_of(chosen, groups), first


def known_of(pairs: Pairs, groups: np.ndarray) -> Known:
    positives = pairs.positives_of()
    return Known([positives[query] for query in pairs.query_rows_P.tolist()], groups)


def d(a: np.ndarray, b: np.ndarray) -> float:
    return float(distance(a[None], b[None])[0])


def by_plain_loop(
    space: Space, pairs: Pairs, groups: np.ndarray, first: np.ndarray, rules: Mapping[str, Rule], count: int
) -> dict[str, list[list[int]]]:
    """Look at one pair after the other, and at one document after the other."""
    chosen: dict[str, list[list[int]]] = {name: [] for name in rules}
    numbers = clusters(space.docs_NR, 5)
    for query, positive in zip(pairs.query_rows_P.tolist(), pairs.doc_rows_P.tolist(), strict=True):
        q, pd = space.queries_QR[query], space.docs_NR[positive]
        seen = {groups[doc] for doc in pairs.positives_of()[query]}
        rows = []
        for _, row in sorted((d(q, doc), row) for row, doc in enumerate(space.docs_NR)):
            if groups[row] not in seen:
                seen.add(groups[row])
                rows.append(row)
        at = {groups[row]: place for place, row in enumerate(rows)}
        firsts = [at[groups[row]] for row in first[query].tolist() if row != NO_ROW and groups[row] in at]
        d_query = np.array([d(q, space.docs_NR[row]) for row in rows])
        d_positive = np.array([d(pd, space.docs_NR[row]) for row in rows])
        for name, rule in rules.items():
            view = View(
                d_query_n=d_query,
                radius=d(q, pd),
                d_positive=lambda places, d_positive=d_positive: d_positive[places],
                own_cluster=lambda rows=rows, positive=positive: np.array(
                    [place for place, row in enumerate(rows) if numbers[row] == numbers[positive]], dtype=np.int64
                ),
                first_f=np.array(list(dict.fromkeys(firsts)), dtype=np.int64),
                seed=(5, query, positive),
            )
            taken = [rows[place] for place in rule(view, count).tolist()]
            chosen[name].append(taken + [NO_ROW] * (count - len(taken)))
    return chosen


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 5))
def test_the_rules_choose_what_they_would_choose_of_a_plain_loop(seed: int, count: int) -> None:
    space, pairs, known, first = awkward(seed)
    chosen = choose_negatives(space, pairs, known, ALL, count=count, seed=5, first_QK=first)
    expected = by_plain_loop(space, pairs, known.groups_N, first, ALL, count)
    assert {name: rows_Pm.tolist() for name, rows_Pm in chosen.items()} == expected


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), docs=st.integers(2, 80), queries=st.integers(1, 9), negatives=st.integers(1, 6))
def test_the_two_conditions_are_those_of_select(seed: int, docs: int, queries: int, negatives: int) -> None:
    space, pairs, known, _ = awkward(seed, docs=docs, queries=queries)
    rules = {"two conditions": RULES["two conditions"]}
    chosen = choose_negatives(space, pairs, known, rules, count=negatives, seed=0)["two conditions"]
    found = select(space, pairs, known, Searcher(space.docs_NR, CPU), negatives=negatives, candidates=5)
    pair_M, column_M = np.nonzero(chosen != NO_ROW)
    assert pair_M.tolist() == found.pair_M.tolist()
    assert (column_M + 1).tolist() == found.rank_M.tolist()
    assert chosen[pair_M, column_M].tolist() == found.doc_rows_M.tolist()


def test_no_rule_chooses_a_judged_positive_or_a_text_twice() -> None:
    chosen_of_any = 0
    for seed in range(20):
        space, pairs, known, first = awkward(seed)
        positives = pairs.positives_of()
        for rows_Pm in choose_negatives(space, pairs, known, ALL, count=6, seed=seed, first_QK=first).values():
            for query, rows in zip(pairs.query_rows_P.tolist(), rows_Pm.tolist(), strict=True):
                taken = [row for row in rows if row != NO_ROW]
                assert rows == taken + [NO_ROW] * (6 - len(taken))
                texts = known.groups_N[taken].tolist()
                assert len(set(texts)) == len(texts)
                assert not set(texts) & set(known.groups_N[positives[query]].tolist())
                chosen_of_any += len(taken)
    assert chosen_of_any > 5000


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_what_is_chosen_for_a_pair_depends_neither_on_other_pairs_nor_on_other_rules(seed: int) -> None:
    space, pairs, known, first = awkward(seed)
    whole = choose_negatives(space, pairs, known, ALL, count=3, seed=5, first_QK=first)
    rng = np.random.default_rng(seed)
    part = rng.permutation(len(pairs))[: rng.integers(1, len(pairs) + 1)]
    positives = pairs.positives_of()
    known_of_part = Known([positives[query] for query in pairs.query_rows_P[part].tolist()], known.groups_N)
    names = rng.permutation(list(ALL))[:4].tolist()
    some = choose_negatives(
        space, pairs.take(part), known_of_part, {name: ALL[name] for name in names}, count=3, seed=5, first_QK=first
    )
    assert list(some) == names
    for name, rows_Pm in some.items():
        assert rows_Pm.tolist() == whole[name][part].tolist(), name


def test_another_seed_draws_otherwise_and_the_same_seed_the_same() -> None:
    space, pairs, known, first = awkward(3)
    one, same, other = (choose_negatives(space, pairs, known, ALL, count=3, seed=s, first_QK=first) for s in (1, 1, 2))
    drawing = {"SimANS", "TriSampler", "random of ranks 10-110", "random of BM25's first 50", "random", *MIXTURES}
    for name in ALL:
        assert one[name].tolist() == same[name].tolist()
        if name != "PercPos 0.95, own cluster":  # other clusters may be the same
            assert (one[name].tolist() != other[name].tolist()) == (name in drawing), name


def test_a_rule_of_the_first_stage_chooses_nothing_without_one() -> None:
    space, pairs, known, _ = awkward(3)
    chosen = choose_negatives(space, pairs, known, ALL, count=3, seed=5)
    assert (chosen["BM25"] == NO_ROW).all()
    assert (chosen["random of BM25's first 50"] == NO_ROW).all()
    assert (chosen["nearest document"] != NO_ROW).all()


def test_neither_the_block_nor_the_layout_of_the_vectors_changes_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    space, pairs, known, first = awkward(8, docs=200, queries=30, pairs=60)
    expected = choose_negatives(space, pairs, known, ALL, count=3, seed=5, first_QK=first)
    turned = Space(docs_NR=np.asfortranarray(space.docs_NR), queries_QR=np.asfortranarray(space.queries_QR))
    monkeypatch.setattr(arms, "DISTANCES_AT_ONCE", 700)
    monkeypatch.setattr(arms, "NUMBERS_AT_ONCE", 100)
    finished: list[int] = []
    chosen = choose_negatives(turned, pairs, known, ALL, count=3, seed=5, first_QK=first, done=finished.append)
    for name in ALL:
        assert chosen[name].tolist() == expected[name].tolist(), name
    assert sum(finished) == len(pairs)


def test_without_pairs_nothing_is_chosen() -> None:
    space, pairs, known, _ = awkward(1)
    none = pairs.take(np.empty(0, dtype=np.int64))
    chosen = choose_negatives(space, none, Known([], known.groups_N), RULES, count=2, seed=0)
    assert {rows_Pm.shape for rows_Pm in chosen.values()} == {(0, 2)}


def test_the_distance_of_two_rows_is_the_same_however_they_lie_in_memory() -> None:
    rng = np.random.default_rng(0)
    for width in (1, 3, 8, 64, 257, 384):
        docs = unit_rows(rng.normal(size=(500, width)).astype(np.float32))
        expected = [d(docs[0], doc) for doc in docs]
        beside = np.broadcast_to(docs[0], docs.shape)
        assert distance(docs[0], docs).tolist() == expected
        assert distance(beside, docs).tolist() == expected
        assert distance(np.asfortranarray(beside), np.asfortranarray(docs)).tolist() == expected
        assert distance(docs[0].astype(np.float64), docs.astype(np.float64)).tolist() == expected


def test_clusters_are_those_that_are_apart() -> None:
    rng = np.random.default_rng(0)
    centres = np.repeat(np.arange(3), 48)
    docs = unit_rows(np.eye(3, 5, dtype=np.float32)[centres] + 0.05 * rng.normal(size=(144, 5)).astype(np.float32))
    numbers = clusters(docs, 0)
    assert numbers.dtype == np.int64
    assert len(set(zip(centres.tolist(), numbers.tolist(), strict=True))) == 3
    assert clusters(docs[:49], 0).tolist() == [0] * 49
    assert clusters(docs, 2**40).tolist() == clusters(docs, 2**40).tolist()


def test_there_are_at_most_two_hundred_clusters() -> None:
    spread = unit_rows(np.random.default_rng(0).normal(size=(10_050, 4)).astype(np.float32))
    assert len(np.unique(clusters(spread, 0))) == 200


Case = tuple[Pairs, list[list[int]], np.random.Generator]


def case(seed: int, documents: int, queries: int) -> Case:
    """Eight pairs, and of each some documents, its positive not among them, in any order."""
    rng = np.random.default_rng(seed)
    pairs = Pairs(query_rows_P=rng.integers(0, queries, 8), doc_rows_P=rng.integers(0, documents, 8))
    candidates = [
        [row for row in rng.permutation(documents)[: rng.integers(0, documents + 1)].tolist() if row != positive]
        for positive in pairs.doc_rows_P.tolist()
    ]
    return pairs, candidates, rng


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 5))
def test_the_start_keeps_what_it_scores_no_higher_than_the_positive(seed: int, documents: int, queries: int) -> None:
    pairs, candidates, rng = case(seed, documents, queries)
    score_QN = rng.integers(0, 6, (queries, documents)).astype(float)

    def scores(query_rows_F: Int64, doc_rows_F: Int64) -> Float64:
        return score_QN[query_rows_F, doc_rows_F]

    kept, wrong = denoised(pairs, candidates, scores), denoised(pairs, candidates, scores, highest_first=True)
    for at, (query, positive) in enumerate(zip(pairs.query_rows_P.tolist(), pairs.doc_rows_P.tolist(), strict=True)):
        below = [row for row in candidates[at] if score_QN[query, row] <= score_QN[query, positive]]
        assert kept[at] == below
        assert wrong[at] == sorted(below, key=lambda row: -score_QN[query, row])


def conditions(space: Space, query: int, positive: int, doc: int) -> bool:
    """Both conditions, as written."""
    q, p, d = (row.astype(np.float64) for row in (space.queries_QR[query], space.docs_NR[positive], space.docs_NR[doc]))
    return bool(1 - q @ d < 1 - q @ p and 1 - q @ d < 1 - p @ d)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 5), st.integers(1, 3))
def test_encoders_keep_what_satisfies_both_conditions_in_every_space(
    seed: int, documents: int, queries: int, encoders: int
) -> None:
    pairs, candidates, rng = case(seed, documents, queries)
    spaces = [
        Space(
            docs_NR=unit_rows(rng.normal(size=(documents, 3)).astype(np.float32)),
            queries_QR=unit_rows(rng.normal(size=(queries, 3)).astype(np.float32)),
        )
        for _ in range(encoders)
    ]
    kept = agreed(pairs, candidates, spaces)
    for at, (query, positive) in enumerate(zip(pairs.query_rows_P.tolist(), pairs.doc_rows_P.tolist(), strict=True)):
        wanted = [row for row in candidates[at] if all(conditions(space, query, positive, row) for space in spaces)]
        assert kept[at] == wanted


# A rule of the user's


@pytest.mark.parametrize("seed", range(4))
def test_a_rule_of_the_users_chooses_as_the_same_rule_of_ours_with_proven_distances(seed: int) -> None:
    space, pairs, known, first = awkward(seed)
    rule = RULES["two conditions"]
    expected = choose_negatives(space, pairs, known, {"": rule}, count=3, seed=5, first_QK=first)[""]
    found = negatives_by_rule(
        space, pairs, known, lambda view, count: rule(view, count), count=3, seed=5, first_QK=first
    )
    rows = [(pair, doc) for pair, docs in enumerate(expected.tolist()) for doc in docs if doc != NO_ROW]
    assert list(zip(found.pair_M.tolist(), found.doc_rows_M.tolist(), strict=True)) == rows
    assert found.dropped == {"rule_chooses_none": len(pairs) - len({pair for pair, _ in rows})}
    for at, (pair, doc) in enumerate(rows):
        q, pd = space.queries_QR[pairs.query_rows_P[pair]], space.docs_NR[pairs.doc_rows_P[pair]]
        negative = space.docs_NR[doc]
        assert found.d_query_positive_M[at] == d(q, pd)
        assert found.d_query_negative_M[at] == d(q, negative)
        assert found.d_positive_negative_M[at] == d(pd, negative)
        assert found.rank_M[at] == 1 + sum(before == pair for before, _ in rows[:at])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda view, count: np.array([0, 0]),
        lambda view, count: np.arange(count + 1),
        lambda view, count: np.array([-1]),
        lambda view, count: np.array([len(view.d_query_n)]),
        lambda view, count: np.array([0.5]),
        lambda view, count: view.d_query_n < view.radius,
        lambda view, count: None,
    ],
)
def test_a_rule_that_returns_no_positions_is_refused_by_name(wrong: Rule) -> None:
    space, pairs, known, first = awkward(0)
    message = r"the rule .*<lambda> must return at most 2 distinct positions from 0 to \d+, got"
    with pytest.raises(ConfigError, match=message):
        negatives_by_rule(space, pairs, known, wrong, count=2, seed=0, first_QK=first)
