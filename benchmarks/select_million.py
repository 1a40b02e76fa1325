"""The two conditions on 1,000,000 documents x 256 and 10,000 pairs: seconds, peak memory, equality with a full scan.

    python benchmarks/select_million.py [--documents N] [--pairs N] [--check N]

The vectors form clusters, so that positives have rivals: a document is the centre of its cluster plus noise, a query
lies between its positive and another document. The check compares `--check` pairs with every document of the corpus, by
the definition of a hard negative.
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import numpy as np

from hnmine.mining.conditions import Known, select
from hnmine.mining.search import Searcher
from hnmine.runs.device import Choice
from hnmine.runs.manifest import versions
from hnmine.types import Negatives, Pairs, Space, distance, unit_rows

WIDTH = 256


def make(documents: int, pairs: int, seed: int = 0) -> tuple[Space, Pairs]:
    """Return the space and its pairs, block by block so that making it is not the memory peak."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(1, documents // 50), WIDTH)).astype(np.float32)
    docs = np.empty((documents, WIDTH), dtype=np.float32)
    for start in range(0, documents, 50_000):
        stop = min(start + 50_000, documents)
        noise = rng.normal(size=(stop - start, WIDTH)).astype(np.float32)
        docs[start:stop] = unit_rows(centres[rng.integers(0, len(centres), stop - start)] + noise)
    positives = rng.integers(0, documents, pairs)
    between = rng.uniform(0.2, 0.8, size=(pairs, 1)).astype(np.float32)
    noise = rng.normal(size=(pairs, WIDTH)).astype(np.float32) * np.float32(0.5 / np.sqrt(WIDTH))
    queries = unit_rows(between * docs[positives] + (1 - between) * docs[rng.integers(0, documents, pairs)] + noise)
    return Space(docs_NR=docs, queries_QR=queries), Pairs(
        query_rows_P=np.arange(pairs, dtype=np.int64), doc_rows_P=positives.astype(np.int64)
    )


def disagreements(space: Space, pairs: Pairs, found: Negatives, check: int) -> int:
    """Return how many of `check` pairs, evenly spread, a scan of every document decides otherwise.

    The scan is a float64 product; what it finds nearer than the positive, to 1e-9, is judged again by the definition.
    """
    at = np.linspace(0, len(pairs) - 1, check).astype(int)
    queries, positives = space.queries_QR[pairs.query_rows_P[at]], space.docs_NR[pairs.doc_rows_P[at]]
    radius = distance(queries, positives)
    nearest: dict[int, tuple[float, int]] = {}
    for start in range(0, len(space.docs_NR), 20_000):
        block = space.docs_NR[start : start + 20_000]
        near = 1 - queries.astype(np.float64) @ block.astype(np.float64).T < radius[:, None] + 1e-9
        pair, doc = np.nonzero(near)
        d_query, d_positive = distance(queries[pair], block[doc]), distance(positives[pair], block[doc])
        passed = (d_query < radius[pair]) & (d_query < d_positive) & (doc + start != pairs.doc_rows_P[at][pair])
        for one, d, row in zip(pair[passed].tolist(), d_query[passed].tolist(), doc[passed].tolist(), strict=True):
            nearest[one] = min(nearest.get(one, (np.inf, -1)), (d, row + start))
    chosen = dict(zip(found.pair_M.tolist(), found.doc_rows_M.tolist(), strict=True))
    return sum(nearest.get(one, (0, None))[1] != chosen.get(int(pair)) for one, pair in enumerate(at))


def main() -> None:
    """Run, print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--check", type=int, default=500)
    options = parser.parse_args()
    space, pairs = make(options.documents, options.pairs)
    known = Known([[doc] for doc in pairs.doc_rows_P.tolist()], np.arange(options.documents, dtype=np.int64))
    start = time.monotonic()
    searcher = Searcher(space.docs_NR, Choice(kind="cpu", reason="benchmark"))
    found = select(space, pairs, known, searcher)
    seconds = time.monotonic() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        json.dumps(
            {
                "documents": options.documents,
                "pairs": options.pairs,
                "seconds": round(seconds, 1),
                "peak_memory_gib": round(peak, 2),
                "selected": found.selected_pairs,
                "checked": options.check,
                "disagreements": disagreements(space, pairs, found, options.check),
                "versions": versions(),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
