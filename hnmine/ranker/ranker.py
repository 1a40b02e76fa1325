"""A ranker: a weighted sum of first stage, encoders and a re-ranker, or one of these alone, from one folder.

    ranker.json             parts, weights, sha256, figures           README.md    how to serve it
    bm25.safetensors        lexical/<fit>    encoders/<name>/    re-ranker/        what its parts need

Nothing in it is pickled, and no code of it runs. The folder may be moved; models of the hub are named by commit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from hnmine.errors import DataError, ModelError
from hnmine.models.folder import RANKER_FILE
from hnmine.ranker.parts import Bm25Part, EncoderPart, Lists, Part, ScoreLists
from hnmine.ranker.place import ranker_folder
from hnmine.ranking.blend import standardised
from hnmine.ranking.measures import Task
from hnmine.ranking.rows import RowKind
from hnmine.runs.device import Choice, choose_device
from hnmine.runs.progress import track
from hnmine.types import Float32, Float64

_QUERIES_AT_ONCE = 64
STANDARDISED = "over a query's documents: less their mean, over their population standard deviation; 0 if all are equal"


class Figures(BaseModel):
    """What one row of the table is worth, and what it costs."""

    kind: RowKind
    dev: dict[str, float]
    test: dict[str, float]
    ms_per_query: float
    """Milliseconds, median of some dev queries, on the machine that wrote the ranker; texts were not encoded ahead."""


class RankerSpec(BaseModel):
    """What ranker.json holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = 1
    chosen: str
    """The row of the table that this is."""
    kind: RowKind
    weights: dict[str, float]
    parts: dict[str, Part]
    standardised: str | None
    """How each part's scores are made comparable before the sum; None: one part alone, whose score is the score."""
    depth: int
    """Documents a query for which the weights were chosen."""
    dev_queries: int
    dev_identity: str = ""
    """Of these queries, their documents and judgements: figures on the same can be compared."""
    test_queries: int
    test_is_dev: bool = False
    """Whether these are dev queries too, for want of others."""
    figures: dict[str, Figures]
    """Of every row that could be deployed."""
    ms_per_part: dict[str, float]
    versions: dict[str, str]

    @classmethod
    def read(cls, folder: Path) -> RankerSpec:
        """Read ranker.json; a ModelError says that it is none."""
        try:
            return cls.model_validate_json((folder / RANKER_FILE).read_bytes())
        except OSError as error:
            raise ModelError(f"{folder} is no ranker: {error}; `hnmine evaluate` writes one, OUT/ranker") from None
        except ValidationError as error:
            first = error.errors()[0]
            problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise ModelError(f"{folder / RANKER_FILE} is not of this hnmine: {problem}; evaluate again") from None


class Ranked(NamedTuple):
    """A document in its place."""

    key: Any
    """The position in the list that was given, or the key in the mapping."""
    score: float
    shares: dict[str, float]
    """What each part adds to the score."""


