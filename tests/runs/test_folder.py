"""The folder of a run: one writer, whole files, a manifest that can be trusted."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from hnmine.config.load import load
from hnmine.config.root import Config
from hnmine.errors import DataError
from hnmine.runs.files import write_json
from hnmine.runs.folder import Run, open_run, read_manifest, versions
from hnmine.runs.hashing import digest, file_sha256

TABLE = pa.table({"a": [1, 2]})


@pytest.mark.parametrize("name", ["table.parquet", "evaluation/after-paper.parquet"])
def test_a_table_is_written_whole_under_its_name_and_replaces_the_one_before(tmp_path: Path, name: str) -> None:
    with open_run(tmp_path / "out", Config()) as run:
        run.write_table(name, pa.table({"a": [0]}))
        run.write_table(name, TABLE)
    assert pq.read_table(tmp_path / "out" / name).equals(TABLE)
    files = [path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert sorted(files) == sorted([".lock", name])


def test_a_table_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    with open_run(tmp_path, Config()) as run:
        run.write_table("table.parquet", TABLE)
        (tmp_path / ".table.parquet.tmp").mkdir()  # in the way
        with pytest.raises(OSError, match=r"\.table\.parquet\.tmp"):
            run.write_table("table.parquet", pa.table({"a": [0]}))
    assert pq.read_table(tmp_path / "table.parquet").equals(TABLE)


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
    config = load(overrides=["select.negatives=4"])
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


def test_a_folder_in_use_is_refused_until_its_process_ends_however_it_ends(tmp_path: Path) -> None:
    hold = "import sys, time; from pathlib import Path; from hnmine.config.root import Config\n"
    hold += "from hnmine.runs.folder import open_run\n"
    hold += "with open_run(Path(sys.argv[1]), Config()): print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path / "out")], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        refused = pytest.raises(DataError, match=r"another hnmine is working on .*out; wait for it or choose another")
        with refused, open_run(tmp_path / "out", Config()):
            pass
        with open_run(tmp_path / "another", Config()):
            pass
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    with open_run(tmp_path / "out", Config()):
        pass


def test_an_out_that_is_no_folder_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DataError, match=r"--out .*file.* cannot be written"), open_run(out, Config()):
            pass


def test_a_link_to_nowhere_is_named_with_its_target(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "out")
    with (
        pytest.raises(DataError, match=r"--out .*out is a link to .*disk/out, which does not exist; make that folder"),
        open_run(tmp_path / "out", Config()),
    ):
        pass


@pytest.mark.parametrize("relative", [True, False])
def test_a_folder_in_the_way_of_a_file_is_named(
    tmp_path: Path, relative: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = Path("out") if relative else tmp_path / "out"
    (out / "negatives.parquet").mkdir(parents=True)
    with (
        pytest.raises(
            DataError, match=r"--out .*out cannot be written: .*negatives\.parquet: Is a directory; make way"
        ),
        open_run(out, Config()) as run,
    ):
        run.write_table("negatives.parquet", TABLE)
    assert sorted(path.name for path in out.iterdir()) == [".lock", "negatives.parquet"]


def test_errors_that_are_not_of_the_folder_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), open_run(tmp_path / "out", Config()):
        (tmp_path / "elsewhere").read_bytes()
    with pytest.raises(BrokenPipeError), open_run(tmp_path / "out", Config()):
        raise BrokenPipeError


def test_a_disk_without_room_is_said(tmp_path: Path) -> None:
    write = (
        "import resource, sys; from pathlib import Path; import pyarrow as pa\nfrom hnmine.config.root import Config\n"
    )
    write += "from hnmine.runs.folder import open_run\n"
    write += "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"  # stands for a full disk
    write += "with open_run(Path(sys.argv[1]), Config()) as run: "
    write += "run.write_table('table.parquet', pa.table({'a': [str(i * i) for i in range(99999)]}))"
    done = subprocess.run([sys.executable, "-c", write, str(tmp_path)], capture_output=True, text=True)
    assert f"DataError: --out {tmp_path} cannot be written: {tmp_path}: File too large; make way or room" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock"]


def test_a_digest_is_that_of_the_value_not_of_its_order(tmp_path: Path) -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert len({digest(value) for value in ({"a": 1}, {"a": 2}, [1, 2], [2, 1], "1", 1)}) == 6


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"é": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"é": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["x.json"]


def test_writers_that_name_no_file_are_told_from_as_well(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "link").symlink_to("nowhere")

    def of_safetensors(out: Path) -> None:
        save_file({"a": np.zeros(2)}, out / "missing" / "a.safetensors")

    def of_shutil(out: Path) -> None:
        shutil.copytree(tmp_path / "source", out / "copy")

    for write in (of_safetensors, of_shutil):
        message = r"--out .*out cannot be written: .*No such file.*make way or room there"
        with pytest.raises(DataError, match=message), open_run(tmp_path / "out", Config()) as run:
            write(run.out)
