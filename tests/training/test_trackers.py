"""The curves of a training, read back from where they went."""

from __future__ import annotations

from pathlib import Path

import pytest

from hnmine.errors import ConfigError
from hnmine.training.trackers import tracking

VALUES = [("loss", 0.7, 1), ("loss", 0.4, 2), ("MRR@10", 0.25, 2)]


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
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.7), (2, 0.4)]
    assert runs["model"].data.metrics["MRR_at_10"] == 0.25


def test_an_mlflow_address_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="needs hnmine[mlflow]")
    with (
        pytest.raises(ConfigError, match=r"train\.mlflow: nosuch://x cannot be used"),
        tracking("m", tmp_path, "nosuch://x", {}),
    ):
        pass
