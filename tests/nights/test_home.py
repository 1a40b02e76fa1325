"""Versions, re-rankers and the pointer, on a folder and on a real S3 server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hnmine.config.root import Config
from hnmine.errors import DataError
from hnmine.nights.home import Facts, Home, Row, history_table
from hnmine.runs.directory import Directory
from hnmine.runs.folder import open_run


@pytest.fixture
def home(root: str) -> Home:
    return Home(root)


def model(folder: Path, content: str, weights: str = "") -> Path:
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "config.json").write_text(content)
    (folder / "1_Pooling" / "config.json").write_text("{}")
    (folder / "empty.txt").touch()
    if weights:
        (folder / "model.safetensors").write_text(weights)
    return folder


def publish(home: Home, tmp_path: Path, content: str, keep: int = 10, weights: str = "") -> str:
    """A night that leaves one file and a re-ranker of this content."""
    number = home.next_number()
    folder = model(tmp_path / f"model-{number}", content, weights)
    file = tmp_path / f"file-{number}"
    file.write_text(f"of {number}")
    home.write(number, {"a.txt": file}, home.add_reranker(folder), Facts(epoch=1))
    home.point(number, Row(when="2026-01-01 00:00", version=number, decision="deployed"), keep)
    return number


def test_a_new_home_is_empty_and_reading_it_creates_nothing(tmp_path):
    home = Home(tmp_path / "home")
    assert (home.current().number, home.current().files) == ("", [])
    assert home.history() == []
    assert home.next_number() == "0001"
    assert not (tmp_path / "home").exists()


def test_a_version_holds_when_the_pointer_names_it_and_not_before(home, tmp_path):
    publish(home, tmp_path, "one")
    file = tmp_path / "broken-off"
    file.write_text("half a night")
    home.write(home.next_number(), {"other.txt": file, "a.txt": file}, "0", Facts())
    version = home.current()
    assert (version.number, version.files, version.facts) == ("0001", ["a.txt"], Facts(epoch=1))
    assert publish(home, tmp_path, "two") == "0002"
    assert (home.directory / "versions" / "0002").files() == ["a.txt", "version.json"]
    work = tmp_path / "work"
    assert home.file(home.current(), "a.txt", work).read_text() == "of 0002"
    assert home.file(version, "a.txt", work).read_text() == "of 0001"
    assert home.file(version, "b.txt", work) is None
    assert [row.version for row in home.history()] == ["0001", "0002"]


def test_a_reranker_comes_back_as_it_was_and_equal_ones_are_kept_once(home, tmp_path):
    publish(home, tmp_path, "one")
    publish(home, tmp_path, "one")
    (name,) = (home.directory / "rerankers").folders()
    for _ in range(2):
        folder = home.reranker(name, tmp_path / "work")
        assert (folder / "config.json").read_text() == "one"
        assert (folder / "1_Pooling" / "config.json").read_text() == "{}"


def test_a_reranker_half_written_is_written_again(home, tmp_path):
    folder = model(tmp_path / "model", "one")
    name = home.add_reranker(folder)
    (home.directory / "rerankers" / name).remove("files.json")
    (home.directory / "rerankers" / name).write("config.json", b"half")
    assert home.add_reranker(folder) == name
    assert (home.reranker(name, tmp_path / "work") / "config.json").read_text() == "one"


def flip_a_bit(directory: Directory, name: str) -> None:
    content = bytearray(directory.read(name).to_pybytes())
    content[len(content) // 2] ^= 1
    directory.write(name, bytes(content))


def test_a_damaged_file_of_a_version_is_not_read(home, tmp_path, capfd):
    publish(home, tmp_path, "one")
    version = home.current()
    assert home.file(version, "a.txt", tmp_path / "work").read_text() == "of 0001"
    flip_a_bit(home.directory, "versions/0001/a.txt")
    assert home.file(version, "a.txt", tmp_path / "work") is None
    assert "a.txt is damaged" in capfd.readouterr().err
    home.directory.remove("versions/0001/a.txt")
    assert home.file(version, "a.txt", tmp_path / "other") is None
    assert "a.txt is gone" in capfd.readouterr().err


def test_a_damaged_reranker_is_refused(home, tmp_path):
    publish(home, tmp_path, "one")
    name = home.current().reranker
    flip_a_bit(home.directory, f"rerankers/{name}/config.json")
    with pytest.raises(DataError, match=r"config.json is gone or damaged; bring it back, or .*hnmine rollback"):
        home.reranker(name, tmp_path / "work")


def test_what_no_night_made_is_never_removed(home, tmp_path):
    with home.hold():
        publish(home, tmp_path, "one")
    for theirs in ("rerankers/mine/config.json", "versions/notes/a.txt", "rerankers/readme.txt", "mine.txt"):
        home.directory.write(theirs, b"theirs")
    home.directory.write(f"rerankers/{'0' * 20}/config.json", b"of a night that was broken off")
    with home.hold():
        for content in ("two", "three"):
            publish(home, tmp_path, content, keep=1)
    assert home.directory.read("rerankers/mine/config.json").to_pybytes() == b"theirs"
    assert home.directory.read("versions/notes/a.txt").to_pybytes() == b"theirs"
    assert home.directory.read("mine.txt") is not None
    assert len((home.directory / "rerankers").folders()) == 2
    assert (home.directory / "versions").folders() == ["0003", "notes"]


@pytest.mark.parametrize("theirs", ["rerankers/best/config.json", "manifest.json", "versions/0001/x"])
def test_a_folder_with_other_things_is_no_home(home, theirs):
    home.directory.write(theirs, b"theirs")
    with (
        pytest.raises(DataError, match=r"is no home of nights and not empty, it holds \w+.*choose an empty"),
        home.hold(),
    ):
        pytest.fail("held")
    assert home.directory.read(theirs).to_pybytes() == b"theirs"
    assert home.directory.folders() == [theirs.split("/")[0]] * ("/" in theirs)  # not even a lock


def test_a_home_of_an_earlier_release_is_one(home, tmp_path):
    publish(home, tmp_path, "one")
    assert home.directory.read("home.json") is None
    with home.hold():
        pass
    assert home.directory.read("home.json") is not None
    with home.hold():
        pass


def test_a_home_is_no_run_folder(tmp_path):
    with Home(tmp_path / "home").hold():
        pass
    with pytest.raises(DataError, match="is a home of nights"), open_run(tmp_path / "home", Config()):
        pytest.fail("opened")
    with open_run(tmp_path / "home" / "work", Config()):
        pass


def test_the_last_versions_are_kept_with_what_they_need(home, tmp_path):
    for content in ("one", "two", "two", "three"):
        publish(home, tmp_path, content, keep=2)
    assert (home.directory / "versions").folders() == ["0003", "0004"]
    assert len((home.directory / "rerankers").folders()) == 2
    assert len(home.history()) == 4


def test_rollback_goes_to_the_reranker_before_the_last_one(home, tmp_path):
    for content in ("one", "two", "two"):
        publish(home, tmp_path, content)
    before = home.current().reranker
    row = home.rollback()
    assert row.decision == "rolled back to 0001"
    version = home.current()
    assert version.number == "0001"
    assert version.reranker != before
    assert (home.directory / "versions").folders() == ["0001", "0002", "0003"], "a rollback removes none"
    assert publish(home, tmp_path, "four", keep=2) == "0004"
    with pytest.raises(DataError, match="no version 0009; it keeps 0003, 0004"):
        home.rollback("0009")
    assert home.rollback("0003").version == "0004"
    with pytest.raises(DataError, match="no version before 0003 with another re-ranker, only 0003, 0004"):
        home.rollback()


def test_what_was_rolled_back_from_is_rejected_until_it_is_rolled_back_to(home, tmp_path):
    for content in ("one", "two", "three"):
        publish(home, tmp_path, content)
    folders = [tmp_path / f"model-000{number}" for number in (1, 2, 3)]
    assert [home.is_rejected(folder) for folder in folders] == [False, False, False]
    home.rollback()
    home.rollback()
    publish(home, tmp_path, "four")
    assert [home.is_rejected(folder) for folder in folders] == [False, True, True]
    assert home.rollback().decision == "rolled back to 0001", "and neither of these"
    home.rollback("0003")
    assert [home.is_rejected(folder) for folder in folders] == [True, True, False]


def test_the_training_record_in_a_model_of_an_earlier_release_is_no_part_of_the_model(home, tmp_path):
    publish(home, tmp_path, "one")
    folder = model(tmp_path / "earlier", "two")
    (folder / "hnmine.json").write_text('{"lists": 7}')
    home.write("0002", {}, home.add_reranker(folder), Facts(epoch=1))
    home.point("0002", Row(when="2026-01-02 00:00", version="0002", decision="deployed"), 10)
    home.rollback()
    (folder / "hnmine.json").unlink()
    assert home.is_rejected(folder)
    earlier = home.reranker(home.current().reranker, tmp_path / "work")
    assert not home.is_rejected(earlier)


def test_other_settings_beside_the_same_weights_are_no_other_model(home, tmp_path):
    for content in ("good", "bad"):
        publish(home, tmp_path, content, weights=content)
    home.rollback()
    again = model(tmp_path / "again", "bad, but trained in two parts", weights="bad")
    assert home.is_rejected(again)
    assert not home.is_rejected(model(tmp_path / "other", "bad", weights="other"))


def test_a_home_without_a_night_cannot_be_rolled_back(home):
    with pytest.raises(DataError, match="no version yet; run `hnmine nightly` first"):
        home.rollback()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "current.json is not what a night leaves"),
        (b'{"version": "0001", "history": []}', "version.json is miss"),
    ],
)
def test_the_error_of_a_damaged_home_names_the_file(tmp_path, content, message):
    Directory.at(tmp_path).write("current.json", content)
    with pytest.raises(DataError, match=message):
        Home(tmp_path).current()


def test_the_history_is_a_table():
    first = Row(
        when="2026-01-01 02:00", version="0001", added=12000, pairs=7, mrr_trained=0.5, decision="deployed, the first"
    )
    second = Row(
        when="2026-01-02 02:00",
        version="0002",
        changed=3,
        removed=1,
        pairs=7,
        negatives_changed=2,
        mrr=0.5,
        decision="no",
    )
    lines = history_table([first, second]).splitlines()
    assert lines[0].split()[:5] == ["night", "version", "added", "changed", "removed"]
    assert lines[1].split() == [
        *("2026-01-01", "02:00", "0001", "12,000", "0", "0", "7", "0", "1", "-", "0.500"),
        *("deployed,", "the", "first"),
    ]
    at = lines[0].index("decision")
    assert lines[2][at:] == "no"
    assert json.loads(first.model_dump_json())["mrr"] is None
