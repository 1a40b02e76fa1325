"""Small collections of the kinds that public bug reports were about; what is right for each stands beside it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

from tests.builders.layouts import Plain, beir_qrels, document_rows, jsonl, put, query_rows

VEHICLES = ("ferry", "tram", "night bus", "cable car", "bicycle")
DEEDS = ("book", "cancel", "change", "share")
TOWNS = ("in the old town", "by the harbour", "at the airport")
SPELLINGS: tuple[Callable[[str], str], ...] = (
    str.upper,
    lambda text: text.replace(" ", "  "),
    lambda text: text.replace(" ", "\u00a0"),
    lambda text: f"{text}\u200b\n",
)


def write_plain(folder: Path, plain: Plain) -> Path:
    """Write a collection as a BEIR folder."""
    put(folder, {"corpus.jsonl": jsonl(document_rows(plain)), "queries.jsonl": jsonl(query_rows(plain))})
    put(folder, {f"qrels/{split}.tsv": beir_qrels(rows) for split, rows in plain.judgements.items()})
    return folder


def tickets() -> tuple[dict[str, tuple[str, str]], dict[str, str], dict[str, list[str]]]:
    """Return documents, queries, and for each query all documents of its subject, the right one first."""
    documents, queries, subject = {}, {}, {}
    for vehicle, deed in itertools.product(VEHICLES, DEEDS):
        names = [f"{vehicle}-{deed}-{at}" for at in range(len(TOWNS))]
        for at, town in enumerate(TOWNS):
            text = f"To {deed} a ticket for the {vehicle} {town}, go to the desk {town} and ask to {deed} it."
            documents[names[at]] = (f"{deed} {vehicle}", text)
        for at, town in enumerate(TOWNS[:2]):
            queries[f"ask-{names[at]}"] = (
                f"to the desk {TOWNS[at + 1]}: can I {deed} the {vehicle} {town}"  # leads astray
            )
            subject[f"ask-{names[at]}"] = [*names[at:], *names[:at]]
    return documents, queries, subject


def divided(judged: dict[tuple[str, str], int]) -> dict[str, dict[tuple[str, str], int]]:
    """Return three fifths of the queries as train, a fifth as dev and as test, taken in turns."""
    asked = list(dict.fromkeys(query for query, _ in judged))
    split_of = {query: ("train", "train", "train", "dev", "test")[at % 5] for at, query in enumerate(asked)}
    splits: dict[str, dict[tuple[str, str], int]] = {"train": {}, "dev": {}, "test": {}}
    for (query, doc), grade in judged.items():
        splits[split_of[query]][query, doc] = grade
    return splits


def arguments() -> Plain:
    """Every query is a document, of the same id and text, and what answers it argues against it."""
    documents, judged = {}, {}
    for vehicle, town in itertools.product(VEHICLES, TOWNS):
        name = f"{vehicle} {town}"
        documents[f"{name}, for"] = ("", f"The {vehicle} {town} should be free: it helps everybody {town}.")
        documents[f"{name}, against"] = (
            "",
            f"A free {vehicle} {town} helps nobody; somebody has to pay the {vehicle}.",
        )
        judged[f"{name}, for", f"{name}, against"] = 1
    queries = {name: documents[name][1] for name, _ in judged}
    return Plain(documents, queries, divided(judged))


def copied() -> Plain:
    """Each document stands there twice, the second time in another spelling: no copy is a negative of its twin."""
    documents, queries, subject = tickets()
    copies = {
        f"copy-{name}": (SPELLINGS[at % 4](title), SPELLINGS[at % 4](text))
        for at, (name, (title, text)) in enumerate(documents.items())
    }
    return Plain(documents | copies, queries, divided({(query, names[0]): 1 for query, names in subject.items()}))


def judged_elsewhere(split: str) -> Plain:
    """For each train query the second and third of its subject are judged right in another split."""
    documents, queries, subject = tickets()
    train = {(query, names[0]): 1 for query, names in subject.items()}
    others = {(query, name): 1 for query, names in subject.items() for name in names[1:]}
    return Plain(documents, queries, {"train": train, split: others})


def graded() -> Plain:
    """3: the answer; 1: the same subject elsewhere; 0: judged wrong, of another vehicle."""
    documents, queries, subject = tickets()
    names = list(documents)
    judged = {}
    for query, (right, same, _) in subject.items():
        wrong = names[(names.index(right) + 12) % len(names)]
        judged |= {(query, right): 3, (query, same): 1, (query, wrong): 0}
    return Plain(documents, queries, divided(judged))
