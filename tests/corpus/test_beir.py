"""Reading a BEIR folder: every bad row has its reason, every bad file its error, and the counts balance."""

import gzip
import json
import os
import re
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnmine.config.steps import SourcesConfig
from hnmine.corpus.collection import Collection, Quarantined
from hnmine.corpus.layouts import read_collection
from hnmine.errors import DataError
from hnmine.types import Texts
from tests.builders.beir import CORPUS, HEADER, QRELS, QUERIES, judged_ids, packed, write_folder

CONFIG = SourcesConfig()


def only_bad_row(collection: Collection) -> Quarantined:
    assert len(collection.quarantined) == 1, collection.quarantined
    return collection.quarantined[0]


def pairs_by_id(collection: Collection, split: str) -> list[tuple[str, str]]:
    pairs = collection.splits[split].positives(collection.min_score)
    queries, documents = collection.queries.ids, collection.documents.ids
    rows = zip(pairs.query_rows_P.tolist(), pairs.doc_rows_P.tolist(), strict=True)
    return [(queries[query], documents[document]) for query, document in rows]


# What is kept


def test_a_clean_folder_is_read_as_it_is(tmp_path):
    collection = read_collection(write_folder(tmp_path), CONFIG)
    assert collection.documents == Texts(ids=("d1", "d2"), texts=("One\nfirst", "second"))
    assert collection.queries == Texts(ids=("q1", "q2"), texts=("what is first", "what is second"))
    assert pairs_by_id(collection, "train") == [("q1", "d1"), ("q2", "d2")]
    assert collection.rows_read == {"corpus.jsonl": 2, "queries.jsonl": 2, "qrels/train.tsv": 2}
    assert collection.rows_kept == collection.rows_read
    assert collection.quarantined == ()


def test_gzip_and_plain_files_give_the_same_collection(tmp_path):
    plain, packed = write_folder(tmp_path / "plain"), write_folder(tmp_path / "packed")
    for path in [packed / "corpus.jsonl", packed / "queries.jsonl", packed / "qrels" / "train.tsv"]:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    ours, theirs = read_collection(plain, CONFIG), read_collection(packed, CONFIG)
    assert (ours.documents, ours.queries) == (theirs.documents, theirs.queries)
    assert pairs_by_id(ours, "train") == pairs_by_id(theirs, "train")
    assert {f"{file}.gz": count for file, count in ours.rows_read.items()} == theirs.rows_read


def test_a_byte_order_mark_windows_line_ends_and_blank_lines_change_nothing(tmp_path):
    folder = write_folder(tmp_path)
    for path in [folder / "corpus.jsonl", folder / "queries.jsonl", folder / "qrels" / "train.tsv"]:
        body = path.read_bytes().replace(b"\n", b"\r\n \t\r\n\r\n")
        path.write_bytes(b"\xef\xbb\xbf" + body)
    collection = read_collection(folder, CONFIG)
    assert collection.quarantined == ()
    assert collection.rows_read == {"corpus.jsonl": 2, "queries.jsonl": 2, "qrels/train.tsv": 2}
    assert pairs_by_id(collection, "train") == [("q1", "d1"), ("q2", "d2")]


@pytest.mark.parametrize(
    "rows",
    [
        ["q1\td1\t1", "q2\td2\t1.0"],
        [HEADER, "q1\td1\t2", "q2\td2\t1"],
        ["q1 0 d1 1", "q2 Q0 d2 3"],
        ["q1\t0\td1\t1", "q2\t4.5\td2\t1"],
        ["topic\titeration\tdocument\trelevance", "q1\t0\td1\t1", "q2\t0\td2\t1"],
    ],
    ids=["no_header", "header", "trec_spaces", "trec_tabs", "trec_header"],
)
def test_qrels_are_read_in_each_of_their_forms(tmp_path, rows):
    collection = read_collection(write_folder(tmp_path, train=rows), CONFIG)
    assert pairs_by_id(collection, "train") == [("q1", "d1"), ("q2", "d2")]
    assert collection.rows_read["qrels/train.tsv"] == 2
    assert collection.quarantined == ()


def test_ids_may_hold_spaces_and_integer_ids_become_their_decimal_string(tmp_path):
    corpus = ['{"_id": "Global warming:14", "text": "warm"}', '{"_id": 7, "text": "seven"}']
    folder = write_folder(tmp_path, corpus=corpus, train=["q1\tGlobal warming:14\t1", "q2\t7\t1"])
    assert pairs_by_id(read_collection(folder, CONFIG), "train") == [("q1", "Global warming:14"), ("q2", "7")]


