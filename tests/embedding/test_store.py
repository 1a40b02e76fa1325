"""The vector store, in a folder and in an object store: what is written comes back, what is damaged is set aside."""

from __future__ import annotations

import gc
import json
import multiprocessing
import multiprocessing.synchronize
import pickle
import random
import signal
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnmine.corpus.text_keys import Fingerprint, key_of, keys_of
from hnmine.embedding import blocks
from hnmine.embedding import store as store_module
from hnmine.embedding.encode import BLOCK_TEXTS
from hnmine.embedding.store import COMPACT_AT, INDEX_AT, MANY_INDEXES, VectorStore
from hnmine.errors import DataError
from hnmine.runs.directory import Directory
from tests.builders.collections import append_documents, write_collection
from tests.builders.settings import LEXICAL_ENCODER
from tests.builders.texts import random_texts

WIDTH = 3
FINGERPRINT = Fingerprint.of(kind="test")


@pytest.fixture
def store(root: str) -> VectorStore:
    return VectorStore(root, FINGERPRINT)


@pytest.fixture
def local(tmp_path: Path) -> VectorStore:
    return VectorStore(tmp_path / "store", FINGERPRINT)


def vectors_of(texts: list[str], width: int = WIDTH) -> np.ndarray:
    """A vector that its text decides, so that a mixed-up row shows."""
    rows = [np.frombuffer(key_of(text), dtype=np.uint8)[:width] for text in texts]
    return np.array(rows, dtype=np.float32).reshape(-1, width)


def write(store: VectorStore, texts: list[str]) -> str:
    return store.write(keys_of(texts), vectors_of(texts))


def names(store: VectorStore, ending: str) -> list[str]:
    return store.folder.files(ending)


def test_what_is_written_is_loaded_in_the_order_asked_for(store):
    texts = [f"text {i}" for i in range(50)]
    write(store, texts[:20])
    write(store, texts[20:])
    asked = [texts[i] for i in np.random.default_rng(0).permutation(50)]
    vectors, found = store.load(keys_of(asked))
    assert found.all()
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, vectors_of(asked))


def test_texts_never_written_are_missing_and_their_rows_zero(store):
    write(store, ["a", "b"])
    vectors, found = store.load(keys_of(["b", "new", "a", "newer"]))
    assert found.tolist() == [True, False, True, False]
    assert np.array_equal(vectors[found], vectors_of(["b", "a"]))
    assert not vectors[~found].any()


def test_a_store_without_any_of_the_texts_has_no_array(store):
    assert store.load(keys_of(["a"]))[0] is None
    write(store, ["a"])
    vectors, found = store.load(keys_of(["b", "c"]))
    assert vectors is None
    assert found.tolist() == [False, False]


def test_equal_texts_share_a_key_and_are_served_alike(store):
    keys = keys_of(["same", "other", "same"])
    assert np.array_equal(keys[0], keys[2])
    assert not np.array_equal(keys[0], keys[1])
    write(store, ["same", "other"])
    vectors, found = store.load(keys)
    assert found.all()
    assert np.array_equal(vectors, vectors_of(["same", "other", "same"]))


def test_another_fingerprint_sees_nothing(store):
    write(store, ["a"])
    other = VectorStore(store.root, Fingerprint.of(kind="other"))
    assert not other.load(keys_of(["a"]))[1].any()


def test_encoder_json_tells_people_the_facts_and_leaves_no_temporary_file(store):
    store.describe()
    store.describe()
    assert json.loads(store.folder.read("encoder.json").to_pybytes()) == {"kind": "test"}
    assert names(store, "") == ["encoder.json"]


# Damage


