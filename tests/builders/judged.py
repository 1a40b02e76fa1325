"""Judgements written down as rows, and collections in which something was judged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from hnmine.corpus.collection import Collection, judged_first
from hnmine.corpus.never_negative import NeverNegative
from hnmine.types import Judgements, Texts


def judgements_of(rows: Iterable[tuple[int, int] | tuple[int, int, float]]) -> Judgements:
    """Return the judgements (query row, document row, grade); without a grade it is 1."""
    full = [(*row, 1.0)[:3] for row in rows]
    return Judgements(
        query_rows_J=np.array([query for query, _, _ in full], np.int64),
        doc_rows_J=np.array([doc for _, doc, _ in full], np.int64),
        grades_J=np.array([grade for _, _, grade in full], np.float32),
    )


def collection_of(
    documents: Texts,
    queries: Texts,
    splits: Mapping[str, Iterable[tuple[int, int] | tuple[int, int, float]]],
    *,
    min_score: float | None = None,
    lower_are_negatives: bool = False,
) -> Collection:
    """Return the collection of these texts, in which this was judged; queries without a positive move to the end."""
    judged = {name: judgements_of(rows) for name, rows in splits.items()}
    queries, judged = judged_first(queries, judged, min_score)
    rows = {"all": len(documents) + len(queries) + sum(map(len, judged.values()))}
    return Collection(
        documents=documents,
        queries=queries,
        splits=judged,
        min_score=min_score,
        lower_are_negatives=lower_are_negatives,
        rows_read=rows,
        rows_kept=rows,
        quarantined=(),
    )


def never_negative_of(groups: Iterable[int], positives: Mapping[int, set[int]]) -> NeverNegative:
    """Return what is never negative where only this was judged, and no query is a document."""
    groups_N = np.array(list(groups), np.int64)
    groups_Q = np.arange(max(positives, default=-1) + 1) + int(groups_N.max(initial=-1)) + 1
    return NeverNegative(groups_N=groups_N, groups_Q=groups_Q, positives=positives, lower={}, same_id={}, titled={})
