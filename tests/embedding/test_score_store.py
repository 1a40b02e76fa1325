"""What is scored once stays known: over calls, runs and crashes, and never for another model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from hnmine.config.root import Config
from hnmine.embedding import score_store as scored
from hnmine.embedding.score_store import Score, Scored
from hnmine.runs.folder import Run, open_run
from hnmine.types import Float32

TEXTS = ["", "a", "ab", "b", "deploy MySQL", "deploy Postgres", "é\0b"]


class Model:
    """Scores by hand, and notes what it was asked; `breaks`: raises at its so-manieth call."""

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
def run(tmp_path: Path) -> Iterator[Run]:
    with open_run(tmp_path / "out", Config()) as run:
        yield run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    (made / "model.safetensors").write_bytes(b"weights")
    return made


@pytest.mark.parametrize("part", [1, 5, 4096])
def test_each_query_and_document_is_scored_once_over_calls_and_runs(
    part: int, run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scored, "_PART", part)
    rng, model = np.random.default_rng(0), Model()
    for _ in range(6):
        memory = Scored("start", folder, model.load, {"max_tokens": 8}, run)
        for count in (0, 1, 9, 20):
            queries, documents = drawn(rng, count)
            told: list[int] = []
            np.testing.assert_array_equal(memory.scores(queries, documents, told.append), by_hand(queries, documents))
            assert sum(told) == count
        assert len(list((run.out / "scored" / "start").iterdir())) <= 16 + 30 // part + 4
    assert len(model.asked) == len(set(model.asked)) > 40
    assert model.loaded < 6, "one that has nothing to score is not loaded"


def test_another_model_or_another_way_to_read_is_asked_anew(run: Run, folder: Path) -> None:
    how = {"max_tokens": 8}
    for change in (None, {"max_tokens": 9}, how, b"other weights"):
        if isinstance(change, bytes):
            (folder / "model.safetensors").write_bytes(change)
        elif change is not None:
            how = change
        model = Model()
        Scored("start", folder, model.load, how, run).scores(["a", "a"], ["b", "ab"])
        assert model.asked == [("a", "b"), ("a", "ab")]
        Scored("start", folder, model.load, how, run).scores(["a", "a"], ["b", "ab"])
        assert (model.calls, model.loaded) == (1, 1)
        assert len(list((run.out / "scored" / "start").iterdir())) == 1, "what another one said is removed"
    other = Model()
    Scored("guards", folder, other.load, how, run).scores(["a"], ["b"])
    assert other.calls == 1


def test_a_crash_costs_what_was_not_yet_written_and_a_broken_file_its_own(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scored, "_PART", 2)
    queries, documents = ["a"] * 6, TEXTS[:6]
    with pytest.raises(RuntimeError, match="gone"):
        Scored("start", folder, Model(breaks=3).load, None, run).scores(queries, documents)
    model = Model()
    Scored("start", folder, model.load, None, run).scores(queries, documents)
    assert model.asked == [("a", text) for text in documents[4:]]
    first = sorted((run.out / "scored" / "start").iterdir())[0]
    first.write_bytes(first.read_bytes()[:-9])
    again = Model()
    np.testing.assert_array_equal(
        Scored("start", folder, again.load, None, run).scores(queries, documents), by_hand(queries, documents)
    )
    assert len(again.asked) == 2
