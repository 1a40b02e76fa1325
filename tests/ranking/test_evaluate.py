"""First stage and re-rankers are measured on the test queries, blended with what needs no training, and tested."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from hnmine.config.load import load
from hnmine.config.root import Config
from hnmine.corpus.beir import read_beir
from hnmine.errors import DataError, HnmineError
from hnmine.models.folder import folder_sha256
from hnmine.ranking.evaluate import Cosines, Evaluator, rows_of, trained_rerankers
from hnmine.ranking.first_stage import bm25_or_run_file
from hnmine.ranking.measures import METRICS, means, measure, paired
from hnmine.ranking.rescoring import KeptScores, how_to_read
from hnmine.ranking.splits import Splits
from hnmine.runs.folder import Run, open_run
from hnmine.types import NO_ROW, Float32, Int64, Texts
from tests.builders.collections import write_collection
from tests.builders.models import tiny_cross_encoder

CPU = ("device=cpu", "engine=torch", "train.dtype=float32")


def no_cosines(queries: Texts, doc_rows_QK: Int64) -> dict[str, Float32]:
    raise AssertionError((queries, doc_rows_QK))


def evaluator_of(folder: Path, cosines: Cosines, *overrides: str) -> Evaluator:
    config = load(overrides=overrides)
    collection = read_beir(write_collection(folder), config.sources)
    first_stage = partial(bm25_or_run_file, config.evaluate, collection.documents, collection.queries)
    splits = Splits(collection, config.sources, config.evaluate, config.seed, first_stage)
    return Evaluator(splits, config.evaluate, dev_queries=10, seed=config.seed, cosines=cosines)


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
    assert list(evaluation.rows) == ["first stage: BM25", "first stage: BM25, blended"]
    assert evaluation.facts()["blend"] == {"first stage: BM25": ranking.weights}
    assert evaluation.facts()["metrics"]["first stage: BM25, blended"]["MRR@10"] == 1


@pytest.mark.parametrize(("blend", "parts"), [("none", set()), ("first_stage", {"re-ranker", "BM25"})])
def test_encoders_are_asked_only_where_they_are_blended(tmp_path: Path, blend: str, parts: set[str]) -> None:
    evaluator = evaluator_of(tmp_path / "data", no_cosines, f"evaluate.blend={blend}")
    assert evaluator.first_stage.weights == {}, "there is nothing to blend it with"
    assert (evaluator.dev is None) == (blend == "none")
    assert list(evaluator.tasks("x")) == (["x"] if blend == "none" else ["x", "dev: x"])
    ranking = evaluator.reranker("x", *(task.first_scores_QK for task in evaluator.tasks("x").values()))
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
    evaluator = evaluator_of(tmp_path / "data", no_cosines, "evaluate.blend=first_stage")
    models = [tiny_cross_encoder(tmp_path / f"model {seed}", seed=seed) for seed in range(3)]
    names = ["before: as given", "after: paper", "after: anchored"]
    with open_run(tmp_path / "out", Config()) as run:
        kept = KeptScores(how_to_read(load(overrides=CPU), "cross-encoder", 32), run)
        scores = [kept.of_folder(evaluator.tasks(name), model) for name, model in zip(names, models, strict=True)]
    rankings = [evaluator.reranker(name, *each) for name, each in zip(names, scores, strict=True)]
    evaluation = evaluator.evaluation(rankings, seed=3)
    assert [ranking.name for ranking in evaluation.rankings] == ["first stage: BM25", *names]
    _, before, *after = evaluation.rankings
    for ranking in after:
        assert measure(evaluator.test, ranking.scores_QK).keys() == METRICS.keys()
        rows = {ranking.name: ranking.values}
        rows |= {f"{ranking.name}, blended": ranking.blended} if ranking.gains_parts else {}
        assert rows_of([ranking]) == rows
        for name, values in rows.items():
            assert values is evaluation.rows[name]
            for metric, test in evaluation.tests[name].items():
                assert test == paired(values[metric], before.values[metric], 3)
    assert {name for name in evaluation.rows if name.startswith("after")} == evaluation.tests.keys()


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
    with open_run(tmp_path / "out", Config()) as run:
        run_with_models(run, warmed_up=warmed_up, model=given)
        trained = trained_rerankers(run, 16)
        rerankers = run.out / "rerankers"
        start = ("before: warm-started", rerankers / "start") if warmed_up else ("before: as given", given)
        after = [("after: paper", rerankers / "paper"), ("after: anchored", rerankers / "anchored")]
        assert list(trained.folders.items()) == [start, *after]
        assert dict(trained.files) == run.manifest["files"]
        assert "train.max_tokens=16 is not used: these were trained with 64" in capsys.readouterr().err
        trained_rerankers(run, 64)
        assert "not used" not in capsys.readouterr().err
        config = rerankers / "paper" / "config.json"  # as a training that was stopped leaves another model
        config.write_text(config.read_text() + " ")
        with pytest.raises(HnmineError, match=r"rerankers/paper is not as .*manifest\.json says.* train` again"):
            trained_rerankers(run, 64)


def test_without_a_training_it_is_said_what_to_run(tmp_path: Path) -> None:
    with (
        open_run(tmp_path / "out", Config()) as run,
        pytest.raises(DataError, match="holds no trained re-ranker; run `hnmine train`"),
    ):
        trained_rerankers(run, 64)
