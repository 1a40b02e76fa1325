"""A task: K documents to be put in order for each of Q queries. What an order is worth, and whether one is better."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnmine.runs.files import digest
from hnmine.types import NO_ROW, Done, Float32, Float64, Int64, Pairs, Score, Texts

DEPTH = 10
"""Places that metrics look at."""
MAIN_METRIC = "MRR@10"
"""The metric that chooses steps, weights and arms, and orders what is shown."""
SURE = 0.05
"""A p-value from which on a difference may be chance."""

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
    """Positives of each query, by document row; also those that the first stage missed."""
    grades: tuple[Mapping[int, float], ...] | None = None
    """Of each query the grades above 0, also below that of a positive; None: 1 for each positive."""
    document_ids: Mapping[int, str] = field(default_factory=dict)
    long: frozenset[int] = frozenset()
    """Positions of the queries with a relevant document of more than `LONG_WORDS` words and marks."""

    @classmethod
    def of(
        cls,
        documents: Texts,
        queries: Texts,
        pairs: Pairs | None,
        rows_Q: Int64,
        doc_rows_QK: Int64,
        scores_QK: Float32,
    ) -> Task:
        """Make the task of the queries in these rows, of their first documents and what the pairs, if any, judge."""
        texts, positives = documents.texts, pairs.positives_of() if pairs else {}
        first = np.unique(doc_rows_QK[doc_rows_QK != NO_ROW]).tolist()
        grades = None if pairs is None or pairs.source is None else pairs.source.grades(rows_Q)
        relevant = tuple(frozenset(positives.get(row, ())) for row in rows_Q.tolist())
        long = {doc for doc in frozenset().union(*relevant) if len(_WORD_OR_MARK.findall(texts[doc])) > LONG_WORDS}
        return cls(
            queries=queries.take(rows_Q),
            doc_rows_QK=doc_rows_QK,
            first_scores_QK=scores_QK,
            document_texts={doc: texts[doc] for doc in first},
            document_ids={doc: documents.ids[doc] for doc in first},
            relevant=relevant,
            grades=None if grades is None else tuple(grades[row] for row in rows_Q.tolist()),
            long=frozenset(query for query, docs in enumerate(relevant) if docs & long),
        )

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def identity(self) -> str:
        """What names these queries with their documents and judgements."""
        return digest([*self.texts, [sorted(rows) for rows in self.relevant]])

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
    queries = [task.queries.texts[query] for query in query_F.tolist()]
    documents = [task.document_texts[row] for row in task.doc_rows_QK[query_F, position_F].tolist()]
    scores_QK = np.full(task.doc_rows_QK.shape, -np.inf, dtype=np.float32)
    scores_QK[query_F, position_F] = score(queries, documents, done)
    return scores_QK


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """The first `DEPTH` documents of each query as a ranking puts them, K of them, and all that could be there."""

    relevant_QK: NDArray[np.bool_]
    grade_QK: Float64
    """0 where nothing is known of a document, or there is none."""
    relevant_Q: Int64
    """How many documents are relevant."""
    ideal_QK: Float64
    """The highest grades of each query, highest first; 0 fills up."""


def order_of(task: Task, scores_QK: Float32) -> Int64:
    """Return the places (Q, K) in the first stage by score, highest first; of equal scores the earlier place."""
    return np.argsort(-np.where(task.exists_QK, scores_QK, -np.inf), axis=1, kind="stable")


def measure(task: Task, scores_QK: Float32) -> PerQuery:
    """Return every metric for every query, the documents in `order_of` their scores; a query without a hit counts 0."""
    rows_QK = np.take_along_axis(task.doc_rows_QK, order_of(task, scores_QK)[:, :DEPTH], axis=1)
    shape, rows = rows_QK.shape, rows_QK.tolist()
    grades = task.grades or tuple(dict.fromkeys(docs, 1.0) for docs in task.relevant)
    relevant = [[doc in docs for doc in found] for docs, found in zip(task.relevant, rows, strict=True)]
    graded = [[of_query.get(doc, 0.0) for doc in found] for of_query, found in zip(grades, rows, strict=True)]
    ideal = [[*sorted(of_query.values(), reverse=True)[:DEPTH], *[0.0] * DEPTH][:DEPTH] for of_query in grades]
    ranked = Ranked(
        relevant_QK=np.array(relevant, dtype=bool).reshape(shape),
        grade_QK=np.array(graded, dtype=np.float64).reshape(shape),
        relevant_Q=np.array([len(docs) for docs in task.relevant], dtype=np.int64),
        ideal_QK=np.array(ideal, dtype=np.float64).reshape(len(task), DEPTH),
    )
    return {name: metric(ranked) for name, metric in METRICS.items()}


def reciprocal_rank(ranked: Ranked, depth: int) -> Float64:
    """Return 1 / the place of the first relevant document among the first `depth` (Q,); 0 without one."""
    relevant_QK = ranked.relevant_QK[:, :depth]
    best_Q: Float64 = (relevant_QK / np.arange(1, 1 + relevant_QK.shape[1])).max(axis=1, initial=0.0)
    return best_Q


def ndcg(ranked: Ranked, depth: int) -> Float64:
    """Return the discounted gain of the first `depth` documents, a share of the highest there can be (Q,).

    Gains are the grades, as in trec_eval (Järvelin and Kekäläinen, TOIS 2002, with the discount log2(1 + place)).
    """
    discount_K = np.log2(np.arange(2, 2 + depth))

    def discounted(grade_QK: Float64) -> Float64:
        places = min(depth, grade_QK.shape[1])
        return np.asarray((grade_QK[:, :places] / discount_K[:places]).sum(axis=1))

    ideal_Q = discounted(ranked.ideal_QK)
    return np.divide(discounted(ranked.grade_QK), ideal_Q, out=np.zeros(len(ideal_Q)), where=ideal_Q > 0)


def recall(ranked: Ranked, depth: int) -> Float64:
    """Return the share of the relevant documents that is among the first `depth` (Q,)."""
    found_Q: Float64 = ranked.relevant_QK[:, :depth].sum(axis=1) / np.maximum(1, ranked.relevant_Q)
    return found_Q


METRICS: dict[str, Callable[[Ranked], Float64]] = {
    "MRR@3": partial(reciprocal_rank, depth=3),
    "MRR@10": partial(reciprocal_rank, depth=10),
    "nDCG@10": partial(ndcg, depth=10),
    "Recall@10": partial(recall, depth=10),
}
"""What is measured, by name: a value for each query."""


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
    differing: int
    """Queries of which the two have different values."""

    @property
    def too_few(self) -> bool:
        """Whether no outcome could be sure: of n differing queries the least p-value is 2 / 2^n."""
        return 2.0 ** (1 - self.differing) >= SURE

    @property
    def is_gain(self) -> bool:
        """Whether the difference is above 0, and surely so."""
        return self.difference > 0 and self.p < SURE

    def __str__(self) -> str:
        if self.too_few:  # the interval of so few would contradict the p-value
            return f"{self.difference:+.3f} ({self.differing} differ: too few to prove anything)"
        return f"{self.difference:+.3f} ({self.low:+.3f} to {self.high:+.3f}, p = {self.p:.2g})"


def paired(after_Q: Float64, before_Q: Float64, seed: int = 0) -> Paired:
    """Compare two rankings query by query.

    The randomisation test asks how often a difference of means as large would come if for every query it were chance
    which ranking got which value (Smucker et al., CIKM 2007).
    """
    from scipy import stats

    if after_Q.shape != before_Q.shape or not len(after_Q):
        raise ValueError(f"need one value a query of both runs, got {after_Q.shape} and {before_Q.shape}")
    differences_Q = after_Q - before_Q
    mean, differing = float(differences_Q.mean()), int(np.count_nonzero(np.round(differences_Q, 12)))
    if len(differences_Q) == 1 or not np.ptp(differences_Q):  # there is nothing to resample
        p = 1.0 if not mean else float(2.0 ** (1 - len(differences_Q)))
        return Paired(difference=mean, low=mean, high=mean, p=p, differing=differing)
    how = {"n_resamples": 9999, "rng": seed}
    test = stats.permutation_test((differences_Q,), _rounded_mean, permutation_type="samples", batch=1000, **how)
    interval = stats.bootstrap((differences_Q,), np.mean, batch=1000, method="percentile", **how).confidence_interval
    low, high = float(interval.low), float(interval.high)
    return Paired(difference=mean, low=low, high=high, p=float(test.pvalue), differing=differing)


def _rounded_mean(values: Float64, axis: int = -1) -> Float64:
    """Return the mean, in which equal means are equal whatever order of addition rounded them."""
    return np.asarray(np.round(values.mean(axis=axis), 12))
