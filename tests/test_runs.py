"""The folder of a run: one writer, whole files, a manifest that can be trusted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hnmine.config import Config, load
from hnmine.errors import DataError
from hnmine.runs import digest, open_run, read_manifest, sha256, versions, write_json

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


def test_the_manifest_names_settings_versions_and_the_hash_of_every_file(tmp_path: Path) -> None:
    config = load(overrides=["select.negatives=4"])
    with open_run(tmp_path, config) as run:
        run.write_table("negatives.parquet", TABLE)
        with run.timed("read"):
            time.sleep(0.01)
        run.commit(counts={"negatives": 2})
        run.commit(training={"best": "paper"})
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["counts"] == {"negatives": 2}
    assert manifest["training"] == {"best": "paper"}
    assert load(overrides=[f"select={manifest['config']['select']}"]).select == config.select
    assert manifest["config"]["select"]["negatives"] == 4
    assert manifest["seconds"]["read"] >= 0.01
    assert manifest["versions"] == versions()
    assert manifest["files"] == {"negatives.parquet": sha256(tmp_path / "negatives.parquet")}


def test_sections_of_an_earlier_run_stay_until_they_are_renewed(tmp_path: Path) -> None:
    for section in ({"counts": 1, "training": 1}, {"training": 2}):
        with open_run(tmp_path, Config()) as run:
            run.commit(**section)
    manifest = read_manifest(tmp_path)
    assert (manifest["counts"], manifest["training"]) == (1, 2)


@pytest.mark.parametrize("content", ["{broken", "[]", "", "\xff"])
def test_a_manifest_that_is_not_ours_is_a_clear_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content, encoding="latin-1")
    with (
        pytest.raises(DataError, match=r"manifest\.json is not a manifest of hnmine.* choose another --out"),
        open_run(tmp_path, Config()),
    ):
        pass


def test_a_folder_in_use_is_refused_until_its_process_ends_however_it_ends(tmp_path: Path) -> None:
    hold = "import sys, time; from pathlib import Path; from hnmine.config import Config\n"
    hold += "from hnmine.runs import open_run\n"
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