@pytest.mark.parametrize("title", ["", ', "title": null', ', "title": "  "'])
def test_a_document_without_a_title_has_no_leading_separator(tmp_path, title):
    corpus = [f'{{"_id": "d1", "text": " first "{title}}}', CORPUS[1]]
    assert read_collection(write_folder(tmp_path, corpus=corpus), CONFIG).documents.texts[0] == "first"


def test_the_template_joins_title_and_text_and_looks_at_no_other_field(tmp_path):
    corpus = ['{"_id": "d1", "title": "One", "text": "first"}', '{"_id": "d2", "title": 2, "text": "second"}']
    folder = write_folder(tmp_path, corpus=corpus)
    assert read_collection(folder, SourcesConfig(template="{text}")).documents.texts == ("first", "second")
    titled = read_collection(write_folder(tmp_path), SourcesConfig(template="{title} | {text}"))
    assert titled.documents.texts == ("One | first", "| second")


def test_the_template_takes_any_field_of_the_row_and_refuses_one_that_no_row_has(tmp_path):
    corpus = [
        '{"_id": "d1", "title": "One", "text": "first", "metadata": {"product": "Disk", "part": 5}, "a.b": "x"}',
        '{"_id": "d2", "title": "Two", "text": "second", "metadata": "none"}',
        '{"_id": "d3", "text": "", "metadata": {"product": "Disk"}}',
        '{"_id": "d4", "text": "fourth", "metadata": {"part": "a"}}',
    ]
    folder = write_folder(tmp_path, corpus=corpus)
    found = read_collection(folder, SourcesConfig(template="{{{metadata.product}}} {a.b}: {title} {text}"))
    assert found.documents.texts == ("{Disk} x: One first", "{} : Two second", "{} :  fourth")
    assert [row.reason for row in found.quarantined if row.id == "d3"] == ["empty_text"], "it says nothing itself"
    part = read_collection(folder, SourcesConfig(template="{text} {metadata.part}"))
    assert part.quarantined[0].detail == "metadata.part must be a string or strings, got a int"
    with pytest.raises(DataError, match=r"names metadata\.produkt, titel, which no document has"):
        read_collection(folder, SourcesConfig(template="{metadata.produkt} {titel} {text}"))


def test_a_line_separator_inside_a_text_does_not_split_the_row(tmp_path):
    corpus = ['{"_id": "d1", "text": "a\u2028b\x85c"}', CORPUS[1]]
    assert read_collection(write_folder(tmp_path, corpus=corpus), CONFIG).documents.texts[0] == "a\u2028b\x85c"


def test_rows_judged_not_relevant_are_counted_apart_and_make_no_pair(tmp_path):
    train = [*QRELS, "q1\td2\t0", "q2\td1\t-1"]
    collection = read_collection(write_folder(tmp_path, train=train), CONFIG)
    assert collection.judgements_by_split()["train"]["not_relevant"] == 2
    assert (len(collection.pairs("train")), collection.rows_kept["qrels/train.tsv"]) == (2, 4)
    assert collection.quarantined == ()


def test_every_split_is_read_and_positives_unite_them(tmp_path):
    train, other = [HEADER, "q1\td1\t1", "q2\td2\t1"], [HEADER, "q1\td2\t1"]
    folder = write_folder(tmp_path, train=train, test=other, extra=other)
    collection = read_collection(folder, CONFIG)
    assert list(collection.splits) == ["train", "test", "extra"]
    assert collection.positives() == {0: {0, 1}, 1: {1}}
    assert list(read_collection(folder, SourcesConfig(train_split="extra")).splits) == ["extra", "test", "train"]


# Bad rows


