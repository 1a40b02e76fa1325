"""The negatives that `hnmine mine` left in a run, as rows."""

from __future__ import annotations

import pyarrow.parquet as pq

from hnmine.errors import DataError
from hnmine.runs.folder import Run
from hnmine.training.data import TrainingData

Mined = dict[tuple[int, int], list[int]]
"""Negatives' document rows by (query row, positive's document row), nearest first."""


def read_mined(run: Run, data: TrainingData) -> Mined:
    """Read the negatives of a run; what was judged positive since they were mined is left out.

    Raises:
        DataError: there are none, or they cannot be read, or are of other data.
    """
    # Read the ids, nearest first.
    run.require_mined()
    path = run.out / "negatives.parquet"
    try:
        rows = pq.read_table(path).select(["query_id", "positive_id", "negative_id", "rank"]).to_pylist()
        rows.sort(key=lambda row: row["rank"])
    except (OSError, ValueError, TypeError, KeyError) as error:  # Arrow's errors are children of these
        raise DataError(f"{path} cannot be read ({str(error).splitlines()[0]}); run `hnmine mine` again") from None
    # Turn them into rows.
    documents, queries = data.documents.row_of, data.queries.row_of
    mined: Mined = {}
    try:
        for row in rows:
            key = queries[row["query_id"]], documents[row["positive_id"]]
            mined.setdefault(key, []).append(documents[row["negative_id"]])
    except KeyError as error:
        raise DataError(f"{path} names {error}, which --data does not have; mine again from this data") from None
    # Leave out what is judged positive by now.
    never = data.never_negative
    return {key: [row for row in rows if row not in never.get(key[0], ())] for key, rows in mined.items()}
