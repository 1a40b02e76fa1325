"""Tables are read as what wrote them: by `csv`, without quotes, as columns; what no table holds is refused."""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnmine.corpus.files import open_folder
from hnmine.corpus.rows import rows
from hnmine.errors import DataError

CELLS = st.text(st.sampled_from("ab\"\t,;\n\r 'é\u2028"), max_size=8)
TABLES = st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=6)


def read(content: bytes, name: str = "table", columns: tuple[str, ...] | None = None) -> list[tuple[int, dict]]:
    """Line and fields of each row; a bad row is a failure."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(content)
        found = list(rows(open_folder(folder).files[0], columns))
    assert not any(row.reason for row in found), found
    return [(row.line, dict(row.fields)) for row in found]


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
    assert read(sink.getvalue().encode()) == expected


PLAIN = st.text(st.sampled_from("ab\",; 'é\u2028"), max_size=8)


@settings(max_examples=300, deadline=None)
@given(table=st.lists(st.tuples(PLAIN, PLAIN), min_size=1, max_size=6))
def test_quotes_of_tsv_are_characters_as_soon_as_one_stands_where_csv_writes_none(table):
    stray = 'a "stray" one'
    lines = ["id\ttext", *(f"{first}\t{second}" for first, second in table), f"last\t{stray}"]
    expected = [{"id": a, "text": b} for a, b in [*table, ("last", stray)] if f"{a}{b}".strip()]
    assert [fields for _, fields in read("\n".join(lines).encode())] == expected


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
    assert [tuple(fields.values()) for _, fields in read(content.encode())] == cells


def test_a_quote_that_is_closed_beyond_ten_thousand_lines_is_a_stray_one():
    lines = ["id\ttext", 'd1\t"open', *(f"d{n}\tx" for n in range(2, 11_000)), 'last\tclosed"']
    assert len(read("\n".join(lines).encode())) == 11_000


def test_columns_may_be_named_where_there_is_no_header():
    assert read(b"d1\tone, two\n", columns=("id", "text")) == [(1, {"id": "d1", "text": "one, two"})]


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


# Parquet and Arrow


TABLE = pa.table(
    {
        "_id": pa.array(["d1", "d2"]).dictionary_encode(),
        "number": pa.array([1, None], pa.int32()),
        "text": pa.array([["a", "b"], []]),
        "metadata": pa.array([{"product": "disk"}, None]),
        "vector": pa.array([[1.0, 2.0], [3.0]]),
        "when": pa.array([1, 2], pa.timestamp("ns")),
        "raw": pa.array([b"\xff", b""]),
    }
)
EXPECTED = [
    (1, {"_id": "d1", "number": 1, "text": ["a", "b"], "metadata": {"product": "disk"}}),
    (2, {"_id": "d2", "number": None, "text": [], "metadata": None}),
]


def as_parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=1)
    return sink.getvalue()


def as_arrow(table: pa.Table, new=pa.ipc.new_file) -> bytes:
    sink = io.BytesIO()
    with new(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=1)
    return sink.getvalue()


WRITERS = {
    "parquet": as_parquet,
    "arrow file": as_arrow,
    "arrow stream": lambda table: as_arrow(table, pa.ipc.new_stream),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_plain_columns_are_read_row_by_row_and_others_left_out(kind):
    assert read(WRITERS[kind](TABLE)) == EXPECTED


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("inside", [False, True], ids=["a column", "in a column"])
def test_extension_types_are_refused_before_they_are_made(kind, inside):
    made = []

    class Runs(pa.ExtensionType):
        def __init__(self):
            super().__init__(pa.int64(), "tests.runs")

        def __arrow_ext_serialize__(self):
            return b""

        @classmethod
        def __arrow_ext_deserialize__(cls, storage, serialized):
            made.append(storage)
            return cls()

    column = pa.ExtensionArray.from_storage(Runs(), pa.array([1, 2], pa.int64()))
    column = pa.StructArray.from_arrays([column], ["within"]) if inside else column
    content = WRITERS[kind](TABLE.append_column("extra", column))
    pa.register_extension_type(Runs())
    try:
        made.clear()
        with pytest.raises(DataError, match="extension types, which may run code"):
            read(content)
        assert made == []
    finally:
        pa.unregister_extension_type("tests.runs")


@pytest.mark.parametrize("kind", WRITERS)
def test_columns_that_are_cut_off_are_an_error(kind):
    content = WRITERS[kind](TABLE)
    for kept in (len(content) - 1, len(content) - 9, len(content) // 2, 12):
        with pytest.raises(DataError, match="copy it again"):
            read(content[:kept])


@pytest.mark.parametrize("kind", WRITERS)
def test_columns_whose_names_mean_something_are_never_left_out(kind):
    texts, scores = pa.array([b"a", "é".encode()]), pa.array([0, 1], pa.int64()).cast(pa.decimal128(25, 2))
    table = pa.table({"Doc-ID": [7, 8], "title": ["t", "t"], "text": texts, "Contents": texts, "score": scores})
    expected = [(1, ("a", 0)), (2, ("é", 1))]
    for column in (texts, texts.cast(pa.large_binary())):
        found = read(WRITERS[kind](table.set_column(2, "text", column)))
        assert [(line, (fields["text"], fields["score"])) for line, fields in found] == expected
        assert [fields["Contents"] for _, fields in found] == ["a", "é"]
    for name, column in {"Score": pa.array([1, 2], pa.timestamp("s")), "PASSAGE": pa.array([[b"a"], []])}.items():
        with pytest.raises(DataError, match=f"column '{name}' holds .*; expected text or numbers"):
            read(WRITERS[kind](table.append_column(name, column)))
    vectors = table.append_column("passage", pa.array([[1.0], [2.0]]))
    assert "passage" not in read(WRITERS[kind](vectors))[0][1]


def test_text_that_is_no_utf_8_is_an_error(tmp_path):
    column = pa.array([b"\xff", b"a"]).view(pa.string())
    for kind, write in WRITERS.items():
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "table").write_bytes(write(pa.table({"_id": ["1", "2"], "text": column})))
        with pytest.raises(DataError, match="UTF"):
            list(rows(open_folder(tmp_path / kind).files[0]))


@pytest.mark.parametrize("kind", WRITERS)
def test_names_of_columns_that_are_no_utf_8_are_an_error(kind):
    with pytest.raises(DataError, match="copy it again"):
        read(WRITERS[kind](TABLE).replace(b"number", b"\xe1umber"))


@pytest.mark.parametrize("kind", WRITERS)
def test_two_columns_of_one_name_are_an_error(kind):
    with pytest.raises(DataError, match=r"two columns of one name, \['_id'\]"):
        read(WRITERS[kind](pa.table([["a"], ["b"]], names=["_id", "_id"])))


@pytest.mark.parametrize("kind", WRITERS)
def test_packed_columns_are_refused(kind):
    import gzip

    with pytest.raises(DataError, match="unpack it"):
        read(gzip.compress(WRITERS[kind](TABLE)))
