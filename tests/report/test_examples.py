"""The triplets that a person judges by eye, and the page of the queries that a training changed most."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hnmine.config.root import Config
from hnmine.ranking.evaluate import Evaluation, Measured, Ranking
from hnmine.ranking.measures import measure
from hnmine.report.examples import examples, shortened, write_changes
from hnmine.runs.folder import open_run
from tests.builders.ranking import evaluation_of, measured_of, task_of_rows


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    rows = [(query, rank) for query in range(5) for rank in range(1, 3)]
    texts = {
        name: [f"{name} of q{query} rank {rank}" + " and more words" * 20 for query, rank in rows]
        for name in ("positive", "negative")
    } | {"query": [f"query of q{query}" + " and more words" * 20 for query, _ in rows]}
    ids = {
        "query_id": [f"q{query}" for query, _ in rows],
        "positive_id": [f"p{query}" for query, _ in rows],
        "negative_id": [f"n{query}-{rank}" for query, rank in rows],
    }
    facts = {
        "d_query_positive": [query / 10 for query, _ in rows],
        "d_query_negative": [query / 10 + rank / 1000 for query, rank in rows],
        "d_positive_negative": [1.5] * len(rows),
    }
    triplets, negatives = tmp_path / "triplets.parquet", tmp_path / "negatives.parquet"
    pq.write_table(pa.table(texts | ids), triplets)
    pq.write_table(pa.table(ids | facts), negatives)
    return triplets, negatives


def test_an_example_shows_texts_ids_and_distances_of_one_row(files):
    shown = examples(*files, count=5)
    assert shown.startswith("5 of 10 mined triplets")
    for query in range(5):  # of every query the first row, its rank 1
        assert f"query of q{query} and more" in shown
        assert f"n{query}-1, d(Q,D) = {query / 10 + 0.001:.3f}, d(PD,D) = 1.500" in shown
        assert f"p{query}, d(Q,PD) = {query / 10:.3f}" in shown
    assert "rank 2" not in shown


def test_long_texts_are_cut_to_the_width_of_a_screen(files):
    assert max(map(len, examples(*files, count=5).splitlines())) <= 110


def test_the_choice_is_seeded_and_never_more_than_there_is(files):
    assert examples(*files, count=2, seed=1) == examples(*files, count=2, seed=1)
    assert len({examples(*files, count=2, seed=seed) for seed in range(8)}) > 1
    assert examples(*files, count=99).startswith("5 of 10")
    assert examples(*files, count=2).count("query of q") == 2
    triplets = pq.read_table(files[0])
    twins = pa.array([text.replace("q1", "q0") for text in triplets["query"].to_pylist()])
    pq.write_table(triplets.set_column(triplets.schema.get_field_index("query"), "query", twins), files[0])
    assert examples(*files, count=99).startswith("4 of 10"), "queries of one text are one question"


def test_no_triplets_are_said_to_be_none(files):
    for path in files:
        pq.write_table(pq.read_table(path).slice(0, 0), path)
    assert "No hard negative was found" in examples(*files, count=3)


def test_a_text_is_shortened_at_a_words_end_and_one_long_word_within_it():
    assert shortened("a short  text\n") == "a short text"
    words = shortened("word " * 60)
    assert words.endswith("word …")
    assert 80 < len(words) <= 98
    assert shortened("x" * 200) == "x" * 96 + " …"
    assert shortened("_" * 98) == "_" * 98


TASK = task_of_rows([[0, 1], [2, 3], [4, 5], [6, 7]], [{0}, {3}, {4}, {99}])


def ranked(name: str, scores: list[list[float]]) -> Measured:
    scores_QK = np.array(scores, np.float32)
    how = {"kind": "re-ranker", "weights": {"re-ranker": 1.0}, "scores_QK": scores_QK}
    return Measured(alone=Ranking(name=name, slug="", values=measure(TASK, scores_QK), **how), weights={})


def example(*presets: str) -> Evaluation:
    before = ranked("before: as given", [[2, 1], [2, 1], [2, 1], [2, 1]])
    after = [ranked(f"after: {preset}", [[1, 2], [1, 2], [3, 1], [1, 2]]) for preset in presets]
    return evaluation_of(TASK, measured_of("first stage: BM25", [0.0] * 4), before, *after)


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
