"""BM25 against Lucene's formula, written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from bm25s.stopwords import STOPWORDS_EN
from hypothesis import given, settings
from hypothesis import strategies as st

from hnmine.ranking.first_stage import Bm25, excluding
from hnmine.types import NO_ROW, Float32, Int64, Texts


def texts(*all_texts: str) -> Texts:
    return Texts(ids=tuple(str(i) for i in range(len(all_texts))), texts=all_texts)


def search(documents: list[str], queries: list[str], depth: int, k1: float = 0.9, b: float = 0.4) -> tuple:
    return Bm25(texts(*documents), k1=k1, b=b).first(texts(*queries), depth)


def asked(query: str) -> list[str]:
    terms = query.lower().split()
    return [term for term in terms if term not in STOPWORDS_EN] or terms


def by_formula(documents: list[str], query: str, k1: float, b: float) -> list[float]:
    """Sum over the query's terms of log(1 + (N - n + 0.5) / (n + 0.5)) f / (f + k1 (1 - b + b length / mean))."""
    bags = [document.lower().split() for document in documents]
    mean = sum(map(len, bags)) / len(bags)
    scores = []
    for bag in bags:
        score = 0.0
        for term in asked(query):
            n = sum(term in other for other in bags)
            if bag.count(term):
                idf = math.log(1 + (len(bags) - n + 0.5) / (n + 0.5))
                score += idf * bag.count(term) / (bag.count(term) + k1 * (1 - b + b * len(bag) / mean))
        scores.append(score)
    return scores


WORDS = st.sampled_from(["apple", "bread", "candle", "the", "of", "x", "forêt"])
TEXT = st.lists(WORDS, max_size=6).map(" ".join)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(TEXT, min_size=1, max_size=12),
    st.lists(TEXT, min_size=1, max_size=3),
    st.integers(1, 15),
    st.sampled_from([(0.9, 0.4), (1.5, 0.75), (0.0, 0.0)]),
)
def test_the_scores_are_lucenes_and_ties_break_by_row_even_where_the_list_is_cut(
    documents: list[str], queries: list[str], depth: int, settings_: tuple[float, float]
) -> None:
    k1, b = settings_
    rows, scores = search(documents, queries, depth, k1, b)
    assert rows.shape == scores.shape == (len(queries), min(depth, len(documents)))
    for query, found, values in zip(queries, rows.tolist(), scores, strict=True):
        expected = by_formula(documents, query, k1, b)
        order = sorted(range(len(documents)), key=lambda row: (-round(expected[row], 5), row))
        wanted = [row for row in order if expected[row] > 0][:depth]
        assert found == wanted + [NO_ROW] * (len(found) - len(wanted))
        np.testing.assert_allclose(values, [expected[row] if row != NO_ROW else 0 for row in found], rtol=1e-5)


def test_a_document_without_a_term_of_the_query_is_not_returned() -> None:
    rows, scores = search(["red apple", "blue sea", "apple pie"], ["apple", "zebra", "the of", "?"], 3)
    assert rows.tolist() == [[0, 2, NO_ROW], *[[NO_ROW] * 3] * 3]
    assert (scores[0] > 0).tolist() == [True, True, False]
    assert (scores[1:] == 0).all()


def test_of_many_equal_documents_the_first_rows_are_returned() -> None:
    rows, _ = search(["same words"] * 500 + ["words words"], ["words"], 4)
    assert rows.tolist() == [[500, 0, 1, 2]]


def test_a_query_of_stop_words_alone_is_asked_as_it_stands() -> None:
    documents = ["to be, or not to be: that is the question", "the sea is not blue", "apple pie", "IT department"]
    rows, _ = search(documents, ["To be or not to be", "apple of the sea", "it"], 4)
    assert rows[:, :2].tolist() == [[0, 1], [2, 1], [3, NO_ROW]]
    assert rows[1, 2] == NO_ROW, "a stop word beside another word finds nothing"


@pytest.mark.parametrize("documents", [["?", "..."], [""]])
def test_a_corpus_without_a_word_has_nothing_to_return(documents: list[str]) -> None:
    rows, scores = search(documents, ["the apple", ""], 5)
    assert (rows == NO_ROW).all()
    assert (scores == 0).all()


FOUND = {
    "C#": ["C++ for beginners", "C for beginners", "The C# language", "Go and Rust"],
    "c++": ["C# for beginners", "C for beginners", "Go, C++, Rust", "the c language"],
    "R": ["Python in practice", "Statistics with Rust", "Plots in R.", "Ruby"],
    "5 V": ["12 V battery", "3.3 V regulator", "a 5 V supply", "volts"],
    "5V": ["12 V battery", "3.3V regulator", "a 5 V supply", "volts"],
    ".NET": ["the net income", "a safety net", "Install .NET on Linux", "ASP"],
    "node.js": ["a node of the graph", "js minifier", "Node.js 20", "deno"],
    "rm -rf": ["rf amplifier", "the rm command", "What rm -rf does", "ls -l"],
    "a/b": ["a plan", "b side", "run an a/b test", "c/d"],
    "python 3.11": ["python 3.9 and 11 others", "python 2.11", "python 3.11 is out", "3 cats"],
    "猫": ["狗在公园", "鸟", "我的猫在睡觉", "鱼"],
    "数据库备份": ["对象存储如何部署", "缓存", "如何备份数据库", "消息队列"],
    "ﬁle": ["a fire", "filet", "FILE of text", "\uff46lea"],
    "STRASSE": ["strass", "strauß", "Die Straße", "stadt"],
    "👍": ["👎", "thumbs", "good 👍🏽", "🎉"],
    "==": ["a = b", "a != b", "a == b", "equal"],
    "10 mg": ["10 kg", "mg alone", "take 10mg daily", "100 ml"],
}


@pytest.mark.parametrize("query", FOUND)
def test_words_of_every_kind_find_their_document_first(query: str) -> None:
    rows, scores = search(FOUND[query], [query], 4)
    assert rows[0, 0] == 2
    assert scores[0, 0] > scores[0, 1], "and no other as well"


def test_the_result_has_the_types_the_others_expect() -> None:
    result: tuple[Int64, Float32] = search(["red apple"], ["apple"], 1)
    assert result[0].dtype == np.int64
    assert result[1].dtype == np.float32


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), depth=st.integers(1, 8))
def test_excluded_documents_leave_their_places_to_the_next(seed: int, depth: int) -> None:
    rng = np.random.default_rng(seed)
    lists = {query: rng.permutation(9)[: rng.integers(0, 10)].tolist() for query in range(4)}
    excluded = {query: set(rng.permutation(9)[: rng.integers(0, 4)].tolist()) for query in range(4)}

    def first(query_rows: Int64, depth: int) -> tuple[Int64, Float32]:
        rows = [[*lists[row], *[NO_ROW] * depth][:depth] for row in query_rows.tolist()]
        scores = [[0 if doc == NO_ROW else 20 - at for at, doc in enumerate(docs)] for docs in rows]
        return np.array(rows), np.array(scores, np.float32)

    asked = np.array([2, 0, 3])
    doc_rows, scores = excluding(first, excluded.__getitem__)(asked, depth)
    assert doc_rows.shape == scores.shape == (3, depth)
    for query, docs, values in zip(asked.tolist(), doc_rows.tolist(), scores.tolist(), strict=True):
        kept = [(doc, 20 - at) for at, doc in enumerate(lists[query]) if doc not in excluded[query]][:depth]
        assert list(zip(docs, values, strict=True)) == [*kept, *[(NO_ROW, 0)] * (depth - len(kept))]
