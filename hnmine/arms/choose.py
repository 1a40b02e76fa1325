"""Which negatives rules choose for many pairs, to train on them or for an audit; and which of these judges keep.

For every query the distances to all documents are computed once and exactly (`types.distance`), whatever the number of
rules: a rule may look anywhere, and the two conditions choose the rows that `mining.conditions` selects. A draw depends
on the seed and the pair's own rows alone, so neither on the other pairs nor on the other rules.

What may be no negative of the query (`corpus.never_negative`) is not seen by any rule. Documents of one text are one,
of which the nearest stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from hnmine.arms.rules import Rule, View
from hnmine.errors import ConfigError
from hnmine.mining.conditions import Known
from hnmine.mining.guards import RowScores, votes
from hnmine.types import NO_ROW, Done, Float32, Float64, Int64, Negatives, Pairs, Space, distance, distances

DISTANCES_AT_ONCE = 2**23
"""Distances that are held at once: of some queries to all documents."""
NUMBERS_AT_ONCE = 2**18
"""Numbers of documents in float64 that queries are compared with at once: they stay in a core's cache."""
CLUSTER_DOCUMENTS, MAX_CLUSTERS = 50, 200
"""Documents of a cluster, at least on average, and clusters at most: as in Curator."""
Rows = Sequence[Sequence[int]]
"""Of each pair some document rows."""


def choose_negatives(
    space: Space,
    pairs: Pairs,
    known: Known,
    rules: Mapping[str, Rule],
    *,
    count: int,
    seed: int,
    first_QK: Int64 | None = None,
    done: Done = lambda _pairs: None,
) -> dict[str, Int64]:
    """Return the rows (P, count) of the negatives that each rule chooses for each pair; NO_ROW fills up.

    `known` is what is no negative, by position in `pairs`, their own positives among it. `first_QK` are the first
    stage's document rows of every query of the space, best first, NO_ROW at the end. The seed is that of draws and
    clusters.
    """
    docs_NR, clusters_N = space.docs_NR, cache(lambda: clusters(space.docs_NR, seed))
    chosen = {name: np.full((len(pairs), count), NO_ROW, dtype=np.int64) for name in rules}

    def view_of(query: int, positive: int, rows_n: Int64, d_query_N: Float64) -> View:
        first_K = np.empty(0, dtype=np.int64) if first_QK is None else first_QK[query]
        return View(
            d_query_n=d_query_N[rows_n],
            radius=float(d_query_N[positive]),
            d_positive=lambda positions: distance(docs_NR[positive], docs_NR[rows_n[positions]]),
            own_cluster=lambda: np.flatnonzero(clusters_N()[rows_n] == clusters_N()[positive]),
            first_f=_positions(first_K[first_K != NO_ROW], rows_n, known.groups_N),
            seed=(seed, query, positive),
        )

    for query, pairs_p, d_query_N in _by_query(space, pairs):
        # Order the documents by distance, one of each text.
        order_N = np.argsort(d_query_N, kind="stable")
        order_N = order_N[known.first_of_text(np.zeros_like(order_N), order_N)]
        # Show each pair to the rules; each has a view of its own, so that it draws from the beginning.
        for pair in pairs_p.tolist():
            rows_n = order_N[~known.mask(np.full(len(order_N), pair), order_N)]
            view = view_of(query, int(pairs.doc_rows_P[pair]), rows_n, d_query_N)
            for name, rule in rules.items():
                rows = rows_n[rule(replace(view), count)]
                chosen[name][pair, : len(rows)] = rows
            done(1)
    return chosen


