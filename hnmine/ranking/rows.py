"""The rows of the table as files: one writer, one reader.

OUT/evaluation/rows.json             of each row of the table, in order, what it is, what it is worth and what it costs
OUT/evaluation/<slug>.parquet        of each test query the documents in the first stage's order, by id, their scores by
                                     this row, and the metrics; OUT/evaluation/dev-<slug>.parquet the same of dev
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, PrivateAttr, TypeAdapter, ValidationError

from hnmine.errors import DataError
from hnmine.ranking.measures import METRICS, PerQuery, Task, measure
from hnmine.runs.files import file_sha256, whole_file, write_json
from hnmine.runs.manifest import read_manifest
from hnmine.types import Float32

RowKind = Literal["first-stage", "blend", "re-ranker", "blend-with-re-ranker"]
ROWS = "evaluation/rows.json"
DEV = "dev: "
"""Before a name: the same of the dev queries."""


class Row(BaseModel):
    """A row of the table."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str
    slug: str
    kind: RowKind
    weights: dict[str, float]
    """Of its parts: the first stage, encoders by name, and `re-ranker`."""
    dev: dict[str, float]
    """Each metric's mean over the dev queries; empty where there are none to ask."""
    test: dict[str, float]
    milliseconds_per_query: float | None
    """To score one query's documents, nothing encoded ahead; None where a part cannot score new texts."""

    _out: Path = PrivateAttr(Path())
    _sha256: Mapping[str, str] = PrivateAttr({})

    def test_table(self) -> pa.Table:
        """Return query_id, document_ids, scores and the metrics of every test query.

        Raises:
            DataError: the file is gone, or is not the one that the manifest names.
        """
        return _checked_table(self._out, scores_file(self.slug), self._sha256)

    def dev_table(self) -> pa.Table:
        """Return the same of every dev query; errors as of `test_table`, also where no dev query was asked."""
        if not self.dev:
            raise DataError(f"{self._out}: no dev query was asked, so {self.name} has no scores on dev")
        return _checked_table(self._out, scores_file(DEV + self.slug), self._sha256)


_ROWS = TypeAdapter(list[Row])


def read_rows(out: Path) -> list[Row]:
    """Return the rows of the last evaluation in OUT, in the order of the table.

    Raises:
        DataError: nothing was evaluated in OUT since a step before, or rows.json is not as the manifest says.
    """
    manifest = read_manifest(out)
    sha256 = manifest.get("files", {})
    if ROWS not in sha256:
        raise DataError(f"{out} has no evaluation that can be read; run `hnmine evaluate` with this --out")
    if "evaluation" not in manifest:
        raise DataError(f"the evaluation in {out} is of other models than are there now; run `hnmine evaluate` again")
    try:
        rows = _ROWS.validate_json(_checked_file(out, ROWS, sha256).read_bytes())
    except ValidationError as error:
        raise DataError(f"{out / ROWS} is not of this hnmine: {error.errors()[0]['msg']}; evaluate again") from None
    for row in rows:
        row._out, row._sha256 = out, sha256
    return rows


def write_rows(out: Path, rows: Sequence[Row], tables: Mapping[str, tuple[Task, Float32]]) -> list[str]:
    """Write the rows and what they order, the scores (Q, K) of tasks by name; return the files by path in OUT."""
    for name, (task, scores_QK) in tables.items():
        with whole_file(out / scores_file(name)) as hidden:
            pq.write_table(scores_table(task, scores_QK), hidden, compression="zstd")
    write_json(out / ROWS, [row.model_dump(mode="json") for row in rows])
    names = [name for row in rows for name in ([row.slug, DEV + row.slug] if row.dev else [row.slug])]
    return [ROWS, *map(scores_file, names)]


def scores_file(name: str) -> str:
    """Return the path in OUT of the scores that are kept under this name."""
    return f"evaluation/{name.replace(': ', '-').replace(' ', '-')}.parquet"


def scores_table(task: Task, scores_QK: Float32) -> pa.Table:
    """Return one row a query: its documents by id in the first stage's order, their scores, and the metrics."""
    exists_QK = task.exists_QK
    documents = [
        [task.document_ids.get(row) for row in rows[there].tolist()]
        for rows, there in zip(task.doc_rows_QK, exists_QK, strict=True)
    ]
    scores = [scores[there].tolist() for scores, there in zip(scores_QK, exists_QK, strict=True)]
    columns = {
        "query_id": pa.array(task.queries.ids, pa.string()),
        "document_ids": pa.array(documents, pa.list_(pa.string())),
        "scores": pa.array(scores, pa.list_(pa.float32())),
    }
    return pa.table(columns | measure(task, scores_QK))


def scores_of(task: Task, table: pa.Table) -> Float32:
    """Return the scores (Q, K) that such a table holds of this task's documents; -inf where there is none."""
    scores_QK = np.full(task.doc_rows_QK.shape, -np.inf, dtype=np.float32)
    scores_QK[task.exists_QK] = table["scores"].combine_chunks().flatten().to_numpy()
    return scores_QK


def read_metrics(path: Path) -> tuple[list[str], PerQuery]:
    """Return the query ids in a file of scores, and the metrics of each."""
    if not path.is_file():
        raise DataError(f"{path} does not exist; `hnmine evaluate` writes such files into OUT/evaluation")
    columns = ["query_id", *METRICS]
    try:
        table = pq.read_table(path, columns=columns).select(columns)
    except (OSError, ValueError, KeyError) as error:  # Arrow's errors are children of these
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} is no file of OUT/evaluation that `hnmine evaluate` writes: {reason}") from None
    return metrics_of_table(table)


def metrics_of_table(table: pa.Table) -> tuple[list[str], PerQuery]:
    """Return the query ids of a table of scores, and the metrics of each."""
    return table["query_id"].to_pylist(), {metric: table[metric].to_numpy() for metric in METRICS}


def _checked_table(out: Path, name: str, sha256: Mapping[str, str]) -> pa.Table:
    return pq.read_table(_checked_file(out, name, sha256))


def _checked_file(out: Path, name: str, sha256: Mapping[str, str]) -> Path:
    path = out / name
    if not path.is_file() or file_sha256(path) != sha256.get(name):
        raise DataError(f"{path} is not as {out / 'manifest.json'} says; run `hnmine evaluate` again")
    return path
