"""What names of files say."""

from __future__ import annotations

from pathlib import Path

import pytest

from hnmine.corpus.file_names import by_split, has_rows, require_whole, split_in, stem
from hnmine.corpus.files import File
from hnmine.errors import DataError
from hnmine.runs.directory import Directory


def files(*names: str) -> list[File]:
    return [File(Directory.at(Path("/set")), name) for name in names]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.jsonl", "train"),
        ("data/train-00000-of-00001.parquet", "train"),
        ("validation/data-00000-of-00001.arrow", "validation"),
        ("qrels.dev.small.tsv", "dev"),
        ("msmarco-doctrain-qrels.tsv.gz", "train"),
        ("msmarco-test2019-queries.tsv", "test"),
        ("passv2_dev_qrels.tsv", "dev"),
        ("my_training.csv", "train"),
        ("triplets_Test.jsonl.zst", "test"),
        ("trainer.jsonl", None),
        ("latest.jsonl", None),
        ("triplets.jsonl", None),
        ("development-notes/x.jsonl", "dev"),
    ],
)
def test_the_split_in_a_name(name: str, split: str | None) -> None:
    assert split_in(name) == split


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["qrels.train.tsv", "qrels.dev.tsv", "qrels.dev.small.tsv"], {"train", "dev", "dev.small"}),
        (["qrels.dev.small.tsv"], {"dev"}),
        (["qrels.robust04.txt"], {"train"}),
        (["qrels.dl19.txt", "qrels.dl20.txt"], {"dl19", "dl20"}),
        (["qrels/train.tsv", "qrels/test.txt.gz"], {"train", "test"}),
    ],
)
def test_one_file_a_split(names: list[str], splits: set[str]) -> None:
    found = by_split(files(*names), "qrels?")
    assert set(found) == splits
    assert sorted(file.name for file in found.values()) == sorted(names)


def test_a_file_that_is_there_twice_is_refused() -> None:
    require_whole(files("a.tsv", "b.tsv.gz"))
    with pytest.raises(DataError, match=r"both a.tsv and a.tsv.gz; expected one: remove"):
        require_whole(files("a.tsv", "a.tsv.gz"))


def test_missing_parts_are_refused() -> None:
    parts = [f"data/{split}-0000{part}-of-00002.parquet" for split in ("train", "test") for part in range(2)]
    require_whole(files(*parts, "docs-0.jsonl"))
    with pytest.raises(DataError, match=r"has 1 of 2 parts of data/test-…: data/test-[^;]*; copy the others"):
        require_whole(files(*parts[:3]))


def test_names_of_what_has_no_rows() -> None:
    names = ["README", "README.md", "docs/LICENSE.txt", "x.tar.gz", "a/state.json", "dataset_info.json", "load.py"]
    assert not any(map(has_rows, names))
    assert not any(map(has_rows, ["LICENSE-2.0.txt", "readme_en.txt", "COPYING.LESSER", "license"]))
    assert all(map(has_rows, ["a.json", "ft911_1", "docs/readable.txt", "x.gz", "qrels/license_plates.tsv"]))
    assert stem("a/b.jsonl.gz") == "a/b"
