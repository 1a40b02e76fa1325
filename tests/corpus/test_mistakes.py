"""Files that are wrong as a whole are refused with what they are, one row of them, and what to write."""

from __future__ import annotations

import gzip
import json

import pytest

from hnmine.corpus.files import HEAD
from hnmine.corpus.mistakes import mistake, object_of_objects
from hnmine.errors import DataError
from tests.builders.beir import CORPUS, packed, read, write_folder

ROWS = [{"_id": f"d{n}", "title": "", "text": f"the text {n}"} for n in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
CASES = {
    "UTF-16": (LINES.encode("utf-16"), ["written in UTF-16", "'_id', 'title', 'text'", "iconv -f UTF-16 -t UTF-8"]),
    "UTF-16 without a mark": (LINES.encode("utf-16-le"), ["UTF-16", "'_id'", "iconv -f UTF-16LE"]),
    "UTF-16, the other way": (LINES.encode("utf-16-be"), ["UTF-16", "'_id'", "iconv -f UTF-16BE"]),
    "UTF-32": (LINES.encode("utf-32"), ["UTF-32", "'_id'"]),
    "CR only": (LINES.replace("\n", "\r").encode(), ["carriage returns alone", "'_id', 'title', 'text'", "tr "]),
    "array": (json.dumps(ROWS).encode(), ["one JSON array", "'_id', 'title', 'text'", "jq -c '.[]'"]),
    "array of lines": (json.dumps(ROWS, indent=2).encode(), ["one JSON array", "'_id'", "jq -c '.[]'"]),
    "long array": (json.dumps(ROWS * 9000).encode(), ["one JSON array", "'_id'", "jq -c '.[]'"]),
    "objects by id": (json.dumps({"d1": ROWS[0], "d2": ROWS[1]}).encode(), ["object of objects", "'d1'", "to_entries"]),
    "objects by id, in lines": (json.dumps({"d1": ROWS[0]}, indent=1).encode(), ["object of objects", "to_entries"]),
    "columns by name": (
        b'{"_id": {"0": "d1", "1": "d2"}, "text": {"0": "a", "1": "b"}}',
        ["object of objects", "orient='records', lines=True"],
    ),
    "Feather": (b"FEA1\0\0\0\0", ["Feather", "write Parquet"]),
    "grades by query": (b'{"q1": {"d1": 1}, "q2": {"d2": 2}}\n', ["object of objects", "'q1' with 'd1'", "@tsv"]),
    "texts by id": (
        json.dumps({f"d{n}": f"text {n}" for n in range(4)}).encode(),
        ["object of texts", "{_id: .key, text: .value}"],
    ),
    "texts by id, in lines": (b'{\n "d1": "the text",\n "d2": "more"\n}', ["object of texts", "text: .value"]),
    "documents by query": (json.dumps({f"q{n}": [f"d{n}"] for n in range(4)}).encode(), ["object of lists", "@tsv"]),
    "Latin-1": ('{"_id": "d1", "text": "caf\xe9"}\n'.encode("latin-1"), ["not_utf8", "iconv -f LATIN1 -t UTF-8"]),
    "objects of lines": (
        "\n".join(json.dumps(row, indent=2) for row in ROWS).encode(),
        ["objects of several lines", "'_id', 'title', 'text'", "jq -c ."],
    ),
    "a long object of lines": (
        json.dumps({"_id": "d1", "text": ["a"] * HEAD}, indent=2).encode(),
        ["objects of several lines", "jq -c ."],
    ),
    "names nobody knows": (
        b'{"key": "d1", "words": "the text"}\n{"key": "d2", "words": "more"}\n',
        ["no usable document", "keys: ['key', 'words']", "expected fields id (_id, id", "text (text, contents"],
    ),
    "names nobody knows, in columns": (b"key\twords\nd1\tthe text\n", ["keys: ['key', 'words']", "expected fields"]),
    "no header": (b"d1\tthe text\nd2\tmore\n", ["keys: ['d1', 'the text']", "expected fields"]),
    "a page": (b"<!DOCTYPE html>\n<html><body>404</body></html>\n", ["HTML page", "fetch the file again"]),
    "an error of S3": (b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>', ["is XML"]),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 12\n", ["git-lfs", "git lfs pull"]),
    "a zip archive": (b"PK\x03\x04\x14\0\0\0", ["zip archive", "unpack"]),
    "a tar archive": (gzip.compress(b"x".ljust(257, b"\0") + b"ustar\x0000"), ["tar archive", "unpack"]),
    "packed twice": (gzip.compress(gzip.compress(LINES.encode())), ["packed twice"]),
    "pickled": (b"\x80\x04\x95\x00", ["no text"]),
    "noise": (bytes(range(128, 256)) * 40, ["no usable document", "not_utf8"]),
    "empty": (b"", ["is empty", "copy it again"]),
    "blank": (b"\n \n", ["is empty"]),
}


@pytest.mark.parametrize("file", ["corpus.jsonl", "queries.jsonl"])
@pytest.mark.parametrize("case", CASES)
def test_a_file_that_is_wrong_as_a_whole_is_named_with_what_it_is_and_what_to_write(tmp_path, case, file):
    content, parts = CASES[case]
    folder = write_folder(tmp_path)
    (folder / file).unlink()
    name = file.replace(".jsonl", ".tsv") if "in columns" in case or "header" in case else file
    (folder / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(folder)
    for part in [name, *parts]:
        said = part.replace("usable document", "usable query").replace("text (text, contents", "text (text, query")
        assert (part if file == "corpus.jsonl" else said) in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("case", [name for name in CASES if "name" not in name and "header" not in name])
def test_qrels_that_are_wrong_as_a_whole_are_named(tmp_path, case):
    folder = write_folder(tmp_path)
    (folder / "qrels" / "train.tsv").write_bytes(CASES[case][0])
    with pytest.raises(DataError, match=r"qrels/train\.tsv"):
        read(folder)


@pytest.mark.parametrize(
    "content",
    [
        LINES.encode(),
        LINES.replace("\n", "\r\n").encode(),
        json.dumps(ROWS[0]).encode(),
        b"\xef\xbb\xbf" + LINES.encode(),
        b'{"_id": "cut off", "text": {\n' + LINES.encode(),
        b"[] \n" + LINES.encode(),
        '{"_id": "d1", "text": "数据"}\n'.encode(),
        b'{"metadata": {"a": 1}, "_id": "d1", "text": "x"}\n',
        b"1\t[in brackets]\n2\t<html> is a tag\n",
        b"",
    ],
)
def test_a_file_of_rows_is_not_suspected(content):
    assert mistake(content) is None


def test_rows_that_hold_an_object_are_not_suspected():
    assert object_of_objects({"_id": "d1", "text": "x", "metadata": {"a": 1}}) is None
    assert object_of_objects({}) is object_of_objects([]) is None


def test_one_bad_row_at_the_start_does_not_make_the_file_a_bad_one(tmp_path):
    for number, row in enumerate(
        ['{"_id": "d9", "text": [', "[]", '{"d9": {"text": 1}, "_id": "x"}', "\ufeff{", "NaN"]
    ):
        found = read(write_folder(tmp_path / str(number), corpus=[row, *CORPUS]))
        assert found.documents.ids == ("d1", "d2")
        assert [bad.line for bad in found.quarantined] == [1]
    assert packed(CORPUS).startswith(b"{")
