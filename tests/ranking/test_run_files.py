"""Run files as others write them, and as we do."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hnmine.errors import DataError
from hnmine.ranking.run_files import read_run, write_run
from hnmine.types import NO_ROW, Texts


def texts(*ids: str) -> Texts:
    return Texts(ids=ids, texts=ids)


DOCUMENTS, QUERIES = texts("0", "1", "2", "page 3"), texts("0", "1", "2", "a query")
EVERY_QUERY = np.arange(4)


def run_file(folder: Path, text: str | bytes, name: str = "run.trec") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def lists(path: Path | str, depth: int = 4) -> list[list[tuple[int, float]]]:
    """Return the documents of each query and their scores, as the file is read."""
    rows, scores = read_run(path, DOCUMENTS, QUERIES)(EVERY_QUERY, depth)
    assert rows.shape == scores.shape == (4, depth)
    return [
        [(doc, score) for doc, score in zip(docs, values, strict=True) if doc != NO_ROW]
        for docs, values in zip(rows.tolist(), scores.tolist(), strict=True)
    ]


def test_lists_are_ordered_by_score_then_rank_then_line_and_what_is_foreign_is_said(tmp_path: Path, capsys) -> None:
    lines = [
        "0 Q0 2 2 1.5 tag",
        "0 Q0 1 1 1.5 tag",
        "0 Q0 0 3 9.0 tag",
        "",
        "1 Q0 2 1 -4 tag",
        "2 Q0 2 1 0 tag",
        "2 Q0 1 1 0 tag",
        "9 Q0 1 1 1 tag",
        "1 Q0 8 1 1 t",
    ]
    assert lists(run_file(tmp_path, "\n".join(lines))) == [
        [(0, 9), (1, 1.5), (2, 1.5)],
        [(2, -4)],
        [(2, 0), (1, 0)],
        [],
    ]
    said = capsys.readouterr().err
    assert "3 queries, 2 lines of others ignored" in said
    assert "scores and ranks of 1 queries disagree; scores decide" in said


PLAIN = "0 Q0 1 1 1.5 tag\n1 Q0 2 1 2 tag\n"
READ = [[(1, 1.5)], [(2, 2.0)], [], []]
TABBED = "0\tQ0\tpage 3\t1\t1.5\tmy tag\na query\tQ0\t2\t1\t2\t\n"


RUN_FILES = {
    "plain": (PLAIN, READ),
    "no last line end": (PLAIN.rstrip(), READ),
    "Windows": (PLAIN.replace("\n", "\r\n"), READ),
    "BOM": ("\ufeff" + PLAIN, READ),
    "gzip": (gzip.compress(PLAIN.encode()), READ),
    "gzip with a BOM": (gzip.compress(("\ufeff" + PLAIN).encode()), READ),
    "bzip2": (bz2.compress(PLAIN.encode()), READ),
    "xz": (lzma.compress(PLAIN.encode()), READ),
    "tabs": (PLAIN.replace(" ", "\t"), READ),
    "tabs and blanks": (PLAIN.replace(" ", " \t "), READ),
    "many blanks": (" " + PLAIN.replace(" ", "   "), READ),
    "ids with blanks": (TABBED, [[(3, 1.5)], [], [], [(2, 2.0)]]),
    "MS MARCO": ("0\t1\t1\n0\t2\t2\n1\t2\t1\n", [[(1, -1), (2, -2)], [(2, -1)], [], []]),
    "MS MARCO, blanks": ("0 2 2\n0 1 1\n", [[(1, -1), (2, -2)], [], [], []]),
    "empty": ("", [[], [], [], []]),
    "blank lines": ("\n \n\t\n" + PLAIN, READ),
    "exponents": ("0 Q0 1 1 15e-1 tag\n1 Q0 2 1 +2. tag\n", READ),
}


@pytest.mark.parametrize(("content", "expected"), RUN_FILES.values(), ids=RUN_FILES)
def test_a_file_is_read_as_it_is_meant_whatever_its_packing(
    content: str | bytes, expected: list, tmp_path: Path
) -> None:
    assert lists(run_file(tmp_path, content, "run.any")) == expected


def test_a_document_twice_is_kept_once_with_its_best_score_and_counted(tmp_path: Path, capsys) -> None:
    lines = ["0 Q0 1 3 1 t", "0 Q0 2 2 2 t", "0 Q0 1 1 3 t", "0 Q0 1 4 1 t", "1 Q0 1 1 3 t"]
    assert lists(run_file(tmp_path, "\n".join(lines))) == [[(1, 3), (2, 2)], [(1, 3)], [], []]
    assert "2 queries, 2 lines of a document that its query has already" in capsys.readouterr().err


@pytest.mark.parametrize("score", ["nan", "NaN", "inf", "-inf", "1e999", "1e39", "-4e38"])
def test_a_score_that_is_not_finite_is_refused_with_its_line(score: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"run\.trec, line 3: the score of 2 is .*; expected a finite number"):
        lists(run_file(tmp_path, f"{PLAIN}0 Q0 2 2 {score} tag\n"))


@pytest.mark.parametrize(
    "line", ["0 Q0 1 1 1.5", "0 Q0 1 first 1.5 tag", "0 Q0 1 1 high tag", "0 Q0 1 1 1.5 tag more", "0 1 1", "0"]
)
def test_a_line_of_another_form_is_named(line: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"run\.trec, line 2: expected `query_id Q0 doc_id rank score tag`, got '0"):
        lists(run_file(tmp_path, f"0 Q0 1 1 1.5 tag\n{line}\n"))


@pytest.mark.parametrize("line", ["0 1", "qid pid rank", "0 1 2 3"])
def test_a_first_line_of_another_form_is_told_both(line: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"run\.trec, line 1: expected `query_id .*doc_id rank"):
        lists(run_file(tmp_path, line))


def test_a_line_that_is_not_utf8_and_a_damaged_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"run\.trec, line 3: not UTF-8: .*; write it as UTF-8"):
        lists(run_file(tmp_path, PLAIN.encode() + b"\xff\xfe Q0 1 1 1 t\n"))
    with pytest.raises(DataError, match=r"run\.trec.*expected a whole, readable file"):
        lists(run_file(tmp_path, gzip.compress(PLAIN.encode() * 9)[:-9]))
    with pytest.raises(DataError, match=r"nothing.*expected a whole, readable file"):
        lists(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"is parquet; expected lines of text"):
        lists(run_file(tmp_path, b"PAR1" + bytes(9)))


SCORES = st.floats(-(2.0**99), 2.0**99, width=32) | st.sampled_from([0.0, -0.0, 1.0, 2.0])
TABLE = st.integers(0, 3).flatmap(lambda n: st.lists(st.lists(SCORES, min_size=n, max_size=n), min_size=4, max_size=4))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TABLE, st.randoms(use_true_random=False), st.sampled_from(["run.trec", "run.trec.gz"]))
def test_what_is_written_is_read_in_the_order_of_score_then_place(
    tmp_path: Path, table: list[list[float]], chance: random.Random, name: str
) -> None:
    rows = [chance.sample([0, 1, 2, 3], len(table[0])) for _ in table]
    rows = [[NO_ROW if chance.random() < 0.2 else doc for doc in docs] for docs in rows]
    path, scores_QK = tmp_path / name, np.array(table, dtype=np.float32).reshape(4, -1)
    write_run(path, QUERIES.ids, DOCUMENTS.ids, np.array(rows, dtype=np.int64).reshape(4, -1), scores_QK, tag="t")
    read = lists(path)
    for docs, values, found in zip(rows, scores_QK, read, strict=True):
        places = sorted((at for at, doc in enumerate(docs) if doc != NO_ROW), key=lambda at: (-values[at], at))
        assert [doc for doc, _ in found] == [docs[at] for at in places]
        assert [score for _, score in found] == pytest.approx([values[at] for at in places], rel=1e-6)
        assert all(a > b for (_, a), (_, b) in pairwise(found)), "nobody has a tie to break"


def test_a_written_run_is_trecs_and_the_same_bytes_every_time(tmp_path: Path) -> None:
    rows, scores = np.array([[1, 0, 2, NO_ROW]]), np.array([[1, 2, 1, 9]], dtype=np.float32)
    for name in ("run", "a.gz", "b.gz"):
        write_run(tmp_path / name, ["q"], DOCUMENTS.ids, rows, scores, tag="model")
    expected = "q Q0 0 1 2.0 model\nq Q0 1 2 1.0 model\nq Q0 2 3 0.99999994 model\n"
    assert (tmp_path / "run").read_text() == expected
    packed = (tmp_path / "a.gz").read_bytes()
    assert gzip.decompress(packed) == expected.encode()
    assert packed == (tmp_path / "b.gz").read_bytes()
    assert packed[:10] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"


def test_the_order_of_a_written_run_is_that_of_programs_that_break_ties_by_id(tmp_path: Path) -> None:
    import ir_measures

    path, ids = tmp_path / "run", [f"d{i}" for i in range(9)]
    write_run(path, ["q"], ids, np.arange(9)[None], np.zeros((1, 9), dtype=np.float32), tag="t")
    for right in range(9):
        qrels, run = {"q": {f"d{right}": 1}}, ir_measures.read_trec_run(str(path))
        (found,) = ir_measures.iter_calc([ir_measures.parse_measure("RR")], qrels, run)
        assert found.value == pytest.approx(1 / (right + 1))


@pytest.mark.parametrize("bad", ["a\tb", "a\nb", " a", "a ", ""])
def test_an_id_that_cannot_stand_in_a_line_is_refused(bad: str, tmp_path: Path) -> None:
    rows, scores = np.array([[0]]), np.ones((1, 1), dtype=np.float32)
    for queries, docs in (([bad], ["d"]), (["q"], [bad])):
        with pytest.raises(DataError, match="cannot stand in a run file"):
            write_run(tmp_path / "run", queries, docs, rows, scores, tag="t")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_is_not_written(score: float, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="query q has a score that is not finite"):
        write_run(tmp_path / "run", ["q"], ["d"], np.array([[0]]), np.array([[score]], dtype=np.float32), tag="t")


def test_scores_in_the_third_of_three_columns_are_refused(tmp_path: Path) -> None:
    falling = "0\t1\t9\n0\t2\t7\n1\t0\t3\n1\t2\t2\n2\t1\t8\n9\t1\t1\n"
    with pytest.raises(DataError, match=r"run\.trec: the third column falls from line to line.*six columns"):
        lists(run_file(tmp_path, falling))
    assert lists(run_file(tmp_path, falling + "2\t0\t9\n"))[2] == [(1, -8), (0, -9)]
    assert lists(run_file(tmp_path, "0\t1\t9\n1\t2\t7\n"))[0] == [(1, -9)]
    scored = "0 Q0 1 9 -9 t\n0 Q0 2 7 -7 t\n"
    assert lists(run_file(tmp_path, scored))[0] == [(2, -7), (1, -9)]


def test_scores_and_ranks_that_are_opposite_everywhere_are_refused(tmp_path: Path) -> None:
    opposite = "0 Q0 1 9 1 t\n0 Q0 2 7 0 t\n1 Q0 0 3 2 t\n1 Q0 2 2 1 t\n2 Q0 1 8 1 t\n"
    with pytest.raises(DataError, match=r"run\.trec: all ranks rise with the scores.*exchange the columns"):
        lists(run_file(tmp_path, opposite))
    assert lists(run_file(tmp_path, opposite + "2 Q0 0 9 0 t\n"))[0] == [(1, 1), (2, 0)]
    assert lists(run_file(tmp_path, "0 Q0 1 1 1 t\n0 Q0 2 1 0 t\n"))[0] == [(1, 1), (2, 0)]