@pytest.mark.parametrize("file", ["corpus.jsonl", "queries.jsonl"])
@pytest.mark.parametrize(
    ("row", "reason", "row_id", "detail"),
    [
        (b'{"_id": "x", "text": "\xff"}', "not_utf8", None, "byte 22"),
        (r'{"_id": "x", "text": "half \ud800"}', "not_utf8", "x", r"\ud800"),
        (r'{"_id": "\ud800", "text": "half"}', "not_utf8", r"\ud800", r"\ud800"),
        ('{"_id": "x", "text": }', "broken_json", None, "column 22"),
        ('{"_id": "x", "text": "cut o', "broken_json", None, "Unterminated string starting at: column 22"),
        pytest.param('{"_id": ' + "9" * 5000 + "}", "broken_json", None, "digits", id="endless_integer"),
        pytest.param("[" * 100_000, "broken_json", None, "recursion", id="endless_nesting"),
        pytest.param('{"_id": "' + "x" * 300 + '"}', "empty_text", "x" * 300, "nothing in", id="long_id"),
        ('["x", "text"]', "not_an_object", None, "a list"),
        ("3", "not_an_object", None, "an object"),
        ('{"key": "x", "text": "t"}', "missing_id", None, "'key'"),
        ('{"_id": null, "text": "t"}', "missing_id", None, "null"),
        ('{"_id": " ", "text": "t"}', "missing_id", None, "blank"),
        ('{"_id": true, "text": "t"}', "wrong_type", None, "a bool"),
        ('{"_id": 1.5, "text": "t"}', "wrong_type", None, "a float"),
        ('{"_id": "x", "text": ["t", 1]}', "wrong_type", "x", "text must be a string or strings, got a list"),
        ('{"_id": "x"}', "empty_text", "x", "nothing in"),
        ('{"_id": "x", "text": null}', "empty_text", "x", "nothing in"),
        ('{"_id": "x", "text": " \\n\\u00a0"}', "empty_text", "x", "nothing in"),
        ('{"_id": "x", "words": "t"}', "empty_text", "x", "'words'"),
        ('{"_id": "x", "text": "\u200b\ufeff \u00ad"}', "empty_text", "x", "nothing in"),
        ('{"_id": "x", "text": "\u3164"}', "empty_text", "x", "nothing in"),
    ],
)
def test_a_bad_row_of_texts_is_quarantined_with_its_reason(tmp_path, file, row, reason, row_id, detail):
    good = CORPUS if file == "corpus.jsonl" else QUERIES
    lines = [good[0], "", row, good[1]]
    folder = write_folder(tmp_path, **{file.removesuffix(".jsonl"): lines})
    collection = read_collection(folder, CONFIG)
    bad = only_bad_row(collection)
    assert (bad.file, bad.line, bad.reason, bad.id) == (file, 3, reason, row_id)
    assert detail in bad.detail
    assert len(bad.detail) <= 120
    assert (collection.rows_read[file], collection.rows_kept[file]) == (3, 2)
    assert collection.documents.ids == ("d1", "d2")


def test_a_title_that_is_no_string_is_of_the_wrong_type(tmp_path):
    bad = only_bad_row(
        read_collection(write_folder(tmp_path, corpus=[*CORPUS, '{"_id": "d3", "title": 1, "text": "t"}']), CONFIG)
    )
    assert (bad.reason, bad.id) == ("wrong_type", "d3")


def test_a_constant_in_the_template_does_not_make_an_empty_document_usable(tmp_path):
    folder = write_folder(tmp_path, corpus=[*CORPUS, '{"_id": "d3", "title": " ", "text": ""}'])
    assert (
        only_bad_row(read_collection(folder, SourcesConfig(template="passage: {title} {text}"))).reason == "empty_text"
    )


def test_a_usable_document_after_an_unusable_one_with_its_id_is_kept(tmp_path):
    collection = read_collection(write_folder(tmp_path, corpus=['{"_id": "d1"}', *CORPUS]), CONFIG)
    assert only_bad_row(collection).reason == "empty_text"
    assert pairs_by_id(collection, "train") == [("q1", "d1"), ("q2", "d2")]


def test_queries_that_no_pair_names_come_last_and_the_pairs_follow_their_queries(tmp_path):
    queries = [
        '{"_id": "q0", "text": "lonely"}',
        QUERIES[0],
        "broken",
        '{"_id": "q9", "text": "refused"}',
        QUERIES[1],
    ]
    folder = write_folder(tmp_path, queries=queries, train=[*QRELS, "q9\td1\t0"])
    collection = read_collection(folder, CONFIG)
    assert [(bad.line, bad.reason) for bad in collection.quarantined] == [(3, "broken_json")]
    assert collection.queries.ids == ("q1", "q2", "q0", "q9")
    assert collection.judged.ids == ("q1", "q2")
    assert pairs_by_id(collection, "train") == [("q1", "d1"), ("q2", "d2")]
    assert collection.judgements_by_split()["train"]["not_relevant"] == 1


