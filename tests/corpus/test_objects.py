"""`Collection.of`: every kind of Python object gives the collection that its rows are."""

from __future__ import annotations

import random
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnmine import Collection
from hnmine.config.steps import SourcesConfig
from hnmine.errors import DataError
from hnmine.runs.ray_session import start_ray
from tests.builders.layouts import Plain, document_rows, facts, judged_rows, query_rows, random_plain

CORPUS = {"d1": {"title": "One", "text": "first"}, "d2": "second", "d3": "third"}
QUERIES = {"q1": "which is first", "q2": "which is second"}
QRELS = {"q1": {"d1": 2, "d3": 0}, "q2": {"d2": 1}}
JUDGED = {("q1", "d1"): 2, ("q1", "d3"): 0, ("q2", "d2"): 1}
SCORED = pd.DataFrame({"query-id": ["q1", "q2"], "corpus-id": ["d1", "d2"], "score": [1, 1]})
Rows = list[dict[str, Any]]


class Streamed:
    """Exports Arrow as polars does: a stream of columns of views."""

    def __init__(self, rows: Rows) -> None:
        names = list(rows[0])
        columns = [pa.array([row[name] for row in rows]) for name in names]
        views = [each.cast(pa.string_view()) if each.type == pa.string() else each for each in columns]
        self.table = pa.table(dict(zip(names, views, strict=True)))

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.table.__arrow_c_stream__(requested_schema)


class Judged(NamedTuple):
    """A judgement as ir_datasets and ir_measures have it."""

    query_id: str
    doc_id: str
    relevance: int
    iteration: str


KINDS: dict[str, Callable[[Rows], Any]] = {
    "list": list,
    "iterator": iter,
    "tuples": lambda rows: [tuple(row.values()) for row in rows if len(row) < 4],
    "dict of columns": lambda rows: {name: [row[name] for row in rows] for name in rows[0]},
    "pandas": pd.DataFrame,
    "pandas with an index": lambda rows: pd.DataFrame(rows).set_index(next(iter(rows[0]))),
    "arrow": pa.Table.from_pylist,
    "record batch": pa.RecordBatch.from_pylist,
    "views": Streamed,
    "datasets": datasets.Dataset.from_list,
    "chosen from datasets": lambda rows: datasets.Dataset.from_list([*rows[::-1]]).select(range(len(rows))[::-1]),
    "iterable datasets": lambda rows: datasets.Dataset.from_list(rows).to_iterable_dataset(),
}


def of_plain(plain: Plain, kind: Callable[[Rows], Any]) -> Collection:
    """Make the collection of objects of one kind; a tuple has no title."""
    corpus = document_rows(plain)
    corpus = [{"_id": row["_id"], "text": f"{row['title']}\n{row['text']}".strip()} for row in corpus]
    corpus = corpus if kind is KINDS["tuples"] else document_rows(plain)
    qrels = {split: kind(judged_rows(rows)) for split, rows in plain.judgements.items()}
    return Collection.of(kind(corpus), kind(query_rows(plain)), qrels)


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=5, deadline=None)
@given(draw=st.randoms(use_true_random=False))
def test_rows_of_every_kind_are_the_collection(name: str, draw: random.Random) -> None:
    plain = random_plain(draw)
    collection = of_plain(plain, KINDS[name])
    assert facts(collection) == plain.facts()
    assert not collection.quarantined


@settings(max_examples=20, deadline=None)
@given(draw=st.randoms(use_true_random=False))
def test_dicts_by_id_are_the_collection(draw: random.Random) -> None:
    plain = random_plain(draw)
    corpus = {name: {"title": title, "text": text} for name, (title, text) in plain.documents.items()}
    nested: dict[str, dict[str, dict[str, int]]] = {}
    for split, rows in plain.judgements.items():
        for (query, document), grade in rows.items():
            nested.setdefault(split, {}).setdefault(query, {})[document] = grade
    collection = Collection.of(corpus, plain.queries, nested)
    assert facts(collection) == plain.facts()
    assert collection.layout == Collection.of(iter(document_rows(plain)), query_rows(plain), nested).layout