def truncate(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def flip(raw: bytes, at: int, bit: int = 0) -> bytes:
    return raw[:at] + bytes([raw[at] ^ (1 << bit)]) + raw[at + 1 :]


def flip_in_a_vector(raw: bytes) -> bytes:
    return flip(raw, raw.index(vectors_of(["a"]).tobytes()))


def flip_in_a_key(raw: bytes) -> bytes:
    return flip(raw, raw.index(key_of("a") + key_of("b")))  # not the statistics, which hold one key


def empty(raw: bytes) -> bytes:
    return b""


def not_parquet(raw: bytes) -> bytes:
    return b"this is no Parquet file, but long enough to be one"


def parquet(**columns: object) -> Callable[[bytes], bytes]:
    def other(raw: bytes) -> bytes:
        content = pa.BufferOutputStream()
        pq.write_table(pa.table(columns), content)
        return content.getvalue().to_pybytes()

    return other


def damage(store: VectorStore, name: str, how: Callable[[bytes], bytes]) -> None:
    store.folder.write(name, how(store.folder.read(name).to_pybytes()))


DAMAGES = [
    truncate,
    flip_in_a_vector,
    flip_in_a_key,
    empty,
    not_parquet,
    parquet(x=[1, 2]),
    parquet(text_key=["a", "b"], vector=[[1.0], [2.0]]),
]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_block_is_set_aside_reported_and_its_texts_are_missing(how, store, capsys):
    name = write(store, ["a", "b"])
    write(store, ["c"])
    damage(store, name, how)
    vectors, found = store.load(keys_of(["a", "b", "c"]))
    assert found.tolist() == [False, False, True]
    assert np.array_equal(vectors[2:], vectors_of(["c"]))
    assert names(store, ".corrupt") == [f"{Path(name).stem}.corrupt"]
    assert name not in names(store, "")
    said = capsys.readouterr().err
    assert name in said
    assert "damaged" in said
    write(store, ["b", "a"])
    vectors, found = store.load(keys_of(["a", "b", "c"]))
    assert np.array_equal(vectors, vectors_of(["a", "b", "c"]))
    assert capsys.readouterr().err == ""  # said once


def test_no_flipped_byte_of_a_block_is_served_or_stops_the_load(local, capsys):
    texts = ["a", "b", "c", "d"]
    name = write(local, texts)
    raw, expected, served = local.folder.read(name).to_pybytes(), vectors_of(texts), 0
    for at in range(len(raw)):
        local.folder.write(name, flip(raw, at, at % 8))
        vectors, found = local.load(keys_of(texts))
        served += bool(found.any())
        assert vectors is None or np.array_equal(vectors[found], expected[found]), at
    assert 0 < served < len(raw) / 2  # some bytes are only names and statistics


def test_readers_that_meet_the_same_damaged_blocks_do_not_stop_each_other(store, capsys):
    count = 40
    for i in range(count):
        damage(store, write(store, [f"text {i}"]), empty)
    keys, start = keys_of(["text 0"]), Barrier(3)

    def load() -> bool:
        start.wait()
        return bool(store.load(keys)[1].any())

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(load) for _ in range(3)]
    assert [reader.result() for reader in readers] == [False, False, False]
    assert len(names(store, ".corrupt")) == count
    assert not names(store, ".parquet")


def test_an_unfinished_block_is_ignored_and_left_alone(store):
    name = write(store, ["a"])
    store.folder.filesystem.move(f"{store.folder.path}/{name}", f"{store.folder.path}/.{name}.1.tmp")
    assert not store.load(keys_of(["a"]))[1].any()
    assert names(store, "") == [f".{name}.1.tmp"]


def test_a_store_that_does_not_answer_is_no_reason_to_set_a_block_aside(local, monkeypatch, capsys):
    name = write(local, ["a"])

    def refuse(self: Directory, name: str) -> bytes:
        raise DataError("the network is down")

    monkeypatch.setattr(Directory, "read", refuse)
    with pytest.raises(DataError, match="network is down"):
        local.load(keys_of(["a"]))
    assert names(local, "") == [name]


# Writers that end in the middle


def test_a_writer_that_fails_in_the_middle_leaves_nothing(store, monkeypatch):
    def fail(table: pa.Table, where: pa.NativeFile, **options: object) -> None:
        where.write(b"PAR1, and no more")
        raise RuntimeError("in the middle")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        write(store, ["a"])
    assert names(store, "") == []


def _write_large_blocks(root: str, started: multiprocessing.synchronize.Event) -> None:
    texts = [f"t{i}" for i in range(4000)]
    vectors = np.ones((len(texts), 1000), dtype=np.float32)  # 16 MB: several parts of an upload
    started.set()
    while True:
        VectorStore(root, FINGERPRINT).write(keys_of(texts), vectors)