@pytest.mark.parametrize(
    ("row", "reason", "query_id", "detail"),
    [
        (b"q1\td\xff\t1", "not_utf8", None, "is no UTF-8 at 1"),
        ("q1\td2", "malformed_row", None, "expected 3 columns"),
        ("q1\td2\t1\t1", "malformed_row", None, "'q1', 'd2', '1', '1'"),
        ("q1 0 d2 1", "malformed_row", None, "expected 3 columns, got 1"),
        ("q1\t\t1", "malformed_row", None, "none empty"),
        ("\td2\t1", "malformed_row", None, "none empty"),
        ("q1\td2\thigh", "bad_score", "q1", "'high'"),
        ("q1\td2\tnan", "bad_score", "q1", "'nan'"),
        ("q1\td2\t-inf", "bad_score", "q1", "'-inf'"),
        ("q1\td2\t1e999", "bad_score", "q1", "'1e999'"),
        ("q8\td2\t1", "unknown_query", "q8", "query 'q8' is not in queries.jsonl"),
        ("q1\td9\t1", "unknown_document", "q1", "document 'd9' is not in corpus.jsonl"),
        pytest.param(f"q1\t{'d' * 300}\t1", "unknown_document", "q1", "… is not in corpus.jsonl", id="long_id"),
        ("q1\td1\t1", "duplicate_pair", "q1", "line 2"),
        ("q1\td1\t0", "duplicate_pair", "q1", "scores 1, 0"),
        (HEADER, "bad_score", "query-id", "'score'"),
    ],
)
def test_a_bad_row_of_qrels_is_quarantined_with_its_reason(tmp_path, row, reason, query_id, detail):
    collection = read_collection(write_folder(tmp_path, train=[*QRELS, "", row]), CONFIG)
    bad = only_bad_row(collection)
    assert (bad.file, bad.line, bad.reason, bad.id) == ("qrels/train.tsv", 5, reason, query_id)
    assert detail in bad.detail
    assert len(bad.detail) <= 120
    assert pairs_by_id(collection, "train") == [("q1", "d1"), ("q2", "d2")]


@pytest.mark.parametrize("first", ["q1\td9\thigh", "q9\t0\td2\thigh", "q1", "asked\tfound\tworth", b"q1\t\xff\t1"])
def test_a_first_row_that_is_neither_header_nor_judgement_is_an_error_with_that_row(tmp_path, first):
    message = error_of(write_folder(tmp_path, train=[first, *QRELS]))
    assert "qrels/train.tsv begins with [" in message
    assert "expected a header with query (" in message


@pytest.mark.parametrize("form", ["qrels.{}", "{}.qrels", "qrels-{}", "{}_qrels", "{}"])
def test_names_in_the_folder_of_qrels_may_say_so_again(tmp_path, form):
    write_folder(tmp_path)
    for split in ("train", "dev", "test"):
        (tmp_path / "qrels" / f"{split}.tsv").unlink(missing_ok=True)
        (tmp_path / "qrels" / f"{form.format(split)}.tsv").write_text(f"{HEADER}\nq1\td1\t1\n")
    assert list(read_collection(tmp_path, CONFIG).splits) == ["train", "dev", "test"]


def test_only_the_first_row_can_be_a_header(tmp_path):
    collection = read_collection(write_folder(tmp_path, train=[HEADER, *QRELS]), CONFIG)
    assert [bad.reason for bad in collection.quarantined] == ["bad_score"]


def test_a_qrels_row_says_that_its_query_or_document_was_quarantined(tmp_path):
    corpus, queries = [*CORPUS, '{"_id": "d3"}'], ['{"_id": "q3", "text": 3}', *QUERIES]
    train = [*QRELS, "q1\td3\t1", "q3\td1\t1"]
    collection = read_collection(write_folder(tmp_path, corpus=corpus, queries=queries, train=train), CONFIG)
    details = {bad.reason: bad.detail for bad in collection.quarantined}
    assert details["unknown_document"] == "document 'd3' was quarantined: empty_text in line 3 of corpus.jsonl"
    assert details["unknown_query"] == "query 'q3' was quarantined: wrong_type in line 1 of queries.jsonl"


def test_one_pair_in_two_splits_is_no_duplicate(tmp_path):
    collection = read_collection(write_folder(tmp_path, train=QRELS, test=QRELS), CONFIG)
    assert collection.quarantined == ()
    assert len(collection.pairs("train")) == len(collection.pairs("test")) == 2


GOOD_TEXTS = ['{"_id": "a", "text": "x"}', '{"_id": "b", "text": "y"}', '{"_id": 7, "text": "z"}']
BAD_TEXTS = [b"\xff", "{", "[]", '{"text": "x"}', '{"_id": "c"}', '{"_id": "e", "text": 1}', "", " \t"]
GOOD_ROWS = [f"{query}\t{document}\t{score}" for query in "ab7" for document in "ab7" for score in (1, 2.0, 0)]
BAD_ROWS = [
    b"\xff\ta\t1",
    "a\ta",
    "a\ta\tx",
    "a\ta\tnan",
    "z\ta\t1",
    "a\tz\t1",
    "c\te\t1",
    "a\t\t1",
    "",
    " \t",
]


def mixed(good, bad, first):
    return st.lists(st.sampled_from(good + bad), max_size=12).flatmap(lambda some: st.permutations([first, *some]))


def ids_in(lines):
    """The ids of rows that have one, also of those whose text cannot be used."""
    return {str(json.loads(line)["_id"]) for line in lines if isinstance(line, str) and '"_id"' in line}


