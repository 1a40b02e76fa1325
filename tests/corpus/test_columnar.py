"""Parquet and Arrow are read row by row; what no table holds is refused."""

from __future__ import annotations

import gzip
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hnmine.corpus.files import open_folder
from hnmine.corpus.rows import rows
from hnmine.errors import DataError
from tests.builders.files import rows_in

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
    assert rows_in(WRITERS[kind](TABLE)) == EXPECTED


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
            rows_in(content)
        assert made == []
    finally:
        pa.unregister_extension_type("tests.runs")


@pytest.mark.parametrize("kind", WRITERS)
def test_columns_that_are_cut_off_are_an_error(kind):
    content = WRITERS[kind](TABLE)
    for kept in (len(content) - 1, len(content) - 9, len(content) // 2, 12):
        with pytest.raises(DataError, match="copy it again"):
            rows_in(content[:kept])


@pytest.mark.parametrize("kind", WRITERS)
def test_columns_whose_names_mean_something_are_never_left_out(kind):
    texts, scores = pa.array([b"a", "é".encode()]), pa.array([0, 1], pa.int64()).cast(pa.decimal128(25, 2))
    table = pa.table({"Doc-ID": [7, 8], "title": ["t", "t"], "text": texts, "Contents": texts, "score": scores})
    expected = [(1, ("a", 0)), (2, ("é", 1))]
    for column in (texts, texts.cast(pa.large_binary())):
        found = rows_in(WRITERS[kind](table.set_column(2, "text", column)))
        assert [(line, (fields["text"], fields["score"])) for line, fields in found] == expected
        assert [fields["Contents"] for _, fields in found] == ["a", "é"]
    for name, column in {"Score": pa.array([1, 2], pa.timestamp("s")), "PASSAGE": pa.array([[b"a"], []])}.items():
        with pytest.raises(DataError, match=f"column '{name}' holds .*; expected text or numbers"):
            rows_in(WRITERS[kind](table.append_column(name, column)))
    vectors = table.append_column("passage", pa.array([[1.0], [2.0]]))
    assert "passage" not in rows_in(WRITERS[kind](vectors))[0][1]


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
        rows_in(WRITERS[kind](TABLE).replace(b"number", b"\xe1umber"))


@pytest.mark.parametrize("kind", WRITERS)
def test_two_columns_of_one_name_are_an_error(kind):
    with pytest.raises(DataError, match=r"two columns of one name, \['_id'\]"):
        rows_in(WRITERS[kind](pa.table([["a"], ["b"]], names=["_id", "_id"])))


@pytest.mark.parametrize("kind", WRITERS)
def test_packed_columns_are_refused(kind):

    with pytest.raises(DataError, match="unpack it"):
        rows_in(gzip.compress(WRITERS[kind](TABLE)))
