"""The collection as all steps see it: documents, queries, judged pairs, and an account of every row that was read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from hnmine.corpus.text_keys import draw
from hnmine.errors import DataError
from hnmine.runs.files import whole_file
from hnmine.types import Pairs, Texts


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """One bad row of a file, which was set aside."""

    file: str  # relative to the data folder
    line: int  # the first is 1
    reason: str
    id: str | None  # of the row, or in a qrels file of its query; None where none can be read
    detail: str


@dataclass(frozen=True, kw_only=True)
class Collection:
    """Documents, queries and judged pairs; of every file the rows that were read, kept and set aside."""

    documents: Texts
    queries: Texts  # those that no pair names come last: nobody judged them, and only lessons ask for them
    splits: dict[str, Pairs]  # by name, those whose file exists
    rows_read: dict[str, int]
    rows_kept: dict[str, int]
    not_relevant: dict[str, int]  # of each qrels file the rows with a score of 0 or less: no pair, and no error
    quarantined: tuple[Quarantined, ...]

    def __post_init__(self) -> None:
        bad = Counter(row.file for row in self.quarantined)
        assert self.rows_kept.keys() == self.rows_read.keys() >= bad.keys() | self.not_relevant.keys()
        for file, read in self.rows_read.items():
            kept, judged = self.rows_kept[file], self.not_relevant.get(file, 0)
            assert read == kept + judged + bad[file], (file, read, kept, judged, bad[file])
        held = len(self.documents) + len(self.queries) + sum(map(len, self.splits.values()))
        assert held == sum(self.rows_kept.values()), (held, self.rows_kept)

    def positives(self) -> dict[int, set[int]]:
        """Return the document rows judged positive for each query row, over all splits.

        Queries of equal text are one question: what was judged for one of them holds for all.
        """
        positives: dict[str, set[int]] = {}
        for pairs in self.splits.values():
            for query, documents in pairs.positives_of().items():
                positives.setdefault(self.queries.texts[query], set()).update(documents)
        return {query: set(positives[text]) for query, text in enumerate(self.queries.texts) if text in positives}

    @property
    def judged(self) -> Texts:
        """The queries that pairs name: the first rows of all."""
        last = max(int(pairs.query_rows_P.max(initial=-1)) for pairs in self.splits.values())
        return self.queries.take(range(last + 1))

    @property
    def queries_of_equal_text(self) -> int:
        """Number of judged queries whose text another has too."""
        return sum(count for count in Counter(self.judged.texts).values() if count > 1)

    def pairs(self, split: str) -> Pairs:
        """Return the pairs of a split, or raise a DataError that names the splits and the files there are."""
        pairs = self.splits.get(split)
        if pairs is not None and len(pairs):
            return pairs
        problem = f"no qrels/{split}.tsv was read" if pairs is None else f"{split!r} has no pair"
        there = ", ".join(f"{name} ({len(pairs)} pairs)" for name, pairs in self.splits.items())
        raise DataError(
            f"{problem}; expected one of {there}, read from {', '.join(self.not_relevant)}: repair or add "
            "the file, or name another split with sources.train_split, sources.dev_split, sources.test_split"
        )


def hold_out(pairs: Pairs, queries: Texts, share: float, seed: int) -> tuple[Pairs, Pairs]:
    """Return (held out, rest): about this share of the queries, those of one text together, with all their pairs.

    A query's text and the seed alone decide, so that what is held out today was not trained on yesterday. Either side
    has one query at least.
    """
    texts_P = [queries.texts[row] for row in pairs.query_rows_P.tolist()]
    draws = {text: draw(seed, text) for text in texts_P}
    if len(draws) < 2:
        raise DataError("one train query only, and no dev split to stop early on; add qrels/dev.tsv or more queries")
    ascending = sorted(draws.values())
    border = min(max(share, ascending[1]), ascending[-1])
    held_P = np.array([draws[text] < border for text in texts_P])
    return pairs.take(held_P), pairs.take(~held_P)


def write_quarantine(quarantined: Iterable[Quarantined], path: Path) -> None:
    """Write the rows as JSON lines; after a failure `path` holds what it held before."""
    with whole_file(path) as hidden, hidden.open("w", encoding="utf-8", newline="\n") as lines:
        lines.writelines(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in quarantined)
