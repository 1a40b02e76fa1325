"""The parts of a ranker: what each is, where its files lie and which they must be, and how it scores.

A part scores lists: Q queries and the documents of each, to the scores of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from hnmine.config.encoders import EncoderConfig
from hnmine.config.training import Kind
from hnmine.errors import ModelError
from hnmine.models.folder import folder_sha256, resolve
from hnmine.models.lexical import Fit
from hnmine.models.plan import Encoder, Plan, plan
from hnmine.ranker.bm25 import Bm25Statistics
from hnmine.runs.device import Choice, choose_dtype
from hnmine.runs.files import file_sha256
from hnmine.types import Float32, Texts, unit_rows

Lists = Sequence[Sequence[str]]
ScoreLists = Callable[[Sequence[str], Lists], list[Float32]]


class Part(BaseModel):
    """One part of a ranker; a path is of the ranker's folder, if it is not absolute."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["bm25", "given", "encoder", "re-ranker"]
    """`given`: scores of the first stage, which nothing here can compute."""
    path: str = ""
    """A file of BM25 or of a lexical fit, or the folder of a model; a model may be name@commit on the hub."""
    sha256: Mapping[str, str] = {}
    """Of every file that the part reads, by name."""
    encoder: EncoderConfig | None = None
    reranker: Kind | None = None
    reading: dict[str, Any] = {}
    """Of a re-ranker all that decides scores beside the weights and the device."""
    engine: str = "auto"
    mean: float = 0.0
    deviation: float = 1.0
    """Of the scores of one dev query's documents, the mean over the queries."""

    def place(self, root: Path) -> Path:
        """Return where the files are; a model of the hub is fetched if it is not in the cache."""
        return resolve(self.path) if "@" in self.path and not (root / self.path).exists() else root / self.path

    def hashes(self, root: Path) -> dict[str, str]:
        """Return the sha256 of the files that are there."""
        if not self.path:
            return {}
        place = self.place(root)
        if self.kind == "bm25" or (self.encoder and self.encoder.lexical):
            return {place.name: file_sha256(place)} if place.is_file() else {}
        return folder_sha256(place)

    def refuse_other_files(self, root: Path, name: str) -> None:
        """Raise ModelError if a file is missing, is another, or should not be there."""
        found = self.hashes(root)
        for file in sorted(self.sha256.keys() | found.keys()):
            if self.sha256.get(file) != found.get(file):
                fault = "is missing" if file not in found else "should not be there"
                fault = f"has sha256 {found[file]}" if file in found and file in self.sha256 else fault
                raise ModelError(
                    f"{root}, part {name}: {self.path}: {file} {fault}; expected the files that ranker.json names: "
                    "copy the folder again, or run `hnmine evaluate` again"
                )

    def load(self, root: Path, device: Choice, name: str) -> ScoreLists:
        """Load the part, which is heavy for models."""
        if self.kind == "bm25":
            return Bm25Part(Bm25Statistics.load(self.place(root)))
        if self.kind == "encoder":
            return self._load_encoder(root, device, name)
        from hnmine.models.reranker import load_reranker  # imports torch

        assert self.reranker is not None
        dtype = choose_dtype(self.reading["dtype"], device.kind, training=True)  # as it was evaluated
        reading = self.reading | {"dtype": dtype, "device": device.torch_name, "engine": self.engine}
        score = load_reranker(self.reranker, self.place(root), **reading).raw_scores
        return lambda queries, lists: _split(score(*_flat(queries, lists)), lists)

    def _load_encoder(self, root: Path, device: Choice, name: str) -> EncoderPart:
        assert self.encoder is not None
        place, config = self.place(root), self.encoder
        fit, store = (None, root) if config.lexical is None else (place.name, place.parent.parent)
        if fit is None:
            config = config.model_copy(update={"model": str(place)})
        elif Fit(store, fit).read() is None:
            raise ModelError(f"part {name}: {place} has words of another analyzer than today's; evaluate again")
        planned = plan(config, Texts(ids=(), texts=()), store, device, engine=self.engine, fit=fit)
        return EncoderPart(planned, planned.build())


@dataclass(frozen=True)
class Bm25Part:
    """BM25, loaded."""

    statistics: Bm25Statistics

    def __call__(self, queries: Sequence[str], lists: Lists) -> list[Float32]:
        """Return the scores of each query's texts."""
        return [self.statistics.scores(*pair) for pair in zip(queries, lists, strict=True)]

    def vectors(self, texts: Sequence[str], *, queries: bool) -> list[dict[int, float]]:
        """Return a sparse vector of each text; a query's and a document's inner product is the score."""
        return self.statistics.vectors(texts, queries=queries)


@dataclass(frozen=True)
class EncoderPart:
    """An encoder, loaded."""

    planned: Plan
    encoder: Encoder

    def __call__(self, queries: Sequence[str], lists: Lists) -> list[Float32]:
        """Return the cosines of each query's texts."""
        sides = []
        for texts, are_queries in zip(_flat(queries, lists), (True, False), strict=True):
            row_of = {text: row for row, text in enumerate(dict.fromkeys(texts))}
            rows = self.vectors(list(row_of), queries=are_queries)
            sides.append(rows[[row_of[text] for text in texts]])
        return _split(np.einsum("fr,fr->f", *sides).astype(np.float32), lists)

    def vectors(self, texts: Sequence[str], *, queries: bool) -> Float32:
        """Return the unit vectors (n, width) of texts; a query's and a document's inner product is the score."""
        return unit_rows(self.encoder.encode(texts, self.planned.query if queries else self.planned.document))


def _flat(queries: Sequence[str], lists: Lists) -> tuple[list[str], list[str]]:
    pairs = [(query, text) for query, texts in zip(queries, lists, strict=True) for text in texts]
    return [query for query, _ in pairs], [text for _, text in pairs]


def _split(scores: Float32, lists: Lists) -> list[Float32]:
    return np.split(scores, np.cumsum([len(texts) for texts in lists])[:-1])
