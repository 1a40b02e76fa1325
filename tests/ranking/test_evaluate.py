"""What is told of two rankings: the test between them, and the queries that changed most."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hnmine.config.root import Config
from hnmine.errors import DataError
from hnmine.ranking.evaluate import _advice, _of_blends, _write_changes, between
from hnmine.ranking.significance import paired
from hnmine.ranking.task import METRICS, measure
from hnmine.runs.folder import open_run
from tests.builders.ranking import task_of_rows


def ranking(path: Path, ids: list[str], values: np.ndarray) -> Path:
    pq.write_table(pa.table({"query_id": ids} | dict.fromkeys(METRICS, values)), path)
    return path


def test_two_files_are_compared_over_the_queries_that_both_have(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    before, after = rng.random(30), rng.random(30)
    names = [f"q{i}" for i in range(30)]
    order = rng.permutation(30)
    first = ranking(tmp_path / "after.parquet", [*(names[i] for i in order), "other"], np.append(after[order], 1.0))
    second = ranking(tmp_path / "before.parquet", names, before)
    lines = between(first, second).splitlines()
    assert lines[0] == f"{first} against {second}, 30 queries"
    expected = paired(after, before)
    assert [line.split()[0] for line in lines[3:]] == list(METRICS)
    for line in lines[3:]:
        cells = line.split()
        assert float(cells[1]) == pytest.approx(after.mean(), abs=6e-4)
        assert float(cells[2]) == pytest.approx(before.mean(), abs=6e-4)
        assert float(cells[3]) == pytest.approx(expected.difference, abs=6e-4)
        assert float(cells[-1]) == pytest.approx(expected.p, abs=0.03)


def test_files_that_cannot_be_compared_are_named(tmp_path: Path) -> None:
    one = ranking(tmp_path / "one.parquet", ["a"], np.ones(1))
    with pytest.raises(DataError, match="have no query in common"):
        between(one, ranking(tmp_path / "two.parquet", ["b"], np.ones(1)))
    (tmp_path / "text").write_text("no table")
    pq.write_table(pa.table({"query_id": ["a"]}), tmp_path / "other.parquet")
    for name in ("text", "other.parquet"):
        with pytest.raises(DataError, match=rf"{name} is no file of OUT/evaluation"):
            between(one, tmp_path / name)
    with pytest.raises(DataError, match=r"nothing does not exist; `hnmine evaluate` writes such files"):
        between(one, tmp_path / "nothing")


def test_the_changes_name_what_stood_first_and_where_the_right_document_went(tmp_path: Path) -> None:
    task = task_of_rows([[0, 1], [2, 3], [4, 5], [6, 7]], [{0}, {3}, {4}, {99}])
    before = np.array([[2, 1], [2, 1], [2, 1], [2, 1]], np.float32)
    after = np.array([[1, 2], [1, 2], [3, 1], [1, 2]], np.float32)
    scores = {"before: as given": before, "after: paper": after}
    rows = {name: measure(task, of) for name, of in scores.items()}
    with open_run(tmp_path / "out", Config()) as run:
        path = _write_changes(task, "after: paper", "before: as given", scores, rows, run)
        text = (run.out / path).read_text()
    assert path == "evaluation/changes-paper.md"
    assert "1 of 4 queries gained in MRR@10, 1 lost, the others stayed." in text
    gained, lost = text.split("## Lost most")
    assert "**q1**: right document from 2 to 1" in gained
    assert "- first before (not judged right): d2\n- first after (right): d3\n- right: d3" in gained
    assert "**q0**: right document from 1 to 2" in lost
    assert "q2" not in text
    assert "q3" not in text


@pytest.mark.parametrize(
    ("more", "is_given"),
    [
        ({}, True),
        ({"after: paper": 0.7}, False),
        ({"after: paper, blended": 0.7}, True),
        ({"before: as given": 0.7}, False),
    ],
)
def test_a_lesson_is_advised_where_the_encoders_know_more_than_any_re_ranker(
    more: dict[str, float], is_given: bool
) -> None:
    found = {
        "first stage: BM25": 0.4,
        "first stage: BM25, blended": 0.6,
        "before: as given": 0.3,
        "after: anchored": 0.5,
    }
    rows = {name: {"MRR@10": np.full(3, value)} for name, value in (found | more).items()}
    assert ("(MRR@10 0.600) know more than any re-ranker here" in _advice(rows)) == is_given
    del rows["first stage: BM25, blended"]
    assert not _advice(rows)


def test_it_is_said_what_a_blend_is_made_of_and_where_dev_wants_none() -> None:
    blends = {"first stage: BM25": {"BM25": 0.25, "minilm": 0.75}, "after: paper": {"re-ranker": 1.0}}
    *_, first, after = _of_blends(blends).splitlines()
    assert first == "  first stage: BM25  0.25 BM25  0.75 minilm"
    assert after == "  after: paper       nothing: on dev no sum has a higher MRR@10 than this alone"
    *_, first, after = _of_blends({"first stage: BM25": {"BM25": 1.0}, "after: paper": {"minilm": 1.0}}).splitlines()
    assert "nothing" in first
    assert after == "  after: paper       1.00 minilm"
    assert not _of_blends({})
