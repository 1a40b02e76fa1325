"""Unit rows and their weighted concatenation."""

from __future__ import annotations

import numpy as np
import pytest

from hnmine.fuse import fuse, unit_rows


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


def test_the_given_rows_are_left_as_they_were():
    given = rows(3, 4, 4)
    before = given.copy()
    unit_rows(given)
    fuse([given], [2.0])
    assert np.array_equal(given, before)


def test_fusing_equals_concatenation_row_by_row():
    blocks, weights = [rows(4, 6, 3), rows(5, 6, 8), rows(6, 6, 2)], [1.0, 0.5, 3.0]
    slow = [
        np.concatenate([w * block[i] / np.linalg.norm(block[i]) for block, w in zip(blocks, weights, strict=True)])
        for i in range(6)
    ]
    fused = fuse(blocks, weights)
    assert fused.dtype == np.float32
    assert fused.shape == (6, 13)
    assert fused == pytest.approx(np.array(slow), abs=1e-6)


def test_a_weight_counts_with_its_square_in_the_inner_product():
    a, b = rows(7, 2, 5), rows(8, 2, 9)
    fused = fuse([a, b], [2.0, 1.0])
    cosines = [float(unit_rows(block)[0] @ unit_rows(block)[1]) for block in (a, b)]
    assert float(fused[0] @ fused[1]) == pytest.approx(4 * cosines[0] + cosines[1], abs=1e-6)


@pytest.mark.parametrize(
    ("shapes", "weights"), [([(3, 2), (4, 2)], [1.0, 1.0]), ([(3, 2)], [1.0, 1.0]), ([(3, 2), (3, 4)], [1.0])]
)
def test_blocks_that_do_not_fit_are_refused(shapes, weights):
    with pytest.raises(ValueError, match="one weight a block and equal rows"):
        fuse([np.ones(shape, np.float32) for shape in shapes], weights)
