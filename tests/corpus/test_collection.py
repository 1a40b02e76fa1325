"""The collection: its account of rows must balance, and equal questions share their answers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnmine.corpus.collection import Collection, Quarantined, hold_out, write_quarantine
from hnmine.errors import DataError
from hnmine.types import Pairs, Texts
from tests.builders.judged import collection_of, judgements_of
from tests.builders.texts import as_texts


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.sampled_from("abc"), min_size=1, max_size=6),
    judged=st.lists(
        st.tuples(st.sampled_from(["train", "dev", "test"]), st.integers(0, 5), st.integers(0, 3)),
        max_size=12,
        unique=True,
    ),
)
def test_queries_of_equal_text_share_what_was_judged_for_one_of_them(texts, judged):
    judged = [(split, query % len(texts), doc) for split, query, doc in judged]
    documents = Texts(ids=("0", "1", "2", "3"), texts=("x",) * 4)
    queries = Texts(ids=tuple(map(str, range(len(texts)))), texts=tuple(texts))
    splits = {name: [(q, d) for s, q, d in judged if s == name] for name in ("train", "dev", "test")}
    collection = collection_of(documents, queries, splits)
    texts = list(collection.queries.texts)
    row_of = [collection.queries.row_of[name] for name in queries.ids]
    judged = [(split, row_of[query], doc) for split, query, doc in judged]
    expected = {
        query: positives
        for query in range(len(texts))
        if (positives := {doc for _, other, doc in judged if texts[other] == texts[query]})
    }
    assert collection.positives() == expected
    first = texts[: 1 + max((query for _, query, _ in judged), default=-1)]  # as read, no other is judged
    assert collection.judged.texts == tuple(first)
    assert collection.queries_of_equal_text == sum(first.count(text) > 1 for text in first)


def test_a_notebook_shows_counts_and_not_the_texts():
    documents, queries = as_texts(["one", "two", "three"]), as_texts(["asked"])
    shown = repr(collection_of(documents, queries, {"train": [(0, 1)], "test": [(0, 1), (0, 2)]}))
    assert shown == "<Collection: 3 documents, 1 queries, judged: train 1, test 2; 0 rows set aside>"


def test_a_collection_whose_counts_do_not_balance_is_refused():
    texts = Texts(ids=("x",), texts=("x",))
    counts = {"corpus.jsonl": 1, "queries.jsonl": 1, "qrels/train.tsv": 1}
    with pytest.raises(AssertionError):
        Collection(
            documents=texts,
            queries=texts,
            splits={"train": judgements_of([(0, 0)])},
            rows_read=counts | {"corpus.jsonl": 2},
            rows_kept=counts,
            quarantined=(),
        )


def test_the_quarantine_is_written_as_json_lines_and_leaves_no_temporary_file(tmp_path):
    rows = (
        Quarantined(file="corpus.jsonl", line=3, reason="empty_text", id="ü", detail="nothing in ['text']"),
        Quarantined(file="corpus.jsonl", line=4, reason="broken_json", id=None, detail="it ends"),
    )
    path = tmp_path / "quarantine.jsonl"
    path.write_text("what was there before")
    write_quarantine(rows, path)
    read = [Quarantined(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    assert tuple(read) == rows
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["quarantine.jsonl"]


def test_a_failed_write_leaves_the_former_quarantine_alone(tmp_path):
    path = tmp_path / "quarantine.jsonl"
    path.write_text("before")

    def rows():
        yield Quarantined(file="corpus.jsonl", line=1, reason="broken_json", id=None, detail="")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        write_quarantine(rows(), path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_the_judged_queries_are_those_up_to_the_last_that_a_pair_names():
    texts = Texts(ids=("a", "b", "c", "d"), texts=("same", "same", "other", "same"))
    collection = collection_of(texts, texts, {"train": [(2, 0), (1, 0), (0, 3)]})
    assert collection.judged == texts.take([0, 1, 2])
    assert collection.queries_of_equal_text == 2


def test_digests_change_with_any_id_text_or_grade_and_with_nothing_else():
    def digests(documents=("a", "b"), query="q", judged=(0, 1, 1)):
        return collection_of(as_texts(documents), as_texts([query]), {"train": [judged]}).digests()

    plain = digests()
    assert list(plain) == ["documents", "queries", "train"]
    for found, changed in (
        (digests(), set()),
        (digests(documents=("ab", "")), {"documents"}),
        (digests(query="Q"), {"queries"}),
        (digests(judged=(0, 1, 2)), {"train"}),
        (digests(judged=(0, 0, 1)), {"train"}),
    ):
        assert {name for name, digest in plain.items() if found[name] != digest} == changed


# Held-out queries: drawn by their texts and the seed alone


def pairs_of(query_rows: list[int]) -> Pairs:
    """One pair for each query row, each with another document."""
    return Pairs(query_rows_P=np.array(query_rows, np.int64), doc_rows_P=np.arange(len(query_rows)))


@settings(max_examples=100, deadline=None)
@given(
    texts=st.lists(st.sampled_from([f"query {i}" for i in range(12)]), min_size=2, max_size=20),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 3),
)
def test_every_pair_is_on_one_side_and_queries_of_one_text_are_together(texts, share, seed):
    pairs, queries = pairs_of([*range(len(texts)), 0]), as_texts(texts)
    if len(set(texts)) < 2:
        with pytest.raises(DataError, match="train has one query only"):
            hold_out(pairs, queries, share, seed)
        return
    held, rest = hold_out(pairs, queries, share, seed)
    assert sorted([*held.doc_rows_P.tolist(), *rest.doc_rows_P.tolist()]) == list(range(len(pairs)))
    sides = [{queries.texts[row] for row in side.query_rows_P} for side in (held, rest)]
    assert all(sides)
    assert not sides[0] & sides[1]


def test_the_share_is_held_out_and_more_of_it_keeps_what_was():
    seed = 7
    pairs, queries = pairs_of(list(range(2000))), as_texts([f"query {i}" for i in range(2000)])
    few, many = (set(hold_out(pairs, queries, share, seed)[0].query_rows_P.tolist()) for share in (0.1, 0.3))
    assert few < many
    assert len(few) / 2000 == pytest.approx(0.1, abs=0.03)
    assert len(many) / 2000 == pytest.approx(0.3, abs=0.04)
    other = set(hold_out(pairs, queries, 0.1, seed + 1)[0].query_rows_P.tolist())
    assert other != few