def fits_better_reversed(documents, queries, lines):
    rows = {tuple(line.split("\t")[:2]) for line in lines if re.fullmatch(r"\w+\t\w+\t[\d.]+", str(line))}
    ways = [(q in queries and d in documents, d in queries and q in documents) for q, d in rows]
    return ways.count((False, True)) > ways.count((True, False))


def rows_in(lines):
    return sum(1 for line in lines if line.strip())


@settings(max_examples=100, deadline=None)
@given(
    corpus=mixed(GOOD_TEXTS, BAD_TEXTS, GOOD_TEXTS[0]),
    queries=mixed(GOOD_TEXTS, BAD_TEXTS, GOOD_TEXTS[0]),
    train=mixed(GOOD_ROWS, BAD_ROWS, "b\tb\t1"),
    test=mixed(GOOD_ROWS, BAD_ROWS, "b\tb\t0"),
)
def test_counts_balance_and_what_is_kept_follows_the_obvious_definition(corpus, queries, train, test):
    judged = {"train": [HEADER, "a\ta\t1", *train], "test": [HEADER, *test]}
    with tempfile.TemporaryDirectory() as name:
        folder = write_folder(Path(name), corpus=corpus, queries=queries, **judged)
        if any(fits_better_reversed(ids_in(corpus), ids_in(queries), lines) for lines in judged.values()):
            assert "exchange the names of the columns" in error_of(folder)
            return
        collection = read_collection(folder, CONFIG)

    assert collection.rows_read == {
        "corpus.jsonl": rows_in(corpus),
        "queries.jsonl": rows_in(queries),
        "qrels/train.tsv": rows_in(judged["train"]) - 1,
        "qrels/test.tsv": rows_in(judged["test"]) - 1,
    }
    bad = Counter(row.file for row in collection.quarantined)
    for file, read in collection.rows_read.items():
        assert read == collection.rows_kept[file] + bad[file]
    places = [(row.file, row.line) for row in collection.quarantined]
    assert len(set(places)) == len(places)
    assert [line for _, line in sorted(places)] == [place[1] for place in sorted(places)]

    documents = tuple(dict.fromkeys(str(json.loads(line)["_id"]) for line in corpus if line in GOOD_TEXTS))
    asked = dict.fromkeys(str(json.loads(line)["_id"]) for line in queries if line in GOOD_TEXTS)
    assert collection.documents.ids == documents
    named = set()
    for split, lines in judged.items():
        highest: dict[tuple[str, str], float] = {}
        for query, document, score in (line.split("\t") for line in lines if line in GOOD_ROWS):
            if query in asked and document in documents:
                highest[query, document] = max(highest.get((query, document), 0), float(score))
        expected = [pair for pair, score in highest.items() if score > 0]
        assert pairs_by_id(collection, split) == expected
        named |= {query for query, _ in expected}
    assert collection.judged.ids == tuple(query for query in asked if query in named)
    assert collection.queries.ids == (*collection.judged.ids, *(query for query in asked if query not in named))


# Bad files


def error_of(folder: Path, config: SourcesConfig = CONFIG) -> str:
    with pytest.raises(DataError) as caught:
        read_collection(folder, config)
    return str(caught.value)


def test_a_missing_folder_is_an_error(tmp_path):
    assert "nowhere does not exist; give the folder" in error_of(tmp_path / "nowhere")


@pytest.mark.parametrize(("name", "role"), [("corpus.jsonl", "documents"), ("queries.jsonl", "queries")])
def test_a_missing_file_is_an_error_that_lists_what_is_there(tmp_path, name, role):
    folder = write_folder(tmp_path)
    (folder / name).rename(folder / "something.else")
    message = error_of(folder)
    assert f"but no {role}; " in message
    assert "something.else" in message
    assert "expected corpus.jsonl, queries.jsonl and qrels" in message
    assert "give the folder" in message


def test_an_archive_is_to_be_unpacked(tmp_path):
    for name in ("set.zip", "set.tar.gz"):
        (tmp_path / name).write_bytes(b"PK\x03\x04")
        assert f"unpack {name}; it holds" in error_of(tmp_path / name)
    assert "unpack set.tar.gz, set.zip; it holds set.tar.gz, set.zip" in error_of(tmp_path)


def test_an_empty_folder_is_an_error_that_says_it_holds_nothing(tmp_path):
    assert "it holds nothing" in error_of(tmp_path)


