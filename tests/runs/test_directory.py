"""A folder and a prefix of an object store behave alike, and one message explains what stops them."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest

from hnmine.errors import ConfigError, DataError, UnavailableError
from hnmine.runs.directory import Directory


@pytest.fixture
def directory(root: str) -> Directory:
    return Directory.at(root)


def test_what_is_written_is_read_listed_and_replaced(directory):
    assert directory.files() == []
    assert directory.read("a.txt") is None
    directory.write("a.txt", b"one")
    directory.write("b.bin", b"")
    directory.write("a.txt", b"two")
    assert directory.files() == ["a.txt", "b.bin"]
    assert directory.files(".txt") == ["a.txt"]
    assert directory.read("a.txt").to_pybytes() == b"two"
    assert directory.read("b.bin").to_pybytes() == b""


def test_directories_below_are_no_files(directory):
    (directory / "below").write("a", b"1")
    assert directory.files() == []
    assert (directory / "below").files() == ["a"]
    assert str(directory / "below") == f"{directory}/below"


def test_files_and_folders_are_removed_and_may_be_gone_already(directory):
    (directory / "below" / "deep").write("a", b"1")
    (directory / "below").write("b", b"1")
    directory.write("c", b"1")
    assert directory.folders() == ["below"]
    assert (directory / "nothing").folders() == []
    for _ in range(2):
        directory.remove("c")
        directory.remove_folder("below")
    assert directory.files() == directory.folders() == []


def test_files_and_folders_come_to_this_machine_and_missing_ones_are_an_error(directory, tmp_path):
    (directory / "flat").write("a", b"1")
    (directory / "deep" / "below").write("a", b"2")
    assert directory.on_this_machine("flat/a", tmp_path / "file" / "a").read_bytes() == b"1"
    assert (directory.on_this_machine("flat", tmp_path / "flat") / "a").read_bytes() == b"1"
    for _ in range(2):  # a copy that is there is written again
        assert (directory.on_this_machine("deep", tmp_path / "deep") / "below" / "a").read_bytes() == b"2"
    if directory.local is None:
        with pytest.raises(DataError, match="cannot be read"):
            directory.on_this_machine("missing", tmp_path / "missing")


def test_times_are_those_of_the_last_write(directory):
    directory.write("a", b"1")
    before = directory.times()
    directory.write("b", b"1")
    assert directory.times().keys() == {"a", "b"}
    assert directory.times()["b"] >= directory.times()["a"] == before["a"]


def test_an_error_names_the_setting_that_holds_the_address():
    with pytest.raises(ConfigError, match="--home: nowhere:"):
        Directory.at("nowhere://a", "home", "--home")


def test_a_file_set_aside_is_read_no_more_and_a_second_reader_does_not_mind(directory):
    directory.write("a.parquet", b"1")
    assert directory.set_aside("a.parquet") == "a.corrupt"
    assert directory.set_aside("a.parquet") == "a.corrupt"
    assert directory.files() == ["a.corrupt"]


def test_a_write_that_fails_when_the_stream_is_open_leaves_nothing(directory):
    directory.write("before", b"1")
    with pytest.raises(TypeError):
        directory.write("a.parquet", 3)
    assert directory.files() == ["before"]


def test_a_file_is_seen_whole_or_not_at_all_while_it_is_written(directory):
    content, seen = b"x" * 24_000_000, set()

    def write() -> None:
        for name in "abc":
            directory.write(name, content)

    directory.write("before", b"1")
    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(write)
        while not writer.done():
            sizes = {name: directory.read(name).size for name in directory.files() if not name.startswith(".")}
            seen |= {size for name, size in sizes.items() if name != "before"}
        writer.result()
    assert seen <= {len(content)}
    assert directory.files() == ["a", "b", "before", "c"]


def test_a_directory_is_pickled(directory):
    directory.write("a", b"1")
    assert pickle.loads(pickle.dumps(directory)).files() == ["a"]


def test_a_relative_folder_stays_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    directory = Directory.at("below")
    directory.write("a", b"1")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert directory.files() == ["a"]


def test_a_folder_may_be_given_as_an_address(tmp_path):
    Directory.at(f"file://{tmp_path}/store").write("a", b"1")
    assert Directory.at(tmp_path / "store").files() == ["a"]


# What stops a directory


@pytest.mark.parametrize(
    ("address", "part"),
    [
        ("foo://bucket", "Unrecognized filesystem type"),
        ("s3:///prefix", "Missing bucket name"),
        ("s3://", "names no bucket"),
        ("s3://bucket/a b", "syntax error"),
        ("s3://bucket/p?other=1", "Unexpected query parameter"),
        ("", "is empty"),
        (" ", "is empty"),
    ],
)
def test_an_address_that_cannot_be_understood_is_a_config_error(address, part):
    with pytest.raises(ConfigError, match=r"^embed.store: ") as caught:
        Directory.at(address)
    assert part in str(caught.value)
    assert "expected" in str(caught.value)


def test_an_error_of_a_file_system_of_others_is_one_of_data():
    with pytest.raises(DataError, match=r"hf://datasets/x cannot be listed: .*namespace/name"):
        Directory.at("hf://datasets/x").below(2)


def test_a_bucket_that_is_not_there_is_an_error_before_and_while_writing(s3):
    directory = Directory.at(s3("no-such-bucket/store"))
    with pytest.raises(
        DataError, match=r"s3://no-such-bucket/store cannot be used: .*not found.*; check that the bucket"
    ):
        directory.create()
    with pytest.raises(DataError, match=r"cannot be written: .*bucket does not exist"):
        directory.write("a", b"1")


def test_a_server_that_does_not_answer_is_an_error(monkeypatch):
    monkeypatch.setattr("hnmine.runs.object_store.PATIENCE_SECONDS", 0.0)
    directory = Directory.at("s3://b/p?endpoint_override=127.0.0.1:1&scheme=http")
    with pytest.raises(UnavailableError, match=r"s3://b/p has not answered for .*; check the address and the network"):
        directory.create()


def test_a_file_in_the_way_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    for address in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DataError, match=r"cannot be used: .*; choose another embed.store, or mend this folder"):
            Directory.at(address).create()
        with pytest.raises(DataError, match="cannot be used"):
            Directory.at(address).write("a", b"1")
    with pytest.raises(DataError, match="cannot be listed"):
        Directory.at(tmp_path / "file").files()


def test_a_folder_with_the_name_of_a_file_is_an_error(tmp_path):
    (tmp_path / "encoder.json").mkdir()
    directory = Directory.at(tmp_path)
    assert directory.files() == []
    with pytest.raises(DataError, match=r"cannot be read: .*directory"):
        directory.read("encoder.json")
    with pytest.raises(DataError, match=r"cannot be written: .*directory"):
        directory.write("encoder.json", b"{}")
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.json"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only_is_an_error(tmp_path):
    (tmp_path / "store").mkdir(mode=0o500)
    with pytest.raises(DataError, match=r"cannot be written: .*[Pp]ermission"):
        Directory.at(tmp_path / "store").write("a", b"1")
