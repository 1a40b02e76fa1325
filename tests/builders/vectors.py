"""Vectors: files of precomputed ones, and spaces made to be awkward for the selection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hnmine.config.steps import ReduceConfig
from hnmine.embedding.vectors import Precomputed
from hnmine.mining.conditions import Known
from hnmine.mining.mine import choose_basis
from hnmine.mining.pca import Basis, Fused
from hnmine.types import Negatives, Pairs, Space, unit_rows

FLOATS = pa.list_(pa.float32())


def write_vectors(path: Path, vectors: dict, kind: pa.DataType = FLOATS, ids: pa.DataType | None = None) -> None:
    """Write a file of precomputed vectors, by id."""
    pq.write_table(
        pa.table({"id": pa.array(list(vectors), ids), "vector": pa.array(list(vectors.values()), kind)}), path
    )


def awkward_space(
    seed: int, docs: int, queries: int, pairs: int, width: int, wrong: float = 0.0
) -> tuple[Space, Pairs, Known]:
    """Vectors on a coarse grid (many exact ties), copied documents, queries equal to documents, several positives.

    Of each pair this share of the documents was judged wrong.
    """
    rng = np.random.default_rng(seed)
    grid = rng.integers(-2, 3, size=(docs + queries, width)).astype(np.float32)
    grid[rng.random(len(grid)) < 0.5] += rng.normal(size=width).astype(np.float32)
    grid[rng.random(len(grid)) < 0.05] = 0  # a text without any known term
    copies = rng.random(docs) < 0.2
    grid[:docs][copies] = grid[rng.integers(0, docs, size=int(copies.sum()))]
    same = rng.random(queries) < 0.2
    grid[docs:][same] = grid[rng.integers(0, docs, size=int(same.sum()))]
    unit = unit_rows(grid)
    space = Space(docs_NR=unit[:docs], queries_QR=unit[docs:])
    judged = np.unique(np.stack([rng.integers(0, queries, pairs), rng.integers(0, docs, pairs)], axis=1), axis=0)
    rows = rng.permutation(judged).astype(np.int64)
    chosen = Pairs(query_rows_P=rows[:, 0].copy(), doc_rows_P=rows[:, 1].copy())
    groups = np.where(rng.random(docs) < 0.2, rng.integers(0, docs, docs), np.arange(docs)).astype(np.int64)
    positives = chosen.positives_of()
    judged_wrong = [np.flatnonzero(rng.random(docs) < wrong).tolist() for _ in range(len(chosen))]
    known = Known([positives[query] for query in chosen.query_rows_P.tolist()], groups, judged_wrong)
    return space, chosen, known


def negatives_as_rows(negatives: Negatives) -> list[tuple]:
    """Return pair, document, rank, the three distances and the certificate of each negative."""
    return list(
        zip(
            negatives.pair_M.tolist(),
            negatives.doc_rows_M.tolist(),
            negatives.rank_M.tolist(),
            negatives.d_query_positive_M.tolist(),
            negatives.d_query_negative_M.tolist(),
            negatives.d_positive_negative_M.tolist(),
            negatives.certificate_M.tolist(),
            strict=True,
        )
    )


def random_encoder(width: int) -> Precomputed:
    """Return random vectors of 300 documents and 40 queries; the name tells the width."""
    rng = np.random.default_rng(width)
    docs, queries = (rng.normal(size=(count, width)).astype(np.float32) for count in (300, 40))
    return Precomputed(name=f"e{width}", docs_NR=docs, queries_QR=queries)


def random_fused(widths: tuple[int, ...] = (6, 9), weights: tuple[float, ...] = (1.0, 0.5)) -> Fused:
    """Return random encoders of these widths side by side."""
    return Fused(encoders=tuple(map(random_encoder, widths)), weights=weights)


def basis_of(fused: Fused, **settings: Any) -> Basis:
    """Return the basis that these settings of `reduce` choose."""
    basis = choose_basis(fused, ReduceConfig(**settings), device="cpu", seed=0)
    assert basis is not None
    return basis


def cloud(rows: int, columns: int, seed: int = 0, decay: float = 0.8) -> np.ndarray:
    """Unit rows around a common direction, with a falling spectrum: what encoders give."""
    rng = np.random.default_rng(seed)
    spread = decay ** np.arange(columns)
    values = rng.normal(size=(rows, columns)) * spread
    mixed = values @ np.linalg.qr(rng.normal(size=(columns, columns)))[0] + 0.5
    return unit_rows(mixed.astype(np.float32))


def basis_without_a_fit(columns: int, width: int) -> Basis:
    """The same basis on every processor, which a fit need not give."""
    rng = np.random.default_rng(4)
    components = (rng.integers(-(2**23), 2**23, size=(width, columns)) / 2**25).astype(np.float32)
    return Basis(
        mean_C=rng.integers(-9, 9, size=columns) / 64,
        components_RC=components,
        explained_variance_C=np.ones(columns),
        fitted_rows=9,
        library="none",
    )