@pytest.mark.parametrize(
    ("qrels", "splits"),
    [
        (QRELS, {"train": JUDGED}),
        ({"test": QRELS, "val": QRELS}, {"dev": JUDGED, "test": JUDGED}),
        ({"q1": ["d1"], "q2": {"d2"}}, {"train": {("q1", "d1"): 1, ("q2", "d2"): 1}}),
        ({"dev": {"q1": ["d1"], "q2": ("d2",)}}, {"dev": {("q1", "d1"): 1, ("q2", "d2"): 1}}),
        ([("q1", "d1"), ("q2", "d2", 3)], {"train": {("q1", "d1"): 1, ("q2", "d2"): 3}}),
        (iter([Judged("q1", "d1", 2, "0")]), {"train": {("q1", "d1"): 2}}),
        ({"dev": [("q1", "d1", 2.5)]}, {"dev": {("q1", "d1"): 2.5}}),
        ({"q1": {}, "q2": {"d2": np.float32(2)}}, {"train": {("q2", "d2"): 2}}),
        ({"train": {}, "dev": QRELS}, {"train": {}, "dev": JUDGED}),
        (pd.DataFrame([("d2", "q2", 1)], columns=["corpus-id", "query-id", "score"]), {"train": {("q2", "d2"): 1}}),
        ({"qid": ["q2"], "docid": ["d2"]}, {"train": {("q2", "d2"): 1}}),
        (datasets.DatasetDict(dev=datasets.Dataset.from_list(judged_rows(JUDGED))), {"dev": JUDGED}),
    ],
)
def test_judgements_of_every_form(qrels: Any, splits: dict[str, Any]) -> None:
    assert facts(Collection.of(CORPUS, QUERIES, qrels))[2] == splits


def test_numbers_as_ids_are_the_same_from_numpy_and_python() -> None:
    frame = pd.DataFrame({"id": [1, 2], "text": ["one", "two"]})
    collection = Collection.of({np.int64(7): "seven", 8: "eight"}, frame, {1: {7: 1}, np.int32(2): {np.int64(8): 1}})
    assert facts(collection) == (
        {"7": "seven", "8": "eight"},
        {"1": "one", "2": "two"},
        {"train": {("1", "7"): 1, ("2", "8"): 1}},
    )


def test_bad_rows_are_quarantined_with_their_number() -> None:
    corpus = [
        {"_id": "d1", "text": "one"},
        {"_id": "d2", "text": None},
        "d3",
        {"text": "four"},
        {"_id": 5.0, "text": "x"},
    ]
    collection = Collection.of(corpus, QUERIES, {"q1": {"d1": 1, "d2": 1}, "q2": {"d1": float("nan")}})
    bad = [(row.file, row.line, row.reason) for row in collection.quarantined]
    assert bad == [
        ("corpus", 2, "empty_text"),
        ("corpus", 3, "not_an_object"),
        ("corpus", 4, "missing_id"),
        ("corpus", 5, "wrong_type"),
        ("qrels train", 2, "unknown_document"),
        ("qrels train", 3, "bad_score"),
    ]
    assert collection.rows_read == {"corpus": 5, "queries": 2, "qrels train": 3}


def test_nothing_is_nothing_whatever_pandas_writes_for_it() -> None:
    for nothing in (None, float("nan"), np.nan, np.float32("nan"), pd.NA, pd.NaT):
        corpus = [{"_id": "d1", "title": nothing, "text": "first"}]
        assert Collection.of(corpus, QUERIES, {"q1": ["d1"]}).documents.texts == ("first",)


