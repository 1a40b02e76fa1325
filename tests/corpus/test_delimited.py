"""Tables with delimiters are read as what wrote them: by `csv`, or without quotes."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnmine.corpus.files import open_folder
from hnmine.corpus.rows import rows
from hnmine.errors import DataError
from tests.builders.files import rows_in

CELLS = st.text(st.sampled_from("ab\"\t,;\n\r 'é\u2028"), max_size=8)
TABLES = st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=6)


@settings(max_examples=300, deadline=None)
@given(table=TABLES, delimiter=st.sampled_from("\t,;"), ending=st.sampled_from(["\n", "\r\n"]))
def test_what_csv_writes_is_read_back_cell_by_cell_with_the_lines_where_rows_begin(table, delimiter, ending):
    sink = io.StringIO()
    if ending == "\n":  # then csv leaves a carriage return without quotes: one at the end of a line belongs to that
        table = [(first, last.rstrip("\r")) for first, last in table]
    writer = csv.writer(sink, delimiter=delimiter, lineterminator=ending)
    expected, begins = [], []
    for cells in [("id", "text"), *table]:
        begins.append(sink.getvalue().count("\n") + 1)
        writer.writerow(cells)
    for cells, line in zip(table, begins[1:], strict=True):
        if any(cell.strip() for cell in cells):
            expected.append((line, dict(zip(("id", "text"), cells, strict=True))))
    assert rows_in(sink.getvalue().encode()) == expected


PLAIN = st.text(st.sampled_from("ab\",; 'é\u2028"), max_size=8)


@settings(max_examples=300, deadline=None)
@given(table=st.lists(st.tuples(PLAIN, PLAIN), min_size=1, max_size=6))
def test_quotes_of_tsv_are_characters_as_soon_as_one_stands_where_csv_writes_none(table):
    stray = 'a "stray" one'
    lines = ["id\ttext", *(f"{first}\t{second}" for first, second in table), f"last\t{stray}"]
    expected = [{"id": a, "text": b} for a, b in [*table, ("last", stray)] if f"{a}{b}".strip()]
    assert [fields for _, fields in rows_in("\n".join(lines).encode())] == expected


@pytest.mark.parametrize(
    ("content", "cells"),
    [
        ('id\ttext\nd1\t"quoted"\n', [("d1", "quoted")]),
        ('id\ttext\nd1\t"not closed\nd2\tnext\n', [("d1", '"not closed'), ("d2", "next")]),
        ('id\ttext\nd1\tclosed only"\nd2\tnext\n', [("d1", 'closed only"'), ("d2", "next")]),
        ('id\ttext\nd1\t"quoted" and more\n', [("d1", '"quoted" and more')]),
        ('id\ttext\nd1\t5" screen\nd2\t"quoted"\n', [("d1", '5" screen'), ("d2", '"quoted"')]),
        ('id\ttext\nd1\t"two\nlines"\n', [("d1", "two\nlines")]),
        ('id\ttext\nd1\t"a ""word"""\n', [("d1", 'a "word"')]),
        ('id,text\nd1,5" screen\nd2,"a, b"\n', [("d1", '5" screen'), ("d2", "a, b")]),
        ('id,text\nd1,"not closed\nd2,next\n', [("d1", "not closed"), ("d2", "next")]),
        ("id;text\nd1;a, b\n", [("d1", "a, b")]),
        ("\ufeffid\ttext\r\nd1\tx\r\n\r\n", [("d1", "x")]),
        ("id\ttext\nd1\ta\rb\n", [("d1", "a\rb")]),
        ("id,text\nd1," + "x" * 200_000 + "\n", [("d1", "x" * 200_000)]),
        ("id\ttext\nd1\tnul \0 within\n", [("d1", "nul \0 within")]),
    ],
)
def test_quotes_are_read_as_the_whole_file_shows_that_they_were_written(content, cells):
    assert [tuple(fields.values()) for _, fields in rows_in(content.encode())] == cells


def test_a_quote_that_is_closed_beyond_ten_thousand_lines_is_a_stray_one():
    lines = ["id\ttext", 'd1\t"open', *(f"d{n}\tx" for n in range(2, 11_000)), 'last\tclosed"']
    assert len(rows_in("\n".join(lines).encode())) == 11_000


def test_columns_may_be_named_where_there_is_no_header():
    assert rows_in(b"d1\tone, two\n", columns=("id", "text")) == [(1, {"id": "d1", "text": "one, two"})]


def test_a_row_of_another_width_or_without_utf_8_is_a_bad_one(tmp_path):
    (tmp_path / "table").write_bytes(b"id\ttext\nd1\td2\td3\nd4\n\xff\tx\nd5\ty\n")
    found = list(rows(open_folder(tmp_path).files[0]))
    assert [(row.line, row.reason) for row in found] == [
        (2, "malformed_row"),
        (3, "malformed_row"),
        (4, "not_utf8"),
        (5, ""),
    ]


def test_a_header_that_names_a_column_twice_is_an_error(tmp_path):
    (tmp_path / "table").write_bytes(b"id\ttext\ttext\nd1\ta\tb\n")
    with pytest.raises(DataError, match=r"names columns twice, \['text'\]"):
        list(rows(open_folder(tmp_path).files[0]))


def test_a_header_that_comes_again_is_a_bad_row_and_no_text(tmp_path):
    (tmp_path / "table").write_bytes(b"id\ttext\nd1\ta\nid\ttext\nd2\tb\n")
    found = list(rows(open_folder(tmp_path).files[0]))
    assert [(row.line, row.reason) for row in found] == [(2, ""), (3, "malformed_row"), (4, "")]
    assert next(rows(open_folder(tmp_path).files[0], ["id", "text"])).fields == {"id": "id", "text": "text"}