def test_a_writer_that_is_killed_leaves_whole_blocks_or_none(store, capsys):
    context = multiprocessing.get_context("spawn")
    for delay in (0.02, 0.1, 0.3):
        started = context.Event()
        writer = context.Process(target=_write_large_blocks, args=(store.root, started))
        writer.start()
        assert started.wait(60)
        time.sleep(delay)
        writer.kill()
        writer.join()
    found = store.load(keys_of(["t0", "t3999", "never"]))[1]
    assert found.tolist() in ([True, True, False], [False, False, False])
    assert capsys.readouterr().err == ""
    assert not names(store, ".corrupt")


# Several writers, several blocks


def test_two_writers_of_the_same_texts_do_no_harm(store):
    twin = VectorStore(store.root, Fingerprint.of(kind="test"))
    assert write(store, ["a", "b"]) != write(twin, ["b", "a"])
    vectors, found = store.load(keys_of(["a", "b"]))
    assert found.all()
    assert np.array_equal(vectors, vectors_of(["a", "b"]))
    assert len(names(store, ".parquet")) == 2


def test_a_text_that_stands_twice_in_one_block_is_served(store):
    write(store, ["a", "b", "a"])
    vectors, found = store.load(keys_of(["a", "b"]))
    assert found.all()
    assert np.array_equal(vectors, vectors_of(["a", "b"]))


def _write_some(root: str, seed: int) -> None:
    store, rng = VectorStore(root, FINGERPRINT), random.Random(seed)
    store.describe()
    for _ in range(12):
        write(store, rng.sample(MANY, 10))


MANY = [f"text {i}" for i in range(60)]


def test_writers_in_several_processes_and_a_reader_do_no_harm(store, capsys):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_write_some, args=(store.root, seed)) for seed in range(3)]
    for writer in writers:
        writer.start()
    keys, expected = keys_of(MANY), vectors_of(MANY)
    while any(writer.is_alive() for writer in writers):
        vectors, found = store.load(keys)
        assert vectors is None or np.array_equal(vectors[found], expected[found])
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert len(names(store, ".parquet")) == 36
    assert names(store, ".json") == ["encoder.json"]
    wanted = {
        text for seed in range(3) for rng in [random.Random(seed)] for _ in range(12) for text in rng.sample(MANY, 10)
    }
    assert store.load(keys)[1].tolist() == [text in wanted for text in MANY]
    assert capsys.readouterr().err == ""


# Large and odd


def test_a_large_block_of_many_pages_comes_back_whole(store):
    texts = [f"t{i}" for i in range(30_000)]
    vectors = np.random.default_rng(0).normal(size=(len(texts), 48)).astype(np.float32)
    raw = store.folder.read(store.write(keys_of(texts), vectors))
    assert raw.size > 5 * 2**20
    loaded, found = store.load(keys_of(texts[::-1]))
    assert found.all()
    assert np.array_equal(loaded, vectors[::-1])


def test_a_row_that_is_very_wide_is_written(local):
    vectors = np.ones((2, 2**20 + 1), dtype=np.float32)
    local.write(keys_of(["a", "b"]), vectors)
    assert np.array_equal(local.load(keys_of(["a", "b"]))[0], vectors)


def test_keys_that_share_their_first_half_are_told_apart(local):
    keys = np.array([[1, 1], [1, 2], [1, 3], [2, 1]], dtype=np.uint64)
    vectors = np.arange(8, dtype=np.float32).reshape(4, 2)
    local.write(keys[[0, 2]], vectors[[0, 2]])
    local.write(keys[[1]], vectors[[1]])
    loaded, found = local.load(keys)
    assert found.tolist() == [True, True, True, False]
    assert np.array_equal(loaded[:3], vectors[:3])


def test_a_store_travels_and_opens_its_address_there(store):
    write(store, ["a"])
    assert store.contains(keys_of(["a"]))[0].all()
    packed = pickle.dumps(store)
    assert key_of("a") not in packed  # what it remembers stays
    there = pickle.loads(packed)
    assert there == store
    assert there.load(keys_of(["a"]))[1].all()


# What is remembered


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """The names of the files that are read, in the order in which they are."""
    names_read, read = [], Directory.read

    def noting(self: Directory, name: str) -> pa.Buffer | None:
        names_read.append(name)
        return read(self, name)

    monkeypatch.setattr(Directory, "read", noting)
    return names_read


