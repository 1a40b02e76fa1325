"""Training files: what rows of each form say, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hnmine.config.steps import SourcesConfig
from hnmine.corpus.collection import Collection
from hnmine.corpus.identity import identity
from hnmine.corpus.layouts import read_collection
from hnmine.corpus.triples import form_of
from hnmine.errors import DataError
from tests.builders.layouts import facts, jsonl, parquet, put, quoted


def read(folder: Path, files: dict[str, bytes], **sources: Any) -> Collection:
    put(folder, files)
    return read_collection(folder, SourcesConfig(**sources))


def said(collection: Collection) -> tuple[set[str], dict[str, dict[tuple[str, str], float]]]:
    documents, _, judgements = facts(collection, ids=False)
    return set(documents), judgements


@pytest.mark.parametrize(
    ("rows", "documents", "judged"),
    [
        ([{"anchor": "q", "positive": "a", "negative": "b"}] * 2, "ab", {"a": 1}),
        ([{"query": "q", "positive": "a", "negative_1": "b", "negative_2": "c"}], "abc", {"a": 1}),
        ([{"question": "q", "answer": "a"}], "a", {"a": 1}),
        (
            [{"query": "q", "pos": ["a", "b"], "neg": ["c"], "pos_scores": [9, 8], "neg_scores": [1]}],
            "abc",
            {"a": 1, "b": 1},
        ),
        ([{"query": "q", "pos": "a", "neg": ["b", "", None], "prompt": "x", "id": "7"}], "ab", {"a": 1}),
        (
            [{"sentence1": "q", "sentence2": d, "label": g} for d, g in (("a", 1), ("b", 0), ("c", 0.5))],
            "abc",
            {"a": 1, "b": 0, "c": 0.5},
        ),
        ([{"query": "q", "docs": ["a", "b"], "labels": [0, 2]}], "ab", {"a": 0, "b": 2}),
        ([{"anchor": "q", "positive": d, "label": g} for d, g in (("a", 1), ("b", 0))], "ab", {"a": 1, "b": 0}),
        ([{"anchor": "q", "positive": "a", "negative": "b", "scores": [3.5, 1.5]}], "ab", {"a": 1}),
        ([{"query": "q", "positive": "a", "label": 0, "negative": "b"}], "ab", {"a": 1}),
        ([{"Query": "q", "Positive Passages": [{"text": "a"}], "hard-negatives": ["b"]}], "ab", {"a": 1}),
    ],
)
def test_rows_of_each_form(
    tmp_path: Path, rows: list[dict[str, Any]], documents: str, judged: dict[str, float]
) -> None:
    expected = set(documents), {"train": {("q", name): grade for name, grade in judged.items()}}
    assert said(read(tmp_path / "json", {"pairs.jsonl": jsonl(rows)})) == expected
    assert said(read(tmp_path / "packed", {"pairs/data/train-00000-of-00001.parquet": parquet(rows)})) == expected
    one = tmp_path / "json" / "pairs.jsonl"
    assert said(read_collection(one, SourcesConfig())) == expected


def test_one_text_is_one_document_and_one_query_in_all_files(tmp_path: Path) -> None:
    files = {
        "train.csv": quoted([("anchor", "positive"), ("Who?", 'A  man, "he"'), ("who?", 'a man, "HE"')]),
        "test.csv": quoted([("anchor", "positive"), ("WHO?", "a woman"), ("WHO?", 'A man, "he"')]),
    }
    collection = read(tmp_path, files)
    assert collection.documents.texts == ("a woman", 'A man, "he"')
    assert collection.queries.texts == ("WHO?",)
    assert {split: len(each) for split, each in collection.splits.items()} == {"train": 1, "test": 2}
    assert not collection.quarantined
    alone = read(tmp_path / "alone", {"x.csv": quoted([("anchor", "positive"), ("who?", 'A MAN, "HE"')])})
    assert collection.documents.ids[1] == alone.documents.ids[0]
    assert identity(collection.documents.texts[1]) == identity(alone.documents.texts[0])


def test_ids_of_tevatron_are_kept_and_two_texts_of_one_are_set_aside(tmp_path: Path) -> None:
    def passage(name: str, text: str) -> dict[str, str]:
        return {"docid": name, "title": "T", "text": text}

    def row(query: str, right: list, wrong: list) -> dict[str, Any]:
        return {"query_id": query, "query": f"ask {query}", "positive_passages": right, "negative_passages": wrong}

    rows = [
        row("q1", [passage("1", "one")], [passage("2", "two"), passage("3", "three")]),
        row("q2", [passage("2", "two")], [passage("3", "another")]),
    ]
    collection = read(tmp_path, {"train.jsonl": jsonl(rows)})
    judged = {("q1", "1"): 1, ("q2", "2"): 1}
    assert facts(collection) == ({"1": "T\none", "2": "T\ntwo"}, {"q1": "ask q1", "q2": "ask q2"}, {"train": judged})
    assert [(row.line, row.reason, row.id) for row in collection.quarantined] == [
        (1, "conflicting_id", "3"),
        (2, "conflicting_id", "3"),
    ]


def test_bad_rows_are_quarantined_and_counts_balance(tmp_path: Path) -> None:
    rows = [
        {"query": "q", "pos": ["a"], "neg": []},
        {"query": ["q"], "pos": ["a"], "neg": []},
        {"query": "q", "pos": ["\u200b"], "neg": [5]},
        {"q": "q", "p": "a"},
        {"query": "", "pos": ["a"], "neg": []},
        {"query": "q", "docs": ["a", "b"], "labels": [1]},
        {"query": "q", "docs": ["c"], "labels": ["yes"]},
    ]
    collection = read(tmp_path, {"train.jsonl": jsonl(rows) + b"{broken\n[1]\n"})
    found = sorted((row.file.removeprefix("train.jsonl"), row.line, row.reason) for row in collection.quarantined)
    assert found == [
        ("", 2, "malformed_row"),
        ("", 4, "malformed_row"),
        ("", 6, "malformed_row"),
        ("", 8, "broken_json"),
        ("", 9, "not_an_object"),
        (": documents", 3, "empty_text"),
        (": documents", 3, "wrong_type"),
        (": judgements", 3, "unknown_document"),
        (": judgements", 5, "unknown_query"),
        (": judgements", 7, "bad_score"),
        (": queries", 5, "empty_text"),
    ]
    assert said(collection) == ({"a", "c"}, {"train": {("q", "a"): 1}})


@pytest.mark.parametrize(
    "keys",
    [
        ("anchor", "positive", "score"),
        ("sentence1", "sentence2", "score"),
        ("premise", "hypothesis", "label"),
        ("_id", "title", "text"),
        ("query_id", "query"),
        ("query-id", "corpus-id", "score"),
        (),
    ],
)
def test_rows_that_do_not_say_what_is_right_are_none(tmp_path: Path, keys: tuple[str, ...]) -> None:
    assert form_of(keys) is None
    with pytest.raises(DataError, match="expected"):
        read(tmp_path, {"train.jsonl": json.dumps(dict.fromkeys(keys, "0.7")).encode()})


def test_a_table_of_ids_beside_documents_is_no_training_file(tmp_path: Path) -> None:
    files = {
        "corpus.jsonl": jsonl([{"_id": "d", "text": "t"}]),
        "queries.jsonl": jsonl([{"_id": "q", "text": "t"}]),
        "judged.csv": b"query,document,label\nq,d,1\n",
    }
    with pytest.raises(DataError, match=r"it has documents and queries, but no qrels; beside these are training"):
        read(tmp_path, files)
    with pytest.raises(DataError, match=r"but no queries and no qrels; beside these are training"):
        read(tmp_path / "two", {name: content for name, content in files.items() if name != "queries.jsonl"})


def test_a_file_that_is_bad_as_a_whole_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train.json.* is one JSON array"):
        read(tmp_path / "array", {"train.json": json.dumps([{"query": "q", "pos": ["a"]}], indent=1).encode()})
    with pytest.raises(DataError, match=r"both train.jsonl and train.jsonl.gz"):
        read(
            tmp_path / "twice",
            {name: jsonl([{"query": "q", "pos": ["a"]}]) for name in ("train.jsonl", "train.jsonl.gz")},
        )


def test_other_files_are_named(tmp_path: Path) -> None:
    rows = jsonl([{"query": "q", "pos": ["a"]}])
    collection = read(
        tmp_path, {"train.jsonl": rows, "README.md": b"# x", "log.csv": b"step,loss\n1,2\n", "dev.jsonl": b""}
    )
    assert [each.partition(" ")[0] for each in collection.unread] == ["README.md", "dev.jsonl", "log.csv"]


def test_folders_named_after_splits(tmp_path: Path) -> None:
    parts = {
        f"{split}/{part}_000000.parquet": parquet([{"anchor": "q", "positive": f"{split} {part}"}])
        for split in ("train", "validation")
        for part in range(2)
    }
    documents = {f"{split} {part}" for split in ("train", "validation") for part in range(2)}
    judged = {"train": ("train 0", "train 1"), "dev": ("validation 0", "validation 1")}
    expected = {split: {("q", name): 1 for name in names} for split, names in judged.items()}
    assert said(read(tmp_path, parts)) == (documents, expected)


def test_a_missing_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 1 of 2 parts of train-"):
        read(tmp_path, {"train-00000-of-00002.jsonl": jsonl([{"query": "q", "pos": ["a"]}])})


def test_a_corpus_beside_the_files_adds_its_documents(tmp_path: Path) -> None:
    passages = [
        {"docid": name, "title": title, "text": f"text {name}"} for name, title in (("1", "One"), ("2", ""), ("3", ""))
    ]
    row = {
        "query_id": "q",
        "query": "ask",
        "positive_passages": passages[:1],
        "negative_passages": [{"docid": "2", "text": "text 2"}],
    }
    collection = read(tmp_path / "ids", {"corpus.jsonl": jsonl(passages), "train.jsonl": jsonl([row])})
    texts = {"1": "One\ntext 1", "2": "text 2", "3": "text 3"}
    assert facts(collection) == (texts, {"q": "ask"}, {"train": {("q", "1"): 1}})
    assert not collection.quarantined
    assert not collection.unread

    pool = [{"text": "A"}, {"text": "b"}, {"text": "a "}]
    collection = read(
        tmp_path / "pool", {"corpus.jsonl": jsonl(pool), "x.jsonl": jsonl([{"query": "q", "pos": ["a"], "neg": ["c"]}])}
    )
    assert said(collection) == ({"A", "b", "c"}, {"train": {("q", "A"): 1}})
    assert [(row.file, row.line, row.reason) for row in collection.quarantined] == [("corpus.jsonl", 3, "duplicate_id")]


def test_ids_are_not_taken_for_texts(tmp_path: Path) -> None:
    corpus = jsonl([{"docid": "d1", "text": "a"}, {"docid": 2, "text": "b"}])
    for number, row in enumerate(({"positive_passages": ["d1"]}, {"pos": "a", "neg": ["c", "2"]})):
        files = {"corpus.jsonl": corpus, "train.jsonl": jsonl([{"query": "q", **row}])}
        with pytest.raises(DataError, match=r"train.jsonl, line 1: '(d1|2)' is the id of a document in corpus.jsonl"):
            read(tmp_path / str(number), files)


def test_a_title_that_is_null_or_missing_is_an_empty_one(tmp_path: Path) -> None:
    rows = [
        {"query": "q", "positive_passages": [passage], "negative_passages": []}
        for passage in ({"text": "a", "title": ""}, {"text": "a", "title": None}, {"text": "a"})
    ]
    assert said(read(tmp_path, {"train.jsonl": jsonl(rows)})) == ({"a"}, {"train": {("q", "a"): 1}})