def test_decimals_are_scores_and_bytes_are_text() -> None:
    corpus = pd.DataFrame({"_id": ["d1", "d2"], "title": ["a", "b"], "text": [b"first", b"second"]})
    found = Collection.of(corpus, QUERIES, SCORED.assign(score=[Decimal(0), Decimal(2)]))
    assert found.documents.texts == ("a\nfirst", "b\nsecond")
    assert sorted(found.splits["train"].grades_J.tolist()) == [0, 2]


def test_sources_decide_how_texts_are_joined_and_what_is_positive() -> None:
    sources = SourcesConfig(template="{text} ({title})", min_score=2)
    collection = Collection.of(
        {"d1": CORPUS["d1"], "d2": {"text": "b", "title": "B"}}, QUERIES, QRELS | {"q2": {"d2": 1}}, sources
    )
    assert collection.documents.texts == ("first (One)", "b (B)")
    assert len(collection.pairs("train")) == 1


def test_the_layout_names_what_is_in_it() -> None:
    first = Collection.of(CORPUS, QUERIES, QRELS)
    assert (
        first.layout
        == Collection.of(
            list(document_rows(Plain({"d1": ("One", "first"), "d2": ("", "second"), "d3": ("", "third")}, {}, {}))),
            QUERIES,
            QRELS,
        ).layout
    )
    others = [
        Collection.of(CORPUS | {"d2": "second "[:5]}, QUERIES, QRELS),
        Collection.of(CORPUS, QUERIES | {"q2": "else"}, QRELS),
        Collection.of(CORPUS, QUERIES, QRELS | {"q2": {"d2": 2}}),
    ]
    assert len({first.layout, *(each.layout for each in others)}) == 4


@pytest.mark.parametrize(
    ("corpus", "queries", "qrels", "message"),
    [
        ("my-search/", QUERIES, QRELS, "corpus is a str; expected a dict by id.*folder goes to the step itself"),
        (CORPUS, 5, QRELS, "queries is a int; expected a dict by id"),
        (CORPUS, QUERIES, {"q1": "d1"}, "no usable|q1|expected"),
        (CORPUS, QUERIES, {"q1": 3}, "expected"),
        (CORPUS, QUERIES, {"train": QRELS, "q1": {"d1": 1}}, "'train' has rows and 'q1' has documents"),
        (CORPUS, QUERIES, {"d1": {"q1": 1}, "d2": {"q2": 1}}, "exchange"),
        ({"a": pa.table({"id": ["x"]}), "b": pa.table({"id": ["y"]})}, QUERIES, QRELS, "corpus is 2 tables, a, b"),
        ({"id": ["a", "b"], "text": ["x"]}, QUERIES, QRELS, "columns of different lengths: id 2, text 1"),
        (pd.DataFrame({"id": [1, "a"], "text": ["x", "y"]}), QUERIES, QRELS, "expected one type in each column"),
        (["x", "y"], QUERIES, QRELS, "no usable document.*not_an_object"),
        (pd.DataFrame([["d1", "x", "y"]], columns=["id", "text", "text"]), QUERIES, QRELS, "Duplicate column names"),
        (CORPUS, QUERIES, SCORED.assign(score=pd.Timestamp("2020-01-01")), "column 'score' holds timestamp"),
        ({}, QUERIES, QRELS, "no usable document"),
    ],
)
def test_what_cannot_be_understood_is_refused_by_name(corpus: Any, queries: Any, qrels: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Collection.of(corpus, queries, qrels)


@pytest.mark.ray
def test_a_ray_dataset_is_read() -> None:
    start_ray()
    import ray

    corpus = ray.data.from_items([{"_id": name, "title": "", "text": f"text {name}"} for name in "abc"])
    collection = Collection.of(corpus, ray.data.from_pandas(pd.DataFrame({"id": ["q"], "text": ["ask"]})), {"q": ["b"]})
    assert facts(collection) == ({name: f"text {name}" for name in "abc"}, {"q": "ask"}, {"train": {("q", "b"): 1}})
