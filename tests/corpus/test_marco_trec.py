"""MS MARCO and TREC: which files are taken for what, and rows that are not as they should be."""

from __future__ import annotations

from pathlib import Path

import pytest

from hnmine.config.steps import SourcesConfig
from hnmine.corpus.collection import Collection
from hnmine.corpus.layouts import read_collection
from hnmine.errors import DataError
from tests.builders.layouts import facts, put

SMALL = {
    "collection.tsv": b'0\tthe first\n1\t"Quoted" the second\n2\t"third"\n',
    "queries.dev.tsv": b"7\twho is first\n8\twho is second\n",
    "qrels.dev.tsv": b"7\t0\t0\t1\n8\t0\t1\t1\n",
}
TEXTS = {"0": "the first", "1": '"Quoted" the second', "2": '"third"'}
QUERIES = {"7": "who is first", "8": "who is second"}
JUDGED = {("7", "0"): 1, ("8", "1"): 1}


def read(folder: Path, files: dict[str, bytes]) -> Collection:
    put(folder, files)
    return read_collection(folder, SourcesConfig())


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"collection.tsv": b"\xef\xbb\xbf" + SMALL["collection.tsv"].replace(b"\n", b"\r\n") + b"\n \n"},
        {"collection.tsv": b'pid\ttext\n0\tthe first\n1\t"""Quoted"" the second"\n2\t"""third"""\n'},
        {"collection.tsv": b'id,text,url\n0,the first,\n1,"""Quoted"" the second",\n2,"""third""",\n'},
        {"queries.dev.tsv": b"query_id\tquery\n" + SMALL["queries.dev.tsv"]},
        {"qrels.dev.tsv": b"qid\t-\tpid\trel\n7\t-\t0\t1\n8\t-\t1\t1\n"},
        {"collection.tsv": b'0\tthe first\n1\t"""Quoted"" the second"\n2\t"""third"""\n'},
        {"qrels.dev.tsv": b"7 0 0 1\n8 Q0 1 1"},
        {"qrels.dev.tsv": b"score,pid,qid\n1,0,7\n1,1,8\n"},
    ],
)
def test_tables_are_read_as_they_were_written(tmp_path: Path, changed: dict[str, bytes]) -> None:
    collection = read(tmp_path, SMALL | changed)
    assert facts(collection) == (TEXTS, QUERIES, {"dev": JUDGED})
    assert not collection.quarantined
    assert not collection.unread
    assert collection.layout == "MS MARCO or TREC files"


def test_the_whole_folder_of_ms_marco(tmp_path: Path) -> None:
    more = {
        "queries.dev.small.tsv": b"7\twho is first\n",
        "queries.train.tsv": b"9\twho is third\n7\twho is first\n",
        "qrels.dev.small.tsv": b"7\t0\t0\t1\n",
        "qrels.train.tsv": b"9\t0\t2\t1\n",
        "triples.train.small.tsv": b"q\tp\tn\n",
        "top1000.dev": b"7\t0\twho is first\tthe first\n",
        "collectionandqueries.tar.gz": b"",
    }
    collection = read(tmp_path, SMALL | more)
    splits = {"train": {("9", "2"): 1}, "dev": JUDGED, "dev.small": {("7", "0"): 1}}
    assert facts(collection) == (TEXTS, QUERIES | {"9": "who is third"}, splits)
    assert not collection.quarantined
    named = sorted(each.partition(" ")[0] for each in collection.unread)
    assert named == ["collectionandqueries.tar.gz", "queries.dev.small.tsv", "top1000.dev", "triples.train.small.tsv"]


def test_bad_rows_are_quarantined(tmp_path: Path) -> None:
    files = {
        "collection.tsv": SMALL["collection.tsv"] + b"3\ta\tb\n4\n5\tcaf\xe9\n6\t \n",
        "qrels.dev.tsv": SMALL["qrels.dev.tsv"] + b"7\t0\t5\t1\n7\t0\t2\tx\n",
    }
    collection = read(tmp_path, SMALL | files)
    assert [(row.file, row.line, row.reason) for row in collection.quarantined] == [
        ("collection.tsv", 4, "malformed_row"),
        ("collection.tsv", 5, "malformed_row"),
        ("collection.tsv", 6, "not_utf8"),
        ("collection.tsv", 7, "empty_text"),
        ("qrels.dev.tsv", 3, "unknown_document"),
        ("qrels.dev.tsv", 4, "bad_score"),
    ]


def test_a_query_of_two_files_with_two_texts_is_set_aside(tmp_path: Path) -> None:
    collection = read(tmp_path, SMALL | {"queries.test.tsv": b"7\tsomething else\n"})
    assert [(row.file, row.reason, row.id) for row in collection.quarantined] == [
        ("queries.dev.tsv", "conflicting_id", "7"),
        ("queries.test.tsv", "conflicting_id", "7"),
        ("qrels.dev.tsv", "unknown_query", "7"),
    ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"collection.tsv": b"0\ta\tb\n"}, "collection.tsv begins with '0.ta.tb'; expected id and text with a tab"),
        ({"queries.dev.tsv": b"7 who\n"}, "queries.dev.tsv begins with '7 who'; expected id and text with a tab"),
        ({"queries.dev.tsv": b"7\tu\tt\tb\n"}, "queries.dev.tsv begins"),
        ({"collection.tsv.gz": b""}, "holds both collection.tsv and collection.tsv.gz"),
        ({"collection.tsv": b"version https://git-lfs.github.com/spec/v1\noid"}, "git lfs pull"),
        ({"collection.tsv": "0\tübel\n".encode("utf-16")}, "UTF-16"),
        ({"collection.tsv": b"\n"}, "collection.tsv is empty"),
        ({"qrels.dev.tsv": b"7\t0\n"}, "qrels.dev.tsv begins with"),
    ],
)
def test_a_file_that_cannot_be_understood_is_named(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, SMALL | files)


@pytest.mark.parametrize("missing", SMALL)
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    with pytest.raises(DataError, match=f"but no {'documents' if 'coll' in missing else missing[:5]}"):
        read(tmp_path, {name: content for name, content in SMALL.items() if name != missing})


def test_folders_of_documents_topics_and_qrels(tmp_path: Path) -> None:
    collection = read(
        tmp_path / "robust",
        {
            "robust/docs/ft/ft911_1": b"<DOC>\n<DOCNO> FT-1 </DOCNO>\n<TEXT>one</TEXT>\n</DOC>\n",
            "robust/docs/LICENSE": b"All rights",
            "robust/docs/la.gz": b"<DOC><DOCNO>LA-1</DOCNO><HEADLINE>Two</HEADLINE><TEXT>two</TEXT></DOC>",
            "robust/topics/robust.txt": b"<top><num> Number: 301\n<title> ones\n<desc> D\n</top>",
            "robust/qrels/robust04.txt": b"301 0 FT-1 1\n301 0 LA-1 0\n",
            "robust/runs/bm25.txt": b"301 Q0 FT-1 1 2.5 x\n",
        },
    )
    judged = {("301", "FT-1"): 1, ("301", "LA-1"): 0}
    assert facts(collection) == ({"FT-1": "one", "LA-1": "Two\ntwo"}, {"301": "ones"}, {"train": judged})
    assert [each.partition(" ")[0] for each in collection.unread] == ["docs/LICENSE", "runs/bm25.txt"]