def test_a_block_is_opened_once_to_know_its_keys(store, reads):
    writer = VectorStore(store.root, FINGERPRINT)  # who writes a block knows it
    first = write(writer, ["a", "b"])
    assert store.contains(keys_of(["a", "c"]))[0].tolist() == [True, False]
    assert reads == [first]
    for _ in range(3):
        found, width = store.contains(keys_of(["b", "c", "a"]))
        assert (found.tolist(), width) == ([True, False, True], WIDTH)
    assert reads == [first]
    second = write(writer, ["c"])
    assert store.contains(keys_of(["c"]))[0].all()
    assert reads == [first, second]  # the new one alone
    assert writer.contains(keys_of(["a", "b", "c"]))[0].all()
    assert reads == [first, second]


def test_a_block_is_read_again_only_for_vectors_that_it_has(store, reads):
    written = {write(store, [text]): text for text in ("a", "b", "c")}
    assert store.contains(keys_of(["a", "b", "c"]))[0].all()
    reads.clear()
    vectors, _ = store.load(keys_of(["b"]))
    assert np.array_equal(vectors, vectors_of(["b"]))
    assert [written[name] for name in reads] == ["b"]
    assert store.load(keys_of(["none"]))[0] is None
    assert list(store.scan(keys_of([]))) == []
    assert len(reads) == 1


def test_a_block_that_is_damaged_after_it_was_opened_is_set_aside_when_it_is_read(store, capsys):
    name = write(store, ["a", "b"])
    write(store, ["c"])
    assert store.contains(keys_of(["a", "b", "c"]))[0].all()
    damage(store, name, truncate)
    found = store.load(keys_of(["a", "b", "c"]))[1]
    assert found.tolist() == [False, False, True]
    assert f"block {name} is damaged" in capsys.readouterr().err
    assert store.contains(keys_of(["a", "b", "c"]))[0].tolist() == [False, False, True]
    write(store, ["a", "b"])
    assert store.load(keys_of(["a", "b", "c"]))[1].all()


def test_a_block_that_another_reader_has_set_aside_is_forgotten(store):
    name = write(store, ["a"])
    assert store.contains(keys_of(["a"]))[0].all()
    store.folder.set_aside(name)
    assert not store.contains(keys_of(["a"]))[0].any()
    assert store.load(keys_of(["a"]))[0] is None


def test_a_block_that_is_set_aside_while_the_others_are_read_is_passed_over(store, monkeypatch):
    """Between the list of names and the reading of one of them, another reader has found it damaged."""
    write(store, ["a"])
    write(store, ["b"])
    gone, read = names(store, ".parquet")[1], Directory.read

    def set_aside_first(self: Directory, name: str) -> pa.Buffer | None:
        if gone in self.files():
            self.set_aside(gone)
        return read(self, name)

    assert store.contains(keys_of(["a", "b"]))[0].all()
    monkeypatch.setattr(Directory, "read", set_aside_first)
    for reader in (store, VectorStore(store.root, FINGERPRINT)):  # one that knows both blocks, one that knows none
        assert reader.load(keys_of(["a", "b"]))[1].sum() == 1


def test_the_memory_of_a_store_is_its_keys_alone(local, tmp_path):
    texts = [f"text {i}" for i in range(4000)]
    local.write(keys_of(texts), np.ones((4000, 256), dtype=np.float32))
    keys = keys_of(texts)
    tracemalloc.start()
    try:
        assert local.contains(keys)[0].all()
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 4 * keys.nbytes < 4000 * 256 * 4 / 10


# Scan


def test_scan_serves_each_row_once_from_the_first_block_that_has_it(store):
    for _ in range(2):
        write(store, ["a", "b", "a"])
    write(store, ["c"])
    asked = ["c", "a", "none", "a", "b"]
    parts = list(store.scan(keys_of(asked)))
    assert len(parts) == 2
    rows = np.concatenate([rows for rows, _ in parts])
    vectors = np.concatenate([vectors for _, vectors in parts])
    assert (rows.dtype, vectors.dtype) == (np.int64, np.float32)
    assert sorted(rows.tolist()) == [0, 1, 3, 4]
    assert np.array_equal(vectors, vectors_of([asked[row] for row in rows]))
    assert [len(rows) for rows, _ in parts if 1 in rows] == [3]  # both rows of `a`, and `b`


