"""Scores of re-rankers are kept, and computed again only where something that decides them has changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hnmine.config.load import load
from hnmine.config.root import Config
from hnmine.errors import DataError
from hnmine.models.reranker import load_reranker
from hnmine.ranking.measures import METRICS, measure
from hnmine.ranking.rescoring import KeptScores, how_to_read, read_metrics, scores_file
from hnmine.ranking.task import rerank
from hnmine.runs.folder import open_run
from hnmine.types import NO_ROW
from tests.builders.models import tiny_cross_encoder
from tests.builders.ranking import task_of_rows

TASK = task_of_rows([[0, 1, NO_ROW], [2, 3, 4]], [{0}, {3}])
READING = how_to_read(load(overrides=["device=cpu", "engine=torch", "train.dtype=float32"]), "cross-encoder", 32)


def test_known_scores_are_taken_and_others_are_computed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = [tiny_cross_encoder(tmp_path / f"model {seed}", seed=seed) for seed in range(2)]
    with open_run(tmp_path / "out", Config()) as run:
        file = run.out / scores_file("after: paper")
        assert file == run.out / "evaluation" / "after-paper.parquet"

        def reused(reading: dict[str, Any] = READING, model: Path = models[0], task=TASK) -> bool:
            (scores,) = KeptScores(reading, run).of_folder({"after: paper": task}, model)
            assert scores.tolist() == rerank(task, load_reranker(folder=model, **reading).scores).tolist()
            assert np.array_equal(read_metrics(file)[1]["MRR@10"], measure(task, scores)["MRR@10"])
            return f"after: paper: reused {file}" in capsys.readouterr().err

        assert not reused()
        assert reused()
        written = file.read_bytes()
        assert reused(task=replace(TASK, relevant=(frozenset({1}), frozenset({4})))), "judgements decide no score"
        assert file.read_bytes() != written
        assert reused()
        assert file.read_bytes() == written
        assert not reused(model=models[1])
        assert not reused()
        assert not reused(READING | {"max_tokens": 8})
        assert not reused()
        assert not reused(task=replace(TASK, doc_rows_QK=TASK.doc_rows_QK[:, ::-1].copy()))
        assert not reused()
        file.write_bytes(written[:-9])
        assert not reused()
        file.unlink()
        assert not reused()


def test_files_of_rankings_that_are_gone_are_removed_and_others_are_not(tmp_path: Path) -> None:
    with open_run(tmp_path / "out", Config()) as run:
        kept, model = KeptScores(READING, run), tiny_cross_encoder(tmp_path / "model")
        kept.of_folder(
            dict.fromkeys(["after: paper", "after: positives", "dev: after: paper", "compare: start"], TASK), model
        )
        kept.remove_all_but(["after: paper"])
        left = sorted(path.name for path in (run.out / "evaluation").iterdir())
    assert left == ["after-paper.parquet", "compare-start.parquet"]


def test_the_metrics_of_a_file_are_read_and_other_files_are_named(tmp_path: Path) -> None:
    with open_run(tmp_path / "out", Config()) as run:
        (scores,) = KeptScores(READING, run).of_folder({"x": TASK}, tiny_cross_encoder(tmp_path / "model"))
        ids, read = read_metrics(run.out / scores_file("x"))
    assert ids == ["q0", "q1"]
    assert {name: of_query.tolist() for name, of_query in read.items()} == {
        name: measure(TASK, scores)[name].tolist() for name in METRICS
    }
    (tmp_path / "text").write_text("no table")
    pq.write_table(pa.table({"query_id": ["a"]}), tmp_path / "other.parquet")
    for name in ("text", "other.parquet"):
        with pytest.raises(DataError, match=rf"{name} is no file of OUT/evaluation"):
            read_metrics(tmp_path / name)
    with pytest.raises(DataError, match=r"nothing does not exist; `hnmine evaluate` writes such files"):
        read_metrics(tmp_path / "nothing")