def test_a_folder_in_place_of_a_file_is_named(tmp_path):
    folder = write_folder(tmp_path)
    (folder / "corpus.jsonl").unlink()
    (folder / "corpus.jsonl").mkdir()
    assert "corpus.jsonl (an empty folder); expected" in error_of(folder)


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/train.tsv"])
def test_a_file_both_plain_and_packed_is_an_error_that_names_both(tmp_path, name):
    folder = write_folder(tmp_path)
    (folder / f"{name}.gz").write_bytes(gzip.compress(b""))
    message = error_of(folder)
    assert f"both {name} and {name}.gz" in message
    assert "remove" in message


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/train.tsv"])
@pytest.mark.parametrize("damage", ["truncated", "corrupt", "followed"])
def test_a_damaged_gzip_is_an_error_that_names_it(tmp_path, name, damage):
    folder = write_folder(tmp_path)
    plain = folder / name
    body = plain.read_bytes()
    packed = bytearray(gzip.compress(body))
    if damage == "truncated":
        packed = packed[:-12]
    elif damage == "corrupt":
        packed[12:20] = b"\xff" * 8
    else:
        packed += b"\0\0what came after\n"
    plain.unlink()
    (folder / f"{name}.gz").write_bytes(packed)
    message = error_of(folder)
    assert f"{name}.gz" in message
    assert "copy it again" in message


def test_a_corpus_without_a_usable_document_is_an_error_with_the_reasons_and_one_row(tmp_path):
    message = error_of(write_folder(tmp_path, corpus=["{]", "{", '{"_id": "d1"}']))
    assert "has no usable document; rows read: 3 of corpus.jsonl" in message
    assert "2 broken_json in corpus.jsonl, 1 empty_text in corpus.jsonl" in message
    assert "line 3 of corpus.jsonl: nothing in ['title', 'text']; keys: ['_id']" in message


@pytest.mark.parametrize("content", [b"", b" \n\n"])
@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/train.tsv"])
def test_an_empty_file_is_an_error_that_names_it(tmp_path, name, content):
    folder = write_folder(tmp_path)
    (folder / name).write_bytes(content)
    assert f"{name} is empty" in error_of(folder)


def test_queries_that_no_pair_names_are_an_error_with_the_reasons_of_the_qrels(tmp_path):
    message = error_of(write_folder(tmp_path, train=[HEADER, "Q1\td1\t1", "Q2\td2\t1"]))
    assert "has no query with a right document" in message
    assert "2 unknown_query in qrels/train.tsv" in message


def test_a_split_that_is_absent_is_an_error_only_when_its_pairs_are_wanted(tmp_path):
    collection = read_collection(write_folder(tmp_path, test=QRELS), CONFIG)
    with pytest.raises(DataError, match=r"no split 'train' was read; expected one of test \(2 pairs\)") as caught:
        collection.pairs("train")
    assert "sources.train_split" in str(caught.value)


def test_a_split_without_pairs_is_an_error_when_its_pairs_are_wanted(tmp_path):
    collection = read_collection(write_folder(tmp_path, train=QRELS, dev=[HEADER, "q1\td2\t0"]), CONFIG)
    assert len(collection.splits["dev"]) == 1
    with pytest.raises(DataError, match=r"'dev' has no pair of .* one of train \(2 pairs\), dev \(0 pairs\)"):
        collection.pairs("dev")


# Folders: whole or in parts, nested, with splits under any of their names


def contents(collection: Collection) -> tuple[object, ...]:
    splits = {split: pairs_by_id(collection, split) for split in collection.splits}
    return collection.documents, collection.queries, splits, collection.quarantined


@pytest.mark.parametrize(
    "names",
    [
        ("corpus-00000-of-00002.jsonl", "corpus-00001-of-00002.jsonl"),
        ("corpus-0.jsonl", "corpus-1.jsonl.gz"),
        ("corpus_00.jsonl", "corpus_01.jsonl"),
        ("corpus.part-0.jsonl", "corpus.part-1.jsonl"),
        ("corpus/part-00000-6b1f-c000.json", "corpus/part-00001-6b1f-c000.json"),
        ("corpus/a.jsonl", "corpus/b.jsonl"),
        ("corpus.jsonl/part-0000", "corpus.jsonl/part-0001"),
        ("docs/train-00000-of-00002-0123456789abcdef.jsonl", "docs/train-00001-of-00002-0123456789abcdef.jsonl"),
    ],
)
def test_parts_of_a_file_are_one_table(tmp_path, names):
    plain, folder = write_folder(tmp_path / "plain"), write_folder(tmp_path / "parts")
    (folder / "corpus.jsonl").unlink()
    for name, row in zip(names, CORPUS, strict=True):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(packed([row]))
    collection = read_collection(folder, CONFIG)
    assert contents(collection) == contents(read_collection(plain, CONFIG))
    assert collection.unread == ()


def test_an_empty_part_is_no_error(tmp_path):
    folder = write_folder(tmp_path)
    (folder / "corpus").mkdir()
    (folder / "corpus.jsonl").rename(folder / "corpus" / "part-0.jsonl")
    (folder / "corpus" / "part-1.jsonl").touch()
    assert read_collection(folder, CONFIG).documents.ids == ("d1", "d2")


