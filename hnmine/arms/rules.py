"""Ways to choose the negatives of a pair, told apart by where they look; `arms.choose` runs them over many pairs.

A rule sees one pair as a `View`: every document that may be chosen (`corpus.never_negative`, of each text one),
nearest to the query first. It returns positions in that order, at most as many as it is asked for, the best first
(random ones as drawn), and fewer where fewer qualify. Asked for fewer, it returns the beginning of the same list.

The first line of a rule's docstring is its description in listings. s = 1 - d is the cosine similarity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from hnmine.config.base import slug
from hnmine.config.steps import RuleName
from hnmine.types import Float64, Int64


@dataclass(frozen=True, kw_only=True)
class View:
    """One pair as the rules see it: n documents that may be chosen, nearest to the query first; ties by row."""

    d_query_n: Float64
    """d(Q, D), ascending."""
    radius: float
    """d(Q, PD)."""
    d_positive: Callable[[Int64], Float64]
    """Maps positions to d(PD, D): few rules need it, and of few documents."""
    own_cluster: Callable[[], Int64]
    """Returns the positions of the documents in the positive's cluster, nearest to the query first."""
    first_f: Int64
    """Positions of the first stage's documents, in its order; empty without one."""
    seed: tuple[int, ...]

    @cached_property
    def rng(self) -> np.random.Generator:
        """The pair's own random numbers."""
        return np.random.default_rng(self.seed)


Rule = Callable[[View, int], Int64]
"""Maps a view and a number to at most so many distinct positions of the view, the best first."""


def nearest(view: View, count: int) -> Int64:
    """Choose the documents nearest to the query, whatever they are."""
    return np.arange(min(count, len(view.d_query_n)))


def condition_1(view: View, count: int) -> Int64:
    """Choose the nearest that are nearer than the positive."""
    return np.flatnonzero(view.d_query_n[:count] < view.radius)


def two_conditions(view: View, count: int) -> Int64:
    """Choose the nearest that are nearer than the positive, and nearer to the query than to it (arXiv 2505.18366)."""
    nearer = np.flatnonzero(view.d_query_n < view.radius)
    return nearer[view.d_query_n[nearer] < view.d_positive(nearer)][:count]


def guarded(view: View, count: int, margin: float = 0.02, first_rank: int = 5) -> Int64:
    """Choose as the two conditions do, of documents at most 0.02 nearer than the positive and beyond the 4 nearest."""
    chosen = two_conditions(view, len(view.d_query_n))
    lead_n = view.radius - view.d_query_n[chosen]
    return chosen[(chosen >= first_rank - 1) & (lead_n <= margin)][:count]


def percent_of_positive(view: View, count: int, share: float = 0.95) -> Int64:
    """Choose the nearest with at most 95 % of the positive's similarity (TopK-PercPos, arXiv 2407.15831)."""
    positive = 1 - view.radius
    return np.flatnonzero(1 - view.d_query_n <= positive - abs(positive) * (1 - share))[:count]


def margin_of_positive(view: View, count: int, margin: float = 0.05) -> Int64:
    """Choose the nearest with at most the positive's similarity - 0.05 (TopK-MarginPos, arXiv 2407.15831)."""
    return np.flatnonzero(1 - view.d_query_n <= 1 - view.radius - margin)[:count]


def below_positive(view: View, count: int) -> Int64:
    """Choose the nearest that are no nearer than the positive (semi-hard, arXiv 1503.03832)."""
    return np.flatnonzero(view.d_query_n >= view.radius)[:count]


def rank_window(view: View, count: int, low: int = 10, high: int = 110) -> Int64:
    """Choose at random among the ranks 10 to 109, counted from 0 (RAGatouille)."""
    return view.rng.permutation(np.arange(len(view.d_query_n))[low:high])[:count]


def simans(view: View, count: int, a: float = 200.0, b: float = 0.0, k: int = 100) -> Int64:
    """Draw from the 100 nearest by exp(-a (s(Q,D) - s(Q,PD) - b)²): those about as near as PD (arXiv 2210.11773).

    The authors' code has a = 0.5, b = 0 and the first 100 (Wikipedia) or 200 (MS MARCO), with s the logit of the
    training's softmax. For a cosine that logit is s / 0.05, the temperature that most encoders are trained with, so a
    is 0.5 / 0.05². The weight falls to a half at a difference of 0.06.
    """
    gap = view.radius - view.d_query_n[:k]
    return _drawn(view, np.arange(len(gap)), -a * np.square(gap - b), count)


