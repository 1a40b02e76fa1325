"""What is scored once stays known: over calls, instances and crashes, and never for another model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hnmine.embedding.score_store import ScoreStore
from hnmine.types import Float32, Score
from tests.builders.texts import as_texts

TEXTS = ["", "a", "ab", "b", "deploy MySQL", "deploy Postgres", "é\0b"]


class Model:
    """Scores by hand, and notes what it was asked; it raises at its call number `breaks`."""

    def __init__(self, breaks: int | None = None) -> None:
        self.asked: list[tuple[str, str]] = []
        self.calls, self.loaded, self._breaks = 0, 0, breaks

    def load(self) -> Score:
        self.loaded += 1
        return self.score

    def score(self, queries: Sequence[str], documents: Sequence[str], done: Callable[[int], None]) -> Float32:
        self.calls += 1
        if self.calls == self._breaks:
            raise RuntimeError("the machine has gone")
        self.asked += zip(queries, documents, strict=True)
        done(len(queries))
        return by_hand(queries, documents)


def by_hand(queries: Sequence[str], documents: Sequence[str]) -> Float32:
    pairs = zip(queries, documents, strict=True)
    return np.array([TEXTS.index(query) - TEXTS.index(doc) / 7 for query, doc in pairs], dtype=np.float32)


def drawn(rng: np.random.Generator, count: int) -> tuple[list[str], list[str]]:
    return [str(text) for text in rng.choice(TEXTS, count)], [str(text) for text in rng.choice(TEXTS, count)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    (made / "model.safetensors").write_bytes(b"weights")
    return made


def blocks(root: Path) -> list[Path]:
    return sorted(root.rglob("*.parquet"), key=lambda path: path.stat().st_mtime_ns)


@pytest.mark.parametrize("block_scores", [1, 5, 4096])
def test_each_query_and_document_is_scored_once_over_calls_and_instances(
    block_scores: int, folder: Path, tmp_path: Path
) -> None:
    rng, model = np.random.default_rng(0), Model()
    for _ in range(6):
        store = ScoreStore(tmp_path / "scored", folder, {"max_tokens": 8}, model.load, block_scores=block_scores)
        for count in (0, 1, 9, 20):
            queries, documents = drawn(rng, count)
            reported: list[int] = []
            scores = store.scores(queries, documents, reported.append)
            assert scores.dtype == np.float32
            np.testing.assert_array_equal(scores, by_hand(queries, documents))
            assert sum(reported) == count
    assert len(model.asked) == len(set(model.asked)) > 40
    assert model.loaded < 6, "one that has nothing to score is not loaded"


def test_pairs_that_repeat_in_one_call_are_scored_once_in_the_order_asked_for(folder: Path, tmp_path: Path) -> None:
    model = Model()
    store = ScoreStore(tmp_path / "scored", folder, None, model.load)
    queries, documents = ["b", "a", "b", "a", "b"], ["a", "b", "a", "a", "a"]
    np.testing.assert_array_equal(store.scores(queries, documents), by_hand(queries, documents))
    assert model.asked == [("b", "a"), ("a", "b"), ("a", "a")]
    with pytest.raises(ValueError, match="shorter"):
        store.scores(["a", "b"], ["a"])


def test_query_and_document_are_told_apart_wherever_one_ends(folder: Path, tmp_path: Path) -> None:
    model = Model()
    store = ScoreStore(tmp_path / "scored", folder, None, model.load)
    queries, documents = ["", "a", "ab", "a", "b"], ["ab", "b", "", "ab", "a"]
    np.testing.assert_array_equal(store.scores(queries, documents), by_hand(queries, documents))
    assert len(model.asked) == 5


def test_rows_are_scored_as_their_texts(folder: Path, tmp_path: Path) -> None:
    model, reported = Model(), []
    store = ScoreStore(tmp_path / "scored", folder, None, model.load)
    queries, documents = as_texts(["a", "b"]), as_texts(["ab", "b", "deploy MySQL"])
    query_rows, doc_rows = np.array([1, 0, 1]), np.array([2, 0, 0])
    scores = store.scores_of_rows(queries, query_rows, documents, doc_rows, reported.append)
    assert scores.dtype == np.float64
    expected = by_hand(["b", "a", "b"], ["deploy MySQL", "ab", "ab"])
    np.testing.assert_array_equal(scores, expected.astype(np.float64))
    assert sum(reported) == 3
    nothing = np.array([], dtype=np.int64)
    assert store.scores_of_rows(queries, nothing, documents, nothing, reported.append).shape == (0,)


def test_nothing_to_score_neither_loads_nor_writes(folder: Path, tmp_path: Path) -> None:
    model = Model()
    assert ScoreStore(tmp_path / "scored", folder, None, model.load).scores([], []).shape == (0,)
    assert model.loaded == 0
    assert not (tmp_path / "scored").exists()


def test_another_model_or_another_way_to_read_is_asked_anew(folder: Path, tmp_path: Path) -> None:
    how: Any = {"max_tokens": 8}
    for change in (None, {"max_tokens": 9}, b"other weights"):
        if isinstance(change, bytes):
            (folder / "model.safetensors").write_bytes(change)
        elif change is not None:
            how = change
        model = Model()
        for _ in range(2):
            ScoreStore(tmp_path / "scored", folder, how, model.load).scores(["a", "a"], ["b", "ab"])
        assert model.asked == [("a", "b"), ("a", "ab")]
        assert (model.calls, model.loaded) == (1, 1)
    assert len(list((tmp_path / "scored").iterdir())) == 3


def test_models_of_equal_weights_share_their_scores_wherever_they_lie(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "copy"
    other.mkdir()
    (other / "model.safetensors").write_bytes(b"weights")
    first, second = Model(), Model()
    ScoreStore(tmp_path / "scored", folder, None, first.load).scores(["a"], ["b"])
    ScoreStore(tmp_path / "scored", other, None, second.load).scores(["a"], ["b"])
    assert (first.calls, second.calls) == (1, 0)


def test_a_crash_costs_a_block_at_most(folder: Path, tmp_path: Path) -> None:
    queries, documents = ["a"] * 6, TEXTS[:6]
    broken = ScoreStore(tmp_path / "scored", folder, None, Model(breaks=3).load, block_scores=2)
    with pytest.raises(RuntimeError, match="gone"):
        broken.scores(queries, documents)
    model = Model()
    scores = ScoreStore(tmp_path / "scored", folder, None, model.load, block_scores=2).scores(queries, documents)
    assert model.asked == [("a", text) for text in documents[4:]]
    np.testing.assert_array_equal(scores, by_hand(queries, documents))


@pytest.mark.parametrize("opened_before", [True, False])
def test_a_damaged_block_is_set_aside_and_scored_again(
    opened_before: bool, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, queries, documents = tmp_path / "scored", ["a"] * 6, TEXTS[:6]
    model = Model()
    store = ScoreStore(root, folder, None, model.load, block_scores=2)
    store.scores(queries, documents)
    if opened_before:
        store.scores(queries, documents)
    assert len(model.asked) == 6
    damaged = blocks(root)[0]
    damaged.write_bytes(damaged.read_bytes()[:-9])
    np.testing.assert_array_equal(store.scores(queries, documents), by_hand(queries, documents))
    assert model.asked[6:] == [("a", text) for text in documents[:2]]
    assert damaged.with_suffix(".corrupt").exists()
    assert f"block {damaged.name} is damaged" in capsys.readouterr().err
    ScoreStore(root, folder, None, model.load).scores(queries, documents)
    assert len(model.asked) == 8
