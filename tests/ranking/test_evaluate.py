"""First stage and re-rankers are measured on the test queries, blended with what needs no training, and tested."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hnmine.config.load import load
from hnmine.config.root import Config
from hnmine.corpus.layouts import read_collection
from hnmine.errors import DataError, HnmineError
from hnmine.models.folder import folder_sha256
from hnmine.models.reranker import CrossEncoder
from hnmine.project import open_project
from hnmine.ranking.evaluate import (
    Cosines,
    Evaluator,
    KeptScores,
    metrics_of,
    read_metrics,
    scores_file,
    trained_rerankers,
)
from hnmine.ranking.first_stage import bm25_or_run_file
from hnmine.ranking.measures import METRICS, Task, means, measure, paired, rerank
from hnmine.ranking.splits import Splits
from hnmine.runs.folder import Run, open_run
from hnmine.types import NO_ROW, Float32, Int64, Texts
from tests.builders.collections import write_collection
from tests.builders.field_cases import graded, write_plain
from tests.builders.models import tiny_cross_encoder
from tests.builders.ranking import task_of_rows

CPU = ("device=cpu", "engine=torch", "train.dtype=float32")
TASK = task_of_rows([[0, 1, NO_ROW], [2, 3, 4]], [{0}, {3}])


def no_cosines(queries: Texts, doc_rows_QK: Int64) -> dict[str, Float32]:
    raise AssertionError((queries, doc_rows_QK))


def evaluator_of(folder: Path, cosines: Cosines, *overrides: str) -> Evaluator:
    config = load(overrides=["train.dev_queries=10", *overrides])
    collection = read_collection(write_collection(folder), config.sources)
    first_stage = partial(bm25_or_run_file, config.evaluate, collection.documents, collection.queries)
    return Evaluator(Splits(collection, config, first_stage), config, cosines)


def test_an_encoder_that_knows_is_blended_with_the_first_stage(tmp_path: Path) -> None:
    relevant: dict[str, frozenset[int]] = {}

    def knows(queries: Texts, doc_rows_QK: Int64) -> dict[str, Float32]:
        is_right = [np.isin(rows, list(relevant[text])) for text, rows in zip(queries.texts, doc_rows_QK, strict=True)]
        return {"oracle": np.where(doc_rows_QK == NO_ROW, -np.inf, np.array(is_right)).astype(np.float32)}

    evaluator = evaluator_of(tmp_path / "data", knows)
    assert evaluator.dev is not None
    for task in (evaluator.dev, evaluator.test):
        relevant |= dict(zip(task.queries.texts, task.relevant, strict=True))
    evaluation = evaluator.evaluation()
    (ranking,) = evaluation.rankings
    assert ranking.name == "first stage: BM25"
    assert ranking.weights.keys() <= {"BM25", "oracle"}
    assert ranking.weights["oracle"] > 0.5
    assert means(ranking.blended)["MRR@10"] == 1 > means(ranking.values)["MRR@10"]
    assert list(metrics_of(evaluation.rankings)) == ["first stage: BM25", "first stage: BM25, blended"]
    assert evaluation.facts()["blend"] == {"first stage: BM25": ranking.weights}
    assert evaluation.facts()["metrics"]["first stage: BM25, blended"]["MRR@10"] == 1


@pytest.mark.parametrize(("blend", "parts"), [("none", set()), ("first_stage", {"re-ranker", "BM25"})])
def test_encoders_are_asked_only_where_they_are_blended(tmp_path: Path, blend: str, parts: set[str]) -> None:
    evaluator = evaluator_of(tmp_path / "data", no_cosines, f"evaluate.blend={blend}")
    assert evaluator.first_stage.weights == {}, "there is nothing to blend it with"
    assert (evaluator.dev is None) == (blend == "none")
    assert list(evaluator.tasks("x")) == (["x"] if blend == "none" else ["x", "dev: x"])
    ranking = evaluator.ranking("x", *(task.first_scores_QK for task in evaluator.tasks("x").values()))
    assert ranking.weights.keys() <= parts
    assert bool(ranking.weights) == bool(parts)
    assert not ranking.gains_parts


def test_vectors_that_lack_queries_are_told_with_what_to_do(tmp_path: Path) -> None:
    def lacks(queries: Texts, doc_rows_QK: Int64) -> dict[str, Float32]:
        raise DataError(f"{len(queries)} x {doc_rows_QK.shape[1]} are missing")

    evaluator = evaluator_of(tmp_path / "data", lacks, "evaluate.depth=7")
    with pytest.raises(DataError, match=r"4 x 7 are missing; or set evaluate\.blend=first_stage, which asks no"):
        evaluator.evaluation()


def test_what_was_trained_is_measured_and_tested_against_the_start(tmp_path: Path) -> None:
    evaluator = evaluator_of(tmp_path / "data", no_cosines, "evaluate.blend=first_stage", "seed=3")
    models = [tiny_cross_encoder(tmp_path / f"model {seed}", seed=seed) for seed in range(3)]
    names = ["before: as given", "after: paper", "after: anchored"]
    with open_run(tmp_path / "out", load(overrides=CPU)) as run:
        kept = KeptScores(run, "cross-encoder", 32)
        scores = [kept.of_folder(evaluator.tasks(name), model) for name, model in zip(names, models, strict=True)]
    rankings = [evaluator.ranking(name, *each) for name, each in zip(names, scores, strict=True)]
    evaluation = evaluator.evaluation(rankings)
    assert [ranking.name for ranking in evaluation.rankings] == ["first stage: BM25", *names]
    _, before, *after = evaluation.rankings
    for ranking in after:
        assert measure(evaluator.test, ranking.scores_QK).keys() == METRICS.keys()
        rows = {ranking.name: ranking.values}
        rows |= {f"{ranking.name}, blended": ranking.blended} if ranking.gains_parts else {}
        assert metrics_of([ranking]) == rows
        for name, values in rows.items():
            assert values is metrics_of(evaluation.rankings)[name]
            for metric, test in evaluation.tests[name].items():
                assert test == paired(values[metric], before.values[metric], 3)
    assert {name for name in metrics_of(evaluation.rankings) if name.startswith("after")} == evaluation.tests.keys()


def test_known_scores_are_taken_and_others_are_computed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = [tiny_cross_encoder(tmp_path / f"model {seed}", seed=seed) for seed in range(2)]
    with open_run(tmp_path / "out", load(overrides=CPU)) as run:
        file = run.out / scores_file("after: paper")
        assert file == run.out / "evaluation" / "after-paper.parquet"

        def reused(max_tokens: int = 32, model: Path = models[0], task: Task = TASK) -> bool:
            (scores,) = KeptScores(run, "cross-encoder", max_tokens).of_folder({"after: paper": task}, model)
            reranker = CrossEncoder(model, max_tokens=max_tokens, device="cpu", dtype="float32", engine="torch")
            assert scores.tolist() == rerank(task, reranker.scores).tolist()
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
        assert not reused(max_tokens=8)
        assert not reused()
        assert not reused(task=replace(TASK, doc_rows_QK=TASK.doc_rows_QK[:, ::-1].copy()))
        assert not reused()
        file.write_bytes(written[:-9])
        assert not reused()
        file.unlink()
        assert not reused()


def test_files_of_rankings_that_are_gone_are_removed_and_others_are_not(tmp_path: Path) -> None:
    with open_run(tmp_path / "out", Config()) as run:
        kept, model = KeptScores(run, "cross-encoder", 32), tiny_cross_encoder(tmp_path / "model")
        kept.of_folder(
            dict.fromkeys(["after: paper", "after: positives", "dev: after: paper", "compare: start"], TASK), model
        )
        kept.remove_all_but(["after: paper"])
        left = sorted(path.name for path in (run.out / "evaluation").iterdir())
    assert left == ["after-paper.parquet", "compare-start.parquet"]


def test_the_metrics_of_a_file_are_read_and_other_files_are_named(tmp_path: Path) -> None:
    with open_run(tmp_path / "out", Config()) as run:
        kept = KeptScores(run, "cross-encoder", 32)
        (scores,) = kept.of_folder({"x": TASK}, tiny_cross_encoder(tmp_path / "model"))
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


def run_with_models(run: Run, *, warmed_up: bool, model: Path) -> None:
    """Let the manifest say that two presets were trained from this model."""
    folders = [run.out / "rerankers" / name for name in (*(["start"] if warmed_up else []), "paper", "anchored")]
    files = {}
    for seed, folder in enumerate(folders):
        tiny_cross_encoder(folder, seed=seed)
        files |= {f"rerankers/{folder.name}/{name}": sha256 for name, sha256 in folder_sha256(folder).items()}
    run.manifest["training"] = {
        "start": {"model": str(model), "warmed_up": warmed_up},
        "presets": {"paper": {}, "anchored": {}},
        "kind": "cross-encoder",
        "max_tokens": 64,
    }
    run.manifest["files"] = files


@pytest.mark.parametrize("warmed_up", [True, False])
def test_the_manifest_says_what_was_trained(
    tmp_path: Path, warmed_up: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    given = tiny_cross_encoder(tmp_path / "given", seed=7)
    with open_run(tmp_path / "out", load(overrides=["train.max_tokens=16"])) as run:
        run_with_models(run, warmed_up=warmed_up, model=given)
        folders, files = trained_rerankers(run)
        rerankers = run.out / "rerankers"
        start = ("before: warm-started", rerankers / "start") if warmed_up else ("before: as given", given)
        after = [("after: paper", rerankers / "paper"), ("after: anchored", rerankers / "anchored")]
        assert list(folders.items()) == [start, *after]
        assert files == run.manifest["files"]
        assert "train.max_tokens=16 is not used: these were trained with 64" in capsys.readouterr().err
        trained_rerankers(replace(run, config=load(overrides=["train.max_tokens=64"])))
        assert "not used" not in capsys.readouterr().err
        config = rerankers / "paper" / "config.json"  # as a training that was stopped leaves another model
        config.write_text(config.read_text() + " ")
        with pytest.raises(HnmineError, match=r"rerankers/paper is not as .*manifest\.json says.* train` again"):
            trained_rerankers(run)


def test_without_a_training_it_is_said_what_to_run(tmp_path: Path) -> None:
    with (
        open_run(tmp_path / "out", Config()) as run,
        pytest.raises(DataError, match="holds no trained re-ranker; run `hnmine train`"),
    ):
        trained_rerankers(run)


def test_of_graded_judgements_the_highest_are_hits_and_all_are_gains_by_the_reading_of_a_person(tmp_path: Path) -> None:
    plain = graded()
    folder = write_plain(tmp_path / "data", plain)
    config = load(overrides=["sources.min_score=2", "evaluate.blend=none"])
    with open_project(folder, tmp_path / "out", config) as project:
        test = project.evaluator.test
        scores = np.random.default_rng(1).normal(size=test.doc_rows_QK.shape).astype(np.float32)
        ranking = project.evaluator.ranking("by chance", scores)
        ids = project.collection.documents.ids
    judged = plain.judgements["test"]
    assert {*test.queries.ids} == {query for query, _ in judged}
    for at, query in enumerate(test.queries.ids):
        grades = {doc: grade for (asked, doc), grade in judged.items() if asked == query}
        assert {ids[row] for row in test.relevant[at]} == {doc for doc, grade in grades.items() if grade == 3}
        places = sorted(range(len(scores[at])), key=lambda place, at=at: -scores[at, place])
        found = [ids[row] for row in test.doc_rows_QK[at, places].tolist() if row != NO_ROW]
        right = next(doc for doc, grade in grades.items() if grade == 3)
        rank = found.index(right) + 1 if right in found[:10] else np.inf
        assert ranking.values["MRR@10"][at] == 1 / rank
        gain = sum(grades.get(doc, 0) / np.log2(place + 2) for place, doc in enumerate(found[:10]))
        assert ranking.values["nDCG@10"][at] == pytest.approx(gain / (3 + 1 / np.log2(3)))
    assert 0 < ranking.values["nDCG@10"].mean() < 1


def test_queries_with_documents_of_lower_grades_alone_are_counted_and_not_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = graded()
    first = next(query for query, _ in plain.judgements["test"])
    lower = {pair: min(grade, 1) if pair[0] == first else grade for pair, grade in plain.judgements["test"].items()}
    folder = write_plain(tmp_path / "data", replace(plain, judgements=plain.judgements | {"test": lower}))
    config = load(overrides=["sources.min_score=2", "evaluate.blend=none"])
    with open_project(folder, tmp_path / "out", config) as project:
        assert {*project.evaluator.test.queries.ids} == {query for query, _ in lower} - {first}
        counts = project.collection.judgements_by_split()["test"]
    assert counts == {"positive": 7, "lower_grade": 9, "not_relevant": 8, "queries_of_lower_grades_alone": 1}
    assert "1 queries of test have documents of lower grades only" in capsys.readouterr().err


def test_a_file_of_scores_names_the_documents_by_id(tmp_path: Path) -> None:
    evaluator = evaluator_of(tmp_path / "data", no_cosines, "evaluate.blend=none", "evaluate.depth=7")
    with open_run(tmp_path / "out", load(overrides=CPU)) as run:
        kept = KeptScores(run, "cross-encoder", 32)
        kept.of_folder(evaluator.tasks("after: paper"), tiny_cross_encoder(tmp_path / "model"))
        rows = pq.read_table(run.out / scores_file("after: paper")).to_pylist()
    ids = read_collection(tmp_path / "data", Config().sources).documents.ids
    for row in rows:
        assert row["document_ids"] == [None if doc == NO_ROW else ids[doc] for doc in row["document_rows"]]
    assert [row["query_id"] for row in rows] == list(evaluator.test.queries.ids)