class Ranker:
    """A loaded ranker; `load` makes one."""

    def __init__(self, spec: RankerSpec, parts: Mapping[str, ScoreLists]) -> None:
        self.spec, self._parts = spec, parts

    @property
    def name(self) -> str:
        """What a run file is tagged with."""
        return "ranker"

    @property
    def kind(self) -> str:
        """What it is: a first stage, a re-ranker, or a blend."""
        return self.spec.kind

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto") -> Ranker:
        """Load a ranker to `device`: auto, cpu or gpu.

        It lies in a folder, at `s3://bucket/prefix`, or is what a home of nights deploys: HOME or HOME/current.

        Raises:
            ModelError: this is no ranker, a file is not the one that was evaluated, or a model cannot be loaded.
            DeviceError: a GPU was asked for and is not there.
        """
        with ranker_folder(path) as folder:
            return cls._load(folder, choose_device(device))

    @classmethod
    def _load(cls, folder: Path, device: Choice) -> Ranker:
        spec = RankerSpec.read(folder)
        for name, part in spec.parts.items():
            if Path(part.path).is_absolute() or ".." in Path(part.path).parts:
                raise ModelError(f"{folder}, part {name}: {part.path} is outside the folder; refused")
            part.refuse_other_files(folder, name)
        computed = {name: part for name, part in spec.parts.items() if part.kind != "given"}
        return cls(spec, {name: part.load(folder, device, name) for name, part in computed.items()})

    def rank(
        self,
        query: str,
        documents: Sequence[str] | Mapping[Any, str],
        scores: Sequence[float] | Mapping[Any, float] | None = None,
    ) -> list[Ranked]:
        """Put the documents of one query in order: the best first, equal scores in the order that was given.

        `scores` are the first stage's own, in place of those that BM25 computes from its statistics.

        Raises:
            DataError: the first stage's scores are needed, or are not one finite number a document.
        """
        keys, texts = list(range(len(documents))), documents
        if isinstance(documents, Mapping):
            keys, texts = list(documents), list(documents.values())
        if isinstance(scores, Mapping):
            if missing := [key for key in keys if key not in scores]:
                raise DataError(f"scores: expected one of each document, {missing[0]!r} has none")
            scores = [scores[key] for key in keys]
        (shares,) = self.shares([query], [list(texts)], None if scores is None else [scores])
        total = _sum(shares, len(texts))
        by_score = np.argsort(-total, kind="stable").tolist()
        return [
            Ranked(keys[at], float(total[at]), {name: float(share[at]) for name, share in shares.items()})
            for at in by_score
        ]

    def score(
        self, queries: Sequence[str], documents: Lists, scores: Sequence[Sequence[float]] | None = None
    ) -> list[Float32]:
        """Return the scores of each query's documents; all pairs are computed together.

        A sum compares the documents of one query with each other: its scores say nothing across queries.
        """
        found = self.shares(queries, documents, scores)
        return [_sum(shares, len(texts)) for shares, texts in zip(found, documents, strict=True)]

    def vectors(self, part: str, texts: Sequence[str], *, queries: bool = False) -> Float32 | list[dict[int, float]]:
        """Return the vectors of texts by which a search engine computes a part's scores itself, as inner products.

        Of an encoder unit rows (n, width); of BM25 a sparse vector each, weight by number of the term.

        Raises:
            DataError: there is no such part, or it compares texts without vectors, as a cross-encoder does.
        """
        loaded = self._parts.get(part)
        if not isinstance(loaded, Bm25Part | EncoderPart):
            known = [name for name, each in self._parts.items() if isinstance(each, Bm25Part | EncoderPart)]
            raise DataError(f"{part!r} is no part with vectors; with vectors: {', '.join(known) or 'none'}")
        return loaded.vectors(texts, queries=queries)

    def scores_of_task(self, task: Task, _documents: object = None, _run: object = None) -> Float32:
        """Return the scores (Q, K) of a task's documents, -inf where there is none.

        BM25 scores them by the statistics it was evaluated with; the task's first scores are used where it cannot.
        """
        given = any(part.kind == "given" for part in self.spec.parts.values())
        scores_QK = np.full(task.doc_rows_QK.shape, -np.inf, dtype=np.float32)
        with track("rank", self.spec.chosen, len(task), "queries") as progress:
            for start in range(0, len(task), _QUERIES_AT_ONCE):
                some = range(start, min(start + _QUERIES_AT_ONCE, len(task)))
                rows = [task.doc_rows_QK[at][task.exists_QK[at]].tolist() for at in some]
                texts = [[task.document_texts[row] for row in of_query] for of_query in rows]
                first = [task.first_scores_QK[at][task.exists_QK[at]].tolist() for at in some] if given else None
                for at, scores in zip(
                    some, self.score(task.queries.texts[start : some.stop], texts, first), strict=True
                ):
                    scores_QK[at, task.exists_QK[at]] = scores
                progress.advance(len(some))
        return scores_QK

    def shares(
        self, queries: Sequence[str], documents: Lists, scores: Sequence[Sequence[float]] | None = None
    ) -> list[dict[str, Float64]]:
        """Return what each part adds to the score of each document, by query and part."""
        if len(queries) != len(documents) or any(isinstance(each, str) for each in (queries, *documents)):
            raise DataError("expected a list of queries and for each a list of documents; rank() takes one query")
        given = None if scores is None else [_checked(*pair) for pair in zip(scores, documents, strict=True)]
        found: list[dict[str, Float64]] = [{} for _ in queries]
        asked = [at for at, texts in enumerate(documents) if len(texts)]
        for name, part in self.spec.parts.items():
            if part.kind in ("bm25", "given") and given is not None:
                lists = [given[at] for at in asked]
            elif part.kind == "given":
                raise DataError(f"the part {name} is the score of a first stage outside hnmine: give it as scores=")
            elif asked:
                lists = self._parts[name]([queries[at] for at in asked], [documents[at] for at in asked])
            else:
                lists = []
            for at, raw in zip(asked, lists, strict=True):
                if self.spec.standardised is None:
                    found[at][name] = raw.astype(np.float64)
                else:
                    z = standardised(raw[None], np.ones((1, len(raw)), dtype=bool))[0]
                    found[at][name] = self.spec.weights[name] * z
        return found


def _checked(scores: Sequence[float], documents: Sequence[str]) -> Float32:
    array = np.asarray(scores, dtype=np.float32)
    if array.shape != (len(documents),) or not np.isfinite(array).all():
        raise DataError(f"scores: expected {len(documents)} finite numbers, one a document, got {list(scores)[:3]} …")
    return array


def _sum(shares: Mapping[str, Float64], count: int) -> Float32:
    return np.asarray(sum(shares.values(), np.zeros(count))).astype(np.float32)
