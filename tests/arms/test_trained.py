"""The best of all that was trained into a run is what OUT/reranker points to, whatever command trained it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hnmine.arms.trained import Shelf
from hnmine.runs.folder import Run
from hnmine.training.trainer import Training
from tests.builders.models import tiny_cross_encoder
from tests.builders.presets import splits_and_config, trainer_of
from tests.builders.settings import quick_overrides


def training(dev: float, identity: str) -> Training:
    recipe = {"kind": "cross-encoder"}
    return Training(identity=identity, lists=1, steps=1, best_step=0, dev=dev, dev_by_step={"0": dev}, recipe=recipe)


def shelf_of(data: Path, run: Run, start: Path, *overrides: str, earlier: bool = True) -> Shelf:
    splits, config = splits_and_config(data, *quick_overrides(start, *overrides))
    return Shelf(trainer_of(splits, config, run), earlier=earlier)


def train(shelf: Shelf, run: Run, name: str, dev: float, seed: int) -> None:
    """Do as a training does that ends with a model of this seed."""
    shelf.make_room(name, f"{name} {seed}")
    run.claim(f"rerankers/{name}")
    shutil.rmtree(run.out / "rerankers" / name, ignore_errors=True)
    tiny_cross_encoder(run.out / "rerankers" / name, seed=seed)
    shelf.add(name, training(dev, f"{name} {seed}"))


def values(shelf: Shelf) -> dict[str, float]:
    return {name: each.dev for name, each in shelf.known.items()}


def test_models_of_earlier_commands_are_known_as_long_as_they_are_whole(data: Path, run: Run, tmp_path: Path) -> None:
    start = tiny_cross_encoder(tmp_path / "start")
    train(shelf_of(data, run, start), run, "distilled", 0.75, 1)
    later = shelf_of(data, run, start)
    assert values(later) == {"distilled": 0.75}
    train(later, run, "paper", 0.5, 2)
    assert values(shelf_of(data, run, start)) == {"distilled": 0.75, "paper": 0.5}
    assert not shelf_of(data, run, start, earlier=False).known
    assert {path.split("/")[1] for path in later.files()} == {"distilled", "paper"}
    weights = run.out / "rerankers" / "paper" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert values(shelf_of(data, run, start)) == {"distilled": 0.75}


@pytest.mark.parametrize(
    ("devs", "left"),
    [
        ((0.75, 0.5), {"paper": 0.5, "paper-earlier": 0.75}),
        ((0.5, 0.75), {"paper": 0.75}),
        ((0.75, 0.75), {"paper": 0.75}),
        ((0.75, 0.25, 0.5), {"paper": 0.5, "paper-earlier": 0.75}),
        ((0.5, 0.25, 0.75), {"paper": 0.75}),
        ((0.25, 0.75, 0.5), {"paper": 0.5, "paper-earlier": 0.75}),
    ],
)
def test_a_better_model_of_the_same_name_is_set_aside_and_a_worse_one_is_not(
    data: Path, run: Run, tmp_path: Path, devs: tuple[float, ...], left: dict[str, float]
) -> None:
    start = tiny_cross_encoder(tmp_path / "start")
    for seed, dev in enumerate(devs):
        train(shelf_of(data, run, start), run, "paper", dev, seed)
    assert values(shelf_of(data, run, start)) == left
    assert {path.name for path in (run.out / "rerankers").iterdir()} == set(left)


def test_the_same_training_again_moves_nothing(data: Path, run: Run, tmp_path: Path) -> None:
    start = tiny_cross_encoder(tmp_path / "start")
    for _ in range(2):
        train(shelf_of(data, run, start), run, "paper", 0.5, 1)
    assert values(shelf_of(data, run, start)) == {"paper": 0.5}


def test_on_other_dev_queries_a_model_is_measured_anew_or_left_out(
    data: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = tiny_cross_encoder(tmp_path / "start")
    train(shelf_of(data, run, start), run, "paper", 0.99, 1)
    anew = values(shelf_of(data, run, start, "evaluate.depth=5"))
    assert list(anew) == ["paper"]
    assert anew["paper"] < 0.99
    (data / "qrels" / "dev.tsv").unlink()
    assert not shelf_of(data, run, start).known
    assert "paper of an earlier command is left out of the choice: dev chose its step" in capsys.readouterr().err
