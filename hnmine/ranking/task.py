"""Re-ranking of a first stage, and what it is worth: MRR@3, MRR@10, nDCG@10 and Recall@10 by ir_measures.

Letters: Q queries, K documents the first stage gave each.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hnmine.ranking.first_stage import NO_ROW
from hnmine.ranking.significance import Paired
from hnmine.types import Float32, Float64, Int64, Pairs, Texts

METRICS = {"MRR@3": "RR@3", "MRR@10": "RR@10", "nDCG@10": "nDCG@10", "Recall@10": "R@10"}
"""Our names of the metrics, and ir_measures' names of what is averaged."""

LONG_WORDS = 1024
"""Above, a document counts as long (arXiv 2505.18366, Table 5, draws the line at as many tokens)."""
_FEWEST = 10  # queries of a length that are worth a mean
_WORD_OR_MARK = re.compile(r"\w+|[^\w\s]")

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
    long: frozenset[int] = frozenset()
    """Positions of the queries with a right document of more than `LONG_WORDS` words and marks."""

    @classmethod
    def of(
        cls,
        documents: Texts,
        queries: Texts,
        pairs: Pairs,
        first: dict[int, tuple[Int64, Float32]],
        rows: Sequence[int],
    ) -> Task:
        """Make the task of the queries in these rows; `first` gives a query row's documents and scores."""
        judged = pairs.positives_of()
        positives = {row: judged.get(row, []) for row in rows}
        is_long = {doc: _is_long(documents.texts[doc]) for docs in positives.values() for doc in docs}
        doc_rows = np.stack([first[row][0] for row in rows])
        return cls(
            queries=queries.take(rows),
            doc_rows_QK=doc_rows,
            first_scores_QK=np.stack([first[row][1] for row in rows]),
            document_texts={int(doc): documents.texts[doc] for doc in np.unique(doc_rows) if doc != NO_ROW},
            relevant=tuple(frozenset(positives[row]) for row in rows),
            long=frozenset(i for i, row in enumerate(rows) if any(is_long[doc] for doc in positives[row])),
        )

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def texts(self) -> list[Any]:
        """All that a re-ranker is told."""
        return [self.queries.texts, self.doc_rows_QK.tolist(), sorted(self.document_texts.items())]

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


def reach(task: Task) -> float:
    """Return the share of the relevant documents that the first stage found: what re-ranking can reach."""
    found = [len(docs & set(rows)) for docs, rows in zip(task.relevant, task.doc_rows_QK.tolist(), strict=True)]
    return sum(found) / sum(len(docs) for docs in task.relevant)


def table(rows: Mapping[str, PerQuery], title: str, against: Mapping[str, Paired] | None = None) -> str:
    """Return the printed table: one line a ranking, metrics as columns, and the change where it was tested."""
    width = max(len(name) for name in rows)
    columns = [max(7, len(metric)) for metric in METRICS]
    names = "  ".join(f"{metric:>{size}}" for metric, size in zip(METRICS, columns, strict=True))
    lines = [title, "", f"{'':<{width}}  {names}"]
    for name, values in rows.items():
        of = means(values)
        cells = "  ".join(f"{of[metric]:>{size}.3f}" for metric, size in zip(METRICS, columns, strict=True))
        line = f"{name:<{width}}  {cells}"
        if against and name in against:
            test = against[name]
            line += f"   {test.difference:+.3f} MRR@10 ({test.low:+.3f} to {test.high:+.3f}, p = {test.p:.2g})"
        lines.append(line)
    return "\n".join(lines)


def table_by_length(task: Task, rows: Mapping[str, PerQuery], metric: str = "MRR@10", fewest: int = _FEWEST) -> str:
    """Return the metric apart for queries whose right documents are short and long; empty with too few of either."""
    long_Q = np.isin(np.arange(len(task)), sorted(task.long))
    if min(long_Q.sum(), (~long_Q).sum()) < fewest:
        return ""
    heads = [f"short ({int((~long_Q).sum()):,})", f"long ({int(long_Q.sum()):,})"]
    width = max(len(name) for name in rows)
    lines = [
        f"{metric} by the length of the right document (long: over {LONG_WORDS:,} words and marks)",
        "",
        f"{'':<{width}}  " + "  ".join(f"{head:>12}" for head in heads),
    ]
    for name, values in rows.items():
        means_of = (values[metric][~long_Q].mean(), values[metric][long_Q].mean())
        lines.append(f"{name:<{width}}  " + "  ".join(f"{value:>12.3f}" for value in means_of))
    return "\n".join(lines)


def _is_long(text: str) -> bool:
    return sum(1 for _ in _WORD_OR_MARK.finditer(text)) > LONG_WORDS
