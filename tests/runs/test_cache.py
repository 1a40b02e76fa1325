"""What finished work found is believed only if nothing that decides it has changed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from hnmine.runs.cache import Cache


class Found(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    best: float
    steps: tuple[int, ...] = ()


class OtherFound(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: str


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path)


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


@pytest.mark.parametrize("name", ["audit", "rerankers/paper/seed-3", "evaluation/after-a.b.parquet", "é ü"])
def test_what_is_put_is_got_by_another_instance_under_its_name_and_identity(name: str, tmp_path: Path) -> None:
    found = Found(best=0.1 + 0.2, steps=(1, 2))
    Cache(tmp_path).put(name, "abc", found)
    assert Cache(tmp_path).get(name, "abc", Found) == found
    assert (tmp_path / "cache" / f"{name}.json").is_file()
    assert Cache(tmp_path).get(f"{name}2", "abc", Found) is None
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.name.startswith(".")]


def test_another_identity_is_not_found_and_takes_the_place_of_the_first(
    cache: Cache, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.put("work", "one", Found(best=1))
    assert cache.get("work", "two", Found) is None
    cache.put("work", "two", Found(best=2))
    assert cache.get("work", "one", Found) is None
    assert cache.get("work", "two", Found) == Found(best=2)
    assert capsys.readouterr().err == ""  # settings that changed are no news


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinite_findings_come_back(value: float, cache: Cache) -> None:
    cache.put("work", "one", Found(best=value))
    assert cache.get("work", "one", Found) == Found(best=value)


def test_the_files_of_the_work_must_be_as_they_were_left(
    cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, table = write(tmp_path / "models" / "w", "123"), write(tmp_path / "table", "abc")
    cache.put("work", "one", Found(best=1), [weights, table])
    assert list(cache.files("work")) == ["models/w", "table"]
    assert cache.get("work", "one", Found) == Found(best=1)
    write(weights, "124")
    assert cache.get("work", "one", Found) is None
    assert f"{weights} is not as work left it, so the work is done again" in capsys.readouterr().err
    write(weights, "123")
    assert cache.get("work", "one", Found) == Found(best=1)
    table.unlink()
    assert cache.get("work", "one", Found) is None
    table.mkdir()
    assert cache.get("work", "one", Found) is None
    assert capsys.readouterr().err.count(f"{table} is not as work left it") == 2


def test_a_crash_between_the_files_and_the_entry_leaves_an_entry_that_is_not_believed(
    cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write(tmp_path / "table", "first")
    cache.put("work", "one", Found(best=1), [table])
    write(table, "second")

    def killed(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            cache.put("work", "two", Found(best=2), [table])
    assert cache.get("work", "one", Found) is None  # its table is another
    assert cache.get("work", "two", Found) is None  # its entry was never written
    cache.put("work", "two", Found(best=2), [table])
    assert cache.get("work", "two", Found) == Found(best=2)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["work.json"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"identity": "one"}', '{"identity": 1, "files": {}, "found": {}}'])
def test_an_entry_that_cannot_be_read_is_said_and_passed_over(
    content: str, cache: Cache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.put("work", "one", Found(best=1))
    (tmp_path / "cache" / "work.json").write_text(content)
    assert cache.get("work", "one", Found) is None
    assert "work.json is not an entry of this hnmine" in capsys.readouterr().err
    assert cache.files("work") == {}
    cache.put("work", "one", Found(best=1))
    assert cache.get("work", "one", Found) == Found(best=1)


def test_an_entry_of_another_kind_is_said_and_not_taken(cache: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    cache.put("work", "one", Found(best=1))
    assert cache.get("work", "one", OtherFound) is None
    assert "does not hold what work finds today" in capsys.readouterr().err
    cache.put("other", "one", OtherFound(name="x"))
    assert cache.get("other", "one", OtherFound) == OtherFound(name="x")
    assert cache.get("work", "one", Found) == Found(best=1)


def test_a_file_outside_the_folder_is_refused(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = write(tmp_path_factory.mktemp("elsewhere") / "table", "x")
    with pytest.raises(ValueError, match="not in the subpath"):
        cache.put("work", "one", Found(best=1), [elsewhere])
    assert cache.get("work", "one", Found) is None


def test_what_is_dropped_is_forgotten_and_its_files_stay(cache: Cache, tmp_path: Path) -> None:
    table = write(tmp_path / "table", "x")
    cache.put("work", "one", Found(best=1), [table])
    for _ in range(2):
        cache.drop("work")
    assert cache.get("work", "one", Found) is None
    assert cache.files("work") == {}
    assert table.read_text() == "x"
