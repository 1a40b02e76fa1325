"""`hnmine demo`: the whole way for somebody who installed the package and has no data."""

from __future__ import annotations

from pathlib import Path

import pytest

from hnmine import demo
from hnmine.cli import main
from hnmine.config.load import load
from tests.builders.models import tiny_cross_encoder


def test_the_settings_of_the_demo_are_settings() -> None:
    settings = Path(demo.__file__).parent / "config" / "demo.yaml"
    assert load(settings).train.presets == ("paper", "anchored", "distilled")
    assert load(settings, demo.QUICK).train.presets == ("anchored",)


@pytest.mark.slow
def test_the_quick_demo_ends_with_a_ranker_and_what_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_cross_encoder(tmp_path / "model")
    tiny = ("encoders=[{name: lexical, lexical: {width: 16}}]", f"train.model={model}", "device=cpu", "engine=torch")
    monkeypatch.setattr(demo, "QUICK", (*demo.QUICK, *tiny))
    for _ in range(2):  # the second time all is there
        assert main(["demo", "--quick", "--out", str(tmp_path / "demo")]) == 0
        printed = capsys.readouterr().out
        assert "mined triplets" in printed
        assert printed.splitlines()[-1] == "Next, with your own data: hnmine inspect --data DIR"
    assert (tmp_path / "demo" / "quick-out" / "ranker" / "ranker.json").is_file()