def test_scan_reads_no_vectors_of_blocks_that_serve_nothing(local):
    first, second = sorted(write(local, ["a"]) for _ in range(2))
    damage(local, second, flip_in_a_vector)
    assert local.load(keys_of(["a"]))[1].all()
    assert names(local, ".corrupt") == []  # not even looked at
    damage(local, first, flip_in_a_vector)
    assert not local.load(keys_of(["a"]))[1].any()
    assert len(names(local, ".corrupt")) == 2


# Indexes, parts, small blocks


def many(count: int, start: int = 0) -> list[str]:
    return [f"text {i}" for i in range(start, start + count)]


def test_what_is_missing_is_known_from_an_index_and_no_block_is_read(store, reads):
    for at in range(INDEX_AT):
        write(store, many(3, 3 * at))
    asked = keys_of([*many(3 * INDEX_AT), "new"])
    reader = VectorStore(store.root, FINGERPRINT)
    assert reader.contains(asked)[0].tolist() == [True] * 3 * INDEX_AT + [False]
    assert len(names(store, ".index")) == 1
    reads.clear()
    other = VectorStore(store.root, FINGERPRINT)
    assert other.contains(asked)[0].tolist() == [True] * 3 * INDEX_AT + [False]
    assert reads == names(store, ".index")
    assert np.array_equal(other.load(asked)[0][:-1], vectors_of(many(3 * INDEX_AT)))