def test_a_part_that_is_missing_is_an_error(tmp_path):
    folder = write_folder(tmp_path)
    (folder / "corpus.jsonl").rename(folder / "corpus-00000-of-00003.jsonl")
    assert "has 1 of 3 parts of corpus-…: corpus-00000-of-00003.jsonl; copy the others" in error_of(folder)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("corpus.jsonl", "corpus.jsonl.gz"),
        ("corpus.jsonl", "corpus.parquet"),
        ("corpus.jsonl", "corpus/part-0.jsonl"),
        ("corpus.jsonl", "corpus-00000-of-00001.jsonl"),
        ("corpus.jsonl", "documents.jsonl"),
        ("queries.jsonl", "queries/part-0.jsonl"),
        ("qrels/train.tsv", "qrels/train.csv"),
        ("qrels/train.tsv", "qrels.train.tsv"),
        ("qrels/train.tsv", "default/train.jsonl"),
        ("qrels/train.tsv", "qrels/train/part-0.tsv"),
        ("qrels/train.tsv", "qrels/en/train.tsv"),
    ],
)
def test_one_table_in_two_places_is_an_error_that_names_both(tmp_path, name, other):
    folder = write_folder(tmp_path)
    (folder / other).parent.mkdir(exist_ok=True)
    shutil.copy(folder / name, folder / other)
    message = error_of(folder)
    assert "holds both" in message
    assert name in message
    assert other in message


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_folder_in_a_folder_is_read_as_a_zip_archive_leaves_it(tmp_path, depth):
    folder = write_folder(tmp_path / "/".join(["set"] * depth))
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "._corpus.jsonl").touch()
    (tmp_path / "set.zip").write_bytes(b"PK")
    (folder / "notes.tsv").touch()
    collection = read_collection(tmp_path, CONFIG)
    assert contents(collection) == contents(read_collection(folder, CONFIG))
    assert collection.unread == ("notes.tsv (not of this layout)", "set.zip (beside set/)")


def test_several_collections_in_a_folder_are_an_error_that_names_them(tmp_path):
    write_folder(tmp_path / "one")
    write_folder(tmp_path / "deep" / "two")
    assert re.search(r"holds several collections: .*deep, .*one; give one", error_of(tmp_path))


