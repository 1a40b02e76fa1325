"""A night after 1 % of the documents changed against a selection from scratch: seconds of the selection alone.

    python benchmarks/incremental.py [documents pairs width]

Vectors are drawn: documents around 200 centres, each query near the document that is its positive.
"""

from __future__ import annotations

import sys
import time

import numpy as np

from hnmine.mining.conditions import Known, select
from hnmine.mining.fuse import unit_rows
from hnmine.mining.search import Searcher
from hnmine.nights.incremental import Night, identities, renew
from hnmine.runs.device import Choice
from hnmine.types import Pairs, Space

CPU = Choice(kind="cpu", reason="benchmark")


def main(documents: int = 27_000, pairs: int = 4_673, width: int = 384) -> None:
    """Print a line for each way."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(200, width))
    changed = documents // 100
    own = 0.8 * rng.normal(size=(documents + changed, width))
    centre = centres[rng.integers(0, 200, documents + changed)]
    vectors = unit_rows((centre + own).astype(np.float32))
    noise = rng.normal(size=(pairs, width))
    queries_QR = unit_rows((centre[:pairs] + 0.15 * own[:pairs] + 0.6 * noise).astype(np.float32))
    texts = rng.integers(0, 2**63, size=(documents + changed, 2)).astype(np.uint64)
    last = Night.first()
    kept = np.sort(rng.permutation(np.arange(pairs, documents))[: documents - pairs - changed])
    nights = {
        "first night": np.arange(documents),
        "1 % changed": np.r_[np.arange(pairs), kept, np.arange(documents, documents + changed)],
    }
    for name, rows in nights.items():
        space = Space(docs_NR=vectors[rows], queries_QR=queries_QR)
        judged = Pairs(query_rows_P=np.arange(pairs), doc_rows_P=np.arange(pairs))
        positives = [{pair} for pair in range(pairs)]
        groups = np.arange(len(rows))
        started = time.monotonic()
        known = Known.of(positives, groups)
        full = select(space, judged, known, Searcher(space.docs_NR, CPU))
        scratch = time.monotonic() - started
        started = time.monotonic()
        docs_N, queries_Q = identities(texts[rows], space.docs_NR), identities(texts[:pairs], queries_QR)
        named = time.monotonic() - started
        found, last, work = renew(
            last, space, judged, positives, groups, docs_N, queries_Q, lambda docs: Searcher(docs, CPU)
        )
        seconds = time.monotonic() - started
        assert np.array_equal(found.doc_rows_M, full.doc_rows_M)
        print(
            f"{name:<12} {len(rows):,} documents, {found.selected_pairs:,} of {pairs:,} pairs have a negative: "
            f"from scratch {scratch:.2f} s, renewed {seconds:.2f} s ({named:.2f} s of it identities); {work}"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
