"""X_concat and the space against numpy in one piece, the basis against scikit-learn, the cut against its definition."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnmine.corpus.text_keys import Fingerprint, keys_of
from hnmine.embedding.store import VectorStore
from hnmine.embedding.vectors import Precomputed, StoredVectors
from hnmine.errors import DataError
from hnmine.mining.pca import Basis, Fused, Piece, captured, cut, fit, project, project_space, single_spaces
from hnmine.types import unit_rows
from tests.builders.devices import CPU
from tests.builders.vectors import basis_of, basis_without_a_fit, cloud, random_encoder, random_fused


def fitted(fused: np.ndarray, variance: float = 0.95, fit_rows: int = 10**6, seed: int = 0) -> Basis:
    return fit(lambda rows: fused[rows], len(fused), variance=variance, fit_rows=fit_rows, seed=seed, device=CPU)


def projected(basis: Basis | None, fused: np.ndarray) -> np.ndarray:
    everything = (np.arange(len(fused)), slice(0, fused.shape[1]), fused)
    return project(basis, [everything], len(fused), fused.shape[1])


def whole_spectrum(fused: np.ndarray):
    from sklearn.decomposition import PCA

    return PCA(svd_solver="full").fit(fused.astype(np.float64))


@pytest.mark.parametrize("variance", [0.01, 0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize(("rows", "columns"), [(400, 30), (20, 50), (30, 30)])
def test_the_basis_equals_scikit_learn_in_float64(variance, rows, columns):
    fused = cloud(rows, columns)
    truth, basis = whole_spectrum(fused), fitted(fused, variance)
    shares = np.cumsum(truth.explained_variance_ratio_)
    width = int(np.flatnonzero(shares >= variance)[0]) + 1
    assert basis.width == width
    assert basis.kept == pytest.approx(shares[width - 1], abs=1e-5)
    assert basis.mean_C == pytest.approx(truth.mean_, abs=1e-6)
    cosines = (basis.components_RC * truth.components_[:width]).sum(axis=1)
    assert np.abs(cosines) == pytest.approx(1, abs=1e-3)
    expected = (fused.astype(np.float64) - truth.mean_) @ truth.components_[:width].T * np.sign(cosines)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert projected(basis, fused) == pytest.approx(expected, abs=5e-3)


def test_all_of_the_variance_is_the_numerical_rank():
    for rows, columns, rank in ((400, 30, 30), (20, 50, 19)):
        basis = fitted(cloud(rows, columns, decay=0.95), 1.0)
        assert basis.width == rank
        assert basis.kept == pytest.approx(1)


@pytest.mark.parametrize("rows", [200, 25])
def test_a_rank_deficient_cloud_has_no_more_components_than_rank(rows):
    rng = np.random.default_rng(2)
    fused = (rng.normal(size=(rows, 5)) @ rng.normal(size=(5, 40))).astype(np.float32)
    assert fitted(fused, 1.0).width == 5
    assert np.isfinite(projected(fitted(fused, 1.0), fused)).all()


def test_with_all_the_variance_distances_are_those_of_the_centred_rows():
    fused = cloud(100, 12, decay=0.95)
    space = projected(fitted(fused, 1.0), fused)
    centred = unit_rows(fused - fused.mean(axis=0))
    assert space @ space.T == pytest.approx(centred @ centred.T, abs=1e-4)


@settings(max_examples=200, deadline=None)
@given(
    spectrum=st.lists(st.floats(1e-3, 1), min_size=1, max_size=20).map(lambda s: np.array(sorted(s, reverse=True))),
    variance=st.floats(1e-6, 1),
)
def test_the_width_is_really_the_smallest(spectrum, variance):
    width = cut(spectrum, variance, noise=0)
    assert spectrum[:width].sum() / spectrum.sum() >= variance - 1e-9
    assert width == 1 or spectrum[: width - 1].sum() / spectrum.sum() < variance


def test_a_share_that_is_reached_exactly_needs_no_more():
    assert cut(np.array([4.0, 3.0, 2.0, 1.0]), 0.7, noise=0) == 2
    assert cut(np.array([4.0, 3.0, 2.0, 1.0]), 0.71, noise=0) == 3
    assert cut(np.array([1.0, 1e-12, 0.0]), 1.0, noise=1e-11) == 1


def rows_with_spectrum(rows: int, columns: int, power: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows around a mean whose variances fall as i^-power, exactly but for rounding to float32; and the variances."""
    rng = np.random.default_rng(0)
    rank = min(rows - 1, columns)
    variances = np.arange(1, rank + 1) ** -power
    left = rng.normal(size=(rows, rank))
    left = np.linalg.qr(left - left.mean(axis=0))[0]  # orthogonal to the mean
    right = np.linalg.qr(rng.normal(size=(columns, rank)))[0]
    return (left * np.sqrt(variances * (rows - 1)) @ right.T + 0.1).astype(np.float32), variances


