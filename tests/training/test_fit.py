"""Fine-tuning, in this process and by Ray Train, for real, with a model small enough for seconds."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from sentence_transformers import CrossEncoder

from hnmine.errors import ModelError
from hnmine.ranking.task import means, measure, rerank
from hnmine.training.backends import Here
from hnmine.training.fit import Trained
from hnmine.training.lists import Lists
from hnmine.training.worker import STATE, Job
from tests.builders.folders import hidden_files
from tests.builders.models import load_cross_encoder, spoil_weights, tiny_cross_encoder
from tests.builders.training import LONG_TRAINING, quick_recipe, train_quickly, yes_no_dev_task, yes_no_lists


def dev_metric(model: Path) -> float:
    return means(measure(yes_no_dev_task(), rerank(yes_no_dev_task(), load_cross_encoder(model, max_tokens=32))))[
        "MRR@10"
    ]


def sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A re-ranker that prefers the wrong documents."""
    folder = tmp_path_factory.mktemp("models")
    starts = (tiny_cross_encoder(folder / str(seed), seed=seed, spread=1) for seed in range(100))
    return next(model for model in starts if dev_metric(model) < 0.4)


@pytest.fixture(scope="module")
def trained(start: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trained]:
    """One worker, 33 lists in batches of 8: the last batch holds one list."""
    out = tmp_path_factory.mktemp("trained") / "model"
    return out, train_quickly(start, out, yes_no_lists(33))


def test_training_improves_the_dev_queries_and_what_it_says_of_them_holds(
    start: Path, trained: tuple[Path, Trained]
) -> None:
    out, outcome = trained
    assert outcome.steps == 15
    assert sorted(outcome.dev) == [0, 5, 10, 15]
    assert outcome.dev[0] == pytest.approx(dev_metric(start))
    assert outcome.best_step > 0
    assert outcome.dev[outcome.best_step] == max(outcome.dev.values()) > outcome.dev[0] + 0.3
    assert outcome.best_step == min(step for step, value in outcome.dev.items() if value == max(outcome.dev.values()))
    assert dev_metric(out) == pytest.approx(outcome.dev[outcome.best_step]), "the folder holds the step that was kept"


def test_the_outcome_is_a_model_folder_of_cross_encoder_and_nothing_is_left_beside_it(
    trained: tuple[Path, Trained],
) -> None:
    out, _ = trained
    pairs = [("abc", "yes xx"), ("abc", "no xx")]
    theirs = CrossEncoder(str(out), device="cpu").predict(pairs, show_progress_bar=False)
    ours = load_cross_encoder(out, max_tokens=32).scores(*map(list, zip(*pairs, strict=True)))
    np.testing.assert_allclose(theirs, ours, atol=1e-5)
    assert theirs[0] > theirs[1]
    assert hidden_files(out.parent) == []


def test_the_same_seed_gives_the_same_weights_to_the_bit_and_replaces_what_is_there(
    start: Path, trained: tuple[Path, Trained], tmp_path: Path
) -> None:
    out, outcome = trained
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "stale.txt").write_text("from an earlier run")
    assert train_quickly(start, tmp_path / "again", yes_no_lists(33)) == outcome
    assert sha256(tmp_path / "again") == sha256(out)
    assert not (tmp_path / "again" / "stale.txt").exists()


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_train_the_model_that_one_trains(
    start: Path, trained: tuple[Path, Trained], tmp_path: Path
) -> None:
    out, outcome = trained
    assert train_quickly(start, tmp_path / "two", yes_no_lists(33), workers=2) == outcome
    texts = [f"{word} {name}" for word in ("yes", "no") for name in ("abc", "face", "xy")]
    scores = [
        load_cross_encoder(model, max_tokens=32).scores(["abc"] * 6, texts) for model in (start, out, tmp_path / "two")
    ]
    begun, alone, together = (each - each.mean() for each in scores)  # the loss sees differences only
    assert np.abs(alone - together).max() < np.abs(alone - begun).max() / 1000


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_draw_in_batch_negatives_from_one_batch_and_take_as_many_passes_as_their_own_texts_need(
    start: Path, tmp_path: Path
) -> None:
    short = yes_no_lists(33)
    documents = tuple(
        (texts[0], *(f"{text} {'abcdef' * 4 * (i % 11 == 0)}" for text in texts[1:]))
        for i, texts in enumerate(short.documents)
    )
    judged = tuple(frozenset(texts[:1]) for texts in documents)
    given = Lists(queries=short.queries, documents=documents, judged=judged)
    alone, together = (
        train_quickly(start, tmp_path / str(workers), given, workers=workers, in_batch_negatives=3, epochs=1)
        for workers in (1, 2)
    )
    assert alone == together
    texts = [f"{word} {name}" for word in ("yes", "no") for name in ("abc", "face", "xy")]
    models = [start, tmp_path / "1", tmp_path / "2"]
    begun, one, two = (
        scores - scores.mean() for scores in (load_cross_encoder(m, 32).scores(["abc"] * 6, texts) for m in models)
    )
    assert np.abs(one - two).max() < np.abs(one - begun).max() / 1000


def test_the_start_is_kept_where_training_only_harms(trained: tuple[Path, Trained], tmp_path: Path) -> None:
    good, _ = trained
    outcome = train_quickly(good, tmp_path / "worse", yes_no_lists(16, reversed_labels=True), loss="margin")
    assert min(outcome.dev.values()) < outcome.dev[0], "it was harmed on the way"
    assert outcome.best_step == 0
    assert sha256(tmp_path / "worse") == sha256(good)
    assert dev_metric(tmp_path / "worse") == pytest.approx(outcome.dev[0])


