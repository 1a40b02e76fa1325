"""Vectors of a store that are read, or have vanished; and those made elsewhere, with every mistake a file can hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hnmine.corpus.text_keys import Fingerprint, Reading, keys_of
from hnmine.embedding.store import VectorStore
from hnmine.embedding.vectors import Precomputed, StoredVectors, given_encoders, read_vectors, write_given
from hnmine.errors import ConfigError, DataError, ModelError
from hnmine.types import Texts
from tests.builders.embedding import all_rows
from tests.builders.texts import as_texts
from tests.builders.vectors import FLOATS, write_vectors

DOCUMENTS, QUERIES = [f"text {i}" for i in range(30)], ["query 0", "text 3", "query 0"]


@pytest.fixture
def stored(root: str) -> StoredVectors:
    store = VectorStore(root, Fingerprint.of(kind="test"))
    keys = {"document": keys_of(DOCUMENTS), "query": keys_of(QUERIES)}
    rows = np.arange(31 * 4, dtype=np.float32).reshape(31, 4)
    store.write(keys["document"][:12], rows[:12])
    store.write(np.concatenate([keys["document"][12:], keys["query"][:1]]), rows[12:])
    return StoredVectors(name="e", store=store, keys=keys, width=4)


def test_rows_come_in_the_order_asked_for_and_equal_texts_share_a_vector(stored):
    assert (stored.count("document"), stored.count("query")) == (30, 3)
    rows = np.array([29, 0, 12, 0])
    assert stored.take("document", rows)[:, 0].tolist() == [116, 0, 48, 0]
    assert all_rows(stored, "document")[:, 1].tolist() == [4.0 * row + 1 for row in range(30)]
    assert all_rows(stored, "query")[:, 0].tolist() == [120, 12, 120]


def test_pieces_of_some_rows_are_those_rows(stored):
    given = Precomputed(name="g", docs_NR=all_rows(stored, "document"), queries_QR=all_rows(stored, "query"))
    rows = np.array([29, 0, 12, 0, 7])
    for vectors in (stored, given):
        found = np.full((5, 4), np.nan)
        for positions, values in vectors.scan("document", rows):
            found[positions] = values
        assert np.array_equal(found, vectors.take("document", rows))
        assert list(vectors.scan("document", rows[:0])) == []


def test_no_rows_have_the_width_of_the_others(stored):
    assert stored.take("document", np.array([], dtype=np.int64)).shape == (0, 4)
    without = replace(stored, keys=stored.keys | {"query": keys_of([])})
    assert all_rows(without, "query").shape == (0, 4)
    assert list(without.scan("query")) == []


@pytest.mark.parametrize("how", ["gone", "damaged"])
def test_a_vector_that_vanishes_is_a_model_error_that_says_what_to_do(how, stored):
    all_rows(stored, "document")
    folder = stored.store.folder
    name = next(name for name in folder.files(".parquet") if folder.read(name).size)
    if how == "gone":
        folder.remove(name)
    else:
        folder.write(name, folder.read(name).to_pybytes()[:-20])
    message = r"encoder e: \d+ vectors that were in .* a moment ago cannot be read any more; start again"
    with pytest.raises(ModelError, match=message):
        list(stored.scan("document"))
    with pytest.raises(ModelError, match=message):
        stored.take("document", np.arange(30))


def test_the_identity_is_the_encoder_and_how_it_reads_documents(stored):
    readings = [Reading(), Reading("doc: "), Reading("", "passage"), Reading("doc: ", "passage")]
    read = [replace(stored, reading=reading).identity for reading in readings]
    other = VectorStore(stored.store.root, Fingerprint.of(kind="other"))
    assert len({*read, replace(stored, store=other).identity}) == 5
    assert replace(stored, name="renamed", width=9).identity == read[0]


# Made elsewhere

WANTED = {"document": Texts(ids=("d1", "d2"), texts=("x", "y")), "query": Texts(ids=("q1",), texts=("z",))}
VECTORS = {"d1": [1.0, 0.0], "d2": [0.5, 0.5], "extra": [9.0, 9.0]}


def read(folder: Path, wanted: dict[str, Texts] = WANTED) -> Precomputed:
    """Read both files, as an ensemble does."""
    documents, queries = (read_vectors("mine", folder, role, wanted[role]) for role in ("document", "query"))
    return Precomputed(name="mine", docs_NR=documents, queries_QR=queries)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_vectors(tmp_path / "documents.parquet", VECTORS)
    write_vectors(tmp_path / "queries.parquet", {"q1": [0.0, 2.0]})
    return tmp_path


@pytest.mark.parametrize(
    "kind",
    [
        FLOATS,
        pa.list_(pa.float64()),
        pa.list_(pa.float16()),
        pa.large_list(pa.float32()),
        pa.list_(pa.float32(), 2),
        pa.list_(pa.float64(), 2),
    ],
    ids=str,
)
def test_precomputed_vectors_come_in_the_order_of_the_texts(kind, folder):
    write_vectors(folder / "documents.parquet", dict(reversed(VECTORS.items())), kind)
    vectors = read(folder)
    assert vectors.docs_NR.tolist() == [[1, 0], [0.5, 0.5]]
    assert vectors.queries_QR.tolist() == [[0, 2]]
    assert vectors.docs_NR.dtype == np.float32


def test_columns_may_stand_in_any_order_among_others_and_in_row_groups(folder):
    table = pa.table({"vector": list(VECTORS.values()), "more": [1, 2, 3], "id": list(VECTORS)})
    pq.write_table(table, folder / "documents.parquet", row_group_size=1)
    assert read(folder).docs_NR.tolist() == [[1, 0], [0.5, 0.5]]


@pytest.mark.parametrize("kind", [FLOATS, pa.list_(pa.float32(), 3)], ids=str)
def test_row_groups_of_a_large_file_are_put_together(kind, folder):
    values = np.random.default_rng(0).standard_normal((5000, 3)).astype(np.float32)
    order = np.random.default_rng(1).permutation(5000)[:4000]
    ids = [f"d{row}" for row in range(5000)]
    table = pa.table({"id": ids, "vector": pa.array(values.tolist(), kind)})
    pq.write_table(table, folder / "documents.parquet", row_group_size=700)
    assert pq.read_table(folder / "documents.parquet").column("vector").num_chunks == 8
    names = tuple(ids[row] for row in order)
    assert np.array_equal(read_vectors("mine", folder, "document", Texts(ids=names, texts=names)), values[order])


def test_no_texts_have_no_vectors_whatever_the_file_holds(folder):
    nothing = WANTED | {"query": Texts(ids=(), texts=())}
    assert read(folder, nothing).queries_QR.shape == (0, 2)
    write_vectors(folder / "queries.parquet", {}, ids=pa.string())
    empty = read(folder, nothing)
    assert (len(empty.queries_QR), empty.width, list(empty.scan("query"))) == (0, 2, [])


def test_rows_are_taken_and_scanned_like_those_of_a_store(folder):
    many = Texts(ids=tuple(f"d{row}" for row in range(20_000)), texts=("",) * 20_000)
    write_vectors(folder / "documents.parquet", {name: [float(row), 1.0] for row, name in enumerate(many.ids)})
    vectors = read(folder, WANTED | {"document": many})
    assert (vectors.count("document"), vectors.count("query")) == (20_000, 1)
    assert all_rows(vectors, "document")[:, 0].tolist() == list(range(20_000))
    assert len(list(vectors.scan("document"))) > 1
    assert vectors.take("document", np.array([7, 19_999, 7]))[:, 0].tolist() == [7, 19_999, 7]


def test_vectors_of_another_width_are_another_identity(folder):
    of_two = read(folder).identity
    write_vectors(folder / "documents.parquet", {name: [*row, 1.0] for name, row in VECTORS.items()})
    write_vectors(folder / "queries.parquet", {"q1": [0.0, 2.0, 1.0]})
    assert read(folder).identity != of_two


def test_integer_ids_are_the_texts_of_their_digits(folder):
    write_vectors(folder / "documents.parquet", {7: [1.0, 0.0], 12: [0.0, 1.0]}, ids=pa.int64())
    wanted = WANTED | {"document": Texts(ids=("12", "7"), texts=("x", "y"))}
    assert read(folder, wanted).docs_NR.tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_vectors_of_any_finite_length_are_taken(size, folder):
    write_vectors(folder / "queries.parquet", {"q1": [size, size]})
    assert read(folder).queries_QR == pytest.approx(np.full((1, 2), size))


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("vectors", "kind", "message"),
    [
        ({"d1": [1.0, 0.0]}, FLOATS, r"1 of 2 vectors are missing, first 'd2'"),
        ({"d1": [1.0, 0.0], "d2": [NAN, 1.0]}, FLOATS, r"'d2' \(row 2\) holds NaN or infinity"),
        ({"d1": [1.0, -INF], "d2": [1.0, 1.0]}, FLOATS, r"'d1' \(row 1\) holds NaN or infinity"),
        ({"d1": [1.0, 1e300], "d2": [1.0, 1.0]}, pa.list_(pa.float64()), r"'d1' \(row 1\) holds NaN or infinity"),
        ({"d1": [1.0, None], "d2": [1.0, 1.0]}, FLOATS, r"'d1' \(row 1\) holds NaN or infinity"),
        ({"d1": [1.0, 0.0], "d2": [0.0, 0.0]}, FLOATS, r"'d2' \(row 2\) is all zero"),
        ({"d1": [], "d2": []}, FLOATS, r"'d1' \(row 1\) is all zero"),
        ({"d1": [1.0, 0.0], "d2": [1.0]}, FLOATS, r"widths differ: 2 in row 1, 1 in row 2 \(id 'd2'\)"),
        ({"d1": [1.0, 0.0, 3.0], "d2": [1.0] * 3}, FLOATS, r"documents.parquet has .* width 3, queries.parquet .* 2"),
        ({"d1": [1.0, 0.0], "d2": None}, FLOATS, r"1 vectors are null, the first of id 'd2' \(row 2\)"),
        ({"d1": [1, 0], "d2": [0, 1]}, pa.list_(pa.int32()), "must be a list of floats, is list<"),
        ({"d1": "abc", "d2": "d"}, pa.string(), "must be a list of floats, is string"),
        ({"d1": 1.0, "d2": 2.0}, pa.float32(), "must be a list of floats, is float"),
    ],
)
def test_a_bad_vector_is_a_data_error_that_names_file_and_id(vectors, kind, message, folder):
    write_vectors(folder / "documents.parquet", vectors, kind)
    with pytest.raises(DataError, match=message) as caught:
        read(folder)
    assert "encoder mine" in str(caught.value)
    assert "documents.parquet" in str(caught.value)


def test_an_id_that_stands_twice_is_named(folder):
    pq.write_table(pa.table({"id": ["q1", "q1"], "vector": [[1.0, 0.0]] * 2}), folder / "queries.parquet")
    with pytest.raises(DataError, match=r"queries.parquet: id 'q1' stands in two rows"):
        read(folder)


def test_a_row_without_id_is_refused(folder):
    pq.write_table(pa.table({"id": ["q1", None], "vector": [[1.0, 0.0]] * 2}), folder / "queries.parquet")
    with pytest.raises(DataError, match=r"queries.parquet: 1 rows have no id"):
        read(folder)


@pytest.mark.parametrize("column", ["id", "vector"])
def test_a_missing_column_is_named(column, folder):
    table = pq.read_table(folder / "queries.parquet").drop_columns([column])
    pq.write_table(table, folder / "queries.parquet")
    with pytest.raises(DataError, match=r"queries.parquet .*columns id and vector"):
        read(folder)


def test_a_missing_file_is_named(folder):
    (folder / "queries.parquet").unlink()
    with pytest.raises(DataError, match=r"queries.parquet does not exist"):
        read(folder)


def test_a_file_that_is_not_parquet_is_named(folder):
    (folder / "documents.parquet").write_text("id,vector\nd1,1", encoding="utf-8")
    with pytest.raises(DataError, match=r"documents.parquet is not a Parquet file"):
        read(folder)


# Vectors given as objects


def test_vectors_given_as_objects_are_read_back_by_id_or_in_the_order_of_the_ids(tmp_path: Path) -> None:
    documents, queries = as_texts(["a", "b", "c"]), Texts(ids=("q0", "q1"), texts=("x", "y"))
    rng = np.random.default_rng(0)
    docs_NR, queries_QR = rng.normal(size=(3, 4)), rng.normal(size=(2, 4)).astype(np.float32)
    by_id = {7: rng.normal(size=4)} | {name: docs_NR[row].tolist() for row, name in enumerate(documents.ids)}
    for given in ((docs_NR, queries_QR), (by_id, dict(zip(queries.ids, queries_QR, strict=True)))):
        write_given("mine", tmp_path, documents, queries, given)
        (encoder,) = given_encoders(["mine"], tmp_path)
        assert encoder.precomputed == tmp_path / "mine"
        for role, texts, expected in (("document", documents, docs_NR), ("query", queries, queries_QR)):
            np.testing.assert_array_equal(read_vectors("mine", tmp_path / "mine", role, texts), np.float32(expected))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.ones((3, 4)), r"expected \(documents, queries\), each an array or \{id: vector\}"),
        (
            (np.ones((2, 4)), np.ones((1, 4))),
            r"one row a text, 3 rows in the order of collection.documents.ids, got .*2, 4",
        ),
        ((np.ones((3, 4)), np.ones(4)), r"queries: expected a matrix .* got the shape \(4,\)"),
        (({"t0": [1.0], "t1": [1.0, 2.0], "t2": [1.0]}, np.ones((1, 1))), "differ in width"),
        ((np.full((3, 2), "x"), np.ones((1, 2))), "they are no numbers"),
    ],
)
def test_objects_that_are_no_vectors_of_these_texts_are_refused(given: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"^vectors of mine.*{message}"):
        write_given("mine", tmp_path, as_texts(["a", "b", "c"]), as_texts(["x"]), given)


@pytest.mark.parametrize("name", ["my model", "a/b", ""])
def test_a_name_that_cannot_be_a_folder_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"vectors: names have letters, digits, _, \. and - alone, got "):
        given_encoders({name: None}, tmp_path)
