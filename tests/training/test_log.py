"""What is heard of a training: events of a restarted worker count once, and curves are read back from their files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hnmine.errors import ConfigError
from hnmine.training.log import Event, TrainingLog, tracking
from tests.builders.training import quick_recipe

VALUES = [("loss", 0.7, 1), ("loss", 0.4, 2), ("MRR@10", 0.25, 2)]


def test_what_is_logged_again_after_a_restart_counts_once(capsys: pytest.CaptureFixture[str]) -> None:
    tracked: list[tuple[str, int]] = []
    log = TrainingLog("name", quick_recipe(), 8, lambda name, _value, step: tracked.append((name, step)))
    for event in (
        Event("evaluated", 0, 0.1),
        Event("begun", 0),
        Event("trained", 1, 0.9, 8),
        Event("evaluated", 1, 0.2),
        Event("trained", 2, 0.8, 8),
        Event("resumed", 1),
        Event("evaluated", 0, 0.1),
        Event("evaluated", 1, 0.2),
        Event("begun", 1),
        Event("trained", 2, 0.8, 8),
        Event("trained", 3, 0.7, 8),
    ):
        log.add(event)
    log.close()
    assert log.history == {0: 0.1, 1: 0.2}
    assert [step for name, step in tracked if name == "MRR@10"] == [0, 1]
    assert [step for name, step in tracked if name == "loss"] == [1, 2, 3]
    said = capsys.readouterr().err
    assert said.count("name: step 1: MRR@10") == said.count("name: goes on from the checkpoint of step 1") == 1
    assert said.count("name: 24 lists in ") == 1


def test_what_lora_trains_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = replace(quick_recipe(), lora={"rank": 4, "alpha": 8.0, "keep": "merged"})
    log = TrainingLog("name", recipe, 8, lambda *_: None)
    for event in (Event("lora", 0, 0.0123), Event("begun", 0), Event("lora", 1, 0.0123), Event("begun", 1)):
        log.add(event)
    log.close()
    assert capsys.readouterr().err.count("name: LoRA of rank 4 trains 1.23% of the weights\n") == 1


def test_events_are_shown_and_tracked(capsys: pytest.CaptureFixture[str]) -> None:
    tracked: list[tuple[str, float, int]] = []

    def track(name: str, value: float, step: int) -> None:
        tracked.append((name, value, step))

    recipe = quick_recipe(epochs=1)
    log = TrainingLog("name", recipe, 16, track)
    for event in (
        Event("resumed", 1),
        Event("evaluated", 1, 0.25),
        Event("begun", 1),
        Event("trained", 2, 0.5, 8, 0.1),
    ):
        log.add(event)
    log.close()
    said = capsys.readouterr().err
    assert "name: goes on from the checkpoint of step 1" in said
    assert "name: step 1: MRR@10 0.250 on dev" in said
    assert "name: 8 lists in " in said
    assert "loss 0.500, 10.0% padding" in said
    rate = recipe.rate(1, 2)
    assert tracked == [("MRR@10", 0.25, 1), ("loss", 0.5, 2), ("learning_rate", rate, 2), ("padding", 0.1, 2)]


def curves(folder: Path) -> list[tuple[str, float, int]]:
    """Read TensorBoard's event files: records of length, checksum, message, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in folder.glob("events.out.tfevents.*"):
        raw, at = path.read_bytes(), 0
        while at < len(raw):
            size = int.from_bytes(raw[at : at + 8], "little")
            event = Event.FromString(raw[at + 12 : at + 12 + size])
            found += [(value.tag, round(value.simple_value, 6), event.step) for value in event.summary.value]
            at += size + 16
    return found


def test_tensorboard_files_hold_every_value(tmp_path: Path) -> None:
    with tracking("model", tmp_path / "curves", None, {}) as track:
        for value in VALUES:
            track(*value)
    assert curves(tmp_path / "curves") == [(name.replace("@", "_at_"), value, step) for name, value, step in VALUES]


def test_mlflow_holds_every_value_the_settings_and_the_outcome(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # a server would need a database
    mlflow = pytest.importorskip("mlflow", reason="needs hnmine[mlflow]")
    address = (tmp_path / "runs").as_uri()
    with tracking("model", tmp_path / "curves", address, {"epochs": 2}) as track:
        for value in VALUES:
            track(*value)
    with pytest.raises(RuntimeError), tracking("broken", tmp_path / "curves", address, {}):
        raise RuntimeError
    client = mlflow.MlflowClient(tracking_uri=address)
    experiment = client.get_experiment_by_name("hnmine")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert {name: run.info.status for name, run in runs.items()} == {"model": "FINISHED", "broken": "FAILED"}
    assert runs["model"].data.params == {"epochs": "2"}
    history = client.get_metric_history(runs["model"].info.run_id, "loss")
    assert sorted((metric.step, metric.value) for metric in history) == [(1, 0.7), (2, 0.4)]
    assert runs["model"].data.metrics["MRR_at_10"] == 0.25


def test_an_mlflow_address_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="needs hnmine[mlflow]")
    with (
        pytest.raises(ConfigError, match=r"train\.mlflow: nosuch://x cannot be used"),
        tracking("m", tmp_path, "nosuch://x", {}),
    ):
        pass
