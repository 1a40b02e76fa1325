"""The folder of a run: one writer, whole files, and errors that name what stops it."""

from __future__ import annotations

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
from pydantic import BaseModel
from safetensors.numpy import save_file

from hnmine.config.root import Config
from hnmine.errors import DataError
from hnmine.runs.counters import SECONDS
from hnmine.runs.files import file_sha256
from hnmine.runs.folder import open_run, refuse_source

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


def test_a_text_is_written_whole_under_its_name_and_replaces_the_one_before(tmp_path: Path) -> None:
    with open_run(tmp_path, Config()) as run:
        for text in ("before", "ünïcode\n"):
            run.write_text("pages/changes.md", text)
    assert (tmp_path / "pages" / "changes.md").read_bytes() == "ünïcode\n".encode()
    assert [path.name for path in (tmp_path / "pages").iterdir()] == ["changes.md"]


def test_the_seconds_of_a_step_that_fails_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[tuple[float, str]] = []
    monkeypatch.setattr(SECONDS, "add", lambda seconds, step: counted.append((seconds, step)))

    def fail() -> None:
        time.sleep(0.01)
        raise KeyboardInterrupt

    with open_run(tmp_path / "out", Config()) as run:
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt), run.timed("train"):
                fail()
    assert [step for _, step in counted] == ["train", "train"]
    assert run.seconds["train"] == pytest.approx(sum(seconds for seconds, _ in counted), abs=0.01)
    assert run.seconds["train"] >= 0.02


def test_the_cache_of_a_run_is_that_of_its_folder(tmp_path: Path) -> None:
    class Found(BaseModel):
        best: int

    with open_run(tmp_path / "out", Config()) as run:
        run.write_text("table", "x")
        run.cache.put("work", "one", Found(best=3), [run.out / "table"])
        assert run.cache.files("work") == run.sha256_of("table", "missing") == {"table": file_sha256(run.out / "table")}
    with open_run(tmp_path / "out", Config()) as run:
        assert run.cache.get("work", "one", Found) == Found(best=3)


def test_seconds_of_a_step_add_up(tmp_path: Path) -> None:
    with open_run(tmp_path, Config()) as run:
        for _ in range(2):
            with run.timed("read"):
                time.sleep(0.02)
        with run.timed("select"):
            pass
    assert run.seconds["read"] >= 0.04
    assert list(run.seconds) == ["read", "select"]


# What a later step needs of an earlier one


def test_what_was_not_mined_or_has_changed_since_is_named_with_the_remedy(tmp_path: Path) -> None:
    with open_run(tmp_path, Config()) as run:
        with pytest.raises(DataError, match=r"negatives\.parquet does not exist; run `hnmine mine` with the same"):
            run.require_mined()
        run.write_table("negatives.parquet", TABLE)
        run.require_mined()  # a file of the user's own
        run.commit("mining", inputs={}, files=run.sha256_of("negatives.parquet"))
        run.require_mined()
        run.write_table("negatives.parquet", pa.table({"a": [3]}))
        with pytest.raises(
            DataError, match=r"negatives\.parquet is not as .*manifest\.json says, perhaps since a later"
        ):
            run.require_mined()


def test_a_run_without_a_trained_reranker_is_named_with_the_remedy(tmp_path: Path) -> None:
    with open_run(tmp_path, Config()) as run:
        with pytest.raises(DataError, match=r"holds no trained re-ranker; run `hnmine train` with the same --data"):
            run.require_trained()
        run.manifest["training"] = {"inputs": {}}
        run.require_trained()


# Who may write, and where


@pytest.mark.parametrize("name", ["corpus.jsonl", "corpus.jsonl.gz"])
def test_a_folder_that_holds_a_collection_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"holds a collection; choose another folder"), open_run(tmp_path, Config()):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [name]


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
    match = r"--out .*out cannot be written: .*negatives\.parquet: Is a directory; make way"

    def write() -> None:
        with open_run(out, Config()) as run:
            (out / "negatives.parquet").mkdir()
            run.write_table("negatives.parquet", TABLE)

    with pytest.raises(DataError, match=match):
        write()
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


