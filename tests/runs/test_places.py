"""A folder and a prefix of an object store behave alike, and what stops them is told in one message."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

from hnmine.errors import ConfigError, DataError
from hnmine.runs.places import Place


@pytest.fixture
def place(root: str) -> Place:
    return Place.at(root)


def test_what_is_written_is_read_listed_and_replaced(place):
    assert place.files() == []
    assert place.read("a.txt") is None
    place.write("a.txt", b"one")
    place.write("b.bin", b"")
    place.write("a.txt", b"two")
    assert place.files() == ["a.txt", "b.bin"]
    assert place.files(".txt") == ["a.txt"]
    assert place.read("a.txt").to_pybytes() == b"two"
    assert place.read("b.bin").to_pybytes() == b""


def test_places_below_are_no_files(place):
    (place / "below").write("a", b"1")
    assert place.files() == []
    assert (place / "below").files() == ["a"]
    assert str(place / "below") == f"{place}/below"


def test_files_and_folders_are_removed_and_may_be_gone_already(place):
    (place / "below" / "deep").write("a", b"1")
    (place / "below").write("b", b"1")
    place.write("c", b"1")
    assert place.folders() == ["below"]
    assert (place / "nothing").folders() == []
    for _ in range(2):
        place.remove("c")
        place.remove_folder("below")
    assert place.files() == place.folders() == []


def test_times_are_those_of_the_last_write(place):
    place.write("a", b"1")
    before = place.times()
    place.write("b", b"1")
    assert place.times().keys() == {"a", "b"}
    assert place.times()["b"] >= place.times()["a"] == before["a"]


def test_another_kind_of_place_is_told_by_its_name():
    with pytest.raises(ConfigError, match="--home: nowhere:"):
        Place.at("nowhere://a", "home", "--home")


def test_a_file_set_aside_is_read_no_more_and_a_second_reader_does_not_mind(place):
    place.write("a.parquet", b"1")
    assert place.set_aside("a.parquet") == "a.corrupt"
    assert place.set_aside("a.parquet") == "a.corrupt"
    assert place.files() == ["a.corrupt"]


def test_a_write_that_fails_when_the_stream_is_open_leaves_nothing(place):
    place.write("before", b"1")
    with pytest.raises(TypeError):
        place.write("a.parquet", 3)
    assert place.files() == ["before"]


def test_a_file_is_seen_whole_or_not_at_all_while_it_is_written(place):
    content, seen = b"x" * 24_000_000, set()

    def write() -> None:
        for name in "abc":
            place.write(name, content)

    place.write("before", b"1")
    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(write)
        while not writer.done():
            sizes = {name: place.read(name).size for name in place.files() if not name.startswith(".")}
            seen |= {size for name, size in sizes.items() if name != "before"}
        writer.result()
    assert seen <= {len(content)}
    assert place.files() == ["a", "b", "before", "c"]


def test_a_place_travels(place):
    place.write("a", b"1")
    assert pickle.loads(pickle.dumps(place)).files() == ["a"]


def test_a_relative_folder_stays_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = Place.at("below")
    place.write("a", b"1")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert place.files() == ["a"]


def test_a_folder_may_be_given_as_an_address(tmp_path):
    Place.at(f"file://{tmp_path}/store").write("a", b"1")
    assert Place.at(tmp_path / "store").files() == ["a"]


# What stops it


@pytest.mark.parametrize(
    ("address", "part"),
    [
        ("foo://bucket", "Unrecognized filesystem type"),
        ("s3:///prefix", "Missing bucket name"),
        ("s3://", "names no bucket"),
        ("s3://bucket/a b", "syntax error"),
        ("s3://bucket/p?secret=1", "Unexpected query parameter"),
    ],
)
def test_an_address_that_cannot_be_understood_is_a_config_error(address, part):
    with pytest.raises(ConfigError, match=r"^embed.store: ") as caught:
        Place.at(address)
    assert part in str(caught.value)
    assert "expected" in str(caught.value)


def test_a_bucket_that_is_not_there_is_told_before_and_while_writing(s3):
    place = Place.at(s3("no-such-bucket/store"))
    with pytest.raises(
        DataError, match=r"s3://no-such-bucket/store cannot be used: .*not found.*; check that the bucket"
    ):
        place.create()
    with pytest.raises(DataError, match=r"cannot be written: .*bucket does not exist"):
        place.write("a", b"1")


def test_a_server_that_does_not_answer_is_told():
    place = Place.at("s3://b/p?endpoint_override=127.0.0.1:1&scheme=http")
    with pytest.raises(DataError, match=r"s3://b/p cannot be used: .*; check that .* the credentials .* the network"):
        place.create()  # pyarrow tries for six seconds and more


def test_a_file_in_the_way_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    for address in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DataError, match=r"cannot be used: .*; choose another embed.store, or mend this folder"):
            Place.at(address).create()
        with pytest.raises(DataError, match="cannot be used"):
            Place.at(address).write("a", b"1")
    with pytest.raises(DataError, match="cannot be listed"):
        Place.at(tmp_path / "file").files()


def test_a_folder_with_the_name_of_a_file_is_told(tmp_path):
    (tmp_path / "encoder.json").mkdir()
    place = Place.at(tmp_path)
    assert place.files() == []
    with pytest.raises(DataError, match=r"cannot be read: .*directory"):
        place.read("encoder.json")
    with pytest.raises(DataError, match=r"cannot be written: .*directory"):
        place.write("encoder.json", b"{}")
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.json"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only_is_told(tmp_path):
    (tmp_path / "store").mkdir(mode=0o500)
    with pytest.raises(DataError, match=r"cannot be written: .*[Pp]ermission"):
        Place.at(tmp_path / "store").write("a", b"1")
