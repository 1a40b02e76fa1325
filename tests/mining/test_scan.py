"""The nearest of slices are the nearest of all, wherever the documents lie."""

from __future__ import annotations

import numpy as np
import pytest

from hnmine import mapped
from hnmine.mining import scan
from hnmine.types import Float32, unit_rows


def unit(seed: int, count: int, width: int) -> Float32:
    """Return random unit rows."""
    return unit_rows(np.random.default_rng(seed).standard_normal((count, width), dtype=np.float32))


@pytest.mark.parametrize("slice_rows", [1, 7, 50, 10_000])
@pytest.mark.parametrize("in_memory", [0, 2**30])
def test_the_nearest_are_those_of_a_full_sort(monkeypatch: pytest.MonkeyPatch, slice_rows: int, in_memory: int) -> None:
    monkeypatch.setattr(scan, "SLICE_BYTES", 4 * 6 * slice_rows)
    monkeypatch.setattr(mapped, "IN_MEMORY", in_memory)
    for seed in range(10):
        queries, docs = unit(seed, 9, 6), mapped.zeros(300, 6)
        docs[:] = unit(seed + 100, 300, 6)
        distances = 1 - queries.astype(np.float64) @ docs.T.astype(np.float64)
        for k in (1, 20, 300):
            rows, found = scan.nearest_of_all(queries, docs, k)
            assert rows.shape == found.shape == (9, k)
            assert (np.diff(found, axis=1) >= 0).all()
            assert np.abs(found - np.sort(distances, axis=1)[:, :k]).max() <= 2 * scan.error_bound(6)
            assert np.abs(np.take_along_axis(distances, rows, axis=1) - found).max() <= scan.error_bound(6)
            assert all(len(set(row)) == k for row in rows.tolist())
