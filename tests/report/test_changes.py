"""The page of the queries that a training changed most."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hnmine.config.root import Config
from hnmine.ranking.evaluate import Evaluation, Ranking
from hnmine.ranking.measures import measure
from hnmine.report.changes import write_changes
from hnmine.runs.folder import open_run
from tests.builders.ranking import evaluation_of, ranking_of, task_of_rows

TASK = task_of_rows([[0, 1], [2, 3], [4, 5], [6, 7]], [{0}, {3}, {4}, {99}])


def ranked(name: str, scores: list[list[float]]) -> Ranking:
    scores_QK = np.array(scores, np.float32)
    values = measure(TASK, scores_QK)
    return Ranking(name=name, part="re-ranker", scores_QK=scores_QK, values=values, weights={}, blended=values)


def example(*presets: str) -> Evaluation:
    before = ranked("before: as given", [[2, 1], [2, 1], [2, 1], [2, 1]])
    after = [ranked(f"after: {preset}", [[1, 2], [1, 2], [3, 1], [1, 2]]) for preset in presets]
    return evaluation_of(TASK, ranking_of("first stage: BM25", [0.0] * 4), before, after)


def test_the_page_names_what_stood_first_and_where_the_right_document_went(tmp_path: Path) -> None:
    with open_run(tmp_path / "out", Config()) as run:
        (path,) = write_changes(example("paper"), run)
        text = (run.out / path).read_text()
    assert path == "evaluation/changes-paper.md"
    assert "1 of 4 queries gained in MRR@10, 1 lost, the others stayed." in text
    gained, lost = text.split("## Lost most")
    assert "**q1**: right document from 2 to 1" in gained
    assert "- first before (not judged right): d2\n- first after (right): d3\n- right: d3" in gained
    assert "**q0**: right document from 1 to 2" in lost
    assert "q2" not in text
    assert "q3" not in text


def test_the_pages_of_trainings_that_are_gone_are_removed(tmp_path: Path) -> None:
    with open_run(tmp_path / "out", Config()) as run:
        write_changes(example("paper", "anchored"), run)
        (run.out / "evaluation" / "mine.md").write_text("not hnmine's")
        assert write_changes(example("anchored"), run) == ["evaluation/changes-anchored.md"]
        left = sorted(path.name for path in (run.out / "evaluation").iterdir())
    assert left == ["changes-anchored.md", "mine.md"]