@pytest.mark.parametrize("power", [1.0, 1.5, 2.5])
@pytest.mark.parametrize(
    ("rows", "columns"),
    [(700, 640), (500, 1792), (300, 12_800)]
    + [pytest.param(*shape, marks=pytest.mark.slow) for shape in ((2000, 1792), (1000, 12_800))],
)
def test_the_basis_keeps_the_share_that_was_asked_for(rows, columns, power):
    fused, variances = rows_with_spectrum(rows, columns, power)
    for share in (0.7, 0.95, 0.999):
        expected = int(np.flatnonzero(np.cumsum(variances) / variances.sum() >= share)[0]) + 1
        basis = fitted(fused, share)
        assert abs(basis.width - expected) <= 1
        assert share - 1e-9 <= basis.kept <= share + variances[basis.width - 1] / variances.sum() + 1e-6
    assert basis.explained_variance_C[: len(variances)] == pytest.approx(variances, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("noise", [12_800 * 2.3e-16, 12_800**0.5 * 1.2e-7])  # of the fit on CPU and GPU
@pytest.mark.parametrize("power", [0.5, 1.0, 1.5])
def test_the_rank_does_not_cut_a_wide_spectrum_short(noise, power):
    spectrum = np.arange(1, 12_801) ** -power
    width = cut(spectrum, 0.95, noise)
    assert spectrum[:width].sum() >= 0.95 * spectrum.sum() > spectrum[: width - 1].sum()


PROJECTION = """
import hashlib, sys
import numpy as np
from hnmine.mining.pca import project
from tests.builders.vectors import basis_without_a_fit, cloud
fused, basis = cloud(1100, 97), basis_without_a_fit(97, 31)
for step in (1100, 64, 7):
    parts = np.split(np.arange(1100), range(step, 1100, step))
    pieces = [(part, columns, fused[part][:, columns]) for columns in (slice(0, 40), slice(40, 97)) for part in parts]
    print(hashlib.sha256(project(basis, pieces, 1100, 97).tobytes()).hexdigest())
"""


def test_the_projection_is_the_same_on_other_processors_in_other_blocks_and_threads():
    """OpenBLAS computes by the kernels of other processors where OPENBLAS_CORETYPE names them."""
    found = set()
    for kernel, threads in (("Haswell", 1), ("Haswell", 2), ("SkylakeX", 2), ("Zen", 1), ("Prescott", 2)):
        chosen = {"OPENBLAS_CORETYPE": kernel, "OPENBLAS_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
        lines = subprocess.run(
            [sys.executable, "-c", PROJECTION], env=os.environ | chosen, capture_output=True, text=True, check=True
        ).stdout.split()
        assert len(lines) == 3
        found.update(lines)
    assert len(found) == 1


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10**6), columns=st.integers(1, 300), size=st.integers(-20, 20))
def test_the_projection_is_as_near_as_float32_comes(seed, columns, size):
    rng = np.random.default_rng(seed)
    fused = (unit_rows(rng.standard_t(2, size=(20, columns)).astype(np.float32)) * 2.0**size).astype(np.float32)
    basis = basis_without_a_fit(columns, 5)
    centred = fused.astype(np.float64) @ basis.components_RC.T.astype(np.float64)
    found = project(basis_at_the_origin(basis), [(np.arange(20), slice(0, columns), fused)], 20, columns)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    allowed = 4e-7 * 2.0**size * np.linalg.norm(basis.components_RC, axis=1) / lengths
    assert (np.abs(found - centred / lengths) <= np.maximum(allowed, 2e-6)).all()


def basis_at_the_origin(basis: Basis) -> Basis:
    return replace(basis, mean_C=np.zeros_like(basis.mean_C))


@pytest.mark.parametrize("value", [np.array([0.6, 0.8, 0.0]), np.zeros(3), np.array([0.01, 0.0, 0.0])])
def test_equal_vectors_are_a_data_error(value):
    fused = np.tile(value.astype(np.float32), (50, 1))
    with pytest.raises(DataError, match=r"all 50 document vectors are equal"):
        fitted(fused)
    with pytest.raises(DataError, match=r"all 50 document vectors are equal"):  # but for rounding
        fitted(fused * (1 + np.random.default_rng(0).integers(-1, 2, fused.shape) * np.float32(2**-23)))


