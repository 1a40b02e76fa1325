"""Preset auto: its rounds against a plain replay, that no trial is made twice, and who wins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import hnmine
from hnmine.config.load import load
from hnmine.errors import ConfigError
from tests.builders.collections import write_collection
from tests.builders.models import tiny_cross_encoder
from tests.builders.settings import LEXICAL_ENCODER

ARMS = ["random", "bm25", "two-conditions-then-bm25"]
RATES = [1e-4, 3e-3]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_collection(tmp_path / "data")


def config_of(model: Path, *more: str):
    settings = [f"train.model={model}", "train.max_tokens=64", "train.dtype=float32", "train.engine=torch"]
    auto = [f"train.auto.arms=[{', '.join(ARMS)}]", f"train.auto.learning_rates={RATES}", "train.auto.pairs=2"]
    return load(overrides=[LEXICAL_ENCODER, *settings, *auto, "train.presets=[auto]", *more])


def test_the_better_half_goes_on_with_twice_the_pairs_and_the_last_is_trained_in_full(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = config_of(tiny_cross_encoder(tmp_path / "start")), tmp_path / "out"
    training = hnmine.run(data, out, config)["training"]
    trials, all_pairs = training["auto"]["trials"], training["presets"]["auto"]["lists"]
    rounds: dict[int, list[dict]] = {}
    for at, trial in enumerate(trials):
        rounds.setdefault(0 if at < 6 else 1 if at < 9 else 2, []).append(trial)
    left = {(slug, rate) for slug in ARMS for rate in RATES}
    for number, of_round in rounds.items():
        candidates = {
            (trial["arm"].lower().replace(" ", "-").replace(",", ""), trial["learning_rate"]) for trial in of_round
        }
        assert candidates == left or number == 0
        assert {trial["pairs"] for trial in of_round} == {min(2 * 2**number, all_pairs)}
        assert [trial["dev"] for trial in of_round] == sorted((trial["dev"] for trial in of_round), reverse=True)
        kept = of_round[: len(of_round) // 2]
        left = {(trial["arm"].lower().replace(" ", "-").replace(",", ""), trial["learning_rate"]) for trial in kept}
    assert [len(of_round) for of_round in rounds.values()] == [6, 3]
    winner = rounds[1][0]
    assert (training["auto"]["arm"], training["auto"]["learning_rate"]) == (winner["arm"], winner["learning_rate"])
    assert training["presets"]["auto"]["recipe"]["learning_rate"] == winner["learning_rate"]
    assert training["best"] == "auto"
    assert sorted(path.name for path in (out / "rerankers").iterdir()) == ["auto"], "no trial's model is kept"

    capsys.readouterr()
    assert hnmine.run(data, out, config)["training"] | {"seconds": 0} == training | {"seconds": 0}
    assert "kept step" not in capsys.readouterr().err, "nothing is trained again"
    victim = next((out / "auto").glob("*-4.json"))
    victim.write_text(json.dumps(json.loads(victim.read_text()) | {"identity": "another"}))
    assert hnmine.train(data, out, config)["training"]["auto"] == training["auto"]
    assert capsys.readouterr().err.count("kept step") == 1


def test_an_arm_with_lessons_has_as_large_a_share_of_them_in_a_trial_as_of_the_pairs(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["train.auto.arms=[distillation-random-of-bm25-s-first-50]", "train.distill.lessons=24"]
    config, out = config_of(tiny_cross_encoder(tmp_path / "start", spread=1), *more), tmp_path / "out"
    training = hnmine.run(data, out, config)["training"]
    assert [(trial["pairs"], trial["lists"]) for trial in training["auto"]["trials"]] == [(2, 2 + 24 * 2 / 12)] * 2
    assert training["presets"]["auto"]["lists"] == 12 + 24
    assert training["distilled"]["lessons"] == 24
    capsys.readouterr()
    assert hnmine.run(data, out, config)["training"] | {"seconds": 0} == training | {"seconds": 0}
    assert "kept step" not in capsys.readouterr().err, "nothing is trained again"


def test_an_unknown_arm_is_refused_before_anything_is_mined(data: Path, tmp_path: Path) -> None:
    config = config_of(tiny_cross_encoder(tmp_path / "start"), "train.auto.arms=[bm52]")
    with pytest.raises(
        ConfigError, match=r"train\.auto\.arms: bm52 is not known; did you mean bm25\?; known are: positives-only, "
    ):
        hnmine.run(data, tmp_path / "out", config)
    assert not (tmp_path / "out" / "negatives.parquet").exists()
