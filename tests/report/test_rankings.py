"""The tables of rankings, and the texts that explain them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hnmine.config.root import Config
from hnmine.errors import DataError
from hnmine.ranking.evaluate import write_evaluation
from hnmine.ranking.measures import METRICS, Paired, paired
from hnmine.report.rankings import (
    blends_text,
    changes_table,
    evaluation_text,
    length_table,
    metrics_table,
    paired_table,
)
from hnmine.runs.folder import open_run
from tests.builders.ranking import evaluation_of, measured_of, task_of_rows

FIRST, START, PAPER = "first stage: BM25", "before: as given", "after: paper"
TWO_QUERIES = task_of_rows([[1, 2], [1, 2]], [{1}, {7}])


def test_the_table_shows_each_ranking_and_what_training_changed() -> None:
    test = Paired(difference=-0.05, low=-0.1, high=0.02, p=0.0312, differing=40)
    first, start, paper = (
        measured_of(FIRST, [0.5, 0.5]),
        measured_of(START, [0.25, 0.25]),
        measured_of(PAPER, [0.4, 0]),
    )
    tests = {PAPER: dict.fromkeys(METRICS, test)}
    evaluation = evaluation_of(TWO_QUERIES, first, start, paper)
    head, *lines = metrics_table(evaluation, {FIRST: 1.234, START: None, PAPER: 12.34}).splitlines()
    assert head.split()[:4] == list(METRICS)
    assert head.endswith("MRR@10 on dev  ms a query")
    assert [line.split("  ")[0] for line in lines] == [FIRST, START, PAPER]
    assert lines[0].split()[-6:] == ["0.500"] * 5 + ["1.23"]
    assert lines[1].split()[-5:] == ["0.250"] * 5
    assert lines[2].split()[-5:] == ["0.200"] * 4 + ["12.3"]
    assert "ms a query" not in metrics_table(evaluation)
    shown = changes_table(replace(evaluation, tests=tests, untrained_tests=tests))
    head, line, *_ = shown.splitlines()
    assert re.split("  +", head) == ["MRR@10, after training", "against the start", f"against {FIRST}"]
    assert re.split("  +", line) == [PAPER, *["-0.050 (-0.100 to +0.020, p = 0.031)"] * 2]
    of_start = replace(evaluation, tests=tests, untrained_tests=tests, untrained=start.alone)
    head, *_ = changes_table(of_start).splitlines()
    assert re.split("  +", head) == ["MRR@10, after training", f"against {START}"], "nothing stands there twice"
    assert not changes_table(evaluation)


def test_blends_that_add_something_have_rows_of_their_own_behind_all_others() -> None:
    rankings = measured_of(FIRST, [0.5, 0.5], [0.6, 0.6]), measured_of(START, [0.25, 0.25]), measured_of(PAPER, [1, 1])
    lines = metrics_table(evaluation_of(TWO_QUERIES, *rankings)).splitlines()
    assert [line.split("  ")[0] for line in lines[1:]] == [FIRST, START, PAPER, f"{FIRST}, blended"]
    assert lines[4].split()[-1] == "0.600"


def test_the_text_before_training_is_the_beginning_of_the_text_after_it() -> None:
    first = measured_of(FIRST, [0.5, 0.5], [0.6, 0.6])
    early = evaluation_text(evaluation_of(TWO_QUERIES, first))
    late = evaluation_text(evaluation_of(TWO_QUERIES, first, measured_of(START, [0.25, 0.25])), start="of the start")
    assert "\n\nof the start" in late
    assert early.splitlines()[0] == "2 test queries, the first 2 documents re-ranked"
    assert "The first stage has 50.0% of the right documents" in early
    whole = evaluation_text(evaluation_of(task_of_rows([[1, 2], [1, 2]], [{1}, {2}]), first))
    assert "The first stage has all of the right documents.\n" in whole
    assert "p-value" not in early
    assert [line for line in early.splitlines() if "0.6" in line or "0.5" in line] == [
        line for line in late.splitlines() if line.startswith(FIRST)
    ]
    share = replace(evaluation_of(TWO_QUERIES, first), split="15% of test")
    assert evaluation_text(share).splitlines()[0] == "2 queries (15% of test), the first 2 documents re-ranked"
    sample = replace(evaluation_of(TWO_QUERIES, first), split_queries=1234)
    assert evaluation_text(sample).startswith("2 of 1,234 test queries")


def test_the_parts_of_a_blend_are_listed_and_that_dev_wants_none() -> None:
    paper, first_stage = measured_of(PAPER, [0.5]), measured_of(FIRST, [0.4], [0.6])
    *_, first, after = blends_text([first_stage, paper]).splitlines()
    assert first == "  first stage: BM25  0.25 BM25  0.75 minilm"
    assert after == "  after: paper       nothing: on dev no sum has a higher MRR@10 than this alone"
    *_, first, after = blends_text(
        [measured_of(FIRST, [0.4]), replace(paper, weights={"minilm": 1.0}, blend=first_stage.blend)]
    ).splitlines()
    assert "nothing" in first
    assert after == "  after: paper       no row: on dev the best sum is without it, 1.00 minilm"
    assert not blends_text([replace(paper, weights={})])


def test_long_and_short_stand_apart_only_where_there_are_both() -> None:
    task = task_of_rows([[1], [1], [1], [1]], [{1}, {1}, {1}, {1}])
    rows = {"before": {"MRR@10": np.array([0.1, 0.2, 0.3, 0.8])}, "after": {"MRR@10": np.array([0, 0, 1, 1])}}
    apart = replace(task, long=frozenset({0, 2}))
    assert length_table(task, rows, fewest=1) == length_table(apart, rows) == ""
    lines = length_table(apart, rows, fewest=2).splitlines()
    assert lines[2].split() == ["short", "(2)", "long", "(2)"]
    assert lines[3].split() == ["before", "0.500", "0.200"]
    assert lines[4].split() == ["after", "0.500", "0.500"]


def write_metrics(path: Path, ids: list[str], values: np.ndarray) -> Path:
    pq.write_table(pa.table({"query_id": ids} | dict.fromkeys(METRICS, values)), path)
    return path


def test_two_files_are_compared_over_the_queries_that_both_have(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    before, after = rng.random(30), rng.random(30)
    names = [f"q{i}" for i in range(30)]
    order = rng.permutation(30)
    shuffled = [*(names[i] for i in order), "other"]
    first = write_metrics(tmp_path / "after.parquet", shuffled, np.append(after[order], 1.0))
    second = write_metrics(tmp_path / "before.parquet", names, before)
    lines = paired_table(first, second).splitlines()
    assert lines[0] == f"{first} against {second}, 30 queries"
    expected = paired(after, before)
    assert [line.split()[0] for line in lines[3:]] == list(METRICS)
    for line in lines[3:]:
        cells = line.split()
        assert float(cells[1]) == pytest.approx(after.mean(), abs=6e-4)
        assert float(cells[2]) == pytest.approx(before.mean(), abs=6e-4)
        assert float(cells[3]) == pytest.approx(expected.difference, abs=6e-4)
        assert float(cells[-1]) == pytest.approx(expected.p, abs=0.03)


def test_rows_are_compared_by_their_names_in_a_run(tmp_path: Path) -> None:
    rankings = measured_of(FIRST, [0.5, 0.5], [1.0, 0.5]), measured_of(PAPER, [1.0, 1.0])
    task = task_of_rows([[1], [1]], [{1}, {7}])
    with open_run(tmp_path, Config()) as run:
        files = write_evaluation(evaluation_of(task, *rankings), task, {}, run)
        run.commit("evaluation", inputs={}, files=run.sha256_of(*files))
    shown = paired_table("after: paper", "blended-first-stage", tmp_path)
    assert shown.splitlines()[0] == "after: paper against first stage: BM25, blended, 2 queries"
    with pytest.raises(DataError, match=r"has no row 'paper'; it has 'first-stage', 'after-paper', 'blended-first"):
        paired_table("paper", "first-stage", tmp_path)
    with open_run(tmp_path, Config()) as run:
        run.commit("mining", inputs={}, files={})
        run.commit("evaluation", inputs={"negatives.parquet": "0"}, files={})
        run.commit("mining", inputs={}, files={})
    with pytest.raises(DataError, match="is of other models than are there now; run `hnmine evaluate` again"):
        paired_table("after: paper", "blended-first-stage", tmp_path)
    with pytest.raises(DataError, match="has no evaluation that can be read; run `hnmine evaluate`"):
        paired_table("a", "b", tmp_path / "elsewhere")


def test_files_without_a_common_query_are_named(tmp_path: Path) -> None:
    one, two = (write_metrics(tmp_path / f"{name}.parquet", [name], np.ones(1)) for name in ("one", "two"))
    with pytest.raises(DataError, match=r"one\.parquet and .*two\.parquet have no query in common"):
        paired_table(one, two)
