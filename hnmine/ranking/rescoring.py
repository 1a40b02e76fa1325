"""Scores of re-rankers on the queries of a task: each is computed once and kept, with the metrics of every query.

OUT/evaluation/<name>.parquet    of every query the documents, their scores, the metrics
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from hnmine.config.root import Config
from hnmine.config.training import Kind
from hnmine.errors import DataError
from hnmine.models.folder import folder_sha256
from hnmine.ranking.measures import METRICS, PerQuery, measure
from hnmine.ranking.task import Task, rerank
from hnmine.runs.device import choose_device, choose_dtype
from hnmine.runs.folder import Run
from hnmine.runs.hashing import digest
from hnmine.runs.manifest import versions
from hnmine.runs.progress import say, track
from hnmine.types import Float32

_FOLDER = "evaluation"


def how_to_read(config: Config, kind: Kind, max_tokens: int) -> dict[str, Any]:
    """Return the arguments of `load_reranker` beside the folder: all that decides scores but the weights."""
    device = choose_device(config.device)
    return {
        "kind": kind,
        "max_tokens": max_tokens,
        "passages": config.evaluate.long_documents == "maxp",
        "dtype": choose_dtype(config.train.dtype, device.kind, training=True),
        "engine": config.engine,
        "device": device.torch_name,
    }


class _Kept(BaseModel):
    """An entry of the cache: the file of scores says all."""


class KeptScores:
    """Scores of a run's re-rankers; those that an earlier run left are taken where nothing has changed."""

    def __init__(self, reading: dict[str, Any], run: Run) -> None:
        """Keep scores in this run; `reading` is from `how_to_read`."""
        self._reading, self._run = reading, run

    def of_folder(self, tasks: Mapping[str, Task], folder: Path) -> list[Float32]:
        """Return the scores (Q, K) of the re-ranker in this folder on each task, kept under the tasks' names."""
        weights = folder_sha256(folder)
        return [self.scores(task, name, weights, lambda: folder) for name, task in tasks.items()]

    def scores(self, task: Task, name: str, weights: Any, model: Callable[[], Path]) -> Float32:
        """Return the scores (Q, K) of a re-ranker on a task, kept under this name.

        `weights`, JSON-able, decides those of the model; `model` finds its folder, if the scores are not known.
        """
        # Take known scores, or load the re-ranker.
        entry, identity = scores_file(name), digest([weights, task.texts, self._reading, versions()])
        path = self._run.out / entry
        if self._run.cache.get(entry, identity, _Kept) is not None:
            say("evaluate", f"{name}: reused {path}")
            scores_QK = np.array(pq.read_table(path, columns=["scores"])["scores"].to_pylist(), dtype=np.float32)
        else:
            from hnmine.models.reranker import load_reranker  # imports torch

            folder = model()
            with track("evaluate", name, int(task.exists_QK.sum()), "pairs") as progress:
                scores_QK = rerank(task, load_reranker(folder=folder, **self._reading).scores, progress.advance)
        # Write known scores too: other judgements make other metrics.
        columns = {
            "query_id": list(task.queries.ids),
            "document_rows": task.doc_rows_QK.tolist(),
            "scores": scores_QK.tolist(),
        }
        self._run.write_table(entry, pa.table(columns | measure(task, scores_QK)))
        self._run.cache.put(entry, identity, _Kept(), [path])
        return scores_QK

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
    if not path.is_file():
        raise DataError(f"{path} does not exist; `hnmine evaluate` writes such files into OUT/evaluation")
    columns = ["query_id", *METRICS]
    try:
        rows = pq.read_table(path, columns=columns).select(columns)
    except (OSError, ValueError, KeyError) as error:  # Arrow's errors are children of these
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} is no file of OUT/evaluation that `hnmine evaluate` writes: {reason}") from None
    return rows.column("query_id").to_pylist(), {metric: rows.column(metric).to_numpy() for metric in METRICS}