def test_a_loss_of_nan_is_one_clear_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    body = spoil_weights(tiny_cross_encoder(tmp_path / "models" / "body", head=False))
    with pytest.raises(ModelError) as caught:
        train_quickly(body, tmp_path / "out" / "model", yes_no_lists(8), learning_rate=1e-5)
    assert str(caught.value) == "training of model failed: the gradient became nan at step 1; lower train.learning_rate"
    assert list((tmp_path / "out").iterdir()) == []


@pytest.fixture(scope="module")
def undisturbed(start: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trained]:
    out = tmp_path_factory.mktemp("undisturbed") / "model"
    return out, train_quickly(start, out, yes_no_lists(60), **LONG_TRAINING)


def after_checkpoints(out: Path, count: int, act: Callable[[], None]) -> threading.Thread:
    """Do something as soon as so many checkpoints were written for `out`; Ray registers one a moment later."""

    def watch() -> None:
        seen: set[str] = set()
        deadline = time.monotonic() + 120
        while len(seen) < count and time.monotonic() < deadline:
            for pattern in ("fit/checkpoint_2*", "checkpoint-*"):  # Ray's, ours
                seen |= {path.name for path in out.parent.glob(f".train-{out.name}-*/{pattern}")}
            time.sleep(0.005)
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def own_workers() -> list[psutil.Process]:
    """Ray Train's workers below this very process."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "RayTrainWorker" in process.name():
                found.append(process)
    return found


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_the_end_is_that_of_an_undisturbed_training(
    start: Path, undisturbed: tuple[Path, Trained], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, outcome = undisturbed
    killed: list[int] = []

    def kill() -> None:
        for worker in own_workers():
            worker.kill()
            killed.append(worker.pid)

    thread = after_checkpoints(tmp_path / "again", 4, kill)
    again = train_quickly(start, tmp_path / "again", yes_no_lists(60), by_ray=True, **LONG_TRAINING)
    thread.join()
    assert len(killed) == 1
    assert "goes on from the checkpoint of step" in capfd.readouterr().err
    assert again == outcome
    assert sha256(tmp_path / "again") == sha256(out)
    assert hidden_files(tmp_path) == []


def test_a_killed_job_goes_on_and_the_end_is_that_of_an_undisturbed_training(
    start: Path, undisturbed: tuple[Path, Trained], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, outcome = undisturbed
    code = (
        "import sys; from pathlib import Path; from tests.builders.training import *; "
        "train_quickly(Path(sys.argv[1]), Path(sys.argv[2]), yes_no_lists(60), identity='same', **LONG_TRAINING)"
    )
    job = subprocess.Popen(
        [sys.executable, "-c", code, str(start), str(tmp_path / "again")],
        cwd=Path(__file__).parents[2],
        start_new_session=True,
    )
    after_checkpoints(tmp_path / "again", 4, lambda: os.killpg(job.pid, signal.SIGKILL)).join()
    assert job.wait() == -signal.SIGKILL
    assert not (tmp_path / "again").exists()
    assert len(hidden_files(tmp_path)) == 1
    again = train_quickly(start, tmp_path / "again", yes_no_lists(60), identity="same", **LONG_TRAINING)
    assert "goes on from the checkpoint of step" in capfd.readouterr().err
    assert again == outcome
    assert sha256(tmp_path / "again") == sha256(out)
    assert hidden_files(tmp_path) == []


@pytest.mark.parametrize("harm", ["cut", "unfinished", "empty"])
def test_a_checkpoint_that_is_broken_is_said_and_the_next_call_begins_anew(
    start: Path, trained: tuple[Path, Trained], tmp_path: Path, harm: str
) -> None:
    out, outcome = trained
    work = tmp_path / ".train-model-same"
    work.mkdir()
    job = Job(start=start, lists=yes_no_lists(33), dev=yes_no_dev_task(), recipe=quick_recipe(epochs=1), start_dev=None)
    state = Here(job, work).fit()[5] / STATE
    if harm == "cut":
        (state / "adamw.safetensors").write_bytes((state / "adamw.safetensors").read_bytes()[:-50])
    elif harm == "unfinished":
        (state / "progress.json").unlink()
    else:
        (work / "checkpoint-7").mkdir()
    with pytest.raises(ModelError, match=r"training of model failed: checkpoint .* cannot be read \(.*from the start$"):
        train_quickly(start, tmp_path / "model", yes_no_lists(33), identity="same")
    assert train_quickly(start, tmp_path / "model", yes_no_lists(33), identity="same") == outcome
    assert sha256(tmp_path / "model") == sha256(out)


def test_what_a_killed_job_had_half_copied_does_not_stay(start: Path, tmp_path: Path) -> None:
    (tmp_path / ".model.tmp").mkdir()
    (tmp_path / ".model.tmp" / "model.safetensors").write_text("half")
    train_quickly(start, tmp_path / "model", yes_no_lists(8), epochs=1)
    assert hidden_files(tmp_path) == []
    assert dev_metric(tmp_path / "model") >= 0


def test_patience_ends_a_training_that_no_longer_improves(start: Path, tmp_path: Path) -> None:
    outcome = train_quickly(
        start, tmp_path / "model", yes_no_lists(33), **{**LONG_TRAINING, "learning_rate": 3e-3, "patience": 2}
    )
    looks = sorted(outcome.dev)
    assert looks[-1] < outcome.steps
    assert len(looks) - 1 - looks.index(outcome.best_step) == 2
    assert dev_metric(tmp_path / "model") == pytest.approx(outcome.dev[outcome.best_step])
