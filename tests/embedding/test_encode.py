"""Every text gets its vector, nothing is encoded twice, and what breaks is told or repaired."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hnmine.corpus.text_keys import PLAIN, keys_of
from hnmine.embedding.encode import EncodingResult, encode_missing, missing_blocks
from hnmine.embedding.store import VectorStore
from hnmine.errors import ModelError
from hnmine.types import Texts
from tests.builders.embedding import TEXTS, all_rows, blocks_of, embed_into, same_vectors
from tests.builders.models import encoder_plan, spoil_weights, tiny_jina_encoder
from tests.builders.texts import random_texts


def test_every_text_has_the_vector_of_its_own_prompt(tiny, tmp_path):
    vectors, result = embed_into(tiny, tmp_path)
    encoder = tiny.build()
    assert result == EncodingResult(encoded=80, reused=0, width=32)
    assert vectors.width == 32
    for role, reading in (("document", PLAIN), ("query", tiny.query)):
        one_by_one = np.concatenate([encoder.encode([text], reading) for text in TEXTS[role].texts[:10]])
        assert all_rows(vectors, role)[:10] == pytest.approx(one_by_one, abs=1e-5)


def test_a_second_call_encodes_nothing(tiny, tmp_path):
    first, _ = embed_into(tiny, tmp_path)
    written = blocks_of(tiny, tmp_path)
    second, result = embed_into(replace(tiny, folder=tmp_path / "gone"), tmp_path)  # not even loaded
    assert result == EncodingResult(encoded=0, reused=80, width=32)
    assert same_vectors(first, second)
    assert blocks_of(tiny, tmp_path) == written


def test_a_killed_run_encodes_the_missing_blocks_and_ends_alike(tiny, tmp_path):
    whole, _ = embed_into(tiny, tmp_path / "whole")
    embed_into(tiny, tmp_path / "killed")
    lost = blocks_of(tiny, tmp_path / "killed")[::2]
    keys = keys_of(TEXTS["document"].texts), keys_of(TEXTS["query"].texts, tiny.query)
    for path in lost:
        path.unlink()
    (lost[0].with_suffix(".tmp")).write_bytes(b"half a block")
    _, found = VectorStore(tmp_path / "killed", tiny.fingerprint).load(np.concatenate(keys))
    kept = set(blocks_of(tiny, tmp_path / "killed"))
    again, result = embed_into(tiny, tmp_path / "killed")
    fresh = set(blocks_of(tiny, tmp_path / "killed")) - kept
    assert sum(pq.read_metadata(path).num_rows for path in fresh) == (~found).sum()
    assert 0 < (~found).sum() < 80
    assert (result.encoded, result.reused) == ((~found).sum(), found.sum())
    assert same_vectors(again, whole)  # the cut depends on the texts alone, so the batches are the same


def test_a_new_text_is_the_only_one_encoded(tiny, tmp_path):
    embed_into(tiny, tmp_path)
    documents = Texts(ids=(*TEXTS["document"].ids, "new"), texts=(*TEXTS["document"].texts, "a new text"))
    vectors, result = embed_into(tiny, tmp_path, TEXTS | {"document": documents})
    assert (result.encoded, result.reused) == (1, 80)
    assert all_rows(vectors, "document").shape == (61, 32)


def test_a_few_new_texts_among_many_are_one_block_and_leave_all_others_alone(tiny, tmp_path):
    first, _ = embed_into(tiny, tmp_path)
    before = blocks_of(tiny, tmp_path)
    new = random_texts(5, "new", 8)  # of other lengths, so that they fall into several cells
    documents = Texts(ids=(*TEXTS["document"].ids, *new.ids), texts=(*TEXTS["document"].texts, *new.texts))
    vectors, result = embed_into(tiny, tmp_path, TEXTS | {"document": documents})
    assert result.encoded == 5
    assert len(blocks_of(tiny, tmp_path)) == len(before) + 1
    assert np.array_equal(all_rows(vectors, "document")[:60], all_rows(first, "document"))


def test_blocks_hold_several_cells_where_much_is_missing_and_every_text_once(lexical):
    texts = {"document": random_texts(1000, "many", 9)}
    keys = keys_of(texts["document"].texts)
    found = np.random.default_rng(0).random(1000) < 0.2
    found[600:] = False
    blocks = [block.to_pylist()[0] for block in missing_blocks(lexical, texts, keys, found, 2)]
    given = [text for block in blocks for cell in block["texts"] for text in cell]
    assert sorted(given) == sorted(np.array(texts["document"].texts)[~found].tolist())
    assert 64 <= len(blocks) < 100
    whole = [block.to_pylist()[0] for block in missing_blocks(lexical, texts, keys, np.zeros(1000, dtype=bool), 2)]
    cells = {tuple(cell) for block in whole for cell in block["texts"]}
    left = [{text for text in cell if text in given} for cell in cells]
    assert all(set(cell) in left for block in blocks for cell in block["texts"]), "the cut is that of all texts"


def test_equal_texts_are_encoded_once_and_another_prompt_makes_another_text(tiny, tmp_path):
    twice = Texts(ids=("1", "2", "3"), texts=("mysql", "cloud", "mysql"))
    vectors, result = embed_into(tiny, tmp_path / "one", {"document": twice, "query": twice})
    assert result.encoded == 4
    documents = all_rows(vectors, "document")
    assert np.array_equal(documents[0], documents[2])
    assert np.abs(documents - all_rows(vectors, "query")).max() > 1e-3
    vectors, result = embed_into(replace(tiny, query=PLAIN), tmp_path / "two", {"document": twice, "query": twice})
    assert result.encoded == 2
    assert np.array_equal(all_rows(vectors, "document"), all_rows(vectors, "query"))


def test_a_text_read_with_two_adapters_has_two_vectors(tmp_path):
    plan = encoder_plan(
        tiny_jina_encoder(tmp_path / "model"), query_adapter="retrieval_query", document_adapter="retrieval_passage"
    )
    same_texts = {"document": TEXTS["query"], "query": TEXTS["query"]}
    vectors, result = embed_into(plan, tmp_path / "store", same_texts)
    assert result.encoded == 2 * len(TEXTS["query"])
    encoder = plan.build()
    for role in ("document", "query"):
        expected = encoder.encode(TEXTS["query"].texts, plan.reading(role))
        assert all_rows(vectors, role) == pytest.approx(expected, abs=1e-5), role
    assert np.abs(all_rows(vectors, "document") - all_rows(vectors, "query")).max() > 1e-2


@pytest.mark.parametrize("role", ["document", "query"])
def test_texts_of_one_role_alone_are_encoded(role, tiny, tmp_path):
    nothing = Texts(ids=(), texts=())
    vectors, result = embed_into(tiny, tmp_path, {"document": nothing, "query": nothing} | {role: TEXTS[role]})
    other = "query" if role == "document" else "document"
    assert all_rows(vectors, other).shape == (0, 32)
    assert result.encoded == len(TEXTS[role])


def test_no_texts_at_all_need_no_model(tiny, tmp_path):
    nothing = Texts(ids=(), texts=())
    _, result = embed_into(replace(tiny, folder=tmp_path / "gone"), tmp_path, {"document": nothing, "query": nothing})
    assert result == EncodingResult(encoded=0, reused=0, width=0)


@pytest.mark.parametrize("size", [7, 1000])
def test_the_size_of_blocks_changes_no_vector_beyond_rounding(size, tiny, tmp_path):
    expected, _ = embed_into(tiny, tmp_path / "16")
    vectors, _ = embed_into(tiny, tmp_path / "other", block_texts=size)
    assert all_rows(vectors, "document") == pytest.approx(all_rows(expected, "document"), abs=1e-6)


def test_vectors_that_are_not_numbers_are_a_model_error_and_never_stored(tiny, tmp_path):
    spoilt = replace(tiny, folder=spoil_weights(Path(shutil.copytree(tiny.folder, tmp_path / "nan"))))
    with pytest.raises(ModelError, match=r"encoder tiny \(float32\) gives NaN or infinity for \d+ texts, first '"):
        embed_into(spoilt, tmp_path / "store")
    assert not blocks_of(spoilt, tmp_path / "store")


def test_a_damaged_block_is_encoded_again_and_nothing_else(tiny, root):
    first, _ = embed_into(tiny, root)
    folder = VectorStore(root, tiny.fingerprint).folder
    name = folder.files(".parquet")[0]
    raw = folder.read(name).to_pybytes()
    folder.write(name, raw[: len(raw) // 2])
    second, result = embed_into(tiny, root)
    assert result.encoded == pq.read_metadata(pa.BufferReader(raw)).num_rows
    assert result.encoded + result.reused == 80
    assert same_vectors(first, second)
    assert embed_into(tiny, root)[1].encoded == 0


class Forgetful(VectorStore):
    """A store that loses what is written into it, as a full or foreign disk may."""

    def write(self, keys, vectors):
        name = super().write(keys, vectors)
        self.folder.remove(name)
        return name


def test_a_store_that_loses_what_is_written_is_a_model_error_that_names_it(tiny, tmp_path):
    keys = {role: keys_of(TEXTS[role].texts, tiny.reading(role)) for role in TEXTS}
    with pytest.raises(ModelError, match=rf"encoder tiny: 80 texts have no vector in {tmp_path}"):
        encode_missing(tiny, TEXTS, keys, Forgetful(tmp_path, tiny.fingerprint), ray=False)
