"""What each row of the table costs: milliseconds to score one query's documents, nothing encoded ahead.

Parts are timed one by one, and a row costs the sum of its parts. What was measured is kept as long as the part and the
texts are the same, so that an evaluation that is repeated loads no model for it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from pydantic import BaseModel

from hnmine.config.base import slug
from hnmine.project import Project
from hnmine.ranker.parts import Part
from hnmine.ranker.sources import copied, reranker_part, sources
from hnmine.ranking.evaluate import RERANKER, Ranking, Reranker
from hnmine.runs.device import choose_device
from hnmine.runs.files import digest, file_sha256
from hnmine.runs.manifest import versions
from hnmine.types import NO_ROW

TIMED_QUERIES = 8
_ENOUGH_SECONDS = 10.0  # after which fewer queries will do


class _Cost(BaseModel):
    milliseconds: float


class Costs:
    """Milliseconds of the parts of a run's rankings."""

    def __init__(self, project: Project, rerankers: Mapping[str, Reranker]) -> None:
        """Take the re-rankers of the table's rows, by the name of the row."""
        self._project, self._rerankers, self._sources = project, rerankers, sources(project)

    def of_row(self, ranking: Ranking) -> float | None:
        """Return what a row costs; None where one of its parts cannot score new texts."""
        if not ranking.weights.keys() <= self._sources.keys() | {RERANKER}:
            return None
        reranker = self._rerankers.get(ranking.name)
        return round(sum(self.of_part(part, reranker) for part in ranking.weights), 3)

    def of_part(self, name: str, reranker: Reranker | None = None) -> float:
        """Return what a part costs; re-rankers of one architecture cost the same."""
        if name != RERANKER:
            return self._kept(name, self._sources[name], [])
        assert reranker is not None
        config = reranker.folder / "config.json"
        like = [reranker.kind, reranker.max_tokens, file_sha256(config) if config.is_file() else str(reranker.folder)]
        part = reranker_part(self._project.config, reranker)
        return self._kept(f"{RERANKER}-{digest(like)[:8]}", part.model_copy(update={"path": ""}), like, part)

    def _kept(self, name: str, part: Part, like: Sequence[Any], timed: Part | None = None) -> float:
        """Return what is known of a part, or measure it."""
        if part.kind == "given":
            return 0.0
        cache, entry = self._project.run.cache, f"costs/{slug(name)}"
        task = self._project.evaluator.dev or self._project.evaluator.test
        answered = np.flatnonzero(task.exists_QK.any(1))[:TIMED_QUERIES].tolist()
        rows = [[row for row in task.doc_rows_QK[at].tolist() if row != NO_ROW] for at in answered]
        texts = [[task.document_texts[row] for row in of_query] for of_query in rows]
        lists = list(zip([task.queries.texts[at] for at in answered], texts, strict=True))
        evaluate, device = self._project.config.evaluate, choose_device(self._project.config.device)
        facts = [part.model_dump(mode="json"), like, lists, evaluate.k1, evaluate.b, str(device), versions()]
        identity = digest(facts)
        known = cache.get(entry, identity, _Cost)
        if known is None:
            known = _Cost(milliseconds=self._measured(timed or part, name, lists))
            cache.put(entry, identity, known)
        return known.milliseconds

    def _measured(self, part: Part, name: str, lists: list[tuple[str, list[str]]]) -> float:
        """Return the median of some queries, after a first one."""
        # Load it; what has no folder yet gets one.
        root, hidden = self._project.run.out.absolute(), self._project.run.out / ".ranker.part"
        if part.kind == "bm25" or (part.encoder and part.encoder.lexical):
            shutil.rmtree(hidden, ignore_errors=True)
            hidden.mkdir()
            root, part = hidden.absolute(), copied(part, self._project, name, hidden)
        try:
            score = part.load(Path(root), choose_device(self._project.config.device), name)
        finally:
            shutil.rmtree(hidden, ignore_errors=True)
        # Time it.
        seconds = []
        for query, texts in [lists[0], *lists]:
            start = time.perf_counter()
            score([query], [texts])
            seconds.append(time.perf_counter() - start)
            if len(seconds) > 1 and sum(seconds) > _ENOUGH_SECONDS:
                break
        return round(1000 * median(seconds[1:]), 3)
