"""A task: K documents to be put in order for each of Q queries. What an order is worth, and whether one is better."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnmine.types import NO_ROW, Done, Float32, Float64, Int64, Pairs, Score, Texts

METRICS = {"MRR@3": "RR@3", "MRR@10": "RR@10", "nDCG@10": "nDCG@10", "Recall@10": "R@10"}
"""Our names of the metrics, and ir_measures' names of the values that are averaged."""
MAIN_METRIC = "MRR@10"
"""The metric that chooses steps, weights and arms, and orders what is shown."""

PerQuery = dict[str, Float64]
"""Metric → its value for each query (Q,)."""

LONG_WORDS = 1024
"""A document of more words and marks counts as long (arXiv 2505.18366, Table 5, draws the line at as many tokens)."""
_WORD_OR_MARK = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, kw_only=True)
class Task:
    """Queries, the documents to be put in order for each, and what was judged relevant; texts included."""

    queries: Texts
    doc_rows_QK: Int64
    """The first stage's documents, best first; NO_ROW fills up."""
    first_scores_QK: Float32
    document_texts: dict[int, str]
    relevant: tuple[frozenset[int], ...]
    """Relevant document rows of each query, also those that the first stage missed."""
    long: frozenset[int] = frozenset()
    """Positions of the queries with a relevant document of more than `LONG_WORDS` words and marks."""

    @classmethod
    def of(
        cls, documents: Texts, queries: Texts, pairs: Pairs, rows_Q: Int64, doc_rows_QK: Int64, scores_QK: Float32
    ) -> Task:
        """Make the task of the queries in these rows, of their first documents and what the pairs judge relevant."""
        texts, positives = documents.texts, pairs.positives_of()
        relevant = tuple(frozenset(positives.get(row, ())) for row in rows_Q.tolist())
        long = {doc for doc in frozenset().union(*relevant) if len(_WORD_OR_MARK.findall(texts[doc])) > LONG_WORDS}
        return cls(
            queries=queries.take(rows_Q),
            doc_rows_QK=doc_rows_QK,
            first_scores_QK=scores_QK,
            document_texts={doc: texts[doc] for doc in np.unique(doc_rows_QK).tolist() if doc != NO_ROW},
            relevant=relevant,
            long=frozenset(query for query, docs in enumerate(relevant) if docs & long),
        )

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def exists_QK(self) -> NDArray[np.bool_]:
        """Where there is a document to score."""
        exists_QK: NDArray[np.bool_] = self.doc_rows_QK != NO_ROW
        return exists_QK

    @property
    def relevant_QK(self) -> NDArray[np.bool_]:
        """Which of the documents are relevant."""
        return np.array([np.isin(rows, list(docs)) for rows, docs in zip(self.doc_rows_QK, self.relevant, strict=True)])

    @property
    def texts(self) -> list[Any]:
        """All that a re-ranker reads."""
        return [self.queries.texts, self.doc_rows_QK.tolist(), sorted(self.document_texts.items())]


def rerank(task: Task, score: Score, done: Done = lambda _count: None) -> Float32:
    """Return a re-ranker's scores (Q, K); -inf where there is no document."""
    query_F, position_F = np.nonzero(task.exists_QK)
    queries = [task.queries.texts[query] for query in query_F]
    documents = [task.document_texts[row] for row in task.doc_rows_QK[query_F, position_F].tolist()]
    scores_QK = np.full(task.doc_rows_QK.shape, -np.inf, dtype=np.float32)
    scores_QK[query_F, position_F] = score(queries, documents, done)
    return scores_QK


def measure(task: Task, scores_QK: Float32) -> PerQuery:
    """Return every metric for every query, the documents ordered by score; a query without a hit counts 0."""
    import ir_measures

    names = [str(query) for query in range(len(task))]
    qrels = {name: {f"d{doc}": 1 for doc in docs} for name, docs in zip(names, task.relevant, strict=True)}
    run = {
        name: {f"d{doc}": float(score) for doc, score in zip(docs, scores, strict=True) if doc != NO_ROW}
        for name, docs, scores in zip(names, task.doc_rows_QK.tolist(), scores_QK.tolist(), strict=True)
    }
    values: PerQuery = {metric: np.zeros(len(task)) for metric in METRICS}
    measures = {ir_measures.parse_measure(theirs): ours for ours, theirs in METRICS.items()}
    for row in ir_measures.iter_calc(list(measures), qrels, run):
        values[measures[row.measure]][int(row.query_id)] = row.value
    return values


def means(values: PerQuery) -> dict[str, float]:
    """Return each metric's mean over the queries."""
    return {metric: float(values_Q.mean()) for metric, values_Q in values.items()}


def reach(task: Task) -> float:
    """Return the share of the relevant documents that the first stage found: re-ranking cannot add others."""
    return float(task.relevant_QK.sum()) / sum(map(len, task.relevant))


@dataclass(frozen=True, kw_only=True)
class Paired:
    """The mean difference of a metric over queries, and how sure it is."""

    difference: float
    low: float
    """Lower end of the 95 % confidence interval (percentile bootstrap over queries)."""
    high: float
    p: float
    """Two-sided p-value of the paired randomisation test; exact where all 2^Q sign patterns are few."""


def paired(after_Q: Float64, before_Q: Float64, seed: int = 0) -> Paired:
    """Compare two rankings query by query.

    The randomisation test asks how often a difference of means as large would come if for every query it were chance
    which ranking got which value (Smucker et al., CIKM 2007).
    """
    from scipy import stats

    if after_Q.shape != before_Q.shape or not len(after_Q):
        raise ValueError(f"need one value a query of both runs, got {after_Q.shape} and {before_Q.shape}")
    differences_Q = after_Q - before_Q
    mean = float(differences_Q.mean())
    if len(differences_Q) == 1 or not np.ptp(differences_Q):  # there is nothing to resample
        p = 1.0 if not mean else float(2.0 ** (1 - len(differences_Q)))
        return Paired(difference=mean, low=mean, high=mean, p=p)
    how = {"n_resamples": 9999, "rng": seed}
    test = stats.permutation_test((differences_Q,), np.mean, permutation_type="samples", **how)
    interval = stats.bootstrap((differences_Q,), np.mean, batch=1000, method="percentile", **how).confidence_interval
    return Paired(difference=mean, low=float(interval.low), high=float(interval.high), p=float(test.pvalue))
