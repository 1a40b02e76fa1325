"""What the re-ranker is trained on: of each pair a list, the positive first, then mined negatives and anchors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hnmine.first_stage import NO_ROW
from hnmine.types import Int64, Pairs, Texts


@dataclass(frozen=True, kw_only=True)
class Lists:
    """What is trained on: of each query the documents, the positive first."""

    queries: tuple[str, ...]
    documents: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        assert len(self.queries) == len(self.documents)
        assert all(len(documents) > 1 for documents in self.documents), "a list needs a negative"

    def __len__(self) -> int:
        return len(self.queries)


def training_lists(
    documents: Texts,
    queries: Texts,
    pairs: Pairs,
    mined: Sequence[Sequence[int]],
    anchors: Sequence[Sequence[int]],
) -> Lists:
    """Put together the lists of all pairs that have a negative of either kind.

    Args:
        documents: the corpus.
        queries: the queries that `pairs` speaks of.
        pairs: judged pairs.
        mined: document rows of each pair's hard negatives; empty where it has none.
        anchors: document rows of each pair's easier negatives.
    """
    texts_q: list[str] = []
    texts_d: list[tuple[str, ...]] = []
    for query, positive, hard, easy in zip(
        pairs.query_rows_P.tolist(), pairs.doc_rows_P.tolist(), mined, anchors, strict=True
    ):
        rows = [positive, *dict.fromkeys([*hard, *easy])]
        if len(rows) > 1:
            texts_q.append(queries.texts[query])
            texts_d.append(tuple(documents.texts[row] for row in rows))
    return Lists(queries=tuple(texts_q), documents=tuple(texts_d))


def random_anchors(
    pairs: Pairs, positives: Mapping[int, set[int]], documents: int, per_pair: int, seed: int
) -> list[list[int]]:
    """Draw distinct documents for every pair, none of them judged positive for its query."""
    rng = np.random.default_rng(seed)
    drawn = []
    for query in pairs.query_rows_P.tolist():
        known = positives[query]
        pool = rng.choice(documents, size=min(documents, per_pair + len(known)), replace=False).tolist()
        drawn.append([row for row in pool if row not in known][:per_pair])
    return drawn


def first_stage_anchors(
    pairs: Pairs, positives: Mapping[int, set[int]], first: Mapping[int, Int64], per_pair: int, seed: int
) -> list[list[int]]:
    """Draw distinct documents for every pair from its query's first stage, none of them judged positive."""
    rng = np.random.default_rng(seed)
    drawn = []
    for query in pairs.query_rows_P.tolist():
        known = positives[query]
        pool = [row for row in first[query].tolist() if row != NO_ROW and row not in known]
        drawn.append(rng.permutation(pool)[:per_pair].astype(int).tolist())
    return drawn