def test_an_error_that_names_its_file_in_its_text_alone_is_said_as_well(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(
    "name", ["negatives.parquet", "rerankers/mine/notes.txt", "ranker/x", "evaluation/my.md", "cache/x"]
)
def test_a_folder_of_others_that_has_what_would_be_replaced_is_refused_and_stays(tmp_path: Path, name: str) -> None:
    file = tmp_path / "out" / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    match = rf"--out .*out is no folder of hnmine, and has {Path(name).parts[0]}, which would be replaced"
    with pytest.raises(DataError, match=match), open_run(tmp_path / "out", Config()):
        pass
    assert [path.name for path in (tmp_path / "out").iterdir()] == [Path(name).parts[0]]
    assert file.read_text() == "mine"


def test_a_folder_with_other_content_is_worked_in_and_its_content_kept(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for _ in range(2):
        with open_run(tmp_path, Config()) as run:
            run.write_table("negatives.parquet", TABLE)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_folder_in_out_that_others_made_is_not_replaced_and_one_that_was_begun_here_is(tmp_path: Path) -> None:
    with open_run(tmp_path, Config()) as run:
        (tmp_path / "rerankers" / "theirs").mkdir(parents=True)
        for _ in range(2):
            with pytest.raises(DataError, match="rerankers/theirs was not made by hnmine, and would be replaced"):
                run.claim("rerankers/theirs")
        run.claim("rerankers/ours")
        (tmp_path / "rerankers" / "ours").mkdir()
        run.claim("rerankers/ours")  # as after a kill
        (tmp_path / "ranker").mkdir()
        (tmp_path / "ranker" / "part").write_text("")
        run.commit("ranker", inputs={}, files=run.sha256_of("ranker/part"))
        run.claim("ranker")  # the manifest says whose it is


def test_what_steps_replace_is_known_also_behind_links(tmp_path: Path) -> None:
    with open_run(tmp_path / "out", Config()) as run:
        (tmp_path / "out" / "rerankers" / "x").mkdir(parents=True)
        (tmp_path / "out" / "reranker").symlink_to("rerankers/x")
        (tmp_path / "link").symlink_to(tmp_path / "out" / "reranker")
        assert all(map(run.replaces, (tmp_path / "out" / "reranker", tmp_path / "link", tmp_path / "out" / "ranker")))
        assert not any(map(run.replaces, (tmp_path, tmp_path / "out", tmp_path / "out" / "deployed", tmp_path / "x")))


def test_a_path_with_nul_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no path has the character NUL"), open_run(tmp_path / "a\0b", Config()):
        pass


def test_files_of_others_in_a_folder_that_is_replaced_are_kept_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_run(tmp_path, Config()) as run:
        for step, extra in enumerate([None, None, "mine.txt", "mine.txt"]):
            hidden = tmp_path / ".new"
            hidden.mkdir()
            (hidden / f"part-{step}").write_text("x")
            run.place(hidden, "ranker")
            run.commit("ranker", inputs={}, files=run.sha256_of(f"ranker/part-{step}"))
            if extra:
                (tmp_path / "ranker" / extra).write_text(f"of others {step}")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["ranker", "ranker.kept-1"]
    assert (tmp_path / "ranker.kept-1" / "mine.txt").read_text() == "of others 2"
    assert "had files that hnmine did not make; it is kept as" in capsys.readouterr().err


def test_a_home_folder_that_is_not_expanded_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with (
        pytest.raises(DataError, match="--out ~nobody/x: there is no such user"),
        open_run(Path("~nobody/x"), Config()),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_the_folder_that_is_read_is_never_written_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    (data / "qrels").mkdir(parents=True)
    (tmp_path / "link").symlink_to(data)
    monkeypatch.chdir(tmp_path)
    for source in (data, str(data), "data", f"file://{data}", "link/"):
        for out in (data, "data/", "data/../data", data / "out", data / "qrels" / "out", "link/out", "link"):
            with pytest.raises(DataError, match=r"--out .* (is|lies in) the folder of --data, .*; choose a folder"):
                refuse_source(source, out)
        for out in (tmp_path, tmp_path / "data-2", "out", "s3://bucket/data"):
            refuse_source(source, out)
    for other in ("s3://bucket/data", TABLE, None):
        refuse_source(other, data)
