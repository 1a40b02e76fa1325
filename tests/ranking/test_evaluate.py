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
from hnmine.errors import DataError, HnmineError, ModelError
from hnmine.models.folder import folder_sha256
from hnmine.models.reranker import CrossEncoder
from hnmine.project import open_project
from hnmine.ranking.evaluate import (
    Cosines,
    Evaluator,
    KeptScores,
    Ranking,
    Reranker,
    rerankers_of,
    write_evaluation,
)
from hnmine.ranking.first_stage import bm25_or_run_file
from hnmine.ranking.measures import METRICS, Task, means, measure, paired, rerank
from hnmine.ranking.rows import read_metrics, scores_file
from hnmine.ranking.splits import Splits
from hnmine.runs.files import digest
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
    (measured,), (alone, blend) = evaluation.measured, evaluation.rows
    assert (alone.name, blend.name) == ("first stage: BM25", "first stage: BM25, blended")
    assert (alone.kind, blend.kind) == ("first-stage", "blend")
    assert (alone.weights, blend.weights) == ({"BM25": 1.0}, measured.weights)
    assert blend.weights.keys() <= {"BM25", "oracle"}
    assert blend.weights["oracle"] > 0.5
    assert means(blend.values)["MRR@10"] == 1 > means(alone.values)["MRR@10"]
    assert blend.dev is not None
    assert blend.dev_QK is not None
    assert means(blend.dev) == means(measure(evaluator.dev, blend.dev_QK))
    assert evaluation.untrained is blend
    assert evaluation.facts()["blend"] == {"first stage: BM25": measured.weights}
    assert evaluation.facts()["metrics"]["first stage: BM25, blended"]["MRR@10"] == 1


@pytest.mark.parametrize(("blend", "parts"), [("none", set()), ("first_stage", {"re-ranker", "BM25"})])
def test_encoders_are_asked_only_where_they_are_blended(tmp_path: Path, blend: str, parts: set[str]) -> None:
    evaluator = evaluator_of(tmp_path / "data", no_cosines, f"evaluate.blend={blend}")
    assert evaluator.first_stage.weights == {}, "there is nothing to blend it with"
    assert evaluator.first_stage.alone.dev is not None, "dev chooses among what stands alone too"
    assert list(evaluator.tasks("x")) == ["x", "dev: x"]
    measured = evaluator.measured("x", *(task.first_scores_QK for task in evaluator.tasks("x").values()))
    assert measured.weights.keys() <= parts
    assert bool(measured.weights) == bool(parts)
    assert measured.best is measured.alone


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
    measured = [evaluator.measured(name, *each) for name, each in zip(names, scores, strict=True)]
    evaluation = evaluator.evaluation(measured)
    rows = {row.name: row for row in evaluation.rows}
    assert list(rows)[:4] == ["first stage: BM25", *names]
    blends = [each for each in measured if each.blend and "re-ranker" in each.weights]
    assert [row.name for row in evaluation.rows[4:]] == [f"{each.alone.name}, blended" for each in blends]
    best = max(("first stage: BM25", names[0], f"{names[0]}, blended"), key=lambda name: dev_of(rows.get(name)))
    assert evaluation.untrained.name == best
    for name, tests in evaluation.tests.items():
        for metric, test in tests.items():
            before = measured[0].best if name.endswith(", blended") else measured[0].alone
            assert test == paired(rows[name].values[metric], before.values[metric], 3)
        (against,) = evaluation.untrained_tests[name].values()
        assert against == paired(rows[name].values["MRR@10"], rows[best].values["MRR@10"], 3)
    assert [name for name in rows if name.startswith("after")] == list(evaluation.tests)


def dev_of(row: Ranking | None) -> float:
    return -1.0 if row is None or row.dev is None else float(row.dev["MRR@10"].mean())


