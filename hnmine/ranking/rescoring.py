"""Scores of re-rankers on the queries of a task: each is computed once and kept, with the metrics of every query.

OUT/evaluation/<name>.parquet    of every query the documents, their scores, the metrics
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from hnmine.config.base import Engine
from hnmine.config.root import Config
from hnmine.config.training import Kind
from hnmine.errors import DataError
from hnmine.models.folder import folder_sha256
from hnmine.ranking.measures import METRICS, PerQuery, measure
from hnmine.ranking.task import Score, Task, rerank
from hnmine.runs.device import choose_device, choose_dtype
from hnmine.runs.folder import Run
from hnmine.runs.hashing import digest
from hnmine.runs.manifest import versions
from hnmine.runs.progress import say, track
from hnmine.types import Float32

_FOLDER = "evaluation"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a re-ranker reads a query and a document: all that decides its scores but its weights."""

    kind: Kind
    max_tokens: int
    passages: bool
    """Whether a long document is read in passages, of which the best counts."""
    dtype: str
    engine: Engine
    device: str
    """As torch calls it."""

    @classmethod
    def of(cls, config: Config, kind: Kind, max_tokens: int) -> Reading:
        """Return what the configuration says of re-rankers of this kind."""
        device = choose_device(config.device)
        return cls(
            kind=kind,
            max_tokens=max_tokens,
            passages=config.evaluate.long_documents == "maxp",
            dtype=choose_dtype(config.train.dtype, device.kind, training=True),
            engine=config.engine,
            device=device.torch_name,
        )

    def load(self, folder: Path) -> Score:
        """Load the re-ranker in this folder.

        Raises:
            ModelError: it cannot be loaded.
        """
        from hnmine.models.reranker import load_reranker  # imports torch, which a run of known scores does without

        return load_reranker(
            self.kind,
            folder,
            engine=self.engine,
            passages=self.passages,
            max_tokens=self.max_tokens,
            device=self.device,
            dtype=self.dtype,
        ).scores


class _Rescored(BaseModel):
    """An entry of the cache: the file of scores says all."""


class KeptScores:
    """Scores of a run's re-rankers; those that an earlier run left are taken where nothing has changed."""

    def __init__(self, reading: Reading, run: Run) -> None:
        self._reading, self._run = reading, run

    def identity(self, task: Task) -> str:
        """Return a digest of all that decides the scores on a task but the model."""
        return digest([task.texts, asdict(self._reading), versions()])

    def scores(self, task: Task, name: str, folder: Path) -> Float32:
        """Return the scores (Q, K) of the re-ranker in this folder, and keep them under this name.

        Raises:
            ModelError: the re-ranker cannot be loaded.
        """
        identity, entry = digest([folder_sha256(folder), self.identity(task)]), scores_file(name)
        known = self.read(task, name) if self._run.cache.get(entry, identity, _Rescored) else None
        if known is not None:
            say("evaluate", f"{name}: reused {self._run.out / entry}")
        scores_QK = self.score(task, name, folder) if known is None else known
        self.write(task, name, scores_QK)  # known scores too: other judgements make other metrics
        self._run.cache.put(entry, identity, _Rescored(), [self._run.out / entry])
        return scores_QK

    def score(self, task: Task, name: str, folder: Path) -> Float32:
        """Return the scores (Q, K) of the re-ranker in this folder, computed whatever is kept.

        Raises:
            ModelError: the re-ranker cannot be loaded.
        """
        with track("evaluate", name, task.documents_to_score, "pairs") as progress:
            return rerank(task, self._reading.load(folder), progress.advance)

    def read(self, task: Task, name: str) -> Float32 | None:
        """Return the scores that are kept under this name, whatever their model; None: they are not of this task."""
        rows = _read(self._run.out / scores_file(name), ["query_id", "document_rows", "scores"])
        ids, doc_rows = rows.column("query_id").to_pylist(), rows.column("document_rows").to_pylist()
        if (ids, doc_rows) != (list(task.queries.ids), task.doc_rows_QK.tolist()):
            return None
        return np.array(rows.column("scores").to_pylist(), dtype=np.float32)

    def write(self, task: Task, name: str, scores_QK: Float32) -> None:
        """Write the scores, with the metrics that today's judgements give them."""
        values = measure(task, scores_QK)
        columns = {
            "query_id": list(task.queries.ids),
            "document_rows": task.doc_rows_QK.tolist(),
            "scores": scores_QK.tolist(),
        }
        self._run.write_table(scores_file(name), pa.table(columns | {metric: values[metric] for metric in METRICS}))

    def remove_all_but(self, names: Collection[str]) -> None:
        """Remove the scores that an evaluation has left of other re-rankers than these; those of `compare` stay."""
        kept = set(map(scores_file, names))
        for path in (self._run.out / _FOLDER).glob("*.parquet"):
            entry = path.relative_to(self._run.out).as_posix()
            if entry not in kept and path.name.removeprefix("dev-").startswith(("before-", "after-")):
                path.unlink()
                self._run.cache.drop(entry)


def scores_file(name: str) -> str:
    """Return the path in OUT of the scores that are kept under this name."""
    return f"{_FOLDER}/{name.replace(': ', '-').replace(' ', '-')}.parquet"


def read_metrics(path: Path) -> tuple[list[str], PerQuery]:
    """Return the query ids in a file of scores, and the metrics of each.

    Raises:
        DataError: there is no such file, or it is another.
    """
    rows = _read(path, ["query_id", *METRICS])
    ids: list[str] = rows.column("query_id").to_pylist()
    return ids, {metric: rows.column(metric).to_numpy() for metric in METRICS}


def _read(path: Path, columns: list[str]) -> pa.Table:
    if not path.is_file():
        raise DataError(f"{path} does not exist; `hnmine evaluate` writes such files into OUT/evaluation")
    try:
        return pq.read_table(path, columns=columns).select(columns)
    except (OSError, ValueError, KeyError) as error:  # Arrow's errors are children of these
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} is no file of OUT/evaluation that `hnmine evaluate` writes: {reason}") from None
