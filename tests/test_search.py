"""The short list against a full sort, the scan against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from hnmine import search as search_module
from hnmine.device import Choice
from hnmine.fuse import unit_rows
from hnmine.search import Searcher, error_bound

CPU = Choice(kind="cpu", reason="test")


def unit(seed: int, count: int, width: int) -> np.ndarray:
    return unit_rows(np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32))


def exact(queries: np.ndarray, docs: np.ndarray) -> np.ndarray:
    return 1 - queries.astype(np.float64) @ docs.astype(np.float64).T


@pytest.mark.parametrize("k", [1, 7, 300])
@pytest.mark.parametrize("width", [1, 5, 384])
def test_the_nearest_equal_a_full_sort_up_to_ties(k, width):
    docs, queries = unit(0, 300, width), unit(1, 30, width)
    docs[50:60] = docs[40:50]  # exact ties
    found = Searcher(docs, CPU).nearest(queries, k)
    distances = exact(queries, docs)
    expected = np.sort(distances, axis=1)[:, :k]
    assert found.doc_rows_QK.shape == (30, k)
    assert np.abs(np.take_along_axis(distances, found.doc_rows_QK, axis=1) - expected).max() <= 2 * error_bound(width)
    assert np.abs(found.distances_QK - expected).max() <= 2 * error_bound(width)
    assert (np.diff(found.distances_QK, axis=1) >= 0).all()
    assert all(len(set(row)) == k for row in found.doc_rows_QK.tolist())


def test_more_than_there_is_gives_all_documents():
    docs, queries = unit(2, 9, 4), unit(3, 5, 4)
    searcher = Searcher(docs, CPU)
    assert searcher.max_candidates == 9
    found = searcher.nearest(queries, 1000)
    assert all(sorted(row) == list(range(9)) for row in found.doc_rows_QK.tolist())


def test_one_document_is_the_nearest_of_all():
    found = Searcher(unit(4, 1, 4), CPU).nearest(unit(5, 3, 4), 10)
    assert found.doc_rows_QK.tolist() == [[0], [0], [0]]


def test_blocks_of_queries_change_nothing(monkeypatch):
    docs, queries = unit(6, 200, 8), unit(7, 50, 8)
    whole = Searcher(docs, CPU).nearest(queries, 10)
    monkeypatch.setattr(search_module, "_QUERY_BLOCK", 7)
    parts = Searcher(docs, CPU).nearest(queries, 10)
    assert np.array_equal(whole.doc_rows_QK, parts.doc_rows_QK)


@pytest.mark.parametrize("scan_bytes", [1, 4 * 20 * 33, 2**28])
def test_within_equals_brute_force(scan_bytes, monkeypatch):
    monkeypatch.setattr(search_module, "_SCAN_BYTES", scan_bytes)
    docs, queries = unit(8, 200, 6), unit(9, 20, 6)
    distances = exact(queries, docs)
    radius = np.linspace(0, 2, 20)
    radius[5] = distances[5, 17]  # a document exactly at the radius may or may not be given
    found_queries, found_docs = Searcher(docs, CPU).within(queries, radius)
    found = set(zip(found_queries.tolist(), found_docs.tolist(), strict=True))
    assert len(found) == len(found_queries)
    nearer = {(int(q), int(d)) for q, d in np.argwhere(distances < radius[:, None])}
    reach = {(int(q), int(d)) for q, d in np.argwhere(distances < radius[:, None] + 2 * error_bound(6))}
    assert nearer <= found <= reach
    assert len(nearer) > 1000


def test_nothing_within_a_radius_is_nothing():
    found_queries, found_docs = Searcher(unit(10, 50, 6), CPU).within(unit(11, 4, 6), np.full(4, -1.0))
    assert len(found_queries) == len(found_docs) == 0
