"""Files are complete or absent, whatever happens while they are written; a change is noticed however it was made."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import hnmine
from hnmine.runs.files import CLOCK_TICK, digest, file_sha256, put_in_place, whole_file, write_json
from tests.builders.collections import write_collection
from tests.builders.models import tiny_cross_encoder
from tests.builders.settings import quick_config


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_its_block_ends(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a") as hidden:
        hidden.write_text("new")
        assert hidden.parent == tmp_path
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a").read_text() == "new"
    assert names(tmp_path) == ["a"]


def test_the_content_is_on_the_disk_before_its_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done, fsync, replace = list[str](), os.fsync, Path.replace

    def note_fsync(opened: int) -> None:
        done.append(f"fsync {Path(f'/proc/self/fd/{opened}').readlink().name}")
        fsync(opened)

    def note_rename(path: Path, target: Path) -> Path:
        done.append(f"rename {path.name} {target.name}")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_rename)
    write_json(tmp_path / "a", 1)
    assert done == ["fsync .a.tmp", "rename .a.tmp a", f"fsync {tmp_path.name}"]


def test_a_name_that_is_no_utf_8_is_read_back_as_it_was(tmp_path: Path) -> None:
    value = {os.fsdecode(b"odd\xff"): [os.fsdecode(b"\xc3\x28/ok"), "\U0001f600 é"]}
    write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == value


@pytest.mark.parametrize(
    ("umask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700), (0o002, 0o664, 0o775)]
)
def test_a_folder_that_is_put_in_place_has_the_modes_of_new_ones(
    tmp_path: Path, umask: int, file: int, folder: int
) -> None:
    (tmp_path / "model" / "inner").mkdir(parents=True, mode=0o700)
    (tmp_path / "model" / "inner" / "secret").touch(mode=0o600)
    before = os.umask(umask)
    try:
        put_in_place(tmp_path / "model", tmp_path / "placed")
    finally:
        os.umask(before)
    assert {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "placed").rglob("*")} == {
        "inner": folder,
        "secret": file,
    }
    assert (tmp_path / "placed").stat().st_mode & 0o777 == folder
    assert not (tmp_path / "model").exists()


def test_a_folder_takes_the_place_of_the_one_before_and_all_of_it_is_on_the_disk_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, fsync, rename = list[str](), os.fsync, Path.rename

    def note_fsync(opened: int) -> None:
        done.append(f"fsync {Path(f'/proc/self/fd/{opened}').readlink().name}")
        fsync(opened)

    def note_rename(source: Path, target: Path) -> None:
        done.append(f"rename {source.name}")
        rename(source, target)

    for name, content in ((".new", "new"), ("out", "old")):
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "inner" / "weights").write_text(content)
    (tmp_path / ".out.before").mkdir()  # of a call that was killed
    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "rename", note_rename)
    put_in_place(tmp_path / ".new", tmp_path / "out")
    assert sorted(done[:3]) == ["fsync .new", "fsync inner", "fsync weights"]
    assert done[3:] == ["rename out", "rename .new", f"fsync {tmp_path.name}"]
    assert (tmp_path / "out" / "inner" / "weights").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_run_leaves_can_be_read_by_those_whom_the_umask_lets(tmp_path: Path) -> None:
    data, model = write_collection(tmp_path / "data"), tiny_cross_encoder(tmp_path / "model")
    before = os.umask(0o027)
    try:
        hnmine.run(data, tmp_path / "out", quick_config(model, "train.presets=anchored"))
    finally:
        os.umask(before)
    modes = {path: oct(path.stat().st_mode & 0o777) for path in (tmp_path / "out").rglob("*") if not path.is_symlink()}
    assert {path: mode for path, mode in modes.items() if mode != ("0o750" if path.is_dir() else "0o640")} == {}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_block_that_fails_leaves_the_file_before_and_no_other(error: type[BaseException], tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")

    def fail(path: Path) -> None:
        with whole_file(path) as hidden:
            hidden.write_text("half")
            raise error

    for name in ("a", "b"):
        with pytest.raises(error):
            fail(tmp_path / name)
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_what_a_killed_process_left_is_written_over(tmp_path: Path) -> None:
    (tmp_path / ".a.tmp").write_text("of a process that was killed, and longer")
    with whole_file(tmp_path / "a") as hidden:
        hidden.write_text("new")
    assert (tmp_path / "a").read_text() == "new"
    assert names(tmp_path) == ["a"]


def test_a_block_that_writes_nothing_is_an_error_and_the_file_before_stays(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "a"):
        pass
    assert (tmp_path / "a").read_text() == "old"


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"é": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"é": 1}
    assert "é" in path.read_text(encoding="utf-8")
    assert names(tmp_path) == ["x.json"]


# Digests


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file that was written some time ago."""
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    time.sleep(2 * CLOCK_TICK)
    return path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are hashed."""
    names, file_digest = [], hashlib.file_digest

    def noting(stream, name):
        names.append(Path(stream.name).name)
        return file_digest(stream, name)

    monkeypatch.setattr(hashlib, "file_digest", noting)
    return names


@pytest.mark.parametrize("content", [b"", b"abc", b"x" * 3_000_000])
def test_the_sha256_of_a_file_is_that_of_its_bytes(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    assert file_sha256(tmp_path / "a") == sha256(content)


def test_a_file_that_stays_the_same_is_read_once_by_whatever_name(old: Path, reads: list[str]) -> None:
    (old.parent / "link").symlink_to(old)
    for path in (old, old.parent / "link", old.parent / "." / "weights", Path(os.path.relpath(old)), old):
        assert file_sha256(path) == sha256(b"one")
    assert reads == ["weights"]


def in_place(path: Path) -> None:
    path.write_bytes(b"two")


def replaced(path: Path) -> None:
    path.with_name("new").write_bytes(b"two")
    path.with_name("new").replace(path)


def longer(path: Path) -> None:
    path.write_bytes(b"two, and longer")


@pytest.mark.parametrize("times_restored", [False, True])
@pytest.mark.parametrize("change", [in_place, replaced, longer])
def test_a_change_is_noticed_even_of_the_same_size_and_with_its_times_restored(
    change: Callable[[Path], None], times_restored: bool, old: Path
) -> None:
    before = old.stat()
    assert file_sha256(old) == sha256(b"one")
    change(old)
    if times_restored:
        os.utime(old, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert old.stat().st_mtime_ns == before.st_mtime_ns
    assert file_sha256(old) == sha256(old.read_bytes()) != sha256(b"one")


def test_changes_in_quick_succession_are_all_noticed(tmp_path: Path) -> None:
    """The times of a file may be too coarse to tell two writes apart that follow each other at once."""
    path = tmp_path / "quick"
    for number in range(300):
        path.write_text(f"{number:03}")
        assert file_sha256(path) == sha256(f"{number:03}".encode())


def test_a_file_that_is_gone_or_a_folder_is_an_os_error_though_it_was_hashed_before(old: Path) -> None:
    file_sha256(old)
    old.unlink()
    with pytest.raises(FileNotFoundError):
        file_sha256(old)
    old.mkdir()
    with pytest.raises(IsADirectoryError):
        file_sha256(old)


def test_a_digest_is_that_of_the_value_not_of_its_order() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert len({digest(value) for value in ({"a": 1}, {"a": 2}, [1, 2], [2, 1], "1", 1)}) == 6
    assert digest(Path("a")) == digest("a")
    assert len(digest({})) == 20