@pytest.mark.parametrize("how", [truncate, empty, not_parquet, lambda raw: flip(raw, len(raw) // 2)])
def test_a_damaged_index_is_made_again_and_its_blocks_are_served(store, how, capsys):
    for at in range(INDEX_AT):
        write(store, many(3, 3 * at))
    store.contains(keys_of(["a"]))
    (index,) = names(store, ".index")
    damage(store, index, how)
    reader = VectorStore(store.root, FINGERPRINT)
    vectors, found = reader.load(keys_of(many(3 * INDEX_AT)))
    assert found.all()
    assert np.array_equal(vectors, vectors_of(many(3 * INDEX_AT)))
    assert f"index {index} is damaged" in capsys.readouterr().err
    assert len(names(store, ".index")) == 1
    assert names(store, ".index") != [index]


def test_an_index_says_nothing_of_a_block_that_was_cut_short(store):
    written = [write(store, many(3, 3 * at)) for at in range(INDEX_AT)]
    store.contains(keys_of(["a"]))
    damage(store, written[2], truncate)
    found = VectorStore(store.root, FINGERPRINT).contains(keys_of(many(3 * INDEX_AT)))[0]
    assert found.sum() == 3 * INDEX_AT - 3
    assert names(store, ".corrupt") == [f"{Path(written[2]).stem}.corrupt"]


def test_many_indexes_become_one(store, monkeypatch):
    monkeypatch.setattr(store_module, "INDEX_AT", 1)
    for at in range(MANY_INDEXES + 3):
        write(store, [f"text {at}"])
        store.contains(keys_of(["a"]))
    assert len(names(store, ".index")) == 3
    assert VectorStore(store.root, FINGERPRINT).contains(keys_of(many(MANY_INDEXES + 3)))[0].all()


def wide(store: VectorStore, count: int = 4096, width: int = 300) -> tuple[list[str], np.ndarray, str]:
    """Write a block of several row groups."""
    texts, vectors = many(count), np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)
    return texts, vectors, store.write(keys_of(texts), vectors)


def test_a_few_rows_of_a_large_block_cost_a_few_ranges(store, monkeypatch):
    texts, vectors, _ = wide(store)
    asked = [5, 3000, 3001, 5, 4095]
    read, read_parts = [], Directory.read_parts

    def noting(self: Directory, name: str, ranges: list[tuple[int, int]]) -> list[pa.Buffer] | None:
        read.extend(length for _, length in ranges)
        return read_parts(self, name, ranges)

    monkeypatch.setattr(Directory, "read_parts", noting)
    monkeypatch.setattr(Directory, "read", lambda *_: pytest.fail("the whole block is read"))
    loaded, found = store.load(keys_of([texts[row] for row in asked]))
    assert found.all()
    assert np.array_equal(loaded, vectors[asked])
    assert len(read) <= 4
    assert sum(read) < vectors.nbytes / 2


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(st.integers(0, 4095), min_size=1, max_size=40), count=st.sampled_from([1, 437, 4096]))
def test_any_rows_of_a_block_are_those_of_the_whole(rows, count):
    rng = np.random.default_rng(0)
    vectors, rows = rng.normal(size=(count, 300)).astype(np.float32), np.unique([row % count for row in rows])
    raw = blocks.to_bytes(keys_of(many(count)), vectors)
    read = lambda ranges: [raw.slice(start, length) for start, length in ranges]  # noqa: E731
    assert np.array_equal(blocks.read_rows(rows, raw.size, read), vectors[rows])
    assert blocks.read_rows(rows, raw.size, lambda _: None) is None


def test_damage_in_the_part_that_is_read_is_set_aside_and_other_damage_is_not_seen(store):
    texts, vectors, name = wide(store)
    raw = store.folder.read(name).to_pybytes()
    store.folder.write(name, flip(raw, raw.index(vectors[2000].tobytes())))
    assert np.array_equal(store.load(keys_of(texts[5:7]))[0], vectors[5:7])
    assert not store.load(keys_of(texts[2000:2001]))[1].any()
    assert names(store, ".corrupt") == [f"{Path(name).stem}.corrupt"]


def test_blocks_of_earlier_releases_are_served_and_get_an_index(store):
    """One row group, and no index."""
    for at in range(INDEX_AT):
        texts = many(512, 512 * at)
        keys = pa.array([bytes(key) for key in keys_of(texts)], pa.binary(16))
        values = pa.FixedSizeListArray.from_arrays(vectors_of(texts, 16).reshape(-1), 16)
        content = pa.BufferOutputStream()
        pq.write_table(
            pa.table({"text_key": keys, "vector": values}), content, compression="none", use_dictionary=False
        )
        store.folder.write(f"{at}.parquet", content.getvalue())
    texts = many(512 * INDEX_AT)
    for reader in (store, VectorStore(store.root, FINGERPRINT)):
        assert np.array_equal(reader.load(keys_of(texts))[0], vectors_of(texts, 16))
        assert np.array_equal(reader.load(keys_of(texts[700:702]))[0], vectors_of(texts[700:702], 16))
    assert len(names(store, ".index")) == 1


def test_small_blocks_are_put_together_while_another_reader_holds_their_names(store, capsys):
    texts, reader = many(5 * COMPACT_AT), VectorStore(store.root, FINGERPRINT)
    large = write(store, many(300, 1000))
    for at in range(COMPACT_AT):
        write(store, [*texts[5 * at : 5 * at + 5], texts[0]])
    scanning = reader.scan(keys_of(texts))
    rows, vectors = next(scanning)
    store.compact()
    assert len(names(store, ".parquet")) == 2
    assert large in names(store, ".parquet")
    found = np.zeros((len(texts), WIDTH), dtype=np.float32)
    found[rows] = vectors
    for rows, vectors in scanning:
        found[rows] = vectors
    for each in (found, store.load(keys_of(texts))[0], VectorStore(store.root, FINGERPRINT).load(keys_of(texts))[0]):
        assert np.array_equal(each, vectors_of(texts))
    assert "damaged" not in capsys.readouterr().err
    store.compact()  # there is nothing more to do
    assert len(names(store, ".parquet")) == 2


def test_blocks_stay_where_nobody_may_remove(store, monkeypatch):
    for at in range(COMPACT_AT):
        write(store, [f"text {at}"])

    def refuse(self: Directory, name: str) -> None:
        raise DataError("you may not")

    monkeypatch.setattr(Directory, "remove", refuse)
    with pytest.raises(DataError, match="may not"):
        store.compact()
    assert len(names(store, ".parquet")) == COMPACT_AT


# Random histories

TEXT = st.sampled_from([f"text {i}" for i in range(12)])
STEP = st.one_of(
    st.tuples(st.just("write"), st.lists(TEXT, min_size=1, max_size=6)),
    st.tuples(st.just("load"), st.lists(TEXT, max_size=15)),
    st.tuples(st.sampled_from(["truncate", "flip", "empty"]), st.integers(0, 10**6)),
    st.tuples(st.sampled_from(["open", "compact"]), st.none()),
)


def texts_of(raw: bytes) -> set[str]:
    """Return the texts of a whole block."""
    stored = {bytes(key) for key in pq.read_table(pa.BufferReader(raw))["text_key"].to_pylist()}
    return {text for text in MANY if key_of(text) in stored}


@contextmanager
def few_are_many() -> Iterator[None]:
    """Index and compact what few steps write."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("INDEX_AT", 2), ("MANY_INDEXES", 2), ("SMALL_ROWS", 5), ("COMPACT_AT", 3)):
            patch.setattr(store_module, name, value)
        yield


def play(root: str | Path, steps: list[tuple[str, object]]) -> None:
    """A store is what its undamaged blocks say; the model: a dictionary from block to texts."""
    store, blocks, expected = VectorStore(root, FINGERPRINT), {}, dict(zip(MANY, vectors_of(MANY), strict=True))
    for step, value in [*steps, ("open", None), ("load", MANY[:12])]:
        if step == "write":
            blocks[write(store, value)] = set(value)
        elif step == "open":
            store = VectorStore(root, FINGERPRINT)
        elif step == "compact":
            known = set().union(*blocks.values())
            store.load(keys_of(MANY))  # what is damaged is not put together
            store.compact()
            blocks = {name: texts_of(store.folder.read(name).to_pybytes()) for name in names(store, ".parquet")}
            assert set().union(*blocks.values()) == known
        elif step == "load":
            vectors, found = store.load(keys_of(value))
            known = set().union(*blocks.values())
            assert found.tolist() == [text in known for text in value]
            assert (vectors is None) == (not found.any())
            assert store.contains(keys_of(value))[0].tolist() == found.tolist()
            for row in np.flatnonzero(found):
                assert np.array_equal(vectors[row], expected[value[row]])
        elif blocks:
            name = sorted(blocks)[value % len(blocks)]
            first = vectors_of(sorted(blocks.pop(name))[:1]).tobytes()
            change = {"truncate": truncate, "empty": empty, "flip": lambda raw, at=first: flip(raw, raw.index(at))}
            damage(store, name, change[step])


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(STEP, max_size=10))
def test_any_history_of_a_folder_equals_a_dictionary(steps):
    with tempfile.TemporaryDirectory() as folder, few_are_many():
        play(Path(folder), steps)


def test_any_history_of_an_object_store_equals_a_dictionary(s3, capsys):
    count = iter(range(1000))

    @settings(max_examples=15, deadline=None)
    @given(steps=st.lists(STEP, max_size=8))
    def histories(steps):
        with few_are_many():
            play(s3(f"bucket/histories/{next(count)}"), steps)

    histories()


# The whole way


def test_a_run_on_an_object_store_that_is_interrupted_goes_on_and_ends_cleanly(s3, tmp_path):
    """pyarrow ends its S3 library when the interpreter ends; that must neither hang nor change the exit code."""

    data, address = write_collection(tmp_path / "data"), s3("bucket/whole")
    append_documents(data, random_texts(12 * BLOCK_TEXTS, "more"))
    blocks = 13  # with the 30 documents and 12 queries that were there
    settings = [LEXICAL_ENCODER, f"embed.store={address}", "ray=false"]
    command = [sys.executable, "-m", "hnmine.cli", "mine", "--data", str(data), "--out", str(tmp_path / "out")]
    command += [part for setting in settings for part in ("--set", setting)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while blocks_below(address) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=30)[1]
        assert process.returncode == 130, errors
    assert errors.endswith("interrupted; the same command goes on from what is kept\n")
    assert 0 < blocks_below(address) < blocks
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "corrupt" not in done.stderr
    assert "0 vectors from the store" not in done.stderr
    assert blocks_below(address) == blocks
    assert "Traceback" not in errors + done.stderr


def blocks_below(address: str) -> int:
    root = Directory.at(address)
    infos = root.filesystem.get_file_info(pafs.FileSelector(root.path, recursive=True, allow_not_found=True))
    return sum(info.path.endswith(".parquet") for info in infos)
