"""The vector store: what is written comes back, what is damaged is set aside, and nothing else is served."""

from __future__ import annotations

import hashlib
import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnmine.store import Fingerprint, Reading, VectorStore, key_of, keys_of

WIDTH = 3


@pytest.fixture
def store(tmp_path: Path) -> VectorStore:
    return VectorStore(tmp_path / "store", Fingerprint.of(kind="test"))


def vectors_of(texts: list[str], width: int = WIDTH) -> np.ndarray:
    """A vector that its text decides, so that a mixed-up row shows."""
    rows = [np.frombuffer(key_of(text), dtype=np.uint8)[:width] for text in texts]
    return np.array(rows, dtype=np.float32).reshape(-1, width)


def write(store: VectorStore, texts: list[str]) -> Path:
    return store.write(keys_of(texts), vectors_of(texts))


def names(store: VectorStore, ending: str) -> list[str]:
    return sorted(path.name for path in store.folder.glob(f"*{ending}"))


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


def test_the_way_it_is_read_is_part_of_the_key():
    prompted, adapted = Reading("query: "), Reading("query: ", "retrieval")
    ways = [Reading(), prompted, adapted, Reading("query: ", "other"), Reading("", "retrieval"), Reading("", "query: ")]
    assert len({key_of("text", reading) for reading in ways}) == len(ways)
    assert key_of("text", prompted) != key_of("query: text")
    assert keys_of(["a", "b"], adapted).tobytes() == key_of("a", adapted) + key_of("b", adapted)


def test_keys_without_an_adapter_are_those_of_stores_written_before_there_were_any():
    assert key_of("text", Reading("query: ")) == hashlib.blake2b(b"query: \0text", digest_size=16).digest()


def test_another_fingerprint_sees_nothing(store):
    write(store, ["a"])
    other = VectorStore(store.root, Fingerprint.of(kind="other"))
    assert not other.load(keys_of(["a"]))[1].any()


def test_a_fingerprint_is_its_facts_in_any_order():
    assert Fingerprint.of(a=1, b=None).digest == Fingerprint.of(b=None, a=1).digest
    different = [Fingerprint.of(a=1), Fingerprint.of(a="1"), Fingerprint.of(a=None), Fingerprint.of(b=1)]
    assert len({fingerprint.digest for fingerprint in different}) == 4


def test_encoder_json_tells_people_the_facts_and_leaves_no_temporary_file(store):
    store.describe()
    store.describe()
    assert json.loads((store.folder / "encoder.json").read_text(encoding="utf-8")) == {"kind": "test"}
    assert [path.name for path in store.folder.iterdir()] == ["encoder.json"]


# Damage


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_in_a_vector(path: Path) -> None:
    raw = path.read_bytes()
    at = raw.index(vectors_of(["a"]).tobytes())
    path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])


def flip_in_a_key(path: Path) -> None:
    raw = path.read_bytes()
    at = raw.index(key_of("a") + key_of("b"))  # not the statistics, which hold one key
    path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def not_parquet(path: Path) -> None:
    path.write_bytes(b"this is no Parquet file, but long enough to be one")


def other_columns(path: Path) -> None:
    pq.write_table(pa.table({"x": [1, 2]}), path)


def other_types(path: Path) -> None:
    pq.write_table(pa.table({"text_key": ["a", "b"], "vector": [[1.0], [2.0]]}), path)


@pytest.mark.parametrize(
    "damage", [truncate, flip_in_a_vector, flip_in_a_key, empty, not_parquet, other_columns, other_types]
)
def test_a_damaged_block_is_set_aside_reported_and_its_texts_are_missing(damage, store, capsys):
    path = write(store, ["a", "b"])
    write(store, ["c"])
    damage(path)
    vectors, found = store.load(keys_of(["a", "b", "c"]))
    assert found.tolist() == [False, False, True]
    assert np.array_equal(vectors[2:], vectors_of(["c"]))
    assert names(store, ".corrupt") == [f"{path.stem}.corrupt"]
    assert not path.exists()
    said = capsys.readouterr().err
    assert path.name in said
    assert "damaged" in said
    store.load(keys_of(["a", "b", "c"]))
    assert capsys.readouterr().err == ""  # said once


def test_no_flipped_byte_of_a_block_is_served_or_stops_the_load(store, capsys):
    texts = ["a", "b", "c", "d"]
    path = write(store, texts)
    raw, expected, served = path.read_bytes(), vectors_of(texts), 0
    for at in range(len(raw)):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ (1 << at % 8)]) + raw[at + 1 :])
        vectors, found = store.load(keys_of(texts))
        served += bool(found.any())
        assert vectors is None or np.array_equal(vectors[found], expected[found]), at
    assert 0 < served < len(raw) / 2  # some bytes are only names and statistics


def test_readers_that_meet_the_same_damaged_blocks_do_not_stop_each_other(store, capsys):
    blocks = [write(store, [f"text {i}"]) for i in range(150)]
    for path in blocks:
        empty(path)
    keys, start = keys_of(["text 0"]), Barrier(3)

    def load() -> bool:
        start.wait()
        return bool(store.load(keys)[1].any())

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(load) for _ in range(3)]
    assert [reader.result() for reader in readers] == [False, False, False]
    assert len(names(store, ".corrupt")) == 150


def test_an_unfinished_block_is_ignored_and_left_alone(store):
    path = write(store, ["a"])
    path.rename(path.with_suffix(".tmp"))
    assert not store.load(keys_of(["a"]))[1].any()
    assert names(store, "") == [f"{path.stem}.tmp"]


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


def test_a_large_block_of_many_pages_comes_back_whole(store):
    texts = [f"t{i}" for i in range(30_000)]
    vectors = np.random.default_rng(0).normal(size=(len(texts), 48)).astype(np.float32)
    path = store.write(keys_of(texts), vectors)
    assert path.stat().st_size > 4 * 2**20
    loaded, found = store.load(keys_of(texts[::-1]))
    assert found.all()
    assert np.array_equal(loaded, vectors[::-1])


TEXT = st.sampled_from([f"text {i}" for i in range(12)])


@settings(max_examples=60, deadline=None)
@given(writes=st.lists(st.lists(TEXT, min_size=1, max_size=6), max_size=5), asked=st.lists(TEXT, max_size=15))
def test_any_writes_then_a_load_equal_a_dictionary(writes, asked):
    with tempfile.TemporaryDirectory() as folder:
        store = VectorStore(Path(folder), Fingerprint.of(kind="test"))
        expected: dict[str, np.ndarray] = {}
        for texts in writes:
            write(store, texts)
            expected |= dict(zip(texts, vectors_of(texts), strict=True))
        vectors, found = store.load(keys_of(asked))
        assert found.tolist() == [text in expected for text in asked]
        for row, text in enumerate(asked):
            if text in expected:
                assert np.array_equal(vectors[row], expected[text])
