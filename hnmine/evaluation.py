"""Re-ranking of a first stage, and what it is worth: MRR@3, MRR@10 and nDCG@10 by ir_measures.

Letters: Q queries, K documents the first stage gave each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hnmine.first_stage import NO_ROW
from hnmine.types import Float32, Float64, Int64, Pairs, Texts

METRICS = {"MRR@3": "RR@3", "MRR@10": "RR@10", "nDCG@10": "nDCG@10"}
"""Our names of the metrics, and ir_measures' names of what is averaged."""

PerQuery = dict[str, Float64]
"""Metric → its value for each query (Q,)."""


class Scorer(Protocol):
    """A re-ranker as seen from here."""

    def scores(self, queries: Sequence[str], documents: Sequence[str], done: Callable[[int], None]) -> Float32:
        """Return one score a (query, document)."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """Queries, the documents to be put in order for each, and what was judged relevant; texts included."""

    queries: Texts
    doc_rows_QK: Int64
    """First stage's documents, best first; NO_ROW fills up."""
    first_scores_QK: Float32
    document_texts: dict[int, str]
    relevant: tuple[frozenset[int], ...]
    """Relevant document rows of each query, also those the first stage missed."""

    @classmethod
    def of(cls, documents: Texts, queries: Texts, pairs: Pairs, first: dict[int, tuple[Int64, Float32]]) -> Task:
        """Make the task of the queries that `pairs` judges; `first` gives a query row's documents and scores."""
        positives = pairs.positives_of()
        rows = sorted(positives)
        doc_rows = np.stack([first[row][0] for row in rows])
        return cls(
            queries=queries.take(rows),
            doc_rows_QK=doc_rows,
            first_scores_QK=np.stack([first[row][1] for row in rows]),
            document_texts={int(doc): documents.texts[doc] for doc in np.unique(doc_rows) if doc != NO_ROW},
            relevant=tuple(frozenset(positives[row]) for row in rows),
        )

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def documents_to_score(self) -> int:
        """Number of (query, document) a re-ranker has to score."""
        return int((self.doc_rows_QK != NO_ROW).sum())


def rerank(task: Task, scorer: Scorer, done: Callable[[int], None] = lambda _count: None) -> Float32:
    """Return the re-ranker's scores (Q, K); -inf where there is no document."""
    at_query, at_doc = np.nonzero(task.doc_rows_QK != NO_ROW)
    docs = task.doc_rows_QK[at_query, at_doc]
    scores = np.full(task.doc_rows_QK.shape, -np.inf, dtype=np.float32)
    scores[at_query, at_doc] = scorer.scores(
        [task.queries.texts[i] for i in at_query], [task.document_texts[int(doc)] for doc in docs], done
    )
    return scores


def measure(task: Task, scores_QK: Float32) -> PerQuery:
    """Return every metric for every query, the documents ordered by score; a query without a hit counts 0."""
    import ir_measures

    names = [f"q{i}" for i in range(len(task))]
    qrels = {name: {f"d{doc}": 1 for doc in docs} for name, docs in zip(names, task.relevant, strict=True)}
    run = {
        name: {f"d{doc}": float(score) for doc, score in zip(docs, scores, strict=True) if doc != NO_ROW}
        for name, docs, scores in zip(names, task.doc_rows_QK.tolist(), scores_QK.tolist(), strict=True)
    }
    of_name = {name: i for i, name in enumerate(names)}
    values: PerQuery = {metric: np.zeros(len(task)) for metric in METRICS}
    measures = {ir_measures.parse_measure(theirs): ours for ours, theirs in METRICS.items()}
    for row in ir_measures.iter_calc(list(measures), qrels, run):
        values[measures[row.measure]][of_name[row.query_id]] = row.value
    return values


def means(values: PerQuery) -> dict[str, float]:
    """Return each metric's mean over the queries."""
    return {metric: float(value.mean()) for metric, value in values.items()}


def table(rows: dict[str, dict[str, float]], title: str) -> str:
    """Return the printed table: one line a ranking, metrics as columns, and the change against `before`."""
    width = max(len(name) for name in rows)
    metrics = list(METRICS)
    lines = [
        title,
        "",
        f"{'':<{width}}  " + "  ".join(f"{metric:>7}" for metric in metrics),
    ]
    before = next((row for name, row in rows.items() if name.startswith("before")), None)
    for name, row in rows.items():
        line = f"{name:<{width}}  " + "  ".join(f"{row[metric]:>7.3f}" for metric in metrics)
        if before is not None and name.startswith("after"):
            line += f"   {row['MRR@10'] - before['MRR@10']:+.3f} MRR@10"
        lines.append(line)
    return "\n".join(lines)
