"""Ways to choose one negative of a pair, told apart by where they look; what `auditing` compares.

A rule sees, for one pair, the distances of every document that may be chosen (all but the known positives), and
returns the position of its choice or None. s = 1 - d is the cosine similarity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hnmine.types import Float64


@dataclass(frozen=True, kw_only=True)
class View:
    """One pair as the rules see it, documents nearest to the query first; ties by row."""

    d_query_n: Float64
    d_positive_n: Float64
    radius: float
    """d(Q, PD)."""
    rng: np.random.Generator


Rule = Callable[[View], int | None]


def _first(mask_n: np.typing.NDArray[np.bool_]) -> int | None:
    return int(mask_n.argmax()) if mask_n.any() else None


def nearest(view: View) -> int | None:
    """Choose the document nearest to the query, whatever it is."""
    return 0 if len(view.d_query_n) else None


def condition_1(view: View) -> int | None:
    """Choose the nearest if it is nearer than the positive."""
    return _first(view.d_query_n[:1] < view.radius) if len(view.d_query_n) else None


def two_conditions(view: View) -> int | None:
    """Choose the nearest that is nearer than the positive, and nearer to the query than to the positive."""
    return _first((view.d_query_n < view.radius) & (view.d_query_n < view.d_positive_n))


def percent_of_positive(view: View, share: float = 0.95) -> int | None:
    """Choose the nearest with at most `share` of the positive's similarity (NV-Retriever's TopK-PercPos)."""
    positive = 1 - view.radius
    return _first(1 - view.d_query_n <= positive - abs(positive) * (1 - share))


def below_positive(view: View) -> int | None:
    """Choose the nearest that is no nearer than the positive (semi-hard)."""
    return _first(view.d_query_n >= view.radius)


def rank_window(view: View, low: int = 10, high: int = 110) -> int | None:
    """Choose at random among the ranks low to high - 1, counted from 0."""
    high = min(high, len(view.d_query_n))
    return int(view.rng.integers(low, high)) if high > low else None


def random(view: View) -> int | None:
    """Choose at random from the corpus."""
    return int(view.rng.integers(len(view.d_query_n))) if len(view.d_query_n) else None


RULES: dict[str, Rule] = {
    "nearest document": nearest,
    "condition 1": condition_1,
    "two conditions": two_conditions,
    "PercPos 0.95": percent_of_positive,
    "just below the positive": below_positive,
    "random of ranks 10-110": rank_window,
    "random": random,
}
