"""What the re-ranker is trained on: of each pair a list, the positive first, then mined negatives and anchors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hnmine.mining.guards import Scorer
from hnmine.ranking.first_stage import NO_ROW
from hnmine.types import Int64, Pairs, Texts


@dataclass(frozen=True, kw_only=True)
class Lists:
    """What is trained on: of each query the documents, the positive first."""

    queries: tuple[str, ...]
    documents: tuple[tuple[str, ...], ...]
    judged: tuple[frozenset[str], ...] = ()
    """The texts judged positive for each query; where negatives are drawn from the batch."""
    teacher: tuple[tuple[float, ...], ...] = ()
    """A score for each document, in the units of the student's; none of a list without a teacher."""
    is_lesson: tuple[bool, ...] = ()
    """Whether a list says what its teacher thinks, and not which document was judged; empty: none does."""

    def __post_init__(self) -> None:
        assert len(self.queries) == len(self.documents)
        assert all(self.documents), "a list begins with its positive"
        for of_lists in (self.judged, self.teacher, self.is_lesson):
            assert len(of_lists) in (0, len(self)), (len(of_lists), len(self))
        sizes = zip(self.teacher, self.documents, strict=False)
        assert all(len(scores) in (0, len(documents)) for scores, documents in sizes)

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def untaught(self) -> list[int]:
        """The positions of the lists without a teacher."""
        return [i for i in range(len(self)) if not (self.teacher and self.teacher[i])]

    def with_lessons(self, others: Lists, share: float = 1.0) -> Lists:
        """Return these and the first of other lists, as many as this share of them, as lessons."""
        count = round(share * len(others))
        return Lists(
            queries=self.queries + others.queries[:count],
            documents=self.documents + others.documents[:count],
            judged=self.judged and self.judged + (frozenset(),) * count,
            teacher=(self.teacher or ((),) * len(self)) + others.teacher[:count],
            is_lesson=(False,) * len(self) + (True,) * count,
        )


def training_lists(
    documents: Texts,
    queries: Texts,
    pairs: Pairs,
    mined: Sequence[Sequence[int]],
    anchors: Sequence[Sequence[int]],
    *,
    bare: bool = False,
    positives: Mapping[int, set[int]] | None = None,
) -> Lists:
    """Put together the lists of all pairs that have a negative of either kind.

    Args:
        documents: the corpus.
        queries: the queries that `pairs` speaks of.
        pairs: judged pairs.
        mined: document rows of each pair's hard negatives; empty where it has none.
        anchors: document rows of each pair's easier negatives.
        bare: take the pairs without a negative as well.
        positives: document rows judged positive, by query row; needed where a step adds negatives of its batch.
    """
    texts_q: list[str] = []
    texts_d: list[tuple[str, ...]] = []
    judged: list[frozenset[str]] = []
    for query, positive, hard, easy in zip(
        pairs.query_rows_P.tolist(), pairs.doc_rows_P.tolist(), mined, anchors, strict=True
    ):
        rows = [positive, *dict.fromkeys([*hard, *easy])]
        if len(rows) > 1 or bare:
            texts_q.append(queries.texts[query])
            texts_d.append(tuple(documents.texts[row] for row in rows))
            if positives is not None:
                judged.append(frozenset(documents.texts[row] for row in positives[query]))
    return Lists(queries=tuple(texts_q), documents=tuple(texts_d), judged=tuple(judged))


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
    rng = np.random.default_rng(seed)
    lessons = chosen.is_lesson or (False,) * len(chosen)
    first = zip(chosen.documents, lessons, strict=True)
    positives = dict.fromkeys(documents[0] for documents, is_lesson in first if not is_lesson)
    longer = []
    for i, documents, is_lesson in zip(batch, chosen.documents, lessons, strict=True):
        pool = [text for text in positives if text not in documents and text not in lists.judged[i]]
        more = () if is_lesson else (pool[at] for at in rng.permutation(len(pool))[:in_batch])
        longer.append((*documents, *more))
    return replace(chosen, documents=tuple(longer))


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


def mistakes(pairs: Pairs, candidates: Sequence[Sequence[int]], scores: Scorer, count: int) -> list[list[int]]:
    """Return of each pair's candidates up to `count` that a re-ranker scores highest, but no higher than the positive.

    What it finds more relevant than the positive may be right and not labelled.
    """
    pair_F = np.repeat(np.arange(len(pairs)), [len(rows) for rows in candidates])
    doc_F = np.array([row for rows in candidates for row in rows], dtype=np.int64)
    query_B, doc_B = pairs.query_rows_P[pair_F], np.concatenate([doc_F, pairs.doc_rows_P])
    score_F, score_P = np.split(scores(np.concatenate([query_B, pairs.query_rows_P]), doc_B), [len(doc_F)])
    chosen: list[list[int]] = [[] for _ in range(len(pairs))]
    for at in np.argsort(-score_F, kind="stable").tolist():
        own = chosen[pair_F[at]]
        if score_F[at] <= score_P[pair_F[at]] and len(own) < count:
            own.append(int(doc_F[at]))
    return chosen


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
