"""BM25 against Lucene's formula, written out."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from bm25s.stopwords import STOPWORDS_EN
from hypothesis import given, settings
from hypothesis import strategies as st

from hnmine.errors import DataError
from hnmine.ranking.first_stage import Bm25, read_run
from hnmine.types import NO_ROW, Float32, Int64, Texts


def texts(*all_texts: str) -> Texts:
    return Texts(ids=tuple(str(i) for i in range(len(all_texts))), texts=all_texts)


def search(documents: list[str], queries: list[str], depth: int, k1: float = 0.9, b: float = 0.4) -> tuple:
    return Bm25(texts(*documents), k1=k1, b=b).first(texts(*queries), depth)


def terms(text: str) -> list[str]:
    return [term for term in re.findall(r"\b\w\w+\b", text.lower()) if term not in STOPWORDS_EN]


def by_formula(documents: list[str], query: str, k1: float, b: float) -> list[float]:
    """Sum over the query's terms of log(1 + (N - n + 0.5) / (n + 0.5)) f / (f + k1 (1 - b + b length / mean))."""
    bags = [terms(document) for document in documents]
    mean = sum(map(len, bags)) / len(bags)
    scores = []
    for bag in bags:
        score = 0.0
        for term in terms(query):
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
    rows, scores = search(["red apple", "blue sea", "apple pie"], ["apple", "zebra", "the of", ""], 3)
    assert rows.tolist() == [[0, 2, NO_ROW], *[[NO_ROW] * 3] * 3]
    assert (scores[0] > 0).tolist() == [True, True, False]
    assert (scores[1:] == 0).all()


def test_of_many_equal_documents_the_first_rows_are_returned() -> None:
    rows, _ = search(["same words"] * 500 + ["words words"], ["words"], 4)
    assert rows.tolist() == [[500, 0, 1, 2]]


@pytest.mark.parametrize("documents", [["the", "of a"], ["the"]])
def test_a_corpus_of_stop_words_alone_has_nothing_to_return(documents: list[str]) -> None:
    rows, scores = search(documents, ["the apple"], 5)
    assert (rows == NO_ROW).all()
    assert (scores == 0).all()


def test_the_result_has_the_types_the_others_expect() -> None:
    result: tuple[Int64, Float32] = search(["red apple"], ["apple"], 1)
    assert result[0].dtype == np.int64
    assert result[1].dtype == np.float32


DOCUMENTS, QUERIES = texts("a", "b", "c"), texts("x", "y", "z")


def run_file(folder: Path, text: str) -> Path:
    path = folder / "run.trec"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_run_file_gives_its_lists_by_score_then_rank_and_says_what_is_foreign(tmp_path: Path, capsys) -> None:
    lines = [
        "0 Q0 2 2 1.5 tag",
        "0 Q0 1 1 1.5 tag",
        "0 Q0 0 3 9.0 tag",
        "",
        "1 Q0 2 1 -4 tag",
        "9 Q0 1 1 1 tag",
        "1 Q0 8 1 1 t",
    ]
    first = read_run(run_file(tmp_path, "\n".join(lines)), DOCUMENTS, QUERIES)
    rows, scores = first(np.array([1, 0, 2]), 2)
    assert rows.tolist() == [[2, NO_ROW], [0, 1], [NO_ROW, NO_ROW]]
    assert scores.tolist() == [[-4, 0], [9, 1.5], [0, 0]]
    said = capsys.readouterr().err
    assert "2 queries, 2 lines of others ignored" in said
    assert "has nothing for 1 of 3 queries" in said


@pytest.mark.parametrize("line", ["0 Q0 1 1 1.5", "0 Q0 1 first 1.5 tag", "0 Q0 1 1 high tag", "0 Q0 1 1 1.5 tag more"])
def test_a_line_of_another_form_is_named(line: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"run\.trec, line 2: expected `query_id Q0 doc_id rank score tag`"):
        read_run(run_file(tmp_path, f"0 Q0 1 1 1.5 tag\n{line}\n"), DOCUMENTS, QUERIES)


def test_a_run_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"evaluate\.first_stage: .*nothing cannot be read.*bm25 and dense need no file"
    ):
        read_run(tmp_path / "nothing", DOCUMENTS, QUERIES)
