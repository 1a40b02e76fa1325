"""What flows from step to step: frozen, checked at construction, rows inside and ids only at the edges.

Array names end in letters that give their shape:
    N documents   Q queries   J judgements   P pairs (query, positive)   R width of the space
    K candidates a query   M negatives in all
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hnmine.mapped import let_go
from hnmine.text_column import RowsById

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Role = Literal["document", "query"]
Done = Callable[[int], None]  # hears how many of what was asked have been finished since it heard last
Score = Callable[[Sequence[str], Sequence[str], Done], Float32]  # n queries and n documents to n scores

GATHERED_NUMBERS = 2**23  # in one matrix of gathered vectors, float64: bounds memory, changes no distance
GATHERED_ROWS = 2**12  # from a file: each brings 64 KiB of it into memory
NO_ROW = -1  # stands where a list of document rows has no more


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Documents or queries: the row of a text is its position here and in every array made from it."""

    ids: Sequence[str]  # tuples, or columns of many
    texts: Sequence[str]

    def __post_init__(self) -> None:
        assert len(self.ids) == len(self.texts), (len(self.ids), len(self.texts))
        assert len(self.row_of) == len(self.ids), "ids must be unique"

    @cached_property
    def row_of(self) -> Mapping[str, int]:
        """Row of each id."""
        is_column = not isinstance(self.ids, tuple)
        return RowsById(self.ids) if is_column else {text_id: row for row, text_id in enumerate(self.ids)}

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int] | Int64) -> Texts:
        """Return the texts at `rows`, in that order."""
        return Texts(ids=tuple(self.ids[r] for r in rows), texts=self.texts_at(rows))

    def texts_at(self, rows: Iterable[int]) -> tuple[str, ...]:
        """Return the texts at `rows` alone: of many that lie elsewhere, all are fetched at once."""
        take = getattr(self.texts, "take", None)
        return tuple(self.texts[row] for row in rows) if take is None else take(rows)


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Judged (query, positive document) pairs as rows; a query may have several positives."""

    query_rows_P: Int64
    doc_rows_P: Int64
    source: Judgements | None = None  # all that was judged where these are the positives, on the same rows

    def __post_init__(self) -> None:
        assert self.query_rows_P.dtype == self.doc_rows_P.dtype == np.int64, (self.query_rows_P, self.doc_rows_P)
        assert self.query_rows_P.shape == self.doc_rows_P.shape == (len(self),), (self.query_rows_P, self.doc_rows_P)

    def __len__(self) -> int:
        return len(self.query_rows_P)

    def take(self, keep: Int64 | NDArray[np.bool_]) -> Pairs:
        """Return the pairs at `keep` (positions or a mask)."""
        return replace(self, query_rows_P=self.query_rows_P[keep], doc_rows_P=self.doc_rows_P[keep])

    def renumbered(self) -> tuple[Int64, Pairs]:
        """Return the distinct query rows, ascending, and the pairs with positions in these as query rows."""
        rows_Q, positions_P = np.unique(self.query_rows_P, return_inverse=True)
        return rows_Q, Pairs(query_rows_P=positions_P.astype(np.int64), doc_rows_P=self.doc_rows_P)

    def positives_of(self) -> dict[int, list[int]]:
        """Return the document rows judged positive, by query row."""
        positives: dict[int, list[int]] = {}
        for query, doc in zip(self.query_rows_P.tolist(), self.doc_rows_P.tolist(), strict=True):
            positives.setdefault(query, []).append(doc)
        return positives


@dataclass(frozen=True, kw_only=True)
class Judgements:
    """All that one split judges, whatever the grade; one of 0 or less says that a document is not relevant."""

    query_rows_J: Int64
    doc_rows_J: Int64
    grades_J: Float32

    def __post_init__(self) -> None:
        assert self.query_rows_J.dtype == self.doc_rows_J.dtype == np.int64, (self.query_rows_J, self.doc_rows_J)
        assert self.grades_J.dtype == np.float32, self.grades_J
        assert np.isfinite(self.grades_J).all(), "grades must be finite"
        assert self.query_rows_J.shape == self.doc_rows_J.shape == self.grades_J.shape == (len(self),)

    def __len__(self) -> int:
        return len(self.query_rows_J)

    def take(self, keep: Int64 | NDArray[np.bool_]) -> Judgements:
        """Return the judgements at `keep` (positions or a mask)."""
        rows_J, docs_J, grades_J = self.query_rows_J[keep], self.doc_rows_J[keep], self.grades_J[keep]
        return Judgements(query_rows_J=rows_J, doc_rows_J=docs_J, grades_J=grades_J)

    def positives(self, min_score: float | None) -> Pairs:
        """Return the pairs of a grade of at least `min_score`; None: of any grade above 0."""
        positive_J = self.grades_J > 0 if min_score is None else self.grades_J >= np.float32(min_score)
        rows_P, docs_P = self.query_rows_J[positive_J], self.doc_rows_J[positive_J]
        return Pairs(query_rows_P=rows_P, doc_rows_P=docs_P, source=self)

    def grades(self, query_rows_Q: Int64) -> dict[int, dict[int, float]]:
        """Return for each of these queries the documents of a grade above 0, also below `min_score`, with it."""
        kept = self.take(np.isin(self.query_rows_J, query_rows_Q) & (self.grades_J > 0))
        grades: dict[int, dict[int, float]] = {query: {} for query in query_rows_Q.tolist()}
        for query, doc, grade in zip(*(each.tolist() for each in vars(kept).values()), strict=True):
            grades[query][doc] = grade
        return grades


def distance(a_nR: Float32 | Float64, b_nR: Float32 | Float64) -> Float64:
    """Return the cosine distance, 0 to 2, of unit rows pairwise: 1 - a·b in float64. `a_nR` may be one row for all.

    The same for the same two rows, whatever other rows stand beside them and however they lie in memory: in C order,
    since NumPy adds in the order of the memory.
    """
    a_nR, b_nR = (np.asarray(rows, dtype=np.float64, order="C") for rows in (a_nR, b_nR))
    similarity: Float64 = np.einsum("...r,...r->...", a_nR, b_nR)
    return 1.0 - similarity


def distances(a_NR: Float32, a_rows_F: Int64, b_NR: Float32, b_rows_F: Int64) -> Float64:
    """Return the distance of each of these rows of `a_NR` to the row of `b_NR` beside it, gathered part by part."""
    step, found = max(1, min(GATHERED_ROWS, GATHERED_NUMBERS // a_NR.shape[1])), [np.empty(0)]
    for start in range(0, len(a_rows_F), step):
        part = slice(start, start + step)
        found.append(distance(a_NR[a_rows_F[part]], b_NR[b_rows_F[part]]))
        let_go(a_NR)
        let_go(b_NR)
    return np.concatenate(found)


def unit_rows(rows_nR: Float32) -> Float32:
    """Return the rows scaled to length 1; a zero row stays zero (its distance to everything is 1), NaN stays NaN."""
    norms = np.linalg.norm(rows_nR.astype(np.float64), axis=1, keepdims=True)
    unit: Float32 = np.divide(rows_nR, norms, out=np.zeros_like(rows_nR), where=norms != 0)
    return unit


@dataclass(frozen=True, kw_only=True)
class Space:
    """Documents and queries as unit vectors of one space; distances are cosine distances, 0 to 2."""

    docs_NR: Float32
    queries_QR: Float32

    def __post_init__(self) -> None:
        for array in (self.docs_NR, self.queries_QR):
            assert array.dtype == np.float32, array.dtype
            assert array.ndim == 2, array.shape
            assert array.shape[1] == self.width, (array.shape, self.width)

    @property
    def width(self) -> int:
        """Number of dimensions, R."""
        return int(self.docs_NR.shape[1])


@dataclass(frozen=True, kw_only=True)
class Negatives:
    """Hard negatives, sorted by (pair, rank)."""

    pair_M: Int64  # position of the pair in the `Pairs` they were selected for
    doc_rows_M: Int64
    rank_M: Int64  # 1 = the nearest to the query
    d_query_positive_M: Float64
    d_query_negative_M: Float64
    d_positive_negative_M: Float64
    certificate_M: NDArray[np.object_]  # why the list is complete: found, radius, exhausted or approximate
    pairs: int  # that were offered
    dropped: dict[str, int]  # pairs without a negative, by reason
    guarded: dict[str, int]  # documents that satisfied both conditions and were removed, by guard

    def __post_init__(self) -> None:
        arrays = [value for name, value in vars(self).items() if name.endswith("_M")]
        assert all(array.shape == self.pair_M.shape for array in arrays), [array.shape for array in arrays]
        assert self.pairs == self.selected_pairs + sum(self.dropped.values()), "pairs must balance"

    def __len__(self) -> int:
        return len(self.pair_M)

    @property
    def distinct_documents(self) -> int:
        """Number of documents that are a negative of some pair."""
        return len(np.unique(self.doc_rows_M))

    @property
    def selected_pairs(self) -> int:
        """Number of pairs with at least one negative."""
        return len(np.unique(self.pair_M))
