"""A run folder in which something was mined, drawn at random, without the mining."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hnmine.runs.files import file_sha256, write_json

MARKS = ("", " with “marks”\nand lines", " \u2028 \x85 a line?", ' {"json": [1]}', "\t, a tab; 中文 🙂")
Rows = list[dict[str, object]]


def mined_run(out: Path, seed: int = 0, *, queries: int = 7, documents: int = 30, blanks: bool = False) -> Rows:
    """Write OUT with one to three positives a query, one to four negatives a pair, pairs in any order; return rows."""
    rng = np.random.default_rng(seed)
    texts = {f"d{' ' * blanks}{at}": f"document {at}{MARKS[at % len(MARKS)]}" for at in range(documents)}
    names, pairs = list(texts), []
    for query in range(queries):
        drawn = [names[at] for at in rng.permutation(documents)]
        near = {name: float(distance) for name, distance in zip(drawn, np.sort(rng.random(documents)), strict=True)}
        for positive in drawn[20 : 20 + rng.integers(1, 4)]:
            negatives = sorted(rng.choice(drawn[:20], size=rng.integers(1, 5), replace=False), key=near.__getitem__)
            pairs.append((f"q{query}", positive, [str(name) for name in negatives], near))
    rows: Rows = []
    for at in rng.permutation(len(pairs)).tolist():
        query, positive, negatives, near = pairs[at]
        for rank, negative in enumerate(negatives, 1):
            row = {"query_id": query, "positive_id": positive, "negative_id": negative, "rank": rank}
            row |= {"d_query_positive": near[positive], "d_query_negative": near[negative]}
            row |= {"d_positive_negative": 1.0, "certificate": "found", "query": f"what is {query}?{MARKS[at % 5]}"}
            rows.append(row | {"positive": texts[positive], "negative": texts[negative]})
    for row in rows:  # a query has one text
        row["query"] = next(each["query"] for each in rows if each["query_id"] == row["query_id"])
    write_run_of(out, rows)
    return rows


def write_run_of(out: Path, rows: Rows) -> None:
    """Write the tables and the manifest of these rows."""
    out.mkdir(parents=True, exist_ok=True)
    ids = ["query_id", "positive_id", "negative_id"]
    proof = [*ids, "rank", "d_query_positive", "d_query_negative", "d_positive_negative", "certificate"]
    for name, columns in (("negatives", proof), ("triplets", ["query", "positive", "negative", *ids])):
        table = {column: pa.array([row[column] for row in rows]) for column in columns}
        pq.write_table(pa.table(table), out / f"{name}.parquet")
    files = {path.name: file_sha256(path) for path in sorted(out.glob("*.parquet"))}
    write_json(out / "manifest.json", {"mining": {"inputs": {}}, "files": files})
