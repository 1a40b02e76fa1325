"""The rules against their definitions, document by document, and those that draw against their probabilities."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from hnmine.arms.rules import GUARDED, MIXTURES, RULES, Rule, View, about, mixture, rule_of, simans, trisampler
from hnmine.config.base import slug
from hnmine.config.load import load
from hnmine.config.steps import RuleName
from hnmine.errors import ConfigError

ALL = RULES | GUARDED | MIXTURES
GRID = np.linspace(0, 1.2, 30)


def view_of(
    d_query: np.ndarray,
    d_positive: np.ndarray,
    radius: float,
    *,
    cluster: tuple[int, ...] = (),
    first: tuple[int, ...] = (),
    seed: int = 0,
) -> View:
    return View(
        d_query_n=d_query,
        radius=radius,
        d_positive=lambda at: d_positive[at],
        own_cluster=lambda: np.array(cluster, dtype=np.int64),
        first_f=np.array(first, dtype=np.int64),
        seed=(seed,),
    )


def awkward(seed: int, documents: int) -> View:
    """Distances on a coarse grid, so that there are many ties, with each other and with the positive."""
    rng = np.random.default_rng(seed)
    return view_of(
        np.sort(rng.choice(GRID, documents)),
        rng.choice(GRID, documents),
        float(rng.choice(GRID)),
        cluster=tuple(np.flatnonzero(rng.random(documents) < 0.3).tolist()),
        first=tuple(rng.permutation(documents)[: rng.integers(0, 80)].tolist()),
        seed=seed,
    )


def again(view: View) -> View:
    """The same, nothing drawn yet."""
    return replace(view)


Keep = Callable[[View, int, float, float, float], bool]
"""A deterministic rule as a person writes it: does it take this one, given position, d_q, d_p, radius?"""

KEPT: dict[str, Keep] = {
    "nearest document": lambda view, i, d_q, d_p, radius: True,
    "condition 1": lambda view, i, d_q, d_p, radius: d_q < radius,
    "two conditions": lambda view, i, d_q, d_p, radius: d_q < radius and d_q < d_p,
    "two conditions, guarded": lambda view, i, d_q, d_p, radius: (
        d_q < radius and d_q < d_p and radius - d_q <= 0.02 and i >= 4
    ),
    "PercPos 0.95": lambda view, i, d_q, d_p, radius: 1 - d_q <= (1 - radius) - 0.05 * abs(1 - radius) + 1e-12,
    "MarginPos 0.05": lambda view, i, d_q, d_p, radius: 1 - d_q <= 1 - radius - 0.05,
    "PercPos 0.95, own cluster": lambda view, i, d_q, d_p, radius: (
        i in view.own_cluster().tolist() and KEPT["PercPos 0.95"](view, i, d_q, d_p, radius)
    ),
    "just below the positive": lambda view, i, d_q, d_p, radius: d_q >= radius,
}
DRAWN: dict[str, Callable[[View], set[int]]] = {
    "SimANS": lambda view: set(range(len(view.d_query_n))[:100]),
    "TriSampler": lambda view: {
        i
        for i, (d_q, d_p) in enumerate(
            zip(view.d_query_n, view.d_positive(np.arange(len(view.d_query_n))), strict=True)
        )
        if i < 100 and d_q > d_p and abs(math.acos(1 - d_q) - math.acos(1 - view.radius)) <= math.pi / 3
    },
    "random of ranks 10-110": lambda view: set(range(len(view.d_query_n))[10:110]),
    "random of BM25's first 50": lambda view: set(view.first_f.tolist()[:50]),
    "random": lambda view: set(range(len(view.d_query_n))),
}
"""Of the rules that draw: what they may draw from."""


def test_every_rule_is_tested() -> None:
    assert {*KEPT, *DRAWN, "BM25"} == {*RULES, *GUARDED}


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), documents=st.integers(0, 130), count=st.integers(1, 150))
def test_the_rules_choose_by_their_definitions(seed: int, documents: int, count: int) -> None:
    view = awkward(seed, documents)
    d_positive = view.d_positive(np.arange(documents)).tolist()
    for name, keep in KEPT.items():
        pairs = enumerate(zip(view.d_query_n.tolist(), d_positive, strict=True))
        expected = [i for i, (d_q, d_p) in pairs if keep(view, i, d_q, d_p, view.radius)]
        assert ALL[name](again(view), count).tolist() == expected[:count], name
    assert RULES["BM25"](again(view), count).tolist() == view.first_f.tolist()[:count]
    for name, pool in DRAWN.items():
        drawn = RULES[name](again(view), count).tolist()
        assert len(drawn) == len(set(drawn)) == min(count, len(pool(view))), name
        assert set(drawn) <= pool(view), name


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), documents=st.integers(0, 130), count=st.integers(1, 20))
@pytest.mark.parametrize("name", list(ALL))
def test_who_is_asked_for_fewer_gives_the_beginning_of_the_same_list(
    name: str, seed: int, documents: int, count: int
) -> None:
    view = awkward(seed, documents)
    chosen = ALL[name](again(view), 20)
    assert chosen.dtype == np.int64
    assert len(set(chosen.tolist())) == len(chosen) <= 20
    assert ALL[name](again(view), count).tolist() == chosen[:count].tolist()


def first_and_second(rule: Rule, view: View, draws: int) -> tuple[Counter[int], Counter[int]]:
    lists = [rule(replace(view, seed=(seed,)), 2).tolist() for seed in range(draws)]
    return Counter(drawn[0] for drawn in lists), Counter(drawn[1] for drawn in lists if len(drawn) > 1)


def assert_drawn_by(weights: list[float], rule: Rule, view: View, draws: int = 8000) -> None:
    """The first falls on i with p_i, the second with what is left of it: sum over j of p_j p_i / (1 - p_j)."""
    p = np.array(weights) / sum(weights)
    left = np.array([sum(p[j] * p[i] / (1 - p[j]) for j in range(len(p)) if j != i) for i in range(len(p))])
    for counted, expected in zip(first_and_second(rule, view, draws), (p, left), strict=True):
        possible = np.flatnonzero(expected)
        assert set(counted) <= set(possible.tolist())
        seen = [counted[i] for i in possible]
        assert chisquare(seen, expected[possible] * sum(seen)).pvalue > 1e-4, (seen, expected)


def test_simans_draws_by_its_distribution() -> None:
    s_negative, s_positive = [0.72, 0.66, 0.6, 0.55, 0.5], 0.61
    view = view_of(1 - np.array(s_negative), np.zeros(5), 1 - s_positive)
    assert_drawn_by([math.exp(-200 * (s - s_positive) ** 2) for s in s_negative], simans, view)
    assert_drawn_by(
        [math.exp(-50 * (s - s_positive + 0.05) ** 2) for s in s_negative[:4]] + [0],
        partial(simans, a=50, b=-0.05, k=4),
        view,
    )


def test_simans_draws_where_every_weight_is_too_small_for_a_float() -> None:
    view = view_of(np.array([0.95, 1.0, 1.05]), np.zeros(3), 0.1)
    assert math.exp(-2000 * (0.95 - 0.1) ** 2) == 0
    assert simans(view, 3, a=2000).tolist() == [0, 1, 2]  # each is e^175 times likelier than the next, or more


def test_trisampler_draws_by_its_distribution() -> None:
    d_query, d_positive = np.array([0.3, 0.4, 0.5, 0.6, 0.7]), np.array([0.4, 0.3, 0.3, 0.6, 0.4])
    view = view_of(d_query, d_positive, 0.35)
    assert_drawn_by([0, 0.1, 0.2, 0, 0.3], trisampler, view)
    assert_drawn_by([0, 0.1, 0.2, 0, 0], partial(trisampler, k=4), view)
    # from the query PD is at acos .65 = 49.5 degrees; the documents at 45.6, 53.1, 60, 66.4 and 72.5
    assert_drawn_by([0, 0.1, 0.2, 0, 0], partial(trisampler, degrees=20), view)


@pytest.mark.parametrize(
    ("name", "pool"),
    [
        ("random", range(15)),
        ("random of ranks 10-110", range(10, 15)),
        ("random of BM25's first 50", [14, 3, 7]),
    ],
)
def test_what_is_drawn_at_random_is_drawn_evenly(name: str, pool: list[int]) -> None:
    view = view_of(np.linspace(0.1, 0.9, 15), np.zeros(15), 0.5, first=(14, 3, 7))
    assert_drawn_by([float(i in pool) for i in range(15)], RULES[name], view, draws=4000)


def test_a_mixture_takes_some_from_one_rule_and_what_is_wanting_from_another() -> None:
    nearest, first = RULES["nearest document"], RULES["BM25"]
    view = view_of(np.linspace(0.1, 0.9, 9), np.zeros(9), 0.25, first=(1, 8, 0, 5))
    assert mixture(nearest, 2, first)(view, 4).tolist() == [0, 1, 8, 5]
    assert mixture(first, 1, nearest)(view, 4).tolist() == [1, 0, 2, 3]
    assert mixture(RULES["condition 1"], 3, first)(view, 4).tolist() == [0, 1, 8, 5]  # only two are nearer
    assert mixture(first, 9, nearest)(view, 6).tolist() == [1, 8, 0, 5, 2, 3]
    assert mixture(nearest, 2, first)(replace(view, first_f=np.empty(0, dtype=np.int64)), 4).tolist() == [0, 1]


def test_a_mixture_begins_with_the_rule_it_is_named_after() -> None:
    for name, rule in MIXTURES.items():
        for seed in range(30):
            view = awkward(seed, 60)
            alone = ALL[name.removesuffix(", then BM25")](again(view), 1).tolist()
            assert rule(again(view), 4).tolist()[: len(alone)] == alone


def test_every_rule_says_what_it_does_in_one_line() -> None:
    for name, rule in ALL.items():
        assert about(rule).endswith("."), name
    assert about(RULES["PercPos 0.95"]).endswith("(TopK-PercPos, arXiv 2407.15831).")
    assert "two" not in about(RULES["random"])


def test_every_rule_can_be_named_in_the_settings_and_no_other() -> None:
    names = get_args(RuleName)
    assert sorted(names) == sorted(map(slug, ALL))
    for name, rule in ALL.items():
        config = load(overrides=[f"select.rule={json.dumps(name)}"])
        assert rule_of(config.select.rule) == (None if rule is RULES["two conditions"] else (name, rule))
    with pytest.raises(ConfigError, match=r"select\.rule: .*percpos"):
        load(overrides=["select.rule=perc"])