def negatives_by_rule(
    space: Space,
    pairs: Pairs,
    known: Known,
    rule: Rule,
    *,
    count: int,
    seed: int,
    first_QK: Int64,
    done: Done = lambda _pairs: None,
) -> Negatives:
    """Return up to `count` negatives of every pair by a rule of the user's; arguments as of `choose_negatives`.

    Raises:
        ConfigError: the rule returns something else than at most `count` distinct positions of its view.
    """

    def checked(view: View, most: int) -> Int64:
        positions = np.asarray(rule(view, most))
        there = len(view.d_query_n)
        if positions.shape == (0,):
            return np.empty(0, dtype=np.int64)
        is_ours = positions.ndim == 1 and positions.dtype.kind in "iu" and len(np.unique(positions)) == len(positions)
        if not is_ours or len(positions) > most or positions.min() < 0 or positions.max() >= there:
            raise ConfigError(
                f"the rule {_name_of(rule)} must return at most {most} distinct positions from 0 to {there - 1}, got "
                f"{str(rule(view, most))[:200]}"
            )
        return positions.astype(np.int64)

    # Let the rule choose.
    how: dict[str, Any] = {"count": count, "seed": seed, "first_QK": first_QK, "done": done}
    rows_PC = choose_negatives(space, pairs, known, {"": checked}, **how)[""]
    pair_M, place_M = np.nonzero(rows_PC != NO_ROW)

    # Prove the distances.
    query_rows_M, positive_rows_M = pairs.query_rows_P[pair_M], pairs.doc_rows_P[pair_M]
    doc_rows_M, (docs_NR, queries_QR) = rows_PC[pair_M, place_M], (space.docs_NR, space.queries_QR)
    return Negatives(
        pair_M=pair_M,
        doc_rows_M=doc_rows_M,
        rank_M=place_M + 1,
        d_query_positive_M=distances(queries_QR, query_rows_M, docs_NR, positive_rows_M),
        d_query_negative_M=distances(queries_QR, query_rows_M, docs_NR, doc_rows_M),
        d_positive_negative_M=distances(docs_NR, positive_rows_M, docs_NR, doc_rows_M),
        certificate_M=np.full(len(pair_M), "own rule", dtype=object),
        pairs=len(pairs),
        dropped={"rule_chooses_none": len(pairs) - len(np.unique(pair_M))},
        guarded={},
    )


def _name_of(rule: Rule) -> str:
    return getattr(rule, "__qualname__", repr(rule))


def clusters(docs_NR: Float32, seed: int) -> Int64:
    """Return the number of each document's cluster, by spherical k-means: up to 200 clusters, of 50 on average."""
    import faiss

    count = min(MAX_CLUSTERS, len(docs_NR) // CLUSTER_DOCUMENTS + 1)
    kmeans = faiss.Kmeans(docs_NR.shape[1], count, seed=seed % 2**31, spherical=True, min_points_per_centroid=1)
    docs_NR = np.ascontiguousarray(docs_NR)
    kmeans.train(docs_NR)
    return np.asarray(kmeans.assign(docs_NR)[1], dtype=np.int64)


def agreed(pairs: Pairs, candidates: Rows, spaces: Sequence[Space]) -> list[list[int]]:
    """Keep the candidates that satisfy both conditions in every space; `pairs` has rows of the spaces' queries."""
    pair_F, doc_F = _flat(candidates)
    keep_F = votes(spaces, pairs.query_rows_P[pair_F], pairs.doc_rows_P[pair_F], doc_F) == len(spaces)
    return _by_pair(len(pairs), pair_F[keep_F], doc_F[keep_F])


def denoised(pairs: Pairs, candidates: Rows, scores: RowScores, *, highest_first: bool = False) -> list[list[int]]:
    """Keep the candidates that a re-ranker scores no higher than the positive; the others may be right, not labelled.

    With `highest_first` its worst mistakes lead; otherwise the order stays.
    """
    pair_F, doc_F = _flat(candidates)
    query_rows = np.concatenate([pairs.query_rows_P[pair_F], pairs.query_rows_P])
    doc_rows = np.concatenate([doc_F, pairs.doc_rows_P])  # one call fills batches better
    score_F, score_P = np.split(scores(query_rows, doc_rows), [len(doc_F)])
    order_F = np.argsort(-score_F, kind="stable") if highest_first else np.arange(len(doc_F))
    order_F = order_F[score_F[order_F] <= score_P[pair_F[order_F]]]
    return _by_pair(len(pairs), pair_F[order_F], doc_F[order_F])


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


def _positions(docs_f: Int64, rows_n: Int64, groups_N: Int64) -> Int64:
    """Return where the texts of the documents stand among the rows, each once; of those that do."""
    position_of = np.full(int(groups_N.max(initial=0)) + 1, -1)
    position_of[groups_N[rows_n]] = np.arange(len(rows_n))
    found = position_of[groups_N[docs_f]]
    return np.array(list(dict.fromkeys(found[found >= 0].tolist())), dtype=np.int64)


def _flat(candidates: Rows) -> tuple[Int64, Int64]:
    """Return the candidates of all pairs, one after the other: the position of the pair, and the document row."""
    pair_F = np.repeat(np.arange(len(candidates)), [len(rows) for rows in candidates])
    return pair_F, np.array([row for rows in candidates for row in rows], dtype=np.int64)


def _by_pair(pairs: int, pair_F: Int64, doc_F: Int64) -> list[list[int]]:
    """Return the documents of each of so many pairs, in the order in which they stand."""
    rows: list[list[int]] = [[] for _ in range(pairs)]
    for pair, doc in zip(pair_F.tolist(), doc_F.tolist(), strict=True):
        rows[pair].append(doc)
    return rows