@pytest.mark.parametrize("weight", [1e-4, 1.0, 1e4])
def test_the_weight_of_a_lone_encoder_changes_nothing(weight):
    fused = cloud(200, 20)
    expected = fitted(fused)
    basis = fitted(fused * np.float32(weight))
    assert basis.width == expected.width
    assert projected(basis, fused * np.float32(weight)) == pytest.approx(projected(expected, fused), abs=1e-3)


def test_two_different_documents_are_enough():
    fused = np.eye(2, dtype=np.float32)
    assert fitted(fused).width == 1
    assert projected(fitted(fused), fused)[:, 0].tolist() == pytest.approx([1, -1]) or projected(fitted(fused), fused)[
        :, 0
    ].tolist() == pytest.approx([-1, 1])


def test_one_document_is_a_data_error():
    with pytest.raises(DataError, match=r"at least 2 documents, got 1.*reduce.variance=null"):
        fitted(np.ones((1, 3), np.float32))


def test_the_sample_is_seeded_and_without_repeats():
    fused, asked = cloud(500, 10), []

    def rows_of(rows: np.ndarray) -> np.ndarray:
        asked.append(rows.tolist())
        return fused[rows]

    def once(seed: int) -> Basis:
        return fit(rows_of, 500, variance=0.9, fit_rows=100, seed=seed, device=CPU)

    first, again, other = once(1), once(1), once(2)
    fitted_on, held_out = asked[::2], asked[1::2]
    assert fitted_on[0] == fitted_on[1] != fitted_on[2]
    assert len(set(fitted_on[0])) == 100
    assert not set(fitted_on[0]) & set(held_out[0])
    assert first.fitted_rows == 100
    assert np.array_equal(first.components_RC, again.components_RC)
    assert not np.array_equal(first.components_RC, other.components_RC)
    assert first.mean_C == pytest.approx(fused[asked[0]].mean(axis=0), abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(data=st.data(), encoders=st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_the_projection_in_pieces_is_to_the_bit_that_of_the_whole(data, encoders):
    fused = cloud(700, sum(encoders), seed=data.draw(st.integers(0, 9)))
    basis = fitted(fused, 0.9)
    order = np.random.default_rng(data.draw(st.integers(0, 9))).permutation(700)
    cuts = sorted(data.draw(st.lists(st.integers(0, 700), max_size=5)))
    ends = np.cumsum(encoders).tolist()
    columns = [slice(end - width, end) for end, width in zip(ends, encoders, strict=True)]

    def pieces(parts: list[np.ndarray]) -> list[Piece]:
        return [(part, chosen, fused[part][:, chosen]) for chosen in columns for part in parts]

    in_order = project(basis, pieces([np.arange(700)]), 700, fused.shape[1])
    assert np.array_equal(project(basis, pieces(np.split(order, cuts)), 700, fused.shape[1]), in_order)
    assert in_order == pytest.approx(projected(basis, fused), abs=1e-5)
    assert np.linalg.norm(in_order, axis=1) == pytest.approx(1, abs=1e-6)


def test_without_a_basis_the_space_is_the_fused_rows_as_unit_vectors():
    fused = cloud(1030, 8) * np.float32(3)
    space = projected(None, fused)
    assert np.array_equal(space, unit_rows(fused))
    assert space.dtype == np.float32


def test_a_saved_basis_is_the_same_basis(tmp_path: Path) -> None:
    rows = np.random.default_rng(3).normal(size=(60, 7)).astype(np.float32)
    basis = fit(lambda chosen: rows[chosen], 60, variance=0.8, fit_rows=40, seed=0, device=CPU)
    basis.save(tmp_path / "basis.safetensors")
    again = Basis.load(tmp_path / "basis.safetensors")
    assert (projected(again, rows) == projected(basis, rows)).all()
    assert again.kept == basis.kept
    assert (again.fitted_rows, again.kept_held_out, again.library) == (40, basis.kept_held_out, basis.library)
    (tmp_path / "other").write_bytes(b"no basis")
    with pytest.raises(DataError, match="not a basis"):
        Basis.load(tmp_path / "other")


def test_a_basis_of_a_sample_is_checked_on_the_other_rows() -> None:
    rows = np.random.default_rng(5).normal(size=(500, 6)).astype(np.float32)
    whole = fit(lambda chosen: rows[chosen], 500, variance=0.7, fit_rows=500, seed=0, device=CPU)
    assert whole.kept_held_out is None
    assert captured(whole, rows) == pytest.approx(whole.kept, abs=1e-5)
    sample = fit(lambda chosen: rows[chosen], 500, variance=0.7, fit_rows=12, seed=0, device=CPU)
    assert sample.kept_held_out is not None
    assert sample.kept_held_out < sample.kept  # twelve rows explain themselves better than others


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

    # Beside a sample only pieces are in memory.
    two = Fused(encoders=(stored, stored), weights=(1.0, 2.0))
    rows = np.random.default_rng(1).permutation(documents)[:40_000]
    tracemalloc.start()
    sample = two.take("document", rows)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < sample.nbytes * 1.5, f"{peak / 2**20:.0f} MiB for {sample.nbytes / 2**20:.0f}"
    assert np.array_equal(sample[:9], np.concatenate([two.take("document", rows[i : i + 1]) for i in range(9)]))


def random_rows(seed: int, count: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def side_by_side(blocks: list[np.ndarray], weights: list[float]) -> Fused:
    """The blocks as documents; the first row of each as the one query."""
    encoders = tuple(Precomputed(name="given", docs_NR=block, queries_QR=block[:1]) for block in blocks)
    return Fused(encoders=encoders, weights=tuple(weights))


def concatenated(blocks: list[np.ndarray], weights: list[float]) -> np.ndarray:
    return side_by_side(blocks, weights).take("document", np.arange(len(blocks[0])))


def test_the_given_rows_are_left_as_they_were():
    values = random_rows(3, 4, 4)
    before = values.copy()
    concatenated([values], [2.0])
    assert np.array_equal(values, before)


def test_fusing_equals_concatenation_row_by_row():
    blocks, weights = [random_rows(4, 6, 3), random_rows(5, 6, 8), random_rows(6, 6, 2)], [1.0, 0.5, 3.0]
    slow = [
        np.concatenate([w * block[i] / np.linalg.norm(block[i]) for block, w in zip(blocks, weights, strict=True)])
        for i in range(6)
    ]
    found = concatenated(blocks, weights)
    assert found.dtype == np.float32
    assert found.shape == (6, 13)
    assert found == pytest.approx(np.array(slow), abs=1e-6)


def test_rows_come_in_the_order_asked_for_and_of_the_role_asked_for():
    blocks = [random_rows(4, 9, 3), random_rows(5, 9, 8)]
    both, chosen = side_by_side(blocks, [1.0, 2.0]), np.array([7, 0, 7, 3])
    assert np.array_equal(both.take("document", chosen), concatenated(blocks, [1.0, 2.0])[chosen])
    assert np.array_equal(both.take("query", np.array([0])), concatenated(blocks, [1.0, 2.0])[:1])
    assert (both.count("document"), both.count("query"), both.width) == (9, 1, 11)


def test_the_pieces_put_together_are_the_whole():
    blocks, weights = [random_rows(6, 20_000, 2), random_rows(7, 20_000, 3)], [1.0, 0.5]
    together = np.full((20_000, 5), np.nan, dtype=np.float32)
    pieces = list(side_by_side(blocks, weights).pieces("document"))
    for rows_n, columns, values in pieces:
        assert np.isnan(together[rows_n, columns]).all()
        together[rows_n, columns] = values
    assert np.array_equal(together, concatenated(blocks, weights))
    assert max(len(rows_n) for rows_n, _, _ in pieces) < 20_000


def test_a_weight_counts_with_its_square_in_the_inner_product():
    a, b = random_rows(7, 2, 5), random_rows(8, 2, 9)
    found = concatenated([a, b], [2.0, 1.0])
    cosines = [float(unit_rows(block)[0] @ unit_rows(block)[1]) for block in (a, b)]
    assert float(found[0] @ found[1]) == pytest.approx(4 * cosines[0] + cosines[1], abs=1e-6)


@pytest.mark.parametrize(
    ("shapes", "weights"), [([(3, 2), (4, 2)], [1.0, 1.0]), ([(3, 2)], [1.0, 1.0]), ([(3, 2), (3, 4)], [1.0])]
)
def test_encoders_that_do_not_fit_are_refused(shapes, weights):
    with pytest.raises(ValueError, match="one weight an encoder and equal texts"):
        side_by_side([np.ones(shape, np.float32) for shape in shapes], weights)
