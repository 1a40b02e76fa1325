"""Unit rows and distances against their definitions, and pairs on rows of fewer queries."""

from __future__ import annotations

import numpy as np
import pytest

from hnmine import types
from hnmine.types import Pairs, distance, distances, unit_rows
from tests.builders.judged import judgements_of


def rows(seed: int, count: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def test_unit_rows_have_length_one_and_keep_their_direction():
    given = rows(0, 20, 7) * np.float32(50)
    unit = unit_rows(given)
    assert unit.dtype == np.float32
    assert np.linalg.norm(unit.astype(np.float64), axis=1) == pytest.approx(1, abs=1e-7)
    assert unit * np.linalg.norm(given, axis=1, keepdims=True) == pytest.approx(given, rel=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_lengths_beyond_the_square_of_a_float32_are_no_problem(scale):
    given = rows(1, 5, 4)
    assert unit_rows(given * np.float32(scale)) == pytest.approx(unit_rows(given), abs=1e-6)


def test_a_zero_row_stays_zero():
    given = rows(2, 3, 4)
    given[1] = 0
    unit = unit_rows(given)
    assert not unit[1].any()
    assert np.linalg.norm(unit[[0, 2]], axis=1) == pytest.approx(1)


def test_what_is_no_number_stays_none():
    given = rows(2, 3, 4)
    given[1, 2] = np.nan
    assert np.isnan(unit_rows(given)).any(axis=1).tolist() == [False, True, False]


def test_the_rows_that_are_scaled_are_left_as_they_were():
    given = rows(3, 4, 4)
    before = given.copy()
    unit_rows(given)
    assert np.array_equal(given, before)


def test_the_distance_of_two_rows_is_the_same_in_any_company() -> None:
    rng = np.random.default_rng(0)
    for width in (1, 3, 8, 64, 257, 384, 1024):
        a, b = (unit_rows(rng.normal(size=(500, width)).astype(np.float32)) for _ in range(2))
        together = distance(a, b)
        assert all(together[i] == distance(a[i : i + 1], b[i : i + 1])[0] for i in range(500))
        assert (together[7:100] == distance(a[7:100], b[7:100])).all()


def test_distances_of_rows_do_not_depend_on_how_many_are_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, rng = unit_rows(rows(4, 9, 5)), unit_rows(rows(5, 7, 5)), np.random.default_rng(6)
    a_rows, b_rows = rng.integers(0, 9, 40), rng.integers(0, 7, 40)
    for numbers in (1, 35, 10**6):
        monkeypatch.setattr(types, "GATHERED_NUMBERS", numbers)
        assert (distances(a, a_rows, b, b_rows) == distance(a[a_rows], b[b_rows])).all()
    assert len(distances(a, a_rows[:0], b, b_rows[:0])) == 0


def test_pairs_are_renumbered_on_the_distinct_queries() -> None:
    pairs = Pairs(query_rows_P=np.array([7, 2, 7, 5]), doc_rows_P=np.array([1, 0, 3, 1]))
    rows_Q, renumbered = pairs.renumbered()
    assert rows_Q.tolist() == [2, 5, 7]
    assert renumbered.query_rows_P.tolist() == [2, 0, 2, 1]
    assert rows_Q[renumbered.query_rows_P].tolist() == pairs.query_rows_P.tolist()
    assert renumbered.doc_rows_P.tolist() == pairs.doc_rows_P.tolist()


def test_positives_have_at_least_the_least_grade_and_know_what_else_was_judged() -> None:
    judged = judgements_of([(3, 0, 2), (1, 4, 0.5), (3, 2, 0), (1, 5, -1), (3, 6, 1)])
    assert judged.positives(None).positives_of() == {3: [0, 6], 1: [4]}
    assert judged.positives(1).positives_of() == {3: [0, 6]}
    assert len(judged.positives(3)) == 0
    best = judged.positives(2).take(np.array([True]))
    assert best.source is judged
    assert judged.grades(np.array([1, 2, 3])) == {1: {4: 0.5}, 2: {}, 3: {0: 2, 6: 1}}
    assert best.renumbered()[1].source is None, "it has other rows"
    assert len(judged.take(np.array([0, 4]))) == 2


@pytest.mark.parametrize("grade", [np.nan, np.inf])
def test_a_grade_that_is_no_finite_number_is_refused(grade: float) -> None:
    with pytest.raises(AssertionError):
        judgements_of([(0, 0, grade)])
