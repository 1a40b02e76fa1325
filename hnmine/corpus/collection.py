"""The collection as all steps see it: documents, queries, judged pairs, and an account of every row that was read."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from hnmine.corpus.identity import identity, identity_numbers
from hnmine.corpus.never_negative import NeverNegative, below_a_title, same_ids
from hnmine.corpus.text_keys import keys_of
from hnmine.errors import DataError
from hnmine.runs.files import whole_file
from hnmine.types import Int64, Judgements, Pairs, Texts

NO_JUDGEMENTS = Judgements(
    query_rows_J=np.empty(0, np.int64), doc_rows_J=np.empty(0, np.int64), grades_J=np.empty(0, np.float32)
)


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """One bad row of a file, which was set aside."""

    file: str  # relative to the data folder
    line: int  # the first is 1
    reason: str
    id: str | None  # of the row, or in a qrels file of its query; None where none can be read
    detail: str


def _digest_of(texts: Texts) -> str:
    content = hashlib.sha256(keys_of(texts.texts).tobytes())
    for text_id in texts.ids:
        content.update(json.dumps(text_id).encode())
    return content.hexdigest()[:20]


@dataclass(frozen=True, kw_only=True, repr=False)
class Collection:
    """Documents, queries and what was judged; of every file the rows that were read, kept and set aside."""

    documents: Texts
    queries: Texts  # those without a positive in any split come last (`judged_first`): only lessons ask for them
    splits: dict[str, Judgements]  # by name, every one that the data have, also those that no step is told to use
    verdicts: Judgements = NO_JUDGEMENTS  # of people on mined negatives (`verdicts`): right, or of grade 0 and wrong
    min_score: float | None = None  # the least grade of a positive; None: any above 0
    lower_are_negatives: bool = False  # whether a document of a lower grade may be a negative
    rows_read: dict[str, int]  # by file
    rows_kept: dict[str, int]
    quarantined: tuple[Quarantined, ...]
    layout: str = "BEIR folder"  # in words
    unread: tuple[str, ...] = ()  # files that nothing reads, each with the reason

    def __post_init__(self) -> None:
        bad = Counter(row.file for row in self.quarantined)
        assert self.rows_kept.keys() == self.rows_read.keys() >= bad.keys()
        for file, read in self.rows_read.items():
            assert read == self.rows_kept[file] + bad[file], (file, read, self.rows_kept[file], bad[file])
        held = len(self.documents) + len(self.queries) + sum(map(len, (*self.splits.values(), self.verdicts)))
        assert held == sum(self.rows_kept.values()), (held, self.rows_kept)

    def __repr__(self) -> str:
        """Return counts, since a notebook shows this."""
        judged = ", ".join(f"{name} {len(each):,}" for name, each in self.splits.items())
        counts = f"{len(self.documents):,} documents, {len(self.queries):,} queries, judged: {judged}"
        return f"<Collection: {counts}; {len(self.quarantined):,} rows set aside>"

    @cached_property
    def identities(self) -> tuple[Int64, Int64]:
        """A number for each document (N) and for each query (Q): the same number, the same text."""
        groups_N, groups_Q = identity_numbers(self.documents.texts, self.queries.texts)
        return groups_N, groups_Q

    @cached_property
    def _titled(self) -> dict[int, set[int]]:
        return below_a_title(self.documents, self.queries)

    @cached_property
    def queries_that_are_documents(self) -> Int64:
        """Rows of the queries whose text a document has, alone or below a title."""
        groups_N, groups_Q = self.identities
        return np.union1d(np.flatnonzero(np.isin(groups_Q, groups_N)), np.array([*self._titled], np.int64))

    def positives(self) -> dict[int, set[int]]:
        """Return the document rows judged positive for each query row, over all splits.

        Queries of one text are one question: what was judged for one of them holds for all.
        """
        judged = (*self.splits.values(), self.verdicts)
        return self._shared(judgements.positives(self.min_score) for judgements in judged)

    def wrong(self) -> dict[int, set[int]]:
        """Return the document rows for each query row that people judged wrong, and nobody right."""
        if not len(self.verdicts):
            return {}
        is_wrong_J = self.verdicts.grades_J <= 0
        wrong = Pairs(
            query_rows_P=self.verdicts.query_rows_J[is_wrong_J], doc_rows_P=self.verdicts.doc_rows_J[is_wrong_J]
        )
        positives = self.positives()
        return {query: docs - positives.get(query, set()) for query, docs in self._shared([wrong]).items()}

    def verdicts_by_kind(self) -> dict[str, int]:
        """Return how many verdicts say right, of these how many no split says, and how many say wrong."""
        right = self.verdicts.positives(self.min_score)
        judged = self._shared(each.positives(self.min_score) for each in self.splits.values())
        pairs = zip(right.query_rows_P.tolist(), right.doc_rows_P.tolist(), strict=True)
        new = sum(doc not in judged.get(query, ()) for query, doc in pairs)
        return {"right": len(right), "new_positives": new, "wrong": len(self.verdicts) - len(right)}

    def lower_grades(self) -> dict[int, set[int]]:
        """Return the document rows of a grade above 0 for each query row that no split judges positive."""
        positives, wrong = self.positives(), self.wrong()
        above_0 = self._shared(each.positives(None) for each in self.splits.values())
        lower = {query: docs - positives.get(query, set()) - wrong.get(query, set()) for query, docs in above_0.items()}
        return {query: docs for query, docs in lower.items() if docs}

    @cached_property
    def never_negative(self) -> NeverNegative:
        """What is no negative of each query."""
        groups_N, groups_Q = self.identities
        return NeverNegative(
            groups_N=groups_N,
            groups_Q=groups_Q,
            positives=self.positives(),
            lower={} if self.lower_are_negatives else self.lower_grades(),
            same_id=same_ids(self.documents, self.queries),
            titled=self._titled,
        )

    def _with_verdicts(self, judgements: Judgements | None) -> Judgements | None:
        """Return what a split judges, and the verdicts that make a document right for a query of the split."""
        if judgements is None or not len(self.verdicts):
            return judgements
        verdicts, positives = self.verdicts, judgements.positives(self.min_score)
        width = len(self.documents)
        known = positives.query_rows_P * width + positives.doc_rows_P
        is_asked_J = np.isin(verdicts.query_rows_J, judgements.query_rows_J)
        is_known_J = np.isin(verdicts.query_rows_J * width + verdicts.doc_rows_J, known)
        added = verdicts.take((verdicts.grades_J > 0) & is_asked_J & ~is_known_J)
        return Judgements(
            **{name: np.concatenate([rows, vars(added)[name]]) for name, rows in vars(judgements).items()}
        )

    def _shared(self, splits: Iterable[Pairs]) -> dict[int, set[int]]:
        """Return the document rows of all pairs by query row, shared by queries of one text."""
        _, groups_Q = self.identities
        shared: dict[int, set[int]] = {}
        for pairs in splits:
            for group, doc in zip(groups_Q[pairs.query_rows_P].tolist(), pairs.doc_rows_P.tolist(), strict=True):
                shared.setdefault(group, set()).add(doc)
        return {query: set(shared[group]) for query, group in enumerate(groups_Q.tolist()) if group in shared}

    @property
    def judged(self) -> Texts:
        """The queries with a positive: the first rows of all."""
        splits = (judgements.positives(self.min_score) for judgements in self.splits.values())
        return self.queries.take(range(1 + max(int(pairs.query_rows_P.max(initial=-1)) for pairs in splits)))

    @property
    def queries_of_equal_text(self) -> int:
        """Number of judged queries whose text another has too."""
        counts = np.unique(self.identities[1][: len(self.judged)], return_counts=True)[1]
        return int(counts[counts > 1].sum())

    def digests(self) -> dict[str, str]:
        """Return what names the content of the collection: a digest of documents, queries, each split, and verdicts.

        Ids, texts and grades decide it, in their order; names of files and what was quarantined do not.
        """
        found = {"documents": _digest_of(self.documents), "queries": _digest_of(self.queries)}
        for name, split in (self.splits | ({"verdicts": self.verdicts} if len(self.verdicts) else {})).items():
            content = hashlib.sha256()
            for rows in (split.query_rows_J, split.doc_rows_J, split.grades_J):
                content.update(np.ascontiguousarray(rows).data)
            found[name] = content.hexdigest()[:20]
        return found

    def judgements_by_split(self) -> dict[str, dict[str, int]]:
        """Return how many judgements are positive, of a lower grade and not relevant; and queries without a positive.

        The last are queries for which a document has a lower grade and none is positive.
        """
        counts = {}
        for name, each in self.splits.items():
            positives, above_0 = each.positives(self.min_score), each.positives(None)
            counts[name] = {
                "positive": len(positives),
                "lower_grade": len(above_0) - len(positives),
                "not_relevant": len(each) - len(above_0),
                "queries_of_lower_grades_alone": len(np.setdiff1d(above_0.query_rows_P, positives.query_rows_P)),
            }
        return counts

    def pairs(self, split: str) -> Pairs:
        """Return the pairs of a split, with what people judged right for its queries.

        Raises:
            DataError: there is no such split, or nothing in it is right; the splits there are are named.
        """
        judgements = self._with_verdicts(self.splits.get(split))
        if judgements is not None and len(pairs := judgements.positives(self.min_score)):
            return pairs
        least = "above 0" if self.min_score is None else f"of at least sources.min_score={self.min_score:g}"
        problem = f"no split {split!r} was read" if judgements is None else f"{split!r} has no pair of a score {least}"
        there = ", ".join(f"{name} ({counts['positive']} pairs)" for name, counts in self.judgements_by_split().items())
        raise DataError(
            f"{problem}; expected one of {there}: repair or add the file, or name another split with "
            "sources.train_split, sources.dev_split, sources.test_split"
        )


def judged_first(
    queries: Texts, splits: Mapping[str, Judgements], min_score: float | None
) -> tuple[Texts, dict[str, Judgements]]:
    """Put the queries without a positive in any split last; return them, and the judgements on the new rows."""
    paired_Q = np.zeros(len(queries), dtype=bool)
    for judgements in splits.values():
        paired_Q[judgements.positives(min_score).query_rows_P] = True
    order_Q = np.argsort(~paired_Q, kind="stable")
    new_Q = np.argsort(order_Q)
    moved = {name: replace(each, query_rows_J=new_Q[each.query_rows_J]) for name, each in splits.items()}
    return queries.take(order_Q.tolist()), moved


def hold_out(pairs: Pairs, queries: Texts, share: float, seed: int, name: str = "train") -> tuple[Pairs, Pairs]:
    """Return (held out, rest): about this share of the queries, those of one text together, with all their pairs.

    A query's text (`identity`) and the seed alone decide, so that what is held out today was not trained on yesterday.
    Either side has one query at least.

    Raises:
        DataError: there is one query only; `name` is that of the split.
    """
    texts_P = [identity(queries.texts[row]) for row in pairs.query_rows_P.tolist()]
    draws = {text: draw(seed, text) for text in texts_P}
    if len(draws) < 2:
        raise DataError(
            f"{name} has one query only, so none can be held out for a split that is missing; add more queries, or "
            "judgements for train, dev and test"
        )
    ascending = sorted(draws.values())
    border = min(max(share, ascending[1]), ascending[-1])
    held_P = np.array([draws[text] < border for text in texts_P])
    return pairs.take(held_P), pairs.take(~held_P)


def draw(seed: int, text: str) -> float:
    """Return a number in [0, 1) that the text and the seed decide, the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed} {text}".encode()).digest()[:6]) / 2**48


def write_quarantine(quarantined: Iterable[Quarantined], path: Path) -> None:
    """Write the rows as JSON lines; after a failure `path` holds what it held before."""
    with whole_file(path) as hidden, hidden.open("w", encoding="utf-8", newline="\n") as lines:
        lines.writelines(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in quarantined)
