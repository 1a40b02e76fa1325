"""The space against numpy in one piece, the memory that it takes, and the basis of an earlier run."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hnmine.config.mining import ReduceConfig
from hnmine.corpus.text_keys import Fingerprint, keys_of
from hnmine.embedding.precomputed import Precomputed
from hnmine.embedding.store import VectorStore
from hnmine.embedding.vectors import StoredVectors
from hnmine.errors import DataError
from hnmine.mining.fuse import Fused
from hnmine.mining.pca import Basis
from hnmine.mining.space import choose_basis, project_space, single_spaces

DOCUMENTS, QUERIES = 300, 40


def random_encoder(width: int) -> Precomputed:
    rng = np.random.default_rng(width)
    docs, queries = (rng.normal(size=(count, width)).astype(np.float32) for count in (DOCUMENTS, QUERIES))
    return Precomputed(name=f"e{width}", docs_NR=docs, queries_QR=queries)


def random_fused(widths: tuple[int, ...] = (6, 9), weights: tuple[float, ...] = (1.0, 0.5)) -> Fused:
    return Fused(encoders=tuple(map(random_encoder, widths)), weights=weights)


def basis_of(fused: Fused, **settings: Any) -> Basis:
    basis = choose_basis(fused, ReduceConfig(**settings), device="cpu", seed=0)
    assert basis is not None
    return basis


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)


@pytest.mark.parametrize("variance", [0.8, None])
def test_the_space_is_the_reduced_concatenation_of_weighted_unit_vectors(variance: float | None) -> None:
    one, two = random_encoder(6), random_encoder(9)
    fused = Fused(encoders=(one, two), weights=(1.0, 0.5))
    space = project_space(fused, None if variance is None else basis_of(fused, variance=variance))
    docs = np.hstack([unit(one.docs_NR), 0.5 * unit(two.docs_NR)])
    queries = np.hstack([unit(one.queries_QR), 0.5 * unit(two.queries_QR)])
    if variance is not None:
        mean = docs.mean(axis=0)
        _, sizes, axes = np.linalg.svd(docs - mean, full_matrices=False)
        width = int(np.flatnonzero(np.cumsum(sizes**2) / (sizes**2).sum() >= variance)[0]) + 1
        docs, queries = ((rows - mean) @ axes[:width].T for rows in (docs, queries))
    assert space.width == docs.shape[1]
    assert space.queries_QR @ space.docs_NR.T == pytest.approx(unit(queries) @ unit(docs).T, abs=1e-4)


def test_the_single_spaces_are_the_unit_vectors_of_each_encoder() -> None:
    fused = random_fused()
    for encoder, space in zip((random_encoder(6), random_encoder(9)), single_spaces(fused), strict=True):
        assert space.docs_NR == pytest.approx(unit(encoder.docs_NR), abs=1e-6)
        assert space.queries_QR == pytest.approx(unit(encoder.queries_QR), abs=1e-6)


def test_memory_does_not_grow_with_documents_times_the_width_of_the_encoders(tmp_path: Path) -> None:
    documents, width, block = 120_000, 256, 4000
    store, rng = VectorStore(tmp_path, Fingerprint.of(kind="wide")), np.random.default_rng(0)
    keys = keys_of([str(i) for i in range(documents)])
    for start in range(0, documents, block):
        store.write(keys[start : start + block], rng.normal(size=(block, width)).astype(np.float32))
    stored = StoredVectors(name="wide", store=store, keys={"document": keys, "query": keys[:9]}, width=width)
    fused = Fused(encoders=(stored,), weights=(1.0,))
    tracemalloc.start()
    basis = basis_of(fused, variance=0.02, fit_rows=600)
    space = project_space(fused, basis)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert space.docs_NR.shape == (documents, basis.width)
    assert np.array_equal(space.docs_NR[:9], space.queries_QR)
    assert peak < documents * width * 4 * 0.75, f"{peak / 2**20:.0f} MiB"


def test_without_a_share_of_the_variance_nothing_is_reduced() -> None:
    assert choose_basis(random_fused(), ReduceConfig(variance=None), device="cpu", seed=0) is None


def test_what_the_basis_keeps_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    basis = basis_of(random_fused(), variance=0.8, fit_rows=100)
    said = capsys.readouterr().err
    assert f"width 15 → {basis.width}, keeps {basis.kept:.1%} of the variance of 100 documents" in said
    assert f"{basis.kept_held_out:.1%} of others" in said


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 1.0)])
def test_a_basis_of_other_weights_or_encoders_is_refused(weights: tuple[float, float], tmp_path: Path) -> None:
    path = tmp_path / "basis.safetensors"
    fitted = basis_of(random_fused())
    fitted.save(path)
    again = basis_of(random_fused(), basis=path)
    assert np.array_equal(again.components_RC, fitted.components_RC)
    message = r"was fitted on vectors of e6 \(6 wide\) x 1; e9 \(9 wide\) x 0\.5, this run has e6 .* x .*; e9 .* x 1"
    with pytest.raises(DataError, match=message):
        basis_of(random_fused(weights=weights), basis=path)
    with pytest.raises(DataError, match=r"this run has e9 .* x 0\.5; e6 .* x 1"):
        basis_of(random_fused((9, 6), (0.5, 1.0)), basis=path)
