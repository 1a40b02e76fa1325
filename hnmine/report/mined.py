"""What was mined into OUT, a query at a time, with texts, ids and scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hnmine.config.steps import SourcesConfig
from hnmine.corpus.collection import Collection
from hnmine.corpus.layouts import read_collection
from hnmine.errors import DataError
from hnmine.runs.files import file_sha256
from hnmine.runs.manifest import MANIFEST, read_manifest

ROWS_AT_ONCE = 2000
"""Of a table, that are Python objects at a time."""


class Text(NamedTuple):
    """A query, or a document of one; the score is the cosine of the mined space, 1 - d."""

    id: str
    text: str
    score: float = 1.0


class Mined(NamedTuple):
    """What was mined for one query: its positives, each with its negatives, the nearest first."""

    query: Text
    pairs: list[tuple[Text, list[Text]]]

    @property
    def positives(self) -> list[Text]:
        """The right documents that have a negative."""
        return [positive for positive, _ in self.pairs]

    @property
    def negatives(self) -> list[Text]:
        """The negatives of all pairs, each once, the nearest first."""
        found = {each.id: each for _, negatives in self.pairs for each in negatives}
        return sorted(found.values(), key=lambda each: -each.score)


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is exported, and how."""

    out: Path
    files: Mapping[str, str]
    """Of the manifest: the sha256 of every file, by path in OUT."""
    collection: Collection | None
    scores: bool
    width: int | None
    """Negatives of an n-tuple; None: as many as keep most of them."""

    @classmethod
    def open(
        cls, out: Path, data: str | Path | Collection | None, *, scores: bool = False, width: int | None = None
    ) -> Source:
        """Open a run folder; a collection of which the address is given is read with the settings of the run.

        Raises:
            DataError: OUT is no run, or the collection cannot be read.
        """
        manifest = read_manifest(out)
        if not manifest:
            raise DataError(f"{out} has no {MANIFEST}: expected a folder that `hnmine mine` or `hnmine run` left")
        files: dict[str, str] = manifest.get("files", {})
        section: dict[str, Any] = next((manifest[step] for step in ("mining", "evaluation") if step in manifest), {})
        sources = SourcesConfig(**section.get("config", {}).get("sources", {}))
        collection = read_collection(data, sources) if isinstance(data, str | Path) else data
        return cls(out=out, files=files, collection=collection, scores=scores, width=width)

    def table(self, name: str) -> pa.Table:
        """Return a table of OUT; a DataError says that it is not as the manifest says."""
        path = self.out / name
        if name not in self.files:
            raise DataError(f"{self.out} has no {name} yet; run `hnmine mine`, or `hnmine run`, first")
        if not path.is_file() or file_sha256(path) != self.files[name]:
            raise DataError(f"{path} is not as {MANIFEST} says; do the step that writes it again")
        return pq.read_table(path)

    def joined(self) -> pa.Table:
        """Return texts and ids of every negative, with its proof; a DataError says that there is none."""
        table, proof = self.table("triplets.parquet"), self.table("negatives.parquet")
        if not all(table[name].equals(proof[name]) for name in ("query_id", "positive_id", "negative_id")):
            raise DataError(f"{self.out}: the rows of negatives.parquet and triplets.parquet differ; mine again")
        if not len(table):
            raise DataError(f"{self.out} has no hard negative; `dropped` in its {MANIFEST} says why")
        for name in proof.column_names[3:]:
            table = table.append_column(name, proof[name])
        return table

    def queries(self) -> Iterator[Mined]:
        """Yield what was mined, in the order in which queries first come."""
        # Sort by query.
        table = self.joined()
        _, first, group = np.unique(table["query_id"].to_numpy(), return_index=True, return_inverse=True)
        batches = table.take(np.argsort(first[group], kind="stable")).to_batches(max_chunksize=ROWS_AT_ONCE)

        # Group by query and positive.
        rows = (row for batch in batches for row in batch.to_pylist())
        for query_id, of_query in groupby(rows, key=lambda row: row["query_id"]):
            pairs: dict[str, tuple[Text, list[Text]]] = {}
            for row in of_query:
                positive = Text(row["positive_id"], row["positive"], 1 - row["d_query_positive"])
                negative = Text(row["negative_id"], row["negative"], 1 - row["d_query_negative"])
                pairs.setdefault(positive.id, (positive, []))[1].append(negative)
            yield Mined(Text(query_id, row["query"]), list(pairs.values()))

    def negatives_of_pairs(self) -> Counter[int]:
        """Return how many pairs have how many negatives."""
        return Counter(len(negatives) for each in self.queries() for _, negatives in each.pairs)

    def tuple_width(self) -> int:
        """Return how many negatives each n-tuple has: `width`, or as many as keep most negatives in all."""
        counts = self.negatives_of_pairs()
        kept = {width: width * sum(n for count, n in counts.items() if count >= width) for width in counts}
        width = self.width or max(kept, key=lambda width: (kept[width], width))
        if width > max(counts):
            raise DataError(f"no pair has {width} negatives; ask for {max(counts)} at most")
        return width
