"""What the page shows of the test queries: texts, what is judged right, and the documents that any row puts first.

OUT/evaluation/queries.parquet      query_id, text, right_ids (judged right, among the first stage's documents), right
                                    (how many are judged right in all)
OUT/evaluation/documents.parquet    document_id, text, of those that some row of the table has among its first `SHOWN`

Texts are the beginnings, one line each, without what could steer a terminal or a page.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from hnmine.ranking.measures import Task, order_of
from hnmine.runs.folder import Run
from hnmine.runs.printable import one_line
from hnmine.types import Float32

QUERIES, DOCUMENTS = "evaluation/queries.parquet", "evaluation/documents.parquet"
SHOWN = 5
"""Documents of a list that are shown."""
WIDTH = 400
"""Characters that are kept of a text."""
_READ = 8  # times as many characters are looked at, since white space is folded


def write_texts(task: Task, scores: Iterable[Float32], run: Run) -> list[str]:
    """Write both files for the orders that these scores (Q, K) make of a task; return their paths in OUT."""
    # Find what stands among the first, in any order.
    first = [np.take_along_axis(task.doc_rows_QK, order_of(task, scores_QK)[:, :SHOWN], axis=1) for scores_QK in scores]
    rows = [row for row in np.unique(np.concatenate(first)).tolist() if row in task.document_ids]
    right = [
        [task.document_ids[row] for row in rows_K.tolist() if row in relevant and row in task.document_ids]
        for rows_K, relevant in zip(task.doc_rows_QK, task.relevant, strict=True)
    ]

    # Write.
    queries = {
        "query_id": pa.array(task.queries.ids, pa.string()),
        "text": pa.array(map(beginning, task.queries.texts), pa.string()),
        "right_ids": pa.array(right, pa.list_(pa.string())),
        "right": pa.array(map(len, task.relevant), pa.int32()),
    }
    documents = {
        "document_id": pa.array([task.document_ids[row] for row in rows], pa.string()),
        "text": pa.array([beginning(task.document_texts[row]) for row in rows], pa.string()),
    }
    run.write_table(QUERIES, pa.table(queries))
    run.write_table(DOCUMENTS, pa.table(documents))
    return [QUERIES, DOCUMENTS]


def beginning(text: str, width: int = WIDTH) -> str:
    """Return the beginning of a text on one line, printable, with an ellipsis where it was cut."""
    line = one_line(text[: _READ * width])
    return shortened(line if len(text) <= _READ * width else line.ljust(width + 1), width)


def shortened(line: str, width: int) -> str:
    """Return a line of at most this many characters, with an ellipsis where it was cut."""
    return line if len(line) <= width else f"{line[: max(0, width - 2)].rstrip()} …"
