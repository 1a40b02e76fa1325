"""Vectors of all encoders side by side (X_concat), and on their principal components (X_PCA), as unit rows.

The paper's six encoders give 12,800 numbers a document, so X_concat of a large corpus never exists as a whole: it is
read as the rows of a sample, or as pieces, some rows of one encoder's columns. The basis is fitted on documents, and
its width is chosen here, the smallest that keeps the wanted variance: cuML takes only a whole number of components.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from hnmine.embedding.vectors import Vectors
from hnmine.errors import DataError
from hnmine.mapped import let_go, zeros
from hnmine.runs.device import Choice
from hnmine.runs.files import whole_file
from hnmine.runs.memory import told_if_out_of_memory
from hnmine.types import Float32, Float64, Int64, Role, Space, unit_rows

Piece = tuple[Int64, slice, Float32]  # rows (n) and columns (c) of X_concat, and the numbers (n, c) there
HELD_OUT_ROWS = 8192  # documents outside the sample on which a basis is checked, at most
_PRODUCT_ROWS = 2048
_ROUNDING = 8 * float(np.finfo(np.float32).eps)  # of numbers that are equal


@dataclass(frozen=True, kw_only=True)
class Fused:
    """X_concat of documents and queries. A block of weight w contributes w² times its cosine to an inner product."""

    encoders: tuple[Vectors, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        counts = {(encoder.count("document"), encoder.count("query")) for encoder in self.encoders}
        if len(self.encoders) != len(self.weights) or len(counts) != 1:
            raise ValueError(f"need one weight an encoder and equal texts, got {counts}, weights {self.weights}")

    @property
    def identity(self) -> tuple[str, ...]:
        """Encoders and weights in order; a basis fits X_concat of the same identity only."""
        return tuple(
            f"{encoder.identity} x {weight:g}" for encoder, weight in zip(self.encoders, self.weights, strict=True)
        )

    @property
    def width(self) -> int:
        """Dimensions, C."""
        return sum(encoder.width for encoder in self.encoders)

    def count(self, role: Role) -> int:
        """Return the number of texts of this role."""
        return self.encoders[0].count(role)

    def take(self, role: Role, rows_n: Int64) -> Float32:
        """Return these rows of X_concat (n, C); beside them only pieces are in memory."""
        taken = np.empty((len(rows_n), self.width), dtype=np.float32)
        for encoder, weight, columns in self._blocks():
            for positions, values in encoder.scan(role, rows_n):
                taken[positions, columns] = unit_rows(values) * weight
        return taken

    def pieces(self, role: Role) -> Iterator[Piece]:
        """Yield the whole of X_concat, encoder by encoder."""
        for encoder, weight, columns in self._blocks():
            for rows, values in encoder.scan(role):
                yield rows, columns, unit_rows(values) * weight

    def _blocks(self) -> Iterator[tuple[Vectors, np.float32, slice]]:
        start = 0
        for encoder, weight in zip(self.encoders, self.weights, strict=True):
            yield encoder, np.float32(weight), slice(start, start + encoder.width)
            start += encoder.width


@dataclass(frozen=True, kw_only=True)
class Basis:
    """A PCA projection: x ↦ components · (x - mean)."""

    mean_C: Float64
    components_RC: Float32
    explained_variance_C: Float64  # the whole spectrum, descending
    fitted_rows: int
    library: str
    kept_held_out: float | None = None  # share of the variance of documents outside the sample, if there are any
    made_of: tuple[str, ...] = ()  # encoders and weights whose vectors it was fitted on, see `Fused.identity`

    @property
    def width(self) -> int:
        """Dimensions kept, R."""
        return len(self.components_RC)

    @property
    def kept(self) -> float:
        """Share of the fitted rows' variance that the kept components explain."""
        return float(self.explained_variance_C[: self.width].sum() / self.explained_variance_C.sum())

    def save(self, path: Path) -> None:
        """Write the basis as safetensors; the file appears complete or not at all."""
        arrays = {"mean": self.mean_C, "components": self.components_RC, "spectrum": self.explained_variance_C}
        facts = {name: getattr(self, name) for name in ("fitted_rows", "library", "kept_held_out", "made_of")}
        with whole_file(path) as hidden:
            save_file(arrays, hidden, metadata={"hnmine": json.dumps(facts)})

    @classmethod
    def load(cls, path: Path) -> Basis:
        """Read a basis that `save` wrote; a file that is missing or no basis is a DataError."""
        try:
            with safe_open(path, framework="numpy") as file:
                facts = json.loads((file.metadata() or {})["hnmine"])
                facts["made_of"] = tuple(facts["made_of"])
                mean, components, spectrum = (file.get_tensor(name) for name in ("mean", "components", "spectrum"))
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise DataError(f"{path} is not a basis.safetensors of an earlier run: {error!r}") from None
        return cls(mean_C=mean, components_RC=components, explained_variance_C=spectrum, **facts)


