"""Every GPU path against its CPU result, for whatever libraries this machine has; prints one table.

    python benchmarks/gpu_check.py [--rows N] [--width N]

    PCA        cuML against scikit-learn: kept variance, and the smallest cosine between the two subspaces
    search     FAISS-GPU against FAISS on the CPU: the largest difference of a distance, against the error bound
    selection  the negatives by either index: identical rows, distances and certificates
    encoder    MiniLM in float16 on the GPU against float32 on the CPU: the smallest cosine, and tokens a second

A path without its library or without a GPU is a line that says so. The exit code is 1 if a path that ran disagrees.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from hnmine import device as devices
from hnmine.config import EncoderConfig
from hnmine.device import Choice
from hnmine.encoders import Plan, plan
from hnmine.errors import HnmineError
from hnmine.fuse import unit_rows
from hnmine.reduce import Basis, fit
from hnmine.runs import versions
from hnmine.search import Searcher, error_bound
from hnmine.select import Known, select
from hnmine.types import Pairs, Space, Texts

CPU, GPU = Choice(kind="cpu", reason="check"), Choice(kind="gpu", reason="check")


@dataclass(frozen=True)
class Line:
    """One row of the table."""

    path: str
    agrees: bool | None
    detail: str
    cpu_seconds: float = float("nan")
    gpu_seconds: float = float("nan")


T = TypeVar("T")


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """Return the result and the seconds of the second of two runs; the first warms up."""
    work()
    start = time.monotonic()
    result = work()
    return result, time.monotonic() - start


def space_of(rows: int, width: int) -> tuple[Space, Pairs]:
    """Return documents with a falling spectrum, and queries between two of them."""
    rng = np.random.default_rng(0)
    docs = unit_rows((rng.normal(size=(rows, width)) * np.linspace(1, 0.05, width)).astype(np.float32))
    positives, others = rng.integers(0, rows, size=(2, max(1, rows // 20)))
    between = rng.uniform(0.3, 0.7, size=(len(positives), 1)).astype(np.float32)
    queries = unit_rows(between * docs[positives] + (1 - between) * docs[others])
    return Space(docs_NR=docs, queries_QR=queries), Pairs(
        query_rows_P=np.arange(len(positives), dtype=np.int64), doc_rows_P=positives.astype(np.int64)
    )


def check_pca(space: Space) -> Line:
    """Compare the bases."""

    def basis(device: Choice) -> Callable[[], Basis]:
        rows = len(space.docs_NR)
        return lambda: fit(lambda r: space.docs_NR[r], rows, variance=0.95, fit_rows=rows, seed=0, device=device)

    (ours, cpu_s), (theirs, gpu_s) = timed(basis(CPU)), timed(basis(GPU))
    cosines = np.linalg.svd(ours.components_RC @ theirs.components_RC.T, compute_uv=False)
    same = abs(ours.kept - theirs.kept) < 1e-4 and ours.width == theirs.width
    detail = f"width {ours.width} / {theirs.width}, subspace cosine {cosines.min():.6f}"
    return Line("PCA: cuML", bool(same and cosines.min() > 0.99), detail, cpu_s, gpu_s)


def check_search(space: Space) -> Line:
    """Compare the distances of the lists; their order may differ where distances are equal."""
    queries = space.queries_QR
    ours, cpu_s = timed(lambda: Searcher(space.docs_NR, CPU).nearest(queries, 64))
    theirs, gpu_s = timed(lambda: Searcher(space.docs_NR, GPU).nearest(queries, 64))
    gap = float(np.abs(ours.distances_QK - theirs.distances_QK).max())
    bound = 2 * error_bound(space.width)
    return Line("search: FAISS flat", gap <= bound, f"largest difference {gap:.2e}, bound {bound:.2e}", cpu_s, gpu_s)


def check_selection(space: Space, pairs: Pairs) -> Line:
    """Compare the negatives."""
    known = Known.of([[doc] for doc in pairs.doc_rows_P.tolist()], np.arange(len(space.docs_NR)))
    ours, cpu_s = timed(lambda: select(space, pairs, known, Searcher(space.docs_NR, CPU), negatives=4))
    theirs, gpu_s = timed(lambda: select(space, pairs, known, Searcher(space.docs_NR, GPU), negatives=4))
    fields = ("pair_M", "doc_rows_M", "d_query_negative_M", "certificate_M")
    same = all(np.array_equal(getattr(ours, name), getattr(theirs, name)) for name in fields)
    return Line("selection", same, f"{len(ours)} negatives, identical: {same}", cpu_s, gpu_s)


def check_encoder(texts: Texts) -> Line:
    """Compare MiniLM's vectors."""

    def planned(device: Choice, dtype: str) -> Plan:
        config = EncoderConfig.model_validate({"name": "minilm", "model": "all-MiniLM-L6-v2", "dtype": dtype})
        return plan(config, texts, Path("."), device, 16_384 if device.kind == "cpu" else 262_144)

    slow, fast = planned(CPU, "float32").build(), planned(GPU, "float16").build()
    ours, cpu_s = timed(lambda: slow.encode(texts.texts, ""))
    theirs, gpu_s = timed(lambda: fast.encode(texts.texts, ""))
    cosine = float((unit_rows(ours) * unit_rows(theirs)).sum(axis=1).min())
    rate = sum(len(text.split()) for text in texts.texts) / gpu_s
    return Line("encoder: MiniLM", cosine > 0.999, f"cosine {cosine:.5f}, {rate:,.0f} words/s on the GPU", cpu_s, gpu_s)


def texts_of(count: int) -> Texts:
    """Return texts of mixed length."""
    rng = np.random.default_rng(0)
    words = ["index", "table", "row", "column", "vector", "query", "service", "instance", "cloud", "storage", "network"]
    made = tuple(" ".join(rng.choice(words, size=int(rng.integers(5, 200)))) for _ in range(count))
    return Texts(ids=tuple(f"t{i}" for i in range(count)), texts=made)


def attempt(path: str, needs: str | None, work: Callable[[], Line]) -> Line:
    """Run one check where it can run, and say why where it cannot."""
    try:
        devices.choose("gpu", needs)
    except HnmineError as error:
        return Line(path, None, f"not run: {error}")
    return work()


def main() -> int:
    """Run all checks; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--width", type=int, default=384)
    options = parser.parse_args()
    space, pairs = space_of(options.rows, options.width)
    lines = [
        attempt("PCA: cuML", "cuml-cu13", lambda: check_pca(space)),
        attempt("search: FAISS flat", "faiss-gpu", lambda: check_search(space)),
        attempt("selection", "faiss-gpu", lambda: check_selection(space, pairs)),
        attempt("encoder: MiniLM", None, lambda: check_encoder(texts_of(2000))),
    ]
    print(f"{'path':<20} {'agrees':<8} {'CPU s':>8} {'GPU s':>8} {'ratio':>7}  detail")
    for line in lines:
        agrees = "-" if line.agrees is None else "yes" if line.agrees else "NO"
        ratio = line.cpu_seconds / line.gpu_seconds
        print(
            f"{line.path:<20} {agrees:<8} {line.cpu_seconds:8.3f} {line.gpu_seconds:8.3f} {ratio:7.1f}  {line.detail}"
        )
    print("\n" + ", ".join(f"{name} {value}" for name, value in versions().items()))
    return int(any(line.agrees is False for line in lines))


if __name__ == "__main__":
    sys.exit(main())