@pytest.mark.parametrize("judged", ["default", "data", "qrels"])
@pytest.mark.parametrize("file", ["{}.tsv", "{}-00000-of-00001.tsv", "{}/data-00000-of-00001.tsv", "{}/part-0.tsv"])
def test_folders_of_datasets_name_their_splits_in_files_or_folders(tmp_path, judged, file):
    folder = write_folder(tmp_path)
    (folder / "queries").mkdir()
    (folder / "queries.jsonl").rename(folder / "queries" / "test-00000-of-00001.jsonl")
    (folder / "corpus").mkdir()
    (folder / "corpus.jsonl").rename(folder / "corpus" / "corpus-00000-of-00001.jsonl")
    shutil.rmtree(folder / "qrels")
    for split in ("test", "train"):
        path = folder / judged / file.format(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(packed(QRELS))
    (folder / "README.md").touch()
    (folder / "dataset_infos.json").write_text("{}")
    collection = read_collection(folder, CONFIG)
    assert list(collection.splits) == ["train", "test"]
    assert collection.layout == "folder of datasets"
    assert set(collection.unread) == {"README.md (not of this layout)", "dataset_infos.json (not of this layout)"}


@pytest.mark.parametrize("name", ["validation", "valid", "val", "dev"])
def test_validation_is_dev_under_each_of_its_names(tmp_path, name):
    plain = read_collection(write_folder(tmp_path / "dev", train=QRELS, dev=[HEADER, "q1\td2\t1"]), CONFIG)
    folder = write_folder(tmp_path / "other", **{"train": QRELS, name: [HEADER, "q1\td2\t1"]})
    assert contents(read_collection(folder, CONFIG)) == contents(plain)
    assert plain.positives() == {0: {0, 1}, 1: {1}}
    assert "eval" not in read_collection(tmp_path / "dev", SourcesConfig(dev_split="eval")).splits


def test_validation_keeps_its_name_beside_dev_and_every_split_has_its_positives(tmp_path):
    rows = {"dev": [HEADER, "q1\td2\t1"], "validation": [HEADER, "q2\td1\t1"], "fold-1": [HEADER, "q2\td2\t1"]}
    collection = read_collection(write_folder(tmp_path, train=[HEADER, "q1\td1\t1"], **rows), CONFIG)
    assert set(collection.splits) == {"train", "dev", "validation", "fold-1"}
    assert collection.positives() == {0: {0, 1}, 1: {0, 1}}


@pytest.mark.parametrize("name", ["qrels.tsv", "qrels/data-00000-of-00001.tsv"])
def test_judgements_without_a_name_are_the_train_split(tmp_path, name):
    folder = write_folder(tmp_path)
    (folder / "qrels" / "train.tsv").rename(tmp_path / "moved")
    shutil.rmtree(folder / "qrels")
    (folder / name).parent.mkdir(exist_ok=True)
    (tmp_path / "moved").rename(folder / name)
    assert list(read_collection(folder, CONFIG).splits) == ["train"]


@pytest.mark.parametrize(
    "name",
    [
        "qrels.test.tsv",
        "qrels-test.tsv",
        "qrels_test.csv",
        "qrels/test.txt",
        "qrels/test",
        "qrels/Test.tsv",
        "qrels/en/test.tsv",
        "qrels/test/0000.tsv",
    ],
)
def test_a_split_may_stand_in_the_name_of_the_file(tmp_path, name):
    folder = write_folder(tmp_path)
    (folder / "qrels" / "train.tsv").rename(tmp_path / "moved")
    (folder / name).parent.mkdir(exist_ok=True)
    (tmp_path / "moved").rename(folder / name)
    assert pairs_by_id(read_collection(folder, CONFIG), "test") == [("q1", "d1"), ("q2", "d2")]


def test_every_file_that_is_not_read_is_named(tmp_path):
    folder = write_folder(tmp_path)
    names = ("corpus.de.jsonl", "qrels/train.tsv.bak", "qrels/README", "near.tsv", "LICENSE", "more/rows.jsonl")
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    assert set(read_collection(folder, CONFIG).unread) == {f"{name} (not of this layout)" for name in names}


def test_a_name_that_is_no_utf_8_is_an_error(tmp_path):
    folder = write_folder(tmp_path)
    with open(os.fsencode(folder) + b"/\xff.txt", "w") as file:
        file.write("x")
    assert "cannot be listed: 'utf-8' codec" in error_of(folder)


@pytest.mark.parametrize(
    ("ending", "settings"),
    [
        ("csv", {}),
        ("csv", {"index": False}),
        ("csv", {"quoting": 1}),
        ("csv", {"encoding": "utf-8-sig", "lineterminator": "\r\n"}),
        ("csv", {"sep": ";", "compression": "gzip"}),
        ("tsv", {"sep": "\t"}),
        ("jsonl", {"orient": "records", "lines": True}),
        ("parquet", {}),
        ("feather", {}),
    ],
)
def test_what_pandas_writes_is_read(tmp_path, ending, settings):
    texts = ['5" screen, "big"\nsecond line', "tab\there; semi", "x"]
    tables = {
        "corpus": {"_id": ["d1", "d2", "d3"], "title": ["One", None, "Three"], "text": texts},
        "queries": {"_id": ["q1", "q2"], "query": ["what?", "why, then"]},
        "qrels": {"query_id": ["q1", "q2", "q2"], "doc_id": ["d1", "d3", "d2"], "relevance": [2, 0, 1]},
    }
    for name, columns in tables.items():
        frame = pd.DataFrame(columns)
        write = {"jsonl": frame.to_json, "parquet": frame.to_parquet, "feather": frame.to_feather}
        write.get(ending, frame.to_csv)(tmp_path / f"{name}.{'arrow' if ending == 'feather' else ending}", **settings)
    collection = read_collection(tmp_path, CONFIG)
    assert collection.documents.texts == (f"One\n{texts[0]}", texts[1], "Three\nx")
    assert collection.queries.texts == ("what?", "why, then")
    assert judged_ids(collection, "train") == {("q1", "d1"): 2, ("q2", "d3"): 0, ("q2", "d2"): 1}
    assert collection.quarantined == ()


# Real data


def test_scifact_is_read_whole(shared_data):
    folder = shared_data / "scifact"
    if not folder.is_dir():
        pytest.skip("no scifact: set HNMINE_DATA to a folder that has it in BEIR layout")
    collection = read_collection(folder, CONFIG)
    assert (len(collection.documents), len(collection.queries)) == (5183, 1109)
    assert {split: len(collection.pairs(split)) for split in ("train", "test")} == {"train": 919, "test": 339}
    assert collection.quarantined == ()


def test_vectors_beside_the_texts_are_no_texts(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    table = pa.table({"id": ["d1", "d2"], "vector": pa.array([[1.0], [2.0]], pa.list_(pa.float32()))})
    pq.write_table(table, folder / "documents.parquet")
    collection = read_collection(folder, CONFIG)
    assert collection.documents.ids == ("d1", "d2")
    assert collection.unread == ("documents.parquet (ids without texts, as files of vectors have them)",)
