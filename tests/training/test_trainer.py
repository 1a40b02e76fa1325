"""Fine-tuning for real with a model small enough for seconds: what is kept, what is reused, and what is said."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import CrossEncoder

from hnmine.errors import ConfigError, DataError, ModelError
from hnmine.models.reranker import BiEncoder
from hnmine.ranking.measures import means, measure, rerank
from hnmine.runs.folder import Run
from hnmine.training.checkpoints import STATE, SUMS
from hnmine.training.trainer import Trainer
from tests.builders.collections import append_lines, write_collection
from tests.builders.folders import hidden_files
from tests.builders.models import (
    load_cross_encoder,
    load_sentence_transformer,
    same_weights,
    spoil_weights,
    tiny_cross_encoder,
    tiny_letter_encoder,
)
from tests.builders.presets import run_with_negatives, splits_and_config, trainer_of
from tests.builders.rerankers import LAYOUTS
from tests.builders.texts import random_text_pairs
from tests.builders.training import (
    Trained,
    quick_recipe,
    quick_trainer,
    train_quickly,
    yes_no_dev_task,
    yes_no_lists,
    yes_no_metric,
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_collection(tmp_path / "data")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with run_with_negatives(tmp_path / "out") as opened:
        yield opened


def test_training_improves_the_dev_queries_and_what_it_says_of_them_holds(start: Path, trained: Trained) -> None:
    model, outcome = trained
    history = {int(step): value for step, value in outcome.dev_by_step.items()}
    assert outcome.steps == 15
    assert sorted(history) == [0, 5, 10, 15]
    assert history[0] == pytest.approx(yes_no_metric(start))
    assert outcome.best_step > 0
    assert outcome.dev == history[outcome.best_step] == max(history.values()) > history[0] + 0.3
    assert outcome.best_step == min(step for step, value in history.items() if value == max(history.values()))
    assert yes_no_metric(model) == pytest.approx(outcome.dev), "the folder holds the step that was kept"


def test_the_outcome_is_a_model_folder_of_cross_encoder_and_nothing_is_left_beside_it(trained: Trained) -> None:
    model, _ = trained
    pairs = [("abc", "yes xx"), ("abc", "no xx")]
    theirs = CrossEncoder(str(model), device="cpu").predict(pairs, show_progress_bar=False)
    ours = load_cross_encoder(model, max_tokens=32).scores(*map(list, zip(*pairs, strict=True)))
    np.testing.assert_allclose(theirs, ours, atol=1e-5)
    assert theirs[0] > theirs[1]
    assert hidden_files(model.parent) == []
    assert not {"hnmine.json", STATE, SUMS} & {path.name for path in model.iterdir()}


def test_the_same_seed_gives_the_same_weights_to_the_bit_and_replaces_what_is_there(
    start: Path, trained: Trained, tmp_path: Path
) -> None:
    stale = tmp_path / "rerankers" / "model" / "stale.txt"
    stale.parent.mkdir(parents=True)
    stale.write_text("of others")
    with pytest.raises(DataError, match="rerankers/model was not made by hnmine, and would be replaced"):
        train_quickly(start, tmp_path, yes_no_lists(33))
    shutil.rmtree(stale.parent)
    train_quickly(start, tmp_path, yes_no_lists(8))
    stale.write_text("from an earlier run")
    model, outcome = train_quickly(start, tmp_path, yes_no_lists(33))
    assert outcome == trained[1]
    assert same_weights(model, trained[0])
    assert not stale.exists()


def test_what_was_trained_is_reused_until_its_files_or_its_causes_change(
    start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(count: int, **changes: object) -> str:
        train_quickly(start, tmp_path, yes_no_lists(count), epochs=1, **changes)
        return capsys.readouterr().err

    assert "kept step" in said(8)
    assert "reused" in (again := said(8))
    assert "kept step" not in again
    assert "kept step" in said(9)
    assert "kept step" in said(9, learning_rate=1e-5)
    model = tmp_path / "rerankers" / "model"
    (model / "config.json").write_text((model / "config.json").read_text() + " ")
    assert "config.json is not as rerankers/model left it" in (changed := said(9, learning_rate=1e-5))
    assert "kept step" in changed
    assert "reused" in said(9, learning_rate=1e-5)


def test_the_start_is_kept_where_training_only_harms(trained: Trained, tmp_path: Path) -> None:
    good, _ = trained
    model, outcome = train_quickly(good, tmp_path, yes_no_lists(16, reversed_labels=True), loss="margin")
    assert min(outcome.dev_by_step.values()) < outcome.dev_by_step["0"], "it was harmed on the way"
    assert outcome.best_step == 0
    assert same_weights(model, good)
    assert yes_no_metric(model) == pytest.approx(outcome.dev)


def test_an_adapter_that_is_kept_is_loaded_by_the_library_from_where_it_lies(tmp_path: Path) -> None:
    start = LAYOUTS["LoRA of a Bert re-ranker"].build(tmp_path / "models" / "adapter")
    settings = json.loads((start / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = f"../{Path(settings['base_model_name_or_path']).name}"
    (start / "adapter_config.json").write_text(json.dumps(settings))
    lists = yes_no_lists(8)
    model, outcome = train_quickly(start, tmp_path / "out", lists, learning_rate=1e-12, max_tokens=32)
    assert outcome.best_step == 0
    queries, documents = random_text_pairs(6)
    theirs = CrossEncoder(str(model), device="cpu").predict(list(zip(queries, documents, strict=True)))
    expected = load_cross_encoder(start).scores(queries, documents)
    np.testing.assert_allclose(theirs, expected, atol=1e-4)


def test_a_loss_of_nan_is_one_clear_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    body = spoil_weights(tiny_cross_encoder(tmp_path / "models" / "body", head=False))
    with pytest.raises(ModelError, match=r"^training of model failed: the gradient became nan at step 1; lower the le"):
        train_quickly(body, tmp_path / "out", yes_no_lists(8), learning_rate=1e-5)
    assert list((tmp_path / "out" / "rerankers").iterdir()) == []


def test_what_a_killed_job_had_half_copied_does_not_stay(start: Path, tmp_path: Path) -> None:
    half = tmp_path / "rerankers" / ".model.tmp"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_text("half")
    model, _ = train_quickly(start, tmp_path, yes_no_lists(8), epochs=1)
    assert hidden_files(model.parent) == []
    assert yes_no_metric(model) >= 0


def configured(data: Path, run: Run, *overrides: str) -> Trainer:
    splits, config = splits_and_config(data, *overrides)
    return trainer_of(splits, config, run)


def test_few_dev_queries_and_fewer_than_asked_for_are_told(
    data: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    configured(data, run, "train.dev_queries=4")
    said = capsys.readouterr().err
    assert "dev: 4 queries of dev; training on cpu" in said
    assert "warning: 4 dev queries are too few to tell a better step from a lucky one; judge 30 at least" in said
    queries = [json.dumps({"_id": f"more-{i}", "text": f"story of {i}"}) for i in range(26)]
    append_lines(data / "queries.jsonl", *queries)
    append_lines(data / "qrels" / "dev.tsv", *(f"more-{i}\tapple-story\t1" for i in range(26)))
    configured(data, run, "train.dev_queries=31")
    said = capsys.readouterr().err
    assert "dev: 30 queries of dev, fewer than train.dev_queries=31; training on cpu" in said
    assert "too few" not in said


def test_a_learning_rate_that_is_not_given_goes_down_as_the_model_is_wider(
    data: Path, run: Run, tmp_path: Path
) -> None:
    start = f"train.model={tiny_cross_encoder(tmp_path / 'start')}"
    assert configured(data, run, start).recipe.learning_rate == pytest.approx(1e-4 * 384 / 32)
    assert configured(data, run).recipe.learning_rate == pytest.approx(1e-4), "all-MiniLM-L6-v2"
    assert configured(data, run, start, "train.learning_rate=2e-5").recipe.learning_rate == 2e-5


def test_an_identity_follows_start_lists_dev_recipe_and_workers(start: Path, tmp_path: Path) -> None:
    lists, recipe = yes_no_lists(5), quick_recipe()
    trainer, other = quick_trainer(start, tmp_path), tiny_cross_encoder(tmp_path / "other", seed=1)
    identity = trainer.identity(start, lists, recipe)
    assert quick_trainer(start, tmp_path).identity(start, lists, recipe) == identity
    otherwise_judged, fewer_queries = quick_trainer(start, tmp_path), quick_trainer(start, tmp_path)
    dev = trainer.data.dev
    otherwise_judged.data = replace(trainer.data, dev=replace(dev, relevant=(frozenset({0, 1}), *dev.relevant[1:])))
    fewer_queries.data = replace(trainer.data, dev=replace(dev, doc_rows_QK=dev.doc_rows_QK[:, ::-1]))
    changed = [
        trainer.identity(other, lists, recipe),
        trainer.identity(start, lists[::-1], recipe),
        trainer.identity(start, tuple(replace(each, teacher=(0.0,) * len(each.documents)) for each in lists), recipe),
        trainer.identity(start, lists, replace(recipe, learning_rate=1e-6)),
        otherwise_judged.identity(start, lists, recipe),
        fewer_queries.identity(start, lists, recipe),
        quick_trainer(start, tmp_path, workers=2).identity(start, lists, recipe),
    ]
    assert len({identity, *changed}) == 8


def test_an_identity_reads_a_text_once_that_stands_in_many_lists(start: Path, tmp_path: Path) -> None:
    long, trainer = "a long text " * 100_000, quick_trainer(start, tmp_path)
    lists = [replace(each, documents=(long, *each.documents[1:])) for each in yes_no_lists(400)]
    tracemalloc.start()
    try:
        trainer.identity(start, tuple(lists), quick_recipe())
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def trained_bi_encoder(start: Path, out: Path, workers: int = 1) -> Trained:
    """Train a bi-encoder, whose transformer has a pooler that mean pooling does not ask."""
    return train_quickly(start, out, yes_no_lists(33), workers, kind="bi-encoder", learning_rate=1e-3, epochs=4)


def test_a_trained_bi_encoder_is_better_and_a_sentence_transformer(tmp_path: Path) -> None:
    model, outcome = trained_bi_encoder(tiny_letter_encoder(tmp_path / "start"), tmp_path / "out")
    assert outcome.best_step > 0
    assert outcome.dev > outcome.dev_by_step["0"]
    task, scores = yes_no_dev_task(), BiEncoder(model, max_tokens=32, device="cpu", dtype="float32").scores
    assert means(measure(task, rerank(task, scores)))["MRR@10"] == pytest.approx(outcome.dev)
    assert load_sentence_transformer(model).encode(["yes"]).shape == (1, 32)
    assert hidden_files(tmp_path) == []


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_train_the_bi_encoder_that_one_trains(tmp_path: Path) -> None:
    start = tiny_letter_encoder(tmp_path / "start")
    (one, first), (two, second) = (trained_bi_encoder(start, tmp_path / str(count), count) for count in (1, 2))
    assert first.steps == second.steps
    assert list(first.dev_by_step.values()) == pytest.approx(list(second.dev_by_step.values()))
    queries, documents = random_text_pairs(8)
    begun, alone, together = (
        BiEncoder(model, max_tokens=32, device="cpu", dtype="float32").scores(queries, documents)
        for model in (start, one, two)
    )
    assert np.abs(alone - together).max() < np.abs(alone - begun).max() / 1000


@pytest.mark.parametrize("setting", ["train.model", "train.teacher"])
@pytest.mark.parametrize("place", ["reranker", "rerankers/x", "ranker/re-ranker"])
def test_a_model_that_training_would_replace_is_refused(setting: str, place: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    model = tiny_cross_encoder(out / "rerankers" / "x" if place == "reranker" else out / place)
    (out / ".lock").touch()
    (out / "reranker").symlink_to("rerankers/x")
    start = tiny_cross_encoder(tmp_path / "start")
    given = [f"train.model={start}", "train.loss=kl", f"train.teacher={start}", f"{setting}={out / place}"]
    splits, config = splits_and_config(write_collection(tmp_path / "data"), *given)
    match = rf"{setting}: .*{place.rpartition('/')[2]} is in --out, where training replaces models"
    with run_with_negatives(out) as run, pytest.raises(ConfigError, match=match):
        trainer_of(splits, config, run)
    assert model.is_dir()
