"""Re-ranking of the K documents that the first stage gave each of Q queries."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnmine.types import NO_ROW, Done, Float32, Int64, Pairs, Score, Texts

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
