"""BM25 by a corpus' statistics gives what the first stage's index gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from hnmine.errors import ModelError
from hnmine.ranker.bm25 import Bm25Statistics
from hnmine.ranking.first_stage import Bm25
from hnmine.types import NO_ROW, Texts

LETTERS = st.lists(st.sampled_from(["fox", "the", "dog's", "C++", "狐狸", "1,000", "unseen", "of", "a/b"]), max_size=12)


@settings(max_examples=60, deadline=None)
@given(
    corpus=st.lists(LETTERS.map(" ".join), min_size=1, max_size=8),
    query=LETTERS.map(" ".join),
    k1=st.floats(0, 3),
    b=st.floats(0, 1),
)
def test_a_pair_is_scored_to_the_bit_as_the_index_scores_it(corpus: list[str], query: str, k1: float, b: float) -> None:
    documents = Texts(ids=tuple(map(str, range(len(corpus)))), texts=tuple(corpus))
    rows, scores = Bm25(documents, k1=k1, b=b).first(Texts(ids=("q",), texts=(query,)), len(corpus))
    mine = Bm25Statistics.of(corpus, k1=k1, b=b).scores(query, corpus)
    found = rows[0][rows[0] != NO_ROW]
    assert mine[found].tolist() == scores[0][: len(found)].tolist()
    others = np.setdiff1d(np.arange(len(corpus)), found)
    assert not mine[others].any()


def test_it_is_read_as_it_was_written_and_other_words_are_refused(tmp_path: Path) -> None:
    corpus = ["the quick fox", "a dog", ""]
    made = Bm25Statistics.of(corpus, k1=0.9, b=0.4)
    made.save(path := tmp_path / "bm25.safetensors")
    assert Bm25Statistics.load(path) == made
    empty = Bm25Statistics.of([], k1=1, b=0)
    empty.save(tmp_path / "empty.safetensors")
    assert Bm25Statistics.load(tmp_path / "empty.safetensors") == empty
    assert empty.scores("fox", ["fox"]).tolist() == [0]
    save_file(load_file(path), path, {"facts": '{"words": "0, of long ago"}'})
    with pytest.raises(ModelError, match=r"counts words of analyzer 0, of long ago.*evaluate` again"):
        Bm25Statistics.load(path)
