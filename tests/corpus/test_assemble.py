"""Rows become a collection: texts once, disputed ids set aside with all that is judged of them, every row accounted."""

from __future__ import annotations

import json
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnmine.config.steps import SourcesConfig
from hnmine.corpus.assemble import Parts, assemble
from hnmine.corpus.files import Row
from hnmine.corpus.identity import identity
from hnmine.errors import DataError

CONFIG = SourcesConfig()


def rows(file: str, *fields: dict) -> list[Row]:
    return [Row(file, line, each) for line, each in enumerate(fields, start=1)]


def text(name: object, words: object = "the text") -> dict:
    return {"_id": name, "text": words}


def judged(query: object, document: object, score: object = 1) -> dict:
    return {"query": query, "document": document, "score": score}


def parts(documents: list[dict], queries: list[dict] | None = None, **splits: list[dict]) -> Parts:
    splits = splits or {"train": [judged("q", "d")]}
    return Parts(
        layout="rows",
        documents=iter(rows("documents", *documents)),
        queries=iter(rows("queries", *(queries or [text("q", "a query")]))),
        judged={split: iter(rows(split, *each)) for split, each in splits.items()},
    )


TEXTS = ("one", "One ", "ONE", "two", "tw\u200bo", "three")


@settings(max_examples=200, deadline=None)
@given(
    documents=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(TEXTS)), max_size=8),
    queries=st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from(TEXTS)), max_size=8),
    pairs=st.lists(st.tuples(st.sampled_from("qxyz"), st.sampled_from("dabc"), st.sampled_from([0, 1, 2])), max_size=9),
)
def test_an_id_with_two_texts_is_set_aside_with_all_that_is_judged_of_it(documents, queries, pairs):
    documents, queries = [("d", "kept"), *documents], [("q", "kept"), *queries]
    pairs = [("q", "d", 1), *pairs]
    found = assemble(
        parts(
            [text(*each) for each in documents], [text(*each) for each in queries], train=[judged(*p) for p in pairs]
        ),
        CONFIG,
    )

    def clear(texts):
        first, all_texts = {}, defaultdict(set)
        for name, words in texts:
            first.setdefault(name, words.strip())
            all_texts[name].add(identity(words))
        return {name: words for name, words in first.items() if len(all_texts[name]) == 1}

    assert dict(zip(found.documents.ids, found.documents.texts, strict=True)) == clear(documents)
    assert dict(zip(found.queries.ids, found.queries.texts, strict=True)) == clear(queries)
    grades = {}
    for query, document, grade in pairs:
        if query in clear(queries) and document in clear(documents):
            grades[query, document] = max(grades.get((query, document), 0), grade)
    train = found.splits["train"]
    kept = zip(train.query_rows_J.tolist(), train.doc_rows_J.tolist(), train.grades_J.tolist(), strict=True)
    assert {(found.queries.ids[q], found.documents.ids[d]): grade for q, d, grade in kept} == grades

    reasons = defaultdict(list)
    for bad in found.quarantined:
        reasons[bad.file, bad.reason].append(bad.line)
    for file, texts in (("documents", documents), ("queries", queries)):
        disputed = [line for line, (name, _) in enumerate(texts, start=1) if name not in clear(texts)]
        assert set(reasons[file, "conflicting_id"]) <= set(disputed)
        assert sorted(reasons[file, "conflicting_id"] + reasons[file, "duplicate_id"]) == sorted(
            {*disputed, *(n for n, (name, _) in enumerate(texts, 1) if name in [other for other, _ in texts[: n - 1]])}
        )
    assert found.rows_read == {"documents": len(documents), "queries": len(queries), "train": len(pairs)}


def test_the_first_row_of_a_disputed_id_says_where_the_other_is_and_its_judgements_say_so_too():
    found = assemble(
        parts([text("d"), text("e", "one"), text("e", "two")], train=[judged("q", "d"), judged("q", "e")]), CONFIG
    )
    assert [(bad.file, bad.line, bad.reason) for bad in found.quarantined] == [
        ("documents", 2, "conflicting_id"),
        ("documents", 3, "conflicting_id"),
        ("train", 2, "unknown_document"),
    ]
    assert "line 3 of documents has it, with another text" in found.quarantined[0].detail
    assert "was quarantined: conflicting_id in line 2 of documents" in found.quarantined[2].detail


@pytest.mark.parametrize(
    ("words", "joined"),
    [(["a", "b"], "a\nb"), ([], None), (["", " "], None), (["a", None], "wrong"), ([["a"]], "wrong"), (3, "wrong")],
)
def test_a_text_may_be_a_list_of_texts(words, joined):
    found = assemble(parts([text("d"), text("e", words)]), CONFIG)
    if joined in (None, "wrong"):
        assert [bad.reason for bad in found.quarantined] == ["wrong_type" if joined else "empty_text"]
    else:
        assert found.documents.texts[1] == joined


@pytest.mark.parametrize("name", ["id", "docid", "doc_id", "DocID", "pid", "corpus-id"])
@pytest.mark.parametrize("field", ["text", "contents", "Content", "passage", "body"])
def test_fields_are_found_by_their_names(name, field):
    found = assemble(parts([{name: "d", field: "words", "Title": "head"}]), CONFIG)
    assert (found.documents.ids, found.documents.texts) == (("d",), ("head\nwords",))


def test_rows_may_have_different_names():
    found = assemble(parts([text("d"), {"id": 2, "contents": "x"}], [text("q"), {"qid": 3, "query": "y"}]), CONFIG)
    assert (found.documents.ids, found.queries.ids) == (("d", "2"), ("q", "3"))


