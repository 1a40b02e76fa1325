"""Files are complete or absent, whatever happens while they are written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hnmine.runs.files import whole_file, write_json


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_its_block_ends(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a") as hidden:
        hidden.write_text("new")
        assert hidden.parent == tmp_path
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a").read_text() == "new"
    assert names(tmp_path) == ["a"]


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