def test_a_blend_that_leaves_its_re_ranker_out_is_no_row(tmp_path: Path) -> None:
    relevant: dict[str, frozenset[int]] = {}

    def knows(queries: Texts, doc_rows_QK: Int64) -> dict[str, Float32]:
        is_right = [np.isin(rows, list(relevant[text])) for text, rows in zip(queries.texts, doc_rows_QK, strict=True)]
        return {"oracle": np.where(doc_rows_QK == NO_ROW, -np.inf, np.array(is_right)).astype(np.float32)}

    evaluator = evaluator_of(tmp_path / "data", knows)
    assert evaluator.dev is not None
    worst = []
    for task in (evaluator.test, evaluator.dev):
        relevant |= dict(zip(task.queries.texts, task.relevant, strict=True))
        worst.append(np.where(task.relevant_QK, -1, 1).astype(np.float32))
    measured = evaluator.measured("after: paper", *worst)
    assert measured.blend is not None
    assert "re-ranker" not in measured.weights
    evaluation = evaluator.evaluation([measured])
    names = ["first stage: BM25", "after: paper", "first stage: BM25, blended"]
    assert [row.name for row in evaluation.rows] == names
    assert evaluation.tests == {}, "there is no start"
    assert list(evaluation.untrained_tests) == ["after: paper"]


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
    evaluator = evaluator_of(tmp_path / "data", no_cosines, "evaluate.blend=none")
    with open_run(tmp_path / "out", Config()) as run:
        kept, model = KeptScores(run, "cross-encoder", 32), tiny_cross_encoder(tmp_path / "model")
        kept.of_folder(
            dict.fromkeys(["after: paper", "after: positives", "dev: after: paper", "compare: start"], TASK), model
        )
        scores = [task.first_scores_QK for task in evaluator.tasks("").values()]
        evaluation = evaluator.evaluation([evaluator.measured("after: paper", *scores)])
        written = write_evaluation(evaluation, evaluator.dev, {}, run)
        left = sorted(path.name for path in (run.out / "evaluation").iterdir())
    of_rows = ["after-paper.parquet", "dev-after-paper.parquet", "dev-first-stage.parquet", "first-stage.parquet"]
    assert left == sorted([*of_rows, "compare-start.parquet", "rows.json"])
    assert sorted(written) == [f"evaluation/{name}" for name in sorted([*of_rows, "rows.json"])]


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
        found, files = rerankers_of(run)
        rerankers = run.out / "rerankers"
        start = ("before: warm-started", rerankers / "start") if warmed_up else ("before: as given", given)
        after = [("after: paper", rerankers / "paper"), ("after: anchored", rerankers / "anchored")]
        assert list(found.items()) == [
            (name, Reranker(folder, "cross-encoder", 64)) for name, folder in [start, *after]
        ]
        assert files == run.manifest["files"]
        assert "train.max_tokens=16 is not used: these were trained with 64" in capsys.readouterr().err
        rerankers_of(replace(run, config=load(overrides=["train.max_tokens=64"])))
        assert "not used" not in capsys.readouterr().err
        config = rerankers / "paper" / "config.json"  # as a training that was stopped leaves another model
        config.write_text(config.read_text() + " ")
        with pytest.raises(HnmineError, match=r"rerankers/paper is not as .*manifest\.json says.* train` again"):
            rerankers_of(run)


def test_a_start_that_has_changed_since_is_no_before(tmp_path: Path) -> None:
    given = tiny_cross_encoder(tmp_path / "given", seed=7)
    with open_run(tmp_path / "out", load()) as run:
        run_with_models(run, warmed_up=False, model=given)
        run.manifest["training"]["start"]["files"] = digest(folder_sha256(given))
        rerankers_of(run)
        (given / "config.json").write_text((given / "config.json").read_text() + " ")
        with pytest.raises(
            HnmineError, match=r"given, is not what was trained from; bring it back, or run `hnmine train"
        ):
            rerankers_of(run)


