"""Workers of Ray Train: they train the model that one process trains, also where one is killed on the way."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.builders.folders import hidden_files
from tests.builders.models import load_cross_encoder, same_weights
from tests.builders.raylets import raylets
from tests.builders.training import (
    LONG_TRAINING,
    Trained,
    after_checkpoints,
    train_quickly,
    yes_no_lists,
)


def assert_same_training(start: Path, alone: Trained, together: Trained) -> None:
    """Check that two trainings say the same, and end with models that differ by rounding."""
    (one, outcome), (two, other) = alone, together
    assert (outcome.best_step, outcome.dev_by_step) == (other.best_step, other.dev_by_step)
    texts = [f"{word} {name}" for word in ("yes", "no") for name in ("abc", "face", "xy")]
    scores = [load_cross_encoder(model, max_tokens=32).scores(["abc"] * 6, texts) for model in (start, one, two)]
    begun, first, second = (each - each.mean() for each in scores)  # the loss sees differences only
    assert np.abs(first - second).max() < np.abs(first - begun).max() / 1000


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_train_the_model_that_one_trains(start: Path, trained: Trained, tmp_path: Path) -> None:
    assert_same_training(start, trained, train_quickly(start, tmp_path, yes_no_lists(33), workers=2))


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_draw_in_batch_negatives_from_one_batch_and_take_as_many_passes_as_their_own_texts_need(
    start: Path, tmp_path: Path
) -> None:
    given = tuple(
        replace(
            each,
            documents=(each.documents[0], *(f"{text} {'abcdef' * 4 * (i % 11 == 0)}" for text in each.documents[1:])),
            never_negative=frozenset(each.documents[:1]),
        )
        for i, each in enumerate(yes_no_lists(33))
    )
    alone, together = (
        train_quickly(start, tmp_path / str(workers), given, workers=workers, in_batch_negatives=3, epochs=1)
        for workers in (1, 2)
    )
    assert_same_training(start, alone, together)


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_train_with_lora_what_one_trains_with_layers_computed_twice_as_well(
    start: Path, tmp_path: Path
) -> None:
    lora = {"rank": 4, "alpha": 8.0, "keep": "merged"}
    changes = {"lora": lora, "learning_rate": 2e-2, "gradient_checkpointing": True}
    alone, together = (
        train_quickly(start, tmp_path / str(workers), yes_no_lists(33), workers=workers, **changes)
        for workers in (1, 2)
    )
    assert alone[1].best_step > 0
    assert_same_training(start, alone, together)


def ray_workers() -> list[psutil.Process]:
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
    start: Path, undisturbed: Trained, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    killed: list[int] = []

    def kill() -> None:
        for worker in ray_workers():
            worker.kill()
            killed.append(worker.pid)

    thread = after_checkpoints(tmp_path, 4, kill)
    again = train_quickly(start, tmp_path, yes_no_lists(60), by_ray=True, **LONG_TRAINING)
    thread.join()
    assert len(killed) == 1
    assert "goes on from the checkpoint of step" in capfd.readouterr().err
    assert again[1] == undisturbed[1]
    assert same_weights(again[0], undisturbed[0])
    assert hidden_files(tmp_path / "rerankers") == []


# On raylets of a CPU each, under a head that computes nothing

IN_A_CLUSTER = """
from pathlib import Path
from tests.builders.training import LONG_TRAINING, quick_recipe, quick_trainer, yes_no_lists
trainer = quick_trainer(Path({start!r}), Path({out!r}), {workers}, by_ray=True)
found = trainer.fit("model", Path({start!r}), yes_no_lists({lists}), quick_recipe(**{changes}))
print("KEPT", found.best_step, found.dev_by_step)
"""


@pytest.mark.ray
@pytest.mark.slow
def test_by_default_every_node_of_a_cpu_cluster_trains_and_the_loss_of_one_that_nobody_replaces_is_waited_out(
    start: Path, undisturbed: Trained, tmp_path: Path
) -> None:
    code = IN_A_CLUSTER.format(start=str(start), out=str(tmp_path), workers=None, lists=60, changes="LONG_TRAINING")
    with raylets(0, 1, 1) as cluster:
        thread = after_checkpoints(tmp_path, 4, lambda: cluster.kill(1))
        said = cluster.run(code, 230, RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S="3")
        thread.join()
    assert "2 worker(s) on cpu" in said
    assert "2 worker(s) of 1 CPU(s) each have no room on the nodes" in said
    assert "goes on from the checkpoint of step" in said
    assert f"KEPT {undisturbed[1].best_step} " in said


@pytest.mark.ray
@pytest.mark.slow
def test_workers_that_no_node_has_room_for_are_an_error_in_time_and_no_endless_wait(
    start: Path, tmp_path: Path
) -> None:
    code = IN_A_CLUSTER.format(start=str(start), out=str(tmp_path), workers=1, lists=9, changes="{}")
    patience = "from hnmine.training import ray_workers, trainer\nfrom functools import partial\n"
    patience += "trainer.train_on_ray = partial(ray_workers.train_on_ray, room_seconds=1)\n"
    with raylets(0) as cluster, cluster.start(patience + code, RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S="2") as driver:
        said, _ = driver.communicate(timeout=120)
    assert driver.returncode != 0
    assert "1 worker(s) of 1 CPU(s) each have no room on the nodes of the Ray cluster" in said
    assert "add nodes, or lower train.workers" in said