def trisampler(view: View, count: int, degrees: float = 60.0, k: int = 100) -> Int64:
    """Draw from the 100 nearest by max(0, s(PD,D) - s(Q,D)): those nearer to PD than to Q (arXiv 2402.11855).

    The region is |angle(Q,PD) - angle(Q,D)| <= 60°, which seldom excludes one of the nearest. From summaries of the
    paper, which was not at hand. Not known: its k; and to how many its first step thins the k nearest, by
    exp(-(s(Q,D) - s(Q,PD))² / 4), which is left out.
    """
    near = np.arange(min(k, len(view.d_query_n)))
    angle_n, radius_angle = (np.arccos(np.clip(1 - d, -1, 1)) for d in (view.d_query_n[near], np.array(view.radius)))
    near = near[np.abs(angle_n - radius_angle) <= np.radians(degrees)]
    weight = view.d_query_n[near] - view.d_positive(near)
    return _drawn(view, near[weight > 0], np.log(weight[weight > 0]), count)


def own_cluster(view: View, count: int) -> Int64:
    """Choose as PercPos 0.95 does, in the positive's own k-means cluster only (NeMo Curator's miner of 2025)."""
    within = view.own_cluster()
    return within[percent_of_positive(replace(view, d_query_n=view.d_query_n[within]), count)]


def first_stage(view: View, count: int) -> Int64:
    """Choose the first documents of the first stage."""
    return view.first_f[:count]


def of_first_stage(view: View, count: int, depth: int = 50) -> Int64:
    """Choose at random among the first 50 documents of the first stage, as training draws its anchors."""
    return view.rng.permutation(view.first_f[:depth])[:count]


def random(view: View, count: int) -> Int64:
    """Choose at random from the corpus."""
    return view.rng.permutation(len(view.d_query_n))[:count]


def mixture(rule: Rule, most: int, rest: Rule) -> Rule:
    """Return the rule that chooses up to `most` by one rule, and what is wanting by another."""

    def mixed(view: View, count: int) -> Int64:
        chosen = rule(view, min(most, count))
        others = rest(view, count)
        return np.concatenate([chosen, others[~np.isin(others, chosen)]])[:count]

    mixed.__doc__ = f"Up to {most}: {about(rule)} The rest: {about(rest)}"
    return mixed


def about(rule: Rule) -> str:
    """Return the one line that describes a rule."""
    return (rule.__doc__ or "").partition("\n")[0]


def _drawn(view: View, positions_n: Int64, log_weight_n: Float64, count: int) -> Int64:
    """Draw one after the other by weight, without replacement: the order of log w + Gumbel noise."""
    return positions_n[np.argsort(-log_weight_n - view.rng.gumbel(size=len(positions_n)))[:count]]


RULES: dict[str, Rule] = {
    "nearest document": nearest,
    "condition 1": condition_1,
    "two conditions": two_conditions,
    "PercPos 0.95": percent_of_positive,
    "MarginPos 0.05": margin_of_positive,
    "PercPos 0.95, own cluster": own_cluster,
    "just below the positive": below_positive,
    "SimANS": simans,
    "TriSampler": trisampler,
    "random of ranks 10-110": rank_window,
    "BM25": first_stage,
    "random of BM25's first 50": of_first_stage,
    "random": random,
}
"""By the name in tables. Those of BM25 choose from whatever first stage they are given, and nothing without one."""

GUARDED: dict[str, Rule] = {"two conditions, guarded": guarded}
"""What the audit measures by the guards themselves."""

MIXTURES: dict[str, Rule] = {
    "two conditions, guarded, then BM25": mixture(guarded, 1, of_first_stage),
    "two conditions, then BM25": mixture(two_conditions, 1, of_first_stage),
    "PercPos 0.95, then BM25": mixture(percent_of_positive, 1, of_first_stage),
}
"""Rules for lists of several negatives; the first negative is that of the rule they are named after."""


def rule_of(name: RuleName) -> tuple[str, Rule] | None:
    """Return the rule that `select.rule` names, behind its name in tables; None: the two conditions, with guards."""
    named = {slug(each): (each, rule) for each, rule in (RULES | GUARDED | MIXTURES).items()}
    return None if name == "two-conditions" else named[name]
