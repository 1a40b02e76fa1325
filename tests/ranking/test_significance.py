"""The paired test against every sign pattern, and against chance."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnmine.ranking.significance import paired


def p_by_enumeration(differences: np.ndarray) -> float:
    """The share of all sign patterns whose mean is at least as far from 0."""
    signs = np.array(list(itertools.product((-1, 1), repeat=len(differences))))
    means = np.abs((signs * differences).mean(axis=1))
    return float((means >= abs(differences.mean()) - 1e-12).mean())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.1, 0.2, 1 / 3, 0.5, 1.0]), min_size=2, max_size=20), st.integers(0, 99))
def test_with_few_queries_p_is_that_of_all_sign_patterns(values: list[float], seed: int) -> None:
    after = np.array(values[: len(values) // 2])
    before = np.array(values[len(values) // 2 : 2 * (len(values) // 2)])
    result = paired(after, before, seed)
    assert result.difference == pytest.approx((after - before).mean())
    assert result.p == pytest.approx(p_by_enumeration(after - before))
    assert result.low <= result.difference + 1e-12
    assert result.high >= result.difference - 1e-12


def test_without_a_difference_p_is_small_only_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    ps = [paired(rng.random(40), rng.random(40), seed).p for seed in range(100)]
    assert np.mean(np.array(ps) < 0.1) == pytest.approx(0.1, abs=0.07)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for seed in range(80):
        before = rng.random(60)
        result = paired(before + rng.normal(0.05, 0.2, size=60), before, seed)
        held += result.low <= 0.05 <= result.high
    assert held / 80 == pytest.approx(0.95, abs=0.07)


def test_a_clear_gain_is_seen_and_the_order_of_runs_only_turns_the_sign() -> None:
    rng = np.random.default_rng(2)
    before = rng.random(200)
    after = np.clip(before + rng.normal(0.1, 0.2, size=200), 0, 1)
    gain, loss = paired(after, before), paired(before, after)
    assert gain.p < 0.001
    assert 0 < gain.low < gain.difference < gain.high
    assert loss.difference == -gain.difference
    assert loss.p == pytest.approx(gain.p, abs=1e-3)


def test_equal_runs_are_no_difference_and_unequal_lengths_are_refused() -> None:
    same = paired(np.ones(5), np.ones(5))
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)
    with pytest.raises(ValueError, match="one value a query"):
        paired(np.ones(5), np.ones(4))