def fit(
    rows_of: Callable[[Int64], Float32], rows: int, *, variance: float, fit_rows: int, seed: int, device: Choice
) -> Basis:
    """Fit the basis on all rows, or on a seeded sample of `fit_rows` of them, and check that on others.

    `rows_of` returns the fused vectors (n, C) of rows (n). Fewer than two, or all equal, are a DataError.
    """
    # Draw the sample, and refuse rows that do not differ.
    if rows < 2:
        raise DataError(f"PCA needs at least 2 documents, got {rows}; or set reduce.variance=null")
    everything = np.arange(rows, dtype=np.int64)
    chosen = everything
    if rows > fit_rows:
        chosen = np.sort(np.random.default_rng(seed).choice(rows, size=fit_rows, replace=False))
    sample = rows_of(chosen)
    spread = np.ptp(sample, axis=0).max()
    if spread <= _ROUNDING * max(
        sample.max(), -sample.min()
    ):  # relative: the rows are as long as the encoders' weights make them
        raise DataError(
            f"all {len(sample)} document vectors are equal, so nothing tells documents apart; look at the corpus, the "
            "encoders and sources.template"
        )

    # Fit all components, and keep as many as the variance asks for.
    with told_if_out_of_memory(f"PCA of {len(sample):,} documents", "lower reduce.fit_rows, or set device: cpu"):
        fitted = _fit_on_gpu(sample) if device.kind == "gpu" else _fit_on_cpu(sample)
    width = cut(fitted.variances_C, variance, fitted.noise)
    basis = Basis(
        mean_C=fitted.mean_C,
        components_RC=np.ascontiguousarray(fitted.components_CC[:width], dtype=np.float32),
        explained_variance_C=fitted.variances_C,
        fitted_rows=len(sample),
        library=fitted.library,
    )

    # Check a basis of a sample on rows outside it.
    if len(sample) == rows:
        return basis
    others = np.random.default_rng(seed + 1).permutation(np.setdiff1d(everything, chosen))[:HELD_OUT_ROWS]
    return replace(basis, kept_held_out=captured(basis, rows_of(np.sort(others))))


def captured(basis: Basis, fused_nC: Float32) -> float:
    """Return the share of the variance of these rows (n, C), around the mean of the basis, that the basis explains."""
    centred = fused_nC - basis.mean_C.astype(np.float32)
    total = float(np.square(centred, dtype=np.float64).sum())
    kept = float(np.square(_products(centred, basis.components_RC), dtype=np.float64).sum())
    return kept / total if total else 1.0


def cut(spectrum: Float64, variance: float, noise: float) -> int:
    """Return the smallest width whose share of the variance reaches `variance`, the numerical rank at most.

    Variances up to `noise` times the largest are rounding errors of the fit, not variance of the documents.
    """
    shares = np.cumsum(spectrum) / spectrum.sum()
    reached = np.flatnonzero(shares >= variance - 1e-12)
    rank = int(np.count_nonzero(spectrum > spectrum[0] * noise))
    return min(int(reached[0]) + 1 if len(reached) else len(spectrum), max(rank, 1))


def project(basis: Basis | None, pieces: Iterable[Piece], rows: int, fused_width: int) -> Float32:
    """Return the unit vectors (rows, R) of the pieces on the basis; without one, those (rows, C) of X_concat.

    The result of a row is the same to the last bit in any piece, see `_products`. A large matrix lies in a file.
    """
    space = zeros(rows, fused_width if basis is None else basis.width)
    for rows_n, columns, values in pieces:
        if basis is None:
            space[rows_n, columns] = values
        else:
            space[rows_n] += _products(values, basis.components_RC[:, columns])
        let_go(space)
    offset = 0.0 if basis is None else np.einsum("rc,c->r", basis.components_RC, basis.mean_C).astype(np.float32)
    for start in range(0, rows, _PRODUCT_ROWS):
        block = slice(start, start + _PRODUCT_ROWS)
        space[block] = unit_rows(space[block] - offset)
        let_go(space)
    return space


def project_space(fused: Fused, basis: Basis | None) -> Space:
    """Return the unit vectors of documents and queries on the basis; without one, the fused vectors themselves."""
    roles: tuple[Role, ...] = ("document", "query")
    docs_NR, queries_QR = (project(basis, fused.pieces(role), fused.count(role), fused.width) for role in roles)
    return Space(docs_NR=docs_NR, queries_QR=queries_QR)


