"""What a re-ranker is trained on: lists of documents, one a query, the positive first, then its negatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hnmine.types import NO_ROW, Int64, Pairs, Texts


@dataclass(frozen=True, kw_only=True)
class Lists:
    """Queries, each with the documents of its list, as texts."""

    queries: tuple[str, ...]
    documents: tuple[tuple[str, ...], ...]
    judged: tuple[frozenset[str], ...] = ()
    """The texts judged positive for each query; needed where negatives are drawn from the batch."""
    teacher: tuple[tuple[float, ...], ...] = ()
    """A score for each document, in the units of the student's scores; empty for a list without a teacher."""
    is_lesson: tuple[bool, ...] = ()
    """Whether a list says what its teacher thinks, and not which document was judged; empty: none does."""

    def __post_init__(self) -> None:
        assert len(self.queries) == len(self.documents)
        assert all(self.documents), "a list begins with its positive"
        for values in (self.judged, self.teacher, self.is_lesson):
            assert len(values) in (0, len(self)), (len(values), len(self))
        sizes = zip(self.teacher, self.documents, strict=False)
        assert all(len(scores) in (0, len(documents)) for scores, documents in sizes)

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def untaught(self) -> list[int]:
        """The positions of the lists without a teacher."""
        return [i for i in range(len(self)) if not (self.teacher and self.teacher[i])]

    def with_lessons(self, lessons: Lists) -> Lists:
        """Return these lists and, after them, lessons."""
        count = len(lessons)
        return Lists(
            queries=self.queries + lessons.queries,
            documents=self.documents + lessons.documents,
            judged=self.judged and self.judged + (frozenset(),) * count,
            teacher=(self.teacher or ((),) * len(self)) + lessons.teacher,
            is_lesson=(False,) * len(self) + (True,) * count,
        )


def training_lists(
    documents: Texts,
    queries: Texts,
    pairs: Pairs,
    negatives: Sequence[Sequence[int]],
    *,
    bare: bool = False,
    positives: Mapping[int, set[int]] | None = None,
) -> Lists:
    """Return the lists of all pairs that have a negative.

    Args:
        documents: the corpus.
        queries: rows of these stand in `pairs`.
        pairs: judged pairs.
        negatives: document rows of each pair's negatives; one that is named twice stands in the list once.
        bare: take the pairs without a negative as well.
        positives: document rows judged positive, by query row; needed where a step adds negatives of its batch.
    """
    query_texts: list[str] = []
    document_texts: list[tuple[str, ...]] = []
    judged: list[frozenset[str]] = []
    for query, positive, rows in zip(pairs.query_rows_P.tolist(), pairs.doc_rows_P.tolist(), negatives, strict=True):
        listed = [positive, *dict.fromkeys(rows)]
        if len(listed) > 1 or bare:
            query_texts.append(queries.texts[query])
            document_texts.append(tuple(documents.texts[row] for row in listed))
            if positives is not None:
                judged.append(frozenset(documents.texts[row] for row in positives[query]))
    return Lists(queries=tuple(query_texts), documents=tuple(document_texts), judged=tuple(judged))


def step_lists(lists: Lists, batch: Sequence[int], in_batch: int, seed: Sequence[int]) -> Lists:
    """Return the lists of one step, each with up to `in_batch` positives of the others as further negatives.

    These are drawn by the seed, and are distinct texts, none in the list already, none judged positive for its query.
    Lessons neither give nor take any: nobody has judged theirs.
    """
    chosen = Lists(
        queries=tuple(lists.queries[i] for i in batch),
        documents=tuple(lists.documents[i] for i in batch),
        teacher=tuple(lists.teacher[i] for i in batch) if lists.teacher else (),
        is_lesson=tuple(lists.is_lesson[i] for i in batch) if lists.is_lesson else (),
    )
    if not in_batch:
        return chosen
    assert lists.judged, "in-batch negatives need to know what was judged positive"
    # Collect the positives of the batch, then draw from them for each judged list.
    rng = np.random.default_rng(seed)
    lessons = chosen.is_lesson or (False,) * len(chosen)
    judged_lists = [listed for listed, is_lesson in zip(chosen.documents, lessons, strict=True) if not is_lesson]
    positives = dict.fromkeys(listed[0] for listed in judged_lists)
    longer = []
    for i, listed, is_lesson in zip(batch, chosen.documents, lessons, strict=True):
        pool = [text for text in positives if text not in listed and text not in lists.judged[i]]
        more = () if is_lesson else (pool[at] for at in rng.permutation(len(pool))[:in_batch])
        longer.append((*listed, *more))
    return replace(chosen, documents=tuple(longer))


def random_negatives(
    pairs: Pairs, positives: Mapping[int, set[int]], documents: int, per_pair: int, seed: int
) -> list[list[int]]:
    """Draw distinct document rows of so many documents for every pair, none judged positive for its query."""
    rng = np.random.default_rng(seed)
    drawn = []
    for query in pairs.query_rows_P.tolist():
        known = positives[query]
        pool = rng.choice(documents, size=min(documents, per_pair + len(known)), replace=False).tolist()
        drawn.append([row for row in pool if row not in known][:per_pair])
    return drawn


def first_stage_negatives(
    pairs: Pairs, positives: Mapping[int, set[int]], first: Mapping[int, Int64], per_pair: int, seed: int
) -> list[list[int]]:
    """Draw distinct document rows for every pair from its query's first stage, none judged positive for the query."""
    rng = np.random.default_rng(seed)
    drawn = []
    for query in pairs.query_rows_P.tolist():
        known = positives[query]
        pool = [row for row in first[query].tolist() if row != NO_ROW and row not in known]
        drawn.append(rng.permutation(pool)[:per_pair].astype(int).tolist())
    return drawn
