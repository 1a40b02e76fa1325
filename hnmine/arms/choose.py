"""Rules run over pairs: which negatives each of them chooses, for an audit, or to train on them.

For every query the distances to all documents are computed once and exactly (`types.distance`), whatever the number of
rules: a rule may look anywhere, and the two conditions choose the rows that `mining.conditions` selects. A draw depends
on the seed and the pair's own rows alone, so neither on the other pairs nor on the other rules.

Judged positives of the query, and documents whose text equals one, are not seen by any rule. Copies, which are equally
near, are one document, of which the first row stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache, partial

import numpy as np

from hnmine.arms.rules import Rule, View
from hnmine.mining.conditions import Known
from hnmine.types import NO_ROW, Float32, Float64, Int64, Pairs, Space, distance

DISTANCES_AT_ONCE = 2**23
"""Distances that are held at once: of some queries to all documents."""
NUMBERS_AT_ONCE = 2**18
"""Numbers of documents in float64 that queries are compared with at once: they stay in a core's cache."""
CLUSTER_DOCUMENTS, MAX_CLUSTERS = 50, 200
"""Documents of a cluster, at least on average, and clusters at most: as in Curator."""


def choose_negatives(
    space: Space,
    pairs: Pairs,
    known: Known,
    rules: Mapping[str, Rule],
    *,
    count: int,
    seed: int,
    first_QK: Int64 | None = None,
    done: Callable[[int], None] = lambda _pairs: None,
) -> dict[str, Int64]:
    """Return the rows (P, count) of the negatives that each rule chooses for each pair; NO_ROW fills up.

    Args:
        space: documents and queries.
        pairs: judged pairs; a query may stand in several.
        known: what is excluded, by position in `pairs`; their own positives among it.
        rules: by name.
        count: negatives wanted of each pair, at least 1.
        seed: of the rules that draw, and of the clusters.
        first_QK: the first stage's document rows of every query of the space, best first, NO_ROW at the end.
        done: hears how many pairs have been finished since it heard last.
    """
    chosen = {name: np.full((len(pairs), count), NO_ROW, dtype=np.int64) for name in rules}
    for pair, rows_n, view in _views(space, pairs, known, seed, first_QK):
        for name, rule in rules.items():
            rows = rows_n[rule(replace(view), count)]  # a copy of the view, so that each rule draws from the beginning
            chosen[name][pair, : len(rows)] = rows
        done(1)
    return chosen


def clusters(docs_NR: Float32, seed: int) -> Int64:
    """Return the number of each document's cluster, by spherical k-means: up to 200 clusters, of 50 on average."""
    import faiss

    count = min(MAX_CLUSTERS, len(docs_NR) // CLUSTER_DOCUMENTS + 1)
    kmeans = faiss.Kmeans(docs_NR.shape[1], count, seed=seed % 2**31, spherical=True, min_points_per_centroid=1)
    docs_NR = np.ascontiguousarray(docs_NR)
    kmeans.train(docs_NR)
    return np.asarray(kmeans.assign(docs_NR)[1], dtype=np.int64)


def _views(
    space: Space, pairs: Pairs, known: Known, seed: int, first_QK: Int64 | None
) -> Iterator[tuple[int, Int64, View]]:
    """Yield of each pair its position, the rows of the documents that may be chosen, and what the rules see."""
    docs_NR, groups_N = space.docs_NR, known.groups_N
    clusters_N = cache(lambda: clusters(docs_NR, seed))
    for query, pairs_p, d_query_N in _by_query(space, pairs):
        order_N = np.argsort(d_query_N, kind="stable")
        order_N = order_N[known.first_of_text(np.zeros_like(order_N), order_N)]
        first_K = np.empty(0, dtype=np.int64) if first_QK is None else first_QK[query]
        for pair in pairs_p.tolist():
            positive = int(pairs.doc_rows_P[pair])
            rows_n = order_N[~known.mask(np.full(len(order_N), pair), order_N)]
            yield (
                pair,
                rows_n,
                View(
                    d_query_n=d_query_N[rows_n],
                    radius=float(d_query_N[positive]),
                    d_positive=partial(_to_positive, docs_NR, positive, rows_n),
                    own_cluster=partial(_of_cluster, clusters_N, positive, rows_n),
                    first_f=_positions(first_K[first_K != NO_ROW], rows_n, groups_N),
                    seed=(seed, query, positive),
                ),
            )


def _by_query(space: Space, pairs: Pairs) -> Iterator[tuple[int, Int64, Float64]]:
    """Yield each query with its pairs and its distances to all documents."""
    order_P = np.argsort(pairs.query_rows_P, kind="stable")
    queries, starts = np.unique(pairs.query_rows_P[order_P], return_index=True)
    pairs_of = np.split(order_P, starts[1:])
    step = max(1, DISTANCES_AT_ONCE // len(space.docs_NR))
    for start in range(0, len(queries), step):
        block = slice(start, start + step)
        d_query_qN = _distances(space.queries_QR[queries[block]], space.docs_NR)
        yield from zip(queries[block].tolist(), pairs_of[block], d_query_qN, strict=True)


def _distances(queries_qR: Float32, docs_NR: Float32) -> Float64:
    """Return the exact distances (q, N)."""
    d_qN = np.empty((len(queries_qR), len(docs_NR)))
    step = max(1, NUMBERS_AT_ONCE // docs_NR.shape[1])
    for start in range(0, len(docs_NR), step):
        docs = docs_NR[start : start + step].astype(np.float64)
        for d_N, query in zip(d_qN, queries_qR, strict=True):
            d_N[start : start + step] = distance(query, docs)
    return d_qN


def _to_positive(docs_NR: Float32, positive: int, rows_n: Int64, positions: Int64) -> Float64:
    return distance(docs_NR[positive], docs_NR[rows_n[positions]])


def _of_cluster(clusters_N: Callable[[], Int64], positive: int, rows_n: Int64) -> Int64:
    numbers_N = clusters_N()
    return np.flatnonzero(numbers_N[rows_n] == numbers_N[positive])


def _positions(docs_f: Int64, rows_n: Int64, groups_N: Int64) -> Int64:
    """Return where the texts of the documents stand among the rows, each once; of those that do."""
    position_of = np.full(int(groups_N.max(initial=0)) + 1, -1)
    position_of[groups_N[rows_n]] = np.arange(len(rows_n))
    found = position_of[groups_N[docs_f]]
    return np.array(list(dict.fromkeys(found[found >= 0].tolist())), dtype=np.int64)
