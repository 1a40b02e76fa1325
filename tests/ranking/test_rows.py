"""The rows of a table and what they order are read as they were written, and other files are refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hnmine.config.root import Config
from hnmine.errors import DataError
from hnmine.ranking.measures import METRICS, measure
from hnmine.ranking.rows import Row, read_rows, scores_of, scores_table, write_rows
from hnmine.runs.folder import open_run
from hnmine.types import NO_ROW
from tests.builders.ranking import task_of_rows

RNG = np.random.default_rng(5)


def row(slug: str, dev: dict[str, float]) -> Row:
    how = {"kind": "re-ranker", "weights": {"re-ranker": 1.0}, "milliseconds_per_query": None}
    return Row.model_validate({"name": slug, "slug": slug, "dev": dev, "test": {"MRR@10": 0.25}, **how})


def test_what_is_written_is_read_and_a_changed_file_is_refused(tmp_path: Path) -> None:
    test, dev = task_of_rows([[0, 1], [2, 3]], [{0}, {3}]), task_of_rows([[1, NO_ROW]], [{1}])
    scores = [RNG.normal(size=task.doc_rows_QK.shape).astype(np.float32) for task in (test, dev)]
    rows = [row("one", {"MRR@10": 0.5}), row("two", {})]
    with open_run(tmp_path, Config()) as run:
        tables = {"one": (test, scores[0]), "dev: one": (dev, scores[1]), "two": (test, scores[0])}
        files = write_rows(run.out, rows, tables)
        run.commit("evaluation", inputs={}, files=run.sha256_of(*files))
    first, second = read_rows(tmp_path)
    assert [each.model_dump() for each in (first, second)] == [each.model_dump() for each in rows]
    assert first.test_table().column_names == ["query_id", "document_ids", "scores", *METRICS]
    assert first.dev_table()["query_id"].to_pylist() == ["q0"]
    with pytest.raises(DataError, match="no dev query was asked, so two has no scores on dev"):
        second.dev_table()
    for name in ("evaluation/one.parquet", "evaluation/rows.json"):
        raw = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(raw[:-5] + bytes([raw[-5] ^ 1]) + raw[-4:])
        with pytest.raises(DataError, match=rf"{name} is not as .*manifest\.json says; run `hnmine evaluate` again"):
            (read_rows(tmp_path)[0]).test_table()
        (tmp_path / name).write_bytes(raw)


@pytest.mark.parametrize("seed", range(20))
def test_the_scores_of_a_table_are_those_of_its_task_whatever_is_missing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.permutation(12).reshape(4, 3)
    rows[rng.random(rows.shape) < 0.4] = NO_ROW
    task = task_of_rows(rows.tolist(), [{int(each)} for each in rng.integers(12, size=4)])
    scores = np.where(task.exists_QK, rng.normal(size=rows.shape), -np.inf).astype(np.float32)
    table = scores_table(task, scores)
    np.testing.assert_array_equal(scores_of(task, table), scores)
    for metric, values in measure(task, scores).items():
        assert table[metric].to_pylist() == values.tolist()
    for of_query, there, ids in zip(table.to_pylist(), task.exists_QK, task.doc_rows_QK, strict=True):
        assert len(of_query["document_ids"]) == len(of_query["scores"]) == len(ids[there])
