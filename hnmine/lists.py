"""What the re-ranker is trained on: of each pair a list, the positive first, then mined negatives and anchors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hnmine.first_stage import NO_ROW
from hnmine.types import Int64, Pairs, Texts


@dataclass(frozen=True, kw_only=True)
class Lists:
    """What is trained on: of each query the documents, the positive first."""

    queries: tuple[str, ...]
    documents: tuple[tuple[str, ...], ...]
    judged: tuple[frozenset[str], ...] = ()
    """The texts judged positive for each query; where negatives are drawn from the batch."""
    teacher: tuple[tuple[float, ...], ...] = ()
    """A score for each document, in the units of the student's; where there is a teacher."""

    def __post_init__(self) -> None:
        assert len(self.queries) == len(self.documents)
        assert all(self.documents), "a list begins with its positive"
        assert len(self.judged) in (0, len(self)), (len(self.judged), len(self))
        assert not self.teacher or [*map(len, self.teacher)] == [*map(len, self.documents)]

    def __len__(self) -> int:
        return len(self.queries)


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
    """
    chosen = Lists(
        queries=tuple(lists.queries[i] for i in batch),
        documents=tuple(lists.documents[i] for i in batch),
        teacher=tuple(lists.teacher[i] for i in batch) if lists.teacher else (),
    )
    if not in_batch:
        return chosen
    assert lists.judged, "in-batch negatives need to know what was judged positive"
    rng = np.random.default_rng(seed)
    positives = dict.fromkeys(documents[0] for documents in chosen.documents)
    longer = []
    for i, documents in zip(batch, chosen.documents, strict=True):
        pool = [text for text in positives if text not in documents and text not in lists.judged[i]]
        longer.append((*documents, *(pool[at] for at in rng.permutation(len(pool))[:in_batch])))
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