def test_without_a_training_the_model_is_taken_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_cross_encoder(tmp_path / "model")
    how = load(overrides=[f"train.model={model}", "train.max_tokens=48"])
    with open_run(tmp_path / "out", how) as run:
        assert rerankers_of(run) == (
            {"before: as given": Reranker(model, "cross-encoder", 48)},
            {"rerankers": "none was trained"},
        )
        assert f"holds no trained re-ranker: train.model={model} is scored as it is" in capsys.readouterr().err
        body = load(overrides=[f"train.model={tiny_cross_encoder(tmp_path / 'body', head=False)}"])
        assert rerankers_of(replace(run, config=body))[0] == {}
        assert "has no ranking head: first stage and blend alone" in capsys.readouterr().err
        (tmp_path / "ranker").mkdir()
        (tmp_path / "ranker" / "ranker.json").write_text("{}")
        whole = load(overrides=[f"train.model={tmp_path / 'ranker'}"])
        assert rerankers_of(replace(run, config=whole))[0] == {}
        assert "ranker has none: it is compared as it is" in capsys.readouterr().err
        gone = load(overrides=[f"train.model={tmp_path / 'gone'}"])
        with pytest.raises(ModelError, match=r"so train\.model is scored as it is: .*gone does not exist"):
            rerankers_of(replace(run, config=gone))


def test_of_graded_judgements_the_highest_are_hits_and_all_are_gains_by_the_reading_of_a_person(tmp_path: Path) -> None:
    plain = graded()
    folder = write_plain(tmp_path / "data", plain)
    config = load(overrides=["sources.min_score=2", "evaluate.blend=none"])
    with open_project(folder, tmp_path / "out", config) as project:
        test = project.evaluator.test
        scores = np.random.default_rng(1).normal(size=test.doc_rows_QK.shape).astype(np.float32)
        ranking = project.evaluator.measured("by chance", scores).alone
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


def test_a_run_file_without_dev_queries_is_told_and_leaves_the_choice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_collection(tmp_path / "data")
    queries = [line.split("\t")[0] for line in (data / "qrels" / "test.tsv").read_text().splitlines()[1:]]
    documents = read_collection(data, Config().sources).documents.ids[:5]
    lines = [f"{query} Q0 {doc} {rank} {-rank} x\n" for query in queries for rank, doc in enumerate(documents, 1)]
    (tmp_path / "test.trec").write_text("".join(lines))
    config = load(overrides=[f"evaluate.first_stage={tmp_path / 'test.trec'}"])
    with open_project(data, tmp_path / "out", config) as project:
        evaluator = project.evaluator
        assert evaluator.dev is None
        (row,) = evaluator.evaluation().rows
        with pytest.raises(DataError, match=r"no document for any of 4 queries of dev, first 'garden-care': "):
            project.splits.task(project.splits.dev, None, 0)
    assert (row.dev, row.row(None).dev) == (None, {})
    said = capsys.readouterr().err
    assert "first stage test.trec has no document for any query of dev, the dev queries: nothing can be" in said


def test_a_file_of_scores_names_the_documents_by_id(tmp_path: Path) -> None:
    evaluator = evaluator_of(tmp_path / "data", no_cosines, "evaluate.blend=none", "evaluate.depth=7")
    with open_run(tmp_path / "out", load(overrides=CPU)) as run:
        kept = KeptScores(run, "cross-encoder", 32)
        scores, _ = kept.of_folder(evaluator.tasks("after: paper"), tiny_cross_encoder(tmp_path / "model"))
        rows = pq.read_table(run.out / scores_file("after: paper")).to_pylist()
    ids, test = read_collection(tmp_path / "data", Config().sources).documents.ids, evaluator.test
    for row, doc_rows, of_query in zip(rows, test.doc_rows_QK, scores, strict=True):
        there = doc_rows != NO_ROW
        assert row["document_ids"] == [ids[doc] for doc in doc_rows[there].tolist()]
        assert row["scores"] == of_query[there].tolist()
    assert [row["query_id"] for row in rows] == list(test.queries.ids)
