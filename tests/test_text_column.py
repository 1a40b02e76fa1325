"""Columns of texts are sequences like any other, wherever their bytes lie; ids find their rows."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hnmine.text_column import RowsById, TextColumn
from hnmine.types import Texts

ANY_TEXT = st.text(st.characters(codec=None), max_size=12)


@given(st.lists(ANY_TEXT, max_size=40), st.sampled_from([0, 1, 7, 10**9]), st.slices(40))
def test_a_column_is_the_list_that_it_was_made_of(texts: list[str], in_memory: int, part: slice) -> None:
    column = TextColumn(texts, in_memory)
    assert column == texts
    assert list(column) == texts
    assert [column[row] for row in range(-len(texts), len(texts))] == texts + texts
    assert column[part] == tuple(texts[part])
    assert pickle.loads(pickle.dumps(column)) == texts
    assert column != [*texts, ""]
    column.append("more")
    assert column == [*texts, "more"]
    with pytest.raises(IndexError, match=f"row {len(texts) + 1} of {len(texts) + 1}"):
        column[len(texts) + 1]


def test_what_lies_partly_in_a_file_is_read_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"{number} é" * (number % 50) for number in range(2000)]
    column = TextColumn(texts, in_memory=30_000)
    assert "0 of them in a file" not in repr(column)
    assert list(column) == texts
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, at: real(file, min(size, 100), at))  # as signals may cut it
    assert list(column) == texts


@pytest.mark.parametrize("call", ["pwrite", "open"])
def test_without_room_on_the_disk_texts_stay_in_memory(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def no_room(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", no_room) if call == "pwrite" else monkeypatch.setattr(
        "tempfile.TemporaryFile", no_room
    )
    texts = [str(number) for number in range(100)]
    column = TextColumn(texts, in_memory=10)
    assert column == texts
    assert "0 of them in a file" in repr(column)


def test_a_file_that_somebody_cut_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    column = TextColumn(["some", "texts"], in_memory=1)
    monkeypatch.setattr(os, "pread", lambda *_: b"")
    with pytest.raises(OSError, match="did something cut it"):
        list(column)


@given(st.lists(ANY_TEXT, unique=True, max_size=40), ANY_TEXT)
def test_ids_find_their_rows_in_another_process_too(ids: list[str], other: str) -> None:
    rows = RowsById(TextColumn(ids))
    assert dict(rows) == {text_id: row for row, text_id in enumerate(ids)}
    assert rows.get(other) == (ids.index(other) if other in ids else None)
    assert Texts(ids=TextColumn(ids), texts=TextColumn(ids)).row_of == rows


def test_hashes_of_one_process_are_not_those_of_another() -> None:
    kept = pickle.dumps(Texts(ids=TextColumn(["a", "b", "c"]), texts=TextColumn(["x", "y", "z"])))
    code = "import pickle, sys; rows = pickle.load(sys.stdin.buffer).row_of; print([rows[each] for each in 'cab'])"
    done = subprocess.run([sys.executable, "-c", code], input=kept, capture_output=True, check=True)
    assert done.stdout.split() == [b"[2,", b"0,", b"1]"]


def test_ids_of_one_hash_are_told_apart_and_one_id_is_no_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hnmine.text_column.hash", lambda _: 7, raising=False)
    ids = ["b", "a", "c"]
    assert dict(RowsById(ids)) == {"b": 0, "a": 1, "c": 2}
    assert "d" not in RowsById(ids)
    with pytest.raises(AssertionError, match="unique, 'a'"):
        RowsById([*ids, "a"])
