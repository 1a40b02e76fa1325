"""Vectors of a store: by rows, as a whole, and what is said when some have vanished."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hnmine.corpus.text_keys import Fingerprint, Reading, keys_of
from hnmine.embedding.store import VectorStore
from hnmine.embedding.vectors import StoredVectors
from hnmine.errors import ModelError
from tests.builders.embedding import all_rows

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
