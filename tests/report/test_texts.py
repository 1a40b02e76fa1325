"""The texts that the page shows of queries: their beginnings, and what is judged right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from hnmine.config.root import Config
from hnmine.report.texts import DOCUMENTS, QUERIES, SHOWN, WIDTH, beginning, write_texts
from hnmine.runs.folder import open_run
from tests.builders.runs import scored_task


@pytest.mark.parametrize("seed", range(5))
def test_the_files_hold_what_any_order_puts_first_and_no_more(seed: int, tmp_path: Path) -> None:
    task, scores = scored_task(np.random.default_rng(seed), 15, 12, lambda name: name)
    with open_run(tmp_path, Config()) as run:
        assert write_texts(task, scores.values(), run) == [QUERIES, DOCUMENTS]
    first = set()
    for scores_QK in scores.values():
        for rows, row_scores in zip(task.doc_rows_QK.tolist(), scores_QK.tolist(), strict=True):
            order = sorted(range(len(rows)), key=lambda at, found=row_scores: (-found[at], at))
            first |= {rows[at] for at in order[:SHOWN]}
    documents = {row["document_id"]: row["text"] for row in pq.read_table(tmp_path / DOCUMENTS).to_pylist()}
    assert documents == {task.document_ids[row]: task.document_texts[row] for row in first}
    for row, relevant, rows in zip(
        pq.read_table(tmp_path / QUERIES).to_pylist(), task.relevant, task.doc_rows_QK, strict=True
    ):
        assert row["right"] == len(relevant)
        assert row["right_ids"] == [task.document_ids[doc] for doc in rows.tolist() if doc in relevant]


def test_a_beginning_is_one_printable_line_of_at_most_its_width() -> None:
    assert beginning("a\n  b\tc") == "a b c"
    assert beginning("x" * WIDTH) == "x" * WIDTH
    assert beginning("word " * 1000, 21) == "word word word word …"
    assert beginning(" " * 10_000 + "x", 30).endswith("…")
    assert beginning("\x1b[2J\u202eabc") == "\ufffd[2J\ufffdabc"
    assert len(beginning("y" * 10**6)) == WIDTH
