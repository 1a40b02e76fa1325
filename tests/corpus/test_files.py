"""Files are found here and in an object store, and opened as what their content is, whatever their name says."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
from pathlib import Path

import pyarrow as pa
import pytest

from hnmine.corpus.files import open_folder
from hnmine.errors import ConfigError, DataError
from hnmine.runs.directory import Directory
from tests.builders.beir import CORPUS, QRELS, QUERIES, contents, packed, read, write_folder
from tests.builders.layouts import pack

PACKERS = {
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda content: pa.Codec("zstd").compress(content).to_pybytes(),
    "lz4": lambda content: pa.Codec("lz4").compress(content).to_pybytes(),
}
NAMES = ("corpus.jsonl", "queries.jsonl", "qrels/train.tsv")


def put(address: str, name: str, content: bytes) -> None:
    """Write a file as it is; by default pyarrow packs what is called .gz."""
    directory = Directory.at(address)
    directory.filesystem.create_dir(f"{directory.path}/{name}".rpartition("/")[0])
    with directory.filesystem.open_output_stream(f"{directory.path}/{name}", compression=None) as stream:
        stream.write(content)


@pytest.mark.parametrize("packing", PACKERS)
def test_a_packed_file_is_known_by_its_content_whatever_its_name(tmp_path, packing):
    plain = contents(read(write_folder(tmp_path / "plain")))
    for ending in ("", ".gz", ".zst"):
        folder = write_folder(tmp_path / f"packed{ending}")
        for name in NAMES:
            path = folder / name
            path.rename(path.with_name(path.name + ending))
            path.with_name(path.name + ending).write_bytes(
                PACKERS[packing](path.with_name(path.name + ending).read_bytes())
            )
        assert contents(read(folder)) == plain


@pytest.mark.parametrize("packing", PACKERS)
def test_two_archives_one_after_the_other_are_one_file(tmp_path, packing):
    if packing == "lz4":
        pytest.skip("Arrow reads the first frame and refuses the rest")
    folder = write_folder(tmp_path)
    (folder / "corpus.jsonl").write_bytes(b"".join(PACKERS[packing](packed([line])) for line in CORPUS))
    assert read(folder).documents.ids == ("d1", "d2")


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("kept", [0.3, 0.7, -1])
def test_an_archive_that_is_cut_off_is_an_error_that_names_it(tmp_path, packing, kept):
    folder = write_folder(tmp_path)
    whole = PACKERS[packing](packed([*CORPUS, *CORPUS * 50]))
    (folder / "corpus.jsonl").write_bytes(whole[: kept if kept < 0 else int(len(whole) * kept)])
    with pytest.raises(DataError, match=r"corpus.jsonl.*(copy it again)"):
        read(folder)


def test_a_collection_lies_in_a_folder_or_an_object_store(root, tmp_path):
    folder = write_folder(tmp_path / "here")
    for name, kind in zip(NAMES, ("", ".gz", ".zst"), strict=True):
        put(root, f"set/{name}{kind}", pack((folder / name).read_bytes(), kind))
    address, query, settings = root.partition("?")
    assert contents(read(f"{address}/set{query}{settings}")) == contents(read(folder))
    assert contents(read(root)) == contents(read(folder)), "the folder above it, as a zip archive leaves it"


def test_parquet_is_read_from_an_object_store(s3):
    from tests.builders.layouts import parquet

    rows = [{"_id": "d1", "text": "first"}, {"_id": "d2", "text": "second"}]
    put(s3("bucket/columns"), "corpus.parquet", parquet(rows))
    put(s3("bucket/columns"), "queries.jsonl", packed(QUERIES))
    put(s3("bucket/columns"), "qrels/train.tsv", packed(QRELS))
    assert read(s3("bucket/columns")).documents.texts == ("first", "second")


def test_hidden_files_are_no_files_and_all_else_is_listed(tmp_path):
    folder = write_folder(tmp_path)
    (folder / ".git").mkdir()
    (folder / ".git" / "config").touch()
    (folder / "_SUCCESS").touch()
    (folder / "empty").mkdir()
    os.mkfifo(folder / "pipe")
    found = open_folder(folder)
    assert [file.name for file in found.files] == sorted(NAMES)
    assert sorted(found.strange) == ["empty (an empty folder)", "pipe (no file)"]
    assert set(read(folder).unread) == set(found.strange)


def test_links_in_a_circle_come_to_an_end_and_links_to_files_are_files(tmp_path):
    folder = write_folder(tmp_path / "set")
    (folder / "corpus.jsonl").rename(tmp_path / "blob")
    (folder / "corpus.jsonl").symlink_to(tmp_path / "blob")
    (folder / "again").symlink_to(folder)
    assert read(folder).documents.ids == ("d1", "d2")


def test_one_file_may_stand_in_place_of_a_folder(tmp_path):
    write_folder(tmp_path)
    found = open_folder(tmp_path / "corpus.jsonl")
    assert [file.name for file in found.files] == ["corpus.jsonl"]
    with found.files[0].opened() as (kind, stream):
        assert (kind, stream.read()) == ("text", packed(CORPUS))


@pytest.mark.parametrize(
    ("address", "part"),
    [
        (Path("s3://bucket/set"), "two slashes"),
        ("s3://key:secret@bucket/set", "credentials belong in the environment"),
        ("foo://bucket", "--data: foo://bucket cannot be understood"),
        ("s3://", "names no bucket"),
    ],
)
def test_an_address_that_cannot_be_used_is_a_config_error(address, part):
    with pytest.raises(ConfigError, match=part) as caught:
        open_folder(address)
    assert "secret" not in str(caught.value)


def test_what_is_not_there_is_an_error(tmp_path, s3):
    for address in (tmp_path / "nothing", s3("bucket/nothing")):
        with pytest.raises(DataError, match=r"nothing does not exist; give the folder of a collection"):
            open_folder(address)
    (tmp_path / "drones").mkdir()
    for address in (tmp_path / "dronez", f"{tmp_path}/Drones2"):
        with pytest.raises(DataError, match=rf"does not exist; did you mean {tmp_path}/drones\?$"):
            open_folder(address)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_an_error(tmp_path):
    folder = write_folder(tmp_path)
    (folder / "corpus.jsonl").chmod(0)
    with pytest.raises(DataError, match="Permission"):
        read(folder)
