"""The negatives of a run as rows, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hnmine.arms.mined import Mined, read_mined
from hnmine.errors import DataError
from hnmine.runs.folder import Run
from hnmine.training.data import TrainingData
from tests.builders.collections import write_collection
from tests.builders.presets import MINED, run_with_negatives, splits_and_config


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """A run folder with two mined negatives."""
    with run_with_negatives(tmp_path / "out") as opened:
        yield opened


@pytest.fixture
def data(tmp_path: Path) -> TrainingData:
    splits, config = splits_and_config(write_collection(tmp_path / "data"))
    return TrainingData.of(splits, config.train, config.seed)


def mined(run: Run, data: TrainingData) -> Mined:
    return read_mined(run, data)


def test_negatives_are_rows_by_query_and_positive(run: Run, data: TrainingData) -> None:
    queries, documents = data.queries.row_of, data.documents.row_of
    assert read_mined(run, data) == {
        (queries[query], documents[positive]): [documents[negative]] for query, positive, negative in MINED
    }


@pytest.mark.parametrize("harm", ["truncated", "other columns", "no ranks"])
def test_negatives_that_cannot_be_read_are_an_error_that_says_to_mine_again(
    run: Run, data: TrainingData, harm: str
) -> None:
    path = run.out / "negatives.parquet"
    if harm == "truncated":
        path.write_bytes(path.read_bytes()[:-20])
    else:
        ids = {name: ["a", "b"] for name in ("query_id", "positive_id", "negative_id")}
        run.write_table(path.name, pa.table(ids if harm == "other columns" else ids | {"rank": [1, None]}))
    with pytest.raises(DataError, match=r"negatives\.parquet cannot be read \(.+\); run `hnmine mine` again"):
        read_mined(run, data)


def test_negatives_of_other_data_are_refused(run: Run, data: TrainingData) -> None:
    rows = {name: ["elsewhere"] for name in ("query_id", "positive_id", "negative_id")}
    run.write_table("negatives.parquet", pa.table(rows | {"rank": [1]}))
    with pytest.raises(DataError, match=r"names 'elsewhere', which --data does not have; mine again from this data"):
        read_mined(run, data)


def test_negatives_of_a_mining_that_was_stopped_before_its_end_are_refused(run: Run, data: TrainingData) -> None:
    run.commit("mining", inputs={}, files=run.sha256_of("negatives.parquet"))
    assert read_mined(run, data)
    path = run.out / "negatives.parquet"
    run.write_table(path.name, pq.read_table(path).slice(1))
    with pytest.raises(DataError, match=r"negatives\.parquet is not as .*manifest\.json says.*; run it again"):
        read_mined(run, data)
