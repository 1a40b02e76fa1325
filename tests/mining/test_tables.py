"""The tables that leave mining: their columns and types, and every row by its ids and texts."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from hnmine.mining.conditions import Known
from hnmine.mining.mine import Judged
from hnmine.mining.tables import negatives_table, triplets_table
from hnmine.types import Negatives, Pairs, Texts

DOCUMENTS = Texts(ids=("d0", "d1", "d2"), texts=("a guide", "a price", "a story"))
JUDGED = Judged(
    pairs=Pairs(query_rows_P=np.array([1, 0]), doc_rows_P=np.array([0, 2])),
    queries=Texts(ids=("q0", "q1"), texts=("which story?", "which guide?")),
    known=Known.of([{0}, {2}], np.arange(3)),
)


def negatives(pair_M: list[int], doc_rows_M: list[int]) -> Negatives:
    count = len(pair_M)
    return Negatives(
        pair_M=np.array(pair_M, dtype=np.int64),
        doc_rows_M=np.array(doc_rows_M, dtype=np.int64),
        rank_M=np.arange(1, count + 1),
        d_query_positive_M=np.full(count, 0.5),
        d_query_negative_M=np.full(count, 0.25),
        d_positive_negative_M=np.full(count, 0.75),
        certificate_M=np.full(count, "found", dtype=object),
        pairs=2,
        dropped={"positive_is_nearest": 2 - len(set(pair_M))},
        guarded={},
    )


FOUND, NOTHING = negatives([0, 0], [2, 1]), negatives([], [])
COLUMNS = {
    negatives_table: {
        "query_id": pa.string(),
        "positive_id": pa.string(),
        "negative_id": pa.string(),
        "rank": pa.int32(),
        "d_query_positive": pa.float64(),
        "d_query_negative": pa.float64(),
        "d_positive_negative": pa.float64(),
        "certificate": pa.string(),
    },
    triplets_table: {
        "query": pa.large_string(),
        "positive": pa.large_string(),
        "negative": pa.large_string(),
        "query_id": pa.string(),
        "positive_id": pa.string(),
        "negative_id": pa.string(),
    },
}


@pytest.mark.parametrize("table_of", list(COLUMNS))
@pytest.mark.parametrize(("found", "rows"), [(FOUND, 2), (NOTHING, 0)], ids=["some", "none"])
def test_columns_and_types_are_the_same_whether_or_not_anything_is_found(table_of, found, rows):
    table = table_of(found, JUDGED, DOCUMENTS)
    assert {field.name: field.type for field in table.schema} == COLUMNS[table_of]
    assert table.column_names == list(COLUMNS[table_of])
    assert len(table) == rows


def test_every_negative_stands_with_its_ids_its_proof_and_its_texts():
    ids = {"query_id": "q1", "positive_id": "d0"}
    proof = {
        "d_query_positive": 0.5,
        "d_query_negative": 0.25,
        "d_positive_negative": 0.75,
        "certificate": "found",
    }
    assert negatives_table(FOUND, JUDGED, DOCUMENTS).to_pylist() == [
        ids | {"negative_id": "d2", "rank": 1} | proof,
        ids | {"negative_id": "d1", "rank": 2} | proof,
    ]
    texts = {"query": "which guide?", "positive": "a guide"}
    assert triplets_table(FOUND, JUDGED, DOCUMENTS).to_pylist() == [
        texts | ids | {"negative": "a story", "negative_id": "d2"},
        texts | ids | {"negative": "a price", "negative_id": "d1"},
    ]
