"""One worker in this process: any layout, LoRA, little memory; killed and gone on with it ends with the same model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import CrossEncoder

from hnmine.errors import ModelError
from hnmine.models.reranker import CrossEncoder as HnmineCrossEncoder
from hnmine.models.reranker import load_reranker
from hnmine.training.checkpoints import STATE, SUMS, seal
from hnmine.training.log import Event
from hnmine.training.trainer import work_folder
from hnmine.training.worker import Group, Job, Worker
from hnmine.types import Float32
from tests.builders.folders import hidden_files
from tests.builders.models import same_weights
from tests.builders.rerankers import LAYOUTS
from tests.builders.training import (
    LONG_TRAINING,
    Trained,
    after_checkpoints,
    quick_recipe,
    quick_trainer,
    train_quickly,
    yes_no_dev_task,
    yes_no_lists,
)


def test_a_killed_job_goes_on_and_the_end_is_that_of_an_undisturbed_training(
    start: Path, undisturbed: Trained, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.builders.training import *; "
        "train_quickly(Path(sys.argv[1]), Path(sys.argv[2]), yes_no_lists(60), **LONG_TRAINING)"
    )
    job = subprocess.Popen(
        [sys.executable, "-c", code, str(start), str(tmp_path)], cwd=Path(__file__).parents[2], start_new_session=True
    )
    after_checkpoints(tmp_path, 4, lambda: os.killpg(job.pid, signal.SIGKILL)).join()
    assert job.wait() == -signal.SIGKILL
    assert not (tmp_path / "rerankers" / "model").exists()
    assert len(hidden_files(tmp_path / "rerankers")) == 1
    again = train_quickly(start, tmp_path, yes_no_lists(60), **LONG_TRAINING)
    assert "goes on from the checkpoint of step" in capfd.readouterr().err
    assert again[1] == undisturbed[1]
    assert same_weights(again[0], undisturbed[0])
    assert hidden_files(tmp_path / "rerankers") == []


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    "harm",
    [
        lambda last: flip(last / "model.safetensors"),
        lambda last: flip(last / "config.json"),
        lambda last: flip(last / STATE),
        lambda last: flip(last / SUMS),
        lambda last: (last / STATE).write_bytes((last / STATE).read_bytes()[:-50]),
        lambda last: (last / "more.json").write_text("{}"),
    ],
)
@pytest.mark.parametrize("step", [10, 5])
def test_a_damaged_checkpoint_is_set_aside_and_the_end_is_that_of_an_undisturbed_training(
    start: Path,
    trained: Trained,
    tmp_path: Path,
    harm: Callable[[Path], object],
    step: int,
    capfd: pytest.CaptureFixture[str],
) -> None:
    given, (model, outcome) = yes_no_lists(33), trained
    trainer = quick_trainer(start, tmp_path)
    work = work_folder(trainer.folder("model"), trainer.identity(start, given, quick_recipe()))

    def stop(event: Event) -> None:
        if event.kind == "trained" and event.step == 12:
            raise KeyboardInterrupt

    job = Job(start=start, lists=given, dev=yes_no_dev_task(), recipe=quick_recipe(), start_dev=None)
    with pytest.raises(KeyboardInterrupt):
        Worker(job, Group(work), stop).run()
    kept = Group(work).checkpoints()
    if step not in kept:
        pytest.skip("it was not the best, and is not kept")
    harm(kept[step])
    again = train_quickly(start, tmp_path, given)
    assert "is damaged and passed over" in capfd.readouterr().err
    assert again[1] == outcome
    assert same_weights(again[0], model)


def test_wherever_a_training_is_stopped_nothing_is_damaged_and_the_end_is_that_of_an_undisturbed_one(
    start: Path, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    stops = 0
    for name in ("unlink", "mkdir", "rename", "fsync"):
        real, left = getattr(os, name), 0

        def stop(*arguments: Any, real: Any = real, **options: Any) -> Any:
            nonlocal left, stops
            left -= 1
            if left == 0:
                stops += 1
                raise KeyboardInterrupt
            return real(*arguments, **options)

        # Each attempt is stopped at a later call, and the next goes on from what is there.
        monkeypatch.setattr(os, name, stop)
        for calls in (2, 5, 12, 17, 23):
            left = calls
            with suppress(KeyboardInterrupt):
                train_quickly(start, tmp_path / name, yes_no_lists(33))
        monkeypatch.undo()
        again = train_quickly(start, tmp_path / name, yes_no_lists(33))
        assert again[1] == trained[1], name
        assert same_weights(again[0], trained[0]), name
        assert hidden_files(tmp_path / name / "rerankers") == []
    said = capfd.readouterr().err
    assert stops > 8
    assert "damaged" not in said
    assert "unfinished" not in said


def test_a_checkpoint_that_lacks_files_is_unfinished_and_not_damaged(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for lacking in ((STATE,), (SUMS,), (STATE, SUMS, "config.json")):
        folder = tmp_path / "work" / "checkpoint-13"
        folder.mkdir(parents=True)
        for file in (STATE, "config.json"):
            (folder / file).write_text(file)
        seal(folder)
        for file in lacking:
            (folder / file).unlink()
        assert Group(tmp_path / "work").checkpoints() == {}
        said = capfd.readouterr().err
        assert "checkpoint-13 is unfinished and passed over: its training was stopped meanwhile" in said
        assert "damaged" not in said


def test_a_best_checkpoint_that_is_damaged_at_the_end_becomes_no_model(
    start: Path, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = yes_no_lists(33)
    real = Worker.run

    def run_and_harm(worker: Worker) -> None:
        real(worker)
        for weights in tmp_path.rglob("checkpoint-*/model.safetensors"):
            flip(weights)

    monkeypatch.setattr(Worker, "run", run_and_harm)
    with pytest.raises(ModelError, match=r"the checkpoint of step \d+, the best, is damaged; the same command trains"):
        train_quickly(start, tmp_path, given)
    monkeypatch.undo()
    assert same_weights(train_quickly(start, tmp_path, given)[0], trained[0])


QUERIES, DOCUMENTS = ["abc", "face", "x"], ["yes abc", "no face of the", "a word " * 5]
REACH = 96
"""Tokens: as many as the models read, of which some pad all."""


def last_checkpoint(
    start: Path, work: Path, log: Callable[[Event], None] = lambda _event: None, **changes: Any
) -> Path:
    """Train some steps without choosing any, as a worker does, and return the folder of the last."""
    work.mkdir(exist_ok=True)
    settings = {"epochs": 2, "max_tokens": REACH, "learning_rate": 1e-2} | changes
    recipe, group = quick_recipe(**settings), Group(work)
    job = Job(start=start, lists=yes_no_lists(9), dev=yes_no_dev_task(), recipe=recipe, start_dev=None)
    Worker(job, group, log).run()
    return group.checkpoints()[max(group.checkpoints())]


def scores_of(model: Path) -> Float32:
    settings = {"max_tokens": REACH, "device": "cpu", "dtype": "float32", "engine": "torch"}
    return load_reranker("cross-encoder", model, **settings).scores(QUERIES, DOCUMENTS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_start_of_any_layout_is_trained_and_what_is_saved_has_its_layout_and_scores_as_the_library_says(
    name: str, tmp_path: Path
) -> None:
    start = LAYOUTS[name].build(tmp_path / "start")
    steps = set()
    saved = last_checkpoint(start, tmp_path / "work", lambda event: steps.add((event.kind, event.step)))
    assert ("evaluated", 0) in steps, "it has a head, so it competes as it is"
    ours = scores_of(saved)
    assert np.abs(ours - scores_of(start)).max() > 1e-3, "it was trained"
    peer = CrossEncoder(str(saved), device="cpu")
    pairs = list(zip(QUERIES, DOCUMENTS, strict=True))
    theirs = [peer.predict([pair], show_progress_bar=False)[0] for pair in pairs]
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    for file in ("modules.json", "adapter_model.safetensors"):
        assert (saved / file).exists() or not (start / file).exists(), file


@pytest.mark.parametrize("keep", ["merged", "adapter"])
def test_a_training_with_lora_that_is_stopped_goes_on_and_ends_as_one_that_was_not(tmp_path: Path, keep: str) -> None:
    start = LAYOUTS["Qwen3"].build(tmp_path / "start")
    lora = {"rank": 4, "alpha": 8.0, "keep": keep}
    whole = last_checkpoint(start, tmp_path / "whole", epochs=4, lora=lora)
    events: list[Event] = []

    def stop(event: Event) -> None:
        events.append(event)
        if event.kind == "trained" and event.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        last_checkpoint(start, tmp_path / "stopped", stop, epochs=4, lora=lora)
    assert max(Group(tmp_path / "stopped").checkpoints()) == 4
    again = last_checkpoint(start, tmp_path / "stopped", events.append, epochs=4, lora=lora)
    assert Event("resumed", 4) in events
    assert len({event.value for event in events if event.kind == "lora" and 0 < event.value < 0.9}) == 1
    (tensors,) = (path.name for path in whole.glob("*model.safetensors"))
    found, expected = load_file(again / tensors), load_file(whole / tensors)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[each], weight) for each, weight in expected.items())


def test_trainings_whose_memory_runs_out_or_that_compute_layers_twice_end_with_the_same_model_and_it_is_said_once(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = scores_of(last_checkpoint(start, tmp_path / "plenty"))
    twice = scores_of(last_checkpoint(start, tmp_path / "twice", gradient_checkpointing=True))
    np.testing.assert_allclose(twice, expected, atol=1e-5)
    assert not capsys.readouterr().err.count("out of memory")
    forward = HnmineCrossEncoder.forward

    def limited(self: HnmineCrossEncoder, rows: list[Any], *more: Any) -> torch.Tensor:
        if torch.is_grad_enabled() and sum(map(self.length, rows)) > 60:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, rows, *more)

    monkeypatch.setattr(HnmineCrossEncoder, "forward", limited)
    limited_model, _ = train_quickly(start, tmp_path / "limited", yes_no_lists(9), epochs=2)
    said = capsys.readouterr().err
    assert said.count("out of memory; goes on in smaller passes, which change no gradient") == 1
    monkeypatch.undo()
    model, outcome = train_quickly(start, tmp_path / "unlimited", yes_no_lists(9), epochs=2)
    assert outcome.best_step > 0
    found, expected = (np.diff(scores_of(each)) for each in (limited_model, model))  # the loss sees differences only
    np.testing.assert_allclose(found, expected, atol=1e-5)
    # One text is too much.
    monkeypatch.setattr("hnmine.training.worker.free_bytes", lambda _device: 2**10)
    with pytest.raises(ModelError, match=r"training of model failed: out of memory: one query with one document, \d+"):
        train_quickly(start, tmp_path / "none", yes_no_lists(9))
