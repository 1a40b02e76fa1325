"""A collection that one can judge by eye, written as BEIR files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from hnmine.types import Texts

TOPICS = ("apple", "bread", "candle", "desk", "eagle", "forest", "garden", "harbour", "island", "jacket")
_SPLITS = {"train": slice(0, 12), "dev": slice(12, 16), "test": slice(16, 20)}


def write_collection(folder: Path, splits: Iterable[str] = ("train", "dev", "test")) -> Path:
    """Of ten topics a guide, a price and a story: 30 documents; two queries a topic: 20, whose words lead astray."""
    documents, queries = [], []
    for topic, other in zip(TOPICS, (*TOPICS[1:], TOPICS[0]), strict=True):
        guide = f"Wash it gently, keep it dry, and look after the {topic} and the {other} in winter."
        documents.append({"_id": f"{topic}-guide", "title": f"Caring for the {topic}", "text": guide})
        price = f"What the {topic} costs in spring, and what the {other} costs."
        documents.append({"_id": f"{topic}-price", "title": f"Price of the {topic}", "text": price})
        story = f"Long ago a {topic} was lost near the {other}, and found."
        documents.append({"_id": f"{topic}-story", "title": f"Story of the {topic}", "text": story})
        queries.append((f"{topic}-care", f"what the {topic} in winter costs to keep", f"{topic}-guide"))
        queries.append((f"{topic}-lost", f"price of {topic} lost long ago", f"{topic}-story"))
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents))
    (folder / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": name, "text": text}) + "\n" for name, text, _ in queries)
    )
    for split in splits:
        rows = "".join(f"{name}\t{positive}\t1\n" for name, _, positive in queries[_SPLITS[split]])
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)
    return folder


def append_lines(file: Path, *lines: str) -> None:
    """Add lines to a file of a collection."""
    file.write_text(file.read_text() + "".join(f"{line}\n" for line in lines))


def append_documents(folder: Path, documents: Texts) -> None:
    """Add documents without a title to a collection."""
    rows = zip(documents.ids, documents.texts, strict=True)
    lines = (json.dumps({"_id": name, "title": "", "text": text}) for name, text in rows)
    append_lines(folder / "corpus.jsonl", *lines)