def single_spaces(fused: Fused) -> list[Space]:
    """Return the space of each encoder alone, not reduced; unlike the fused one, it is whole in memory."""
    return [project_space(Fused(encoders=(encoder,), weights=(1.0,)), None) for encoder in fused.encoders]


def _products(values_nC: Float32, components_RC: Float32) -> Float32:
    """Return values · componentsᵀ (n, R): the same bits on every processor, in any block, by any number of threads.

    Both matrices are rounded to whole multiples of a power of two, one a row, with so few bits that no sum of C
    products needs more than the 53 of float64. So the matrix product is exact in whatever order it is summed (the first
    slice of Ozaki et al., Numerical Algorithms 59, 2012). Of unit rows it is off by about 2e-7 at most, as a product in
    float32 is. Otherwise a run that was killed and resumed, or that ran on another processor, could select other
    negatives.
    """
    bits = (53 - int(np.ceil(np.log2(values_nC.shape[1])))) // 2
    weights_RC, weight_units_R1 = _whole_numbers(components_RC, bits)
    products = np.empty((len(values_nC), len(components_RC)), dtype=np.float32)
    for start in range(0, len(values_nC), _PRODUCT_ROWS):
        numbers_nC, units_n1 = _whole_numbers(values_nC[start : start + _PRODUCT_ROWS], bits)
        products[start : start + len(numbers_nC)] = (numbers_nC @ weights_RC.T) * units_n1 * weight_units_R1.T
    return products


def _whole_numbers(rows_nC: Float32, bits: int) -> tuple[Float64, Float64]:
    """Return each row as whole numbers of at most `bits` bits (n, C), and the power of two (n, 1) that they count."""
    _, exponents_n = np.frexp(np.abs(rows_nC).max(axis=1))
    units_n1 = np.ldexp(1.0, exponents_n - bits)[:, None]
    return np.rint(rows_nC / units_n1), units_n1


@dataclass(frozen=True, kw_only=True)
class _Fitted:
    """All principal components, most variance first; `noise` is the share of the largest variance that is rounding."""

    mean_C: Float64
    components_CC: Float64 | Float32
    variances_C: Float64
    noise: float
    library: str


def _fit_on_cpu(sample_nC: Float32) -> _Fitted:
    """Fit in float64, by LAPACK: of more rows than columns by the covariance matrix, which is summed block by block."""
    from scipy import linalg

    # Find axes and variances.
    rows, columns = sample_nC.shape
    mean_C = sample_nC.mean(axis=0, dtype=np.float64)
    if rows >= columns:
        covariance_CC = np.zeros((columns, columns))
        for start in range(0, rows, _PRODUCT_ROWS):
            centred = sample_nC[start : start + _PRODUCT_ROWS] - mean_C
            covariance_CC += centred.T @ centred
        variances_C, axes = linalg.eigh(covariance_CC / (rows - 1), overwrite_a=True)
        variances_C, components = variances_C[::-1], axes.T[::-1]
    else:
        _, sizes, components = linalg.svd(sample_nC - mean_C, full_matrices=False, overwrite_a=True)
        variances_C = np.square(sizes) / (rows - 1)

    # Choose signs: the largest number of a component is positive.
    largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1)
    return _Fitted(
        mean_C=mean_C,
        components_CC=components * np.where(largest < 0, -1.0, 1.0),
        variances_C=np.maximum(variances_C, 0),
        noise=columns * float(np.finfo(np.float64).eps) + _ROUNDING**2,
        library=f"scipy {version('scipy')}",
    )


def _fit_on_gpu(sample_nC: Float32) -> _Fitted:
    """Fit by cuML, in float32, whose rounding errors grow with the square root of what is summed."""
    import cupy
    from cuml.decomposition import PCA

    on_device = cupy.asarray(sample_nC, order="F")  # cuML would copy a C-order matrix
    pca = PCA(n_components=min(sample_nC.shape), svd_solver="full", output_type="numpy").fit(on_device)
    return _Fitted(
        mean_C=np.asarray(pca.mean_, dtype=np.float64).reshape(-1),
        components_CC=np.asarray(pca.components_),
        variances_C=np.maximum(np.asarray(pca.explained_variance_, dtype=np.float64), 0),
        noise=float(np.sqrt(sample_nC.shape[1]) * np.finfo(np.float32).eps),
        library=f"cuml {version('cuml-cu13')}",
    )
