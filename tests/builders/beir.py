"""BEIR folders of a few rows, well formed or not."""

from __future__ import annotations

from pathlib import Path

from hnmine.config.steps import SourcesConfig
from hnmine.corpus.collection import Collection
from hnmine.corpus.layouts import read_collection

HEADER = "query-id\tcorpus-id\tscore"
CORPUS = ['{"_id": "d1", "title": "One", "text": "first"}', '{"_id": "d2", "title": "", "text": "second"}']
QUERIES = ['{"_id": "q1", "text": "what is first"}', '{"_id": "q2", "text": "what is second"}']
QRELS = [HEADER, "q1\td1\t1", "q2\td2\t1"]
Lines = list[str | bytes] | list[str]


def packed(lines: Lines) -> bytes:
    """Return the lines as bytes, each ended."""
    return b"".join((line.encode() if isinstance(line, str) else line) + b"\n" for line in lines)


def write_folder(folder: Path, corpus: Lines = CORPUS, queries: Lines = QUERIES, **qrels: Lines) -> Path:
    """Write a folder; without qrels a train split."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    (folder / "corpus.jsonl").write_bytes(packed(corpus))
    (folder / "queries.jsonl").write_bytes(packed(queries))
    for split, lines in (qrels or {"train": QRELS}).items():
        (folder / "qrels" / f"{split}.tsv").write_bytes(packed(lines))
    return folder


def read(folder: Path | str, **sources: object) -> Collection:
    """Read a folder with these settings."""
    return read_collection(folder, SourcesConfig.model_validate(sources))


def judged_ids(collection: Collection, split: str) -> dict[tuple[str, str], float]:
    """Return the grades of a split by the ids of query and document."""
    judged, queries, documents = collection.splits[split], collection.queries.ids, collection.documents.ids
    rows = zip(judged.query_rows_J.tolist(), judged.doc_rows_J.tolist(), judged.grades_J.tolist(), strict=True)
    return {(queries[query], documents[document]): grade for query, document, grade in rows}


def contents(collection: Collection) -> tuple[object, ...]:
    """Return all that files of any layout must agree on."""
    splits = {split: judged_ids(collection, split) for split in collection.splits}
    return collection.documents, collection.queries, splits, collection.quarantined
