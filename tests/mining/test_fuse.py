"""X_concat in pieces against X_concat as a whole."""

from __future__ import annotations

import numpy as np
import pytest

from hnmine.embedding.vectors import Precomputed
from hnmine.mining.fuse import Fused
from hnmine.types import unit_rows


def rows(seed: int, count: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def fused(blocks: list[np.ndarray], weights: list[float]) -> Fused:
    """The blocks as documents; the first row of each as the one query."""
    encoders = tuple(Precomputed(name="given", docs_NR=block, queries_QR=block[:1]) for block in blocks)
    return Fused(encoders=encoders, weights=tuple(weights))


def whole(blocks: list[np.ndarray], weights: list[float]) -> np.ndarray:
    return fused(blocks, weights).take("document", np.arange(len(blocks[0])))


def test_the_given_rows_are_left_as_they_were():
    given = rows(3, 4, 4)
    before = given.copy()
    whole([given], [2.0])
    assert np.array_equal(given, before)


def test_fusing_equals_concatenation_row_by_row():
    blocks, weights = [rows(4, 6, 3), rows(5, 6, 8), rows(6, 6, 2)], [1.0, 0.5, 3.0]
    slow = [
        np.concatenate([w * block[i] / np.linalg.norm(block[i]) for block, w in zip(blocks, weights, strict=True)])
        for i in range(6)
    ]
    found = whole(blocks, weights)
    assert found.dtype == np.float32
    assert found.shape == (6, 13)
    assert found == pytest.approx(np.array(slow), abs=1e-6)


def test_rows_come_in_the_order_asked_for_and_of_the_role_asked_for():
    blocks = [rows(4, 9, 3), rows(5, 9, 8)]
    both, chosen = fused(blocks, [1.0, 2.0]), np.array([7, 0, 7, 3])
    assert np.array_equal(both.take("document", chosen), whole(blocks, [1.0, 2.0])[chosen])
    assert np.array_equal(both.take("query", np.array([0])), whole(blocks, [1.0, 2.0])[:1])
    assert (both.count("document"), both.count("query"), both.width) == (9, 1, 11)


def test_the_pieces_put_together_are_the_whole():
    blocks, weights = [rows(6, 20_000, 2), rows(7, 20_000, 3)], [1.0, 0.5]
    together = np.full((20_000, 5), np.nan, dtype=np.float32)
    pieces = list(fused(blocks, weights).pieces("document"))
    for rows_n, columns, values in pieces:
        assert np.isnan(together[rows_n, columns]).all()
        together[rows_n, columns] = values
    assert np.array_equal(together, whole(blocks, weights))
    assert max(len(rows_n) for rows_n, _, _ in pieces) < 20_000


def test_a_weight_counts_with_its_square_in_the_inner_product():
    a, b = rows(7, 2, 5), rows(8, 2, 9)
    found = whole([a, b], [2.0, 1.0])
    cosines = [float(unit_rows(block)[0] @ unit_rows(block)[1]) for block in (a, b)]
    assert float(found[0] @ found[1]) == pytest.approx(4 * cosines[0] + cosines[1], abs=1e-6)


@pytest.mark.parametrize(
    ("shapes", "weights"), [([(3, 2), (4, 2)], [1.0, 1.0]), ([(3, 2)], [1.0, 1.0]), ([(3, 2), (3, 4)], [1.0])]
)
def test_encoders_that_do_not_fit_are_refused(shapes, weights):
    with pytest.raises(ValueError, match="one weight an encoder and equal texts"):
        fused([np.ones(shape, np.float32) for shape in shapes], weights)