def test_a_template_without_text_takes_other_fields_and_is_empty_without_them():
    fields = [{"_id": "d", "abstract": "the abstract"}, {"_id": "e", "text": "not asked for"}]
    found = assemble(parts(fields), SourcesConfig(template="{title} {abstract}"))
    assert found.documents.texts == ("the abstract",)
    assert found.quarantined[0].detail == "nothing in ['title', 'abstract']; keys: ['_id', 'text']"
    with pytest.raises(DataError, match=r"keys: \['_id', 'abstract'\].* for another text: sources.template="):
        assemble(parts(fields[:1]), CONFIG)


@pytest.mark.parametrize(
    "value",
    ["\u200b\u200d\ufeff", "\u00ad", "\u2060 \u00a0", "\u3164", "\x00", "\u180e", "\ufe0f", "\u2800"],
    ids=ascii,
)
def test_a_text_in_which_there_is_nothing_to_see_is_empty(value):
    for documents, queries in (([text("d"), text("e", value)], None), ([text("d")], [text("q"), text("r", value)])):
        found = assemble(parts(documents, queries), CONFIG)
        assert [bad.reason for bad in found.quarantined] == ["empty_text"]


@pytest.mark.parametrize(
    "value", ["x", "\u200bx", "é", "数", "ก", "\u0627", "🙂", "!", "\u0c15", "c\u0327", " \u00a0-"], ids=ascii
)
def test_a_text_with_one_visible_character_is_kept(value):
    found = assemble(parts([text("d"), text("e", value)]), CONFIG)
    assert found.documents.texts[1] == value.strip()


@pytest.mark.parametrize(
    "value", [10**5000, float("nan"), 1.0, True, [], {}, b"d", object()], ids=lambda v: type(v).__name__
)
def test_an_id_of_another_type_is_a_bad_row(value):
    found = assemble(parts([text("d"), text(value)], train=[judged("q", "d"), judged("q", value)]), CONFIG)
    assert [bad.reason for bad in found.quarantined] == ["wrong_type", "wrong_type"]


def test_what_was_set_aside_is_known_if_the_rest_cannot_be_used():
    quarantined = []
    with pytest.raises(DataError, match="no usable query"):
        assemble(parts([text("d"), text(None)], [text("q", "")]), CONFIG, quarantined)
    assert [(bad.file, bad.line, bad.reason) for bad in quarantined] == [
        ("documents", 2, "missing_id"),
        ("queries", 1, "empty_text"),
    ]


def test_a_split_of_which_no_row_can_be_read_is_an_error_and_one_of_unknown_ids_is_not():
    with pytest.raises(DataError, match=r"no usable judgement of dev.* bad_score in dev"):
        assemble(parts([text("d")], train=[judged("q", "d")], dev=[judged("q", "d", "high")]), CONFIG)
    found = assemble(parts([text("d")], train=[judged("q", "d")], dev=[judged("q", "elsewhere")]), CONFIG)
    assert len(found.splits["dev"]) == 0


def test_grades_are_kept_and_the_settings_say_what_is_positive():
    rows_of_train = [judged("q", "d", 3), judged("q", "e", "1"), judged("q", "f", 0.0), judged("q", "g", -1)]
    found = assemble(
        parts([text(name, name) for name in "defg"], train=rows_of_train),
        SourcesConfig(min_score=2, lower_grades="negatives"),
    )
    assert found.splits["train"].grades_J.tolist() == [3, 1, 0, -1]
    assert (found.min_score, found.lower_are_negatives) == (2, True)
    assert found.positives() == {0: {0}}
    assert found.rows_kept["train"] == 4


def test_half_characters_are_named_and_written(tmp_path):
    from hnmine.corpus.collection import write_quarantine

    fields = [text("d"), text("\ud800"), text("e", "\udfff"), {"\udc80": 1}, {"_id": "f", "text": "x", "\udc80": 1}]
    found = assemble(parts(fields, train=[judged("q", "d"), judged("q", "\ud800")]), CONFIG)
    assert found.documents.ids == ("d", "f")
    write_quarantine(found.quarantined, tmp_path / "quarantine.jsonl")
    reasons = [json.loads(line)["reason"] for line in (tmp_path / "quarantine.jsonl").read_text("utf-8").splitlines()]
    assert reasons == ["not_utf8", "not_utf8", "missing_id", "unknown_document"]


@pytest.mark.parametrize("scores", [(0, 1), (1, 0), (-1, 0, 1, 0)])
def test_of_several_grades_for_one_pair_the_highest_counts(scores):
    found = assemble(parts([text("d")], train=[judged("q", "d", score) for score in scores]), CONFIG)
    assert found.splits["train"].grades_J.tolist() == [1]
    assert [bad.reason for bad in found.quarantined] == ["duplicate_pair"] * (len(scores) - 1)


def test_titles_are_never_taken_for_documents_whose_text_has_an_unknown_name():
    def found(template, *documents):
        return assemble(parts([{"_id": "d", **each} for each in documents]), SourcesConfig(template=template))

    abstract = {"title": "a title", "abstract": "its text"}
    with pytest.raises(DataError, match=r"titles alone; line 1 of documents has .*'abstract'.*\{its_name\}"):
        found("{title}\n{text}", abstract)
    assert found("{title}\n{abstract}", abstract).documents.texts == ("a title\nits text",)
    assert found("{title}", abstract).documents.texts == ("a title",)
    for alone in ({"title": "a title"}, {"title": "a title", "metadata": {"a": "b"}}, {**abstract, "text": None}):
        assert found("{title}\n{text}", alone).documents.texts == ("a title",)


def test_a_min_score_above_all_grades_is_named_with_the_highest():
    with pytest.raises(DataError, match=r"the highest grade is 3, below sources\.min_score=4"):
        assemble(parts([text("d")], train=[judged("q", "d", 3)]), SourcesConfig(min_score=4))
