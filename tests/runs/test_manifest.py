"""The manifest of a run: what a step records, and what stays of the steps after it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pyarrow as pa
import pytest

from hnmine.config.load import load
from hnmine.config.root import Config
from hnmine.errors import DataError
from hnmine.runs.files import file_sha256
from hnmine.runs.folder import Run, open_run
from hnmine.runs.manifest import read_manifest, versions

TABLE = pa.table({"a": [1, 2]})


def mining(run: Run) -> None:
    files = run.sha256_of("negatives.parquet", "basis.safetensors")
    run.commit("mining", inputs={}, files=files, counts={"negatives": 2})


KIND = {"kind": "cross-encoder", "max_tokens": 64}


def training(run: Run, weights: str = "w") -> None:
    inputs, files = run.sha256_of("negatives.parquet"), {"rerankers/paper/model.safetensors": weights}
    (run.out / "rerankers" / "paper").mkdir(parents=True, exist_ok=True)
    (run.out / "rerankers" / "paper" / "model.safetensors").write_text(weights)
    start = {"model": "m", "warmed_up": False}
    run.commit("training", inputs=inputs, files=files, start=start, **KIND, presets={"paper": {"dev": 0.5}})


def evaluation(run: Run) -> None:
    inputs = {"rerankers/paper/model.safetensors": run.manifest["files"]["rerankers/paper/model.safetensors"]}
    run.commit("evaluation", inputs=inputs, files={}, table="")


def test_a_step_records_its_own_settings_versions_seconds_and_files(tmp_path: Path) -> None:
    config = load(overrides=["select.negatives=4", "seed=7", "device=cpu"])
    with open_run(tmp_path, config) as run:
        run.write_table("negatives.parquet", TABLE)
        with run.timed("read"):
            time.sleep(0.01)
        mining(run)
    with open_run(tmp_path, load(overrides=["select.negatives=5", "train.epochs=3"])) as run:
        with run.timed("train"):
            pass
        training(run)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert list(manifest) == ["mining", "training", "files"]
    mined, trained = manifest["mining"], manifest["training"]
    assert mined["counts"] == {"negatives": 2}
    assert load(overrides=[f"select={mined['config']['select']}"]).select == config.select
    assert (mined["config"]["seed"], mined["config"]["device"]) == (7, "cpu")
    assert trained["config"]["seed"] == 0
    assert "train" not in mined["config"]
    assert trained["config"]["train"]["epochs"] == 3
    assert "select" not in trained["config"]
    assert mined["seconds"]["read"] >= 0.01
    assert list(trained["seconds"]) == ["train"]
    assert mined["versions"] == trained["versions"] == versions()
    assert trained["inputs"] == {"negatives.parquet": file_sha256(tmp_path / "negatives.parquet")}
    assert manifest["files"] == trained["inputs"] | {"rerankers/paper/model.safetensors": "w"}
    assert read_manifest(tmp_path) == manifest


@pytest.mark.parametrize(
    ("redo", "kept"),
    [
        ("the same negatives", ["mining", "training", "evaluation", "files"]),
        ("other negatives", ["mining", "files"]),
        ("the same models", ["mining", "training", "evaluation", "files"]),
        ("other models", ["mining", "training", "files"]),
    ],
)
def test_what_followed_from_a_step_stays_only_if_it_still_follows(
    tmp_path: Path, redo: str, kept: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with open_run(tmp_path, Config()) as run:
        run.write_table("negatives.parquet", TABLE)
        for step in (mining, training, evaluation):
            step(run)
    with open_run(tmp_path, Config()) as run:
        if "negatives" in redo:
            run.write_table("negatives.parquet", pa.table({"a": [3]}) if "other" in redo else TABLE)
            mining(run)
        else:
            training(run, "v" if "other" in redo else "w")
    assert list(read_manifest(tmp_path)) == kept
    assert ("was made from other files, so it is left out now" in capsys.readouterr().err) == ("other" in redo)


def test_a_file_that_is_gone_is_named_no_more(tmp_path: Path) -> None:
    with open_run(tmp_path, Config()) as run:
        for name in ("negatives.parquet", "basis.safetensors"):
            run.write_table(name, TABLE)
        mining(run)
        assert list(run.manifest["files"]) == ["basis.safetensors", "negatives.parquet"]
        (tmp_path / "basis.safetensors").unlink()
        mining(run)
    assert list(read_manifest(tmp_path)["files"]) == ["negatives.parquet"]


@pytest.mark.parametrize(
    "content",
    [
        "{broken",
        "[]",
        "",
        "\xff",
        "[" * 100_000,
        '{"seconds": 3}',
        '{"training": 1}',
        '{"training": {"presets": 4}}',
        '{"mining": {"inputs": {}, "files": []}, "files": []}',
        '{"mining": {"inputs": {"a": 1}}}',
        '{"training": {"inputs": {}, "max_tokens": 64, "presets": {}, "start": {"warmed_up": 1, "model": "m"}}}',
        '{"files": {"a": null}}',
    ],
)
def test_a_manifest_that_is_not_ours_is_a_clear_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content, encoding="latin-1")
    with (
        pytest.raises(
            DataError, match=r"manifest\.json is not a manifest of this hnmine \(.+\).* choose another --out$"
        ),
        open_run(tmp_path, Config()),
    ):
        pass
