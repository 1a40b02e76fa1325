"""Reads a collection in BEIR layout; a bad row is quarantined with a reason, a bad file is an error.

    corpus.jsonl[.gz]         {"_id": ..., "title": ..., "text": ...}, one object a line
    queries.jsonl[.gz]        {"_id": ..., "text": ...}
    qrels/<split>.tsv[.gz]    query-id, corpus-id, score between tabs, the header optional; or TREC's
                              four columns between tabs or spaces: query, iteration, document, score

For every file, rows read = rows kept + rows judged not relevant + rows quarantined. Blank lines and the
header of a qrels file are no rows.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np

from hnmine.config.steps import SourcesConfig
from hnmine.corpus.collection import Collection, Quarantined
from hnmine.errors import DataError
from hnmine.types import Pairs, Texts

_TEXT_FIELDS = frozenset({"title", "text"})  # a document consists of these; other fields say something about it


def read_beir(folder: str | Path, config: SourcesConfig) -> Collection:
    """Read a folder in BEIR layout.

    A document is the fields of its row that `config.template` names, joined by it and stripped of white space; any
    other separator, as in `{title}: {text}`, stays where the title is empty. Of several rows with one id the first is
    kept.

    Raises:
        DataError: a file is missing, there twice (plain and gzip), or unreadable; there is no split, or nothing usable;
            or the template names what no document has.
    """
    # Find the files.
    folder = Path(folder)
    documents, queries, qrels = _find_files(folder, (config.train_split, config.dev_split, config.test_split))

    # Read the texts, then the judgements, whose ids must be among those of the texts.
    _read_texts(documents, config.template)
    _require(documents, documents.kept, "document: expected one JSON object a line with _id and text")
    _read_texts(queries, "{text}")
    splits = {split: _read_qrels(file, queries, documents) for split, file in qrels.items()}
    splits, judged = _judged_first(queries, splits)
    _require(queries, judged, "query: expected one JSON object a line, and qrels that name it", *qrels.values())

    # Account for every row.
    files = (documents, queries, *qrels.values())
    return Collection(
        documents=documents.texts,
        queries=queries.texts,
        splits=splits,
        rows_read={file.name: file.read for file in files},
        rows_kept={file.name: file.kept for file in files},
        not_relevant={file.name: file.not_relevant for file in qrels.values()},
        quarantined=tuple(row for file in files for row in file.quarantined),
    )


class _BadRowError(Exception):
    """A row that goes to quarantine: reason, detail and, where known, id."""


@dataclass
class _File:
    """A file being read: the account of its rows and, of a file of texts, the texts."""

    path: Path
    name: str
    read: int = 0
    kept: int = 0
    not_relevant: int = 0
    quarantined: list[Quarantined] = field(default_factory=list)
    texts: Texts = field(default_factory=lambda: Texts(ids=(), texts=()))
    rejected: dict[str | None, Quarantined] = field(default_factory=dict)

    def rows(self) -> Iterator[tuple[int, str]]:
        """Yield line number and content of each row; quarantine those that are not UTF-8."""
        try:
            with gzip.open(self.path) if self.path.suffix == ".gz" else self.path.open("rb") as lines:
                for line, raw in enumerate(lines, start=1):
                    content = raw.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n")
                    if not content.strip():
                        continue
                    self.read += 1
                    try:
                        text = content.decode()
                    except UnicodeDecodeError as error:
                        self.reject(line, "not_utf8", f"byte {error.start}: {error.reason}")
                    else:
                        yield line, text
        except (EOFError, zlib.error, OSError) as error:
            raise DataError(f"{self.path}: {error}; expected a whole, readable file: copy it again") from None

    def reject(self, line: int, reason: str, detail: str, row_id: str | None = None) -> None:
        """Quarantine a row."""
        row_id = row_id and row_id.encode(errors="backslashreplace").decode()  # half characters do not print
        row = Quarantined(file=self.name, line=line, reason=reason, id=row_id, detail=detail[:120])
        self.quarantined.append(row)

    def row(self, kind: str, text_id: str, query_id: str) -> int:
        """Return the row of a text; without one the judgement of `query_id` is a bad row."""
        row = self.texts.row_of.get(text_id)
        if row is None:
            bad = self.rejected.get(text_id)
            fate = f"was quarantined: {bad.reason} in line {bad.line} of" if bad else "is not in"
            raise _BadRowError(f"unknown_{kind}", f"{kind} {_show(text_id)} {fate} {self.name}", query_id)
        return row


def _find_files(folder: Path, splits: Sequence[str]) -> tuple[_File, _File, dict[str, _File]]:
    """Return the files of documents, of queries, and of each split that there is."""
    splits = tuple(dict.fromkeys(splits))
    expected = (
        "expected a BEIR folder with corpus.jsonl, queries.jsonl and at least one of "
        f"{', '.join(f'qrels/{split}.tsv' for split in splits)} (each may end in .gz): give the folder that "
        "holds these, or name your splits with sources.train_split, sources.dev_split, sources.test_split"
    )
    if not folder.is_dir():
        raise DataError(f"{folder} {'is not a folder' if folder.exists() else 'does not exist'}; {expected}")
    documents, queries = _find(folder, "corpus.jsonl"), _find(folder, "queries.jsonl")
    qrels = {split: file for split in splits if (file := _find(folder, f"qrels/{split}.tsv"))}
    if documents and queries and qrels:
        return documents, queries, qrels
    needed = {"corpus.jsonl": documents, "queries.jsonl": queries, "qrels of a known split": qrels}
    lacks = ", ".join(name for name, found in needed.items() if not found)
    paths = (*sorted(folder.glob("*"))[:12], *sorted(folder.glob("qrels/*.tsv*"))[:12])
    there = ", ".join(path.relative_to(folder).as_posix() for path in paths) or "nothing"
    raise DataError(f"{folder} has no {lacks}; it holds {there}; {expected}")


def _find(folder: Path, name: str) -> _File | None:
    """Return the file of this name, plain or packed, if there is one."""
    there = [each for each in (name, f"{name}.gz") if (folder / each).is_file()]
    if len(there) == 2:
        raise DataError(f"{folder} holds both {there[0]} and {there[1]}; expected one: remove the other")
    return _File(folder / there[0], there[0]) if there else None


def _read_texts(file: _File, template: str) -> None:
    """Read a file of documents or queries into `file.texts`."""
    parts = [(text, key) for text, key, _, _ in Formatter().parse(template)]
    kept: dict[str, tuple[int, str]] = {}  # line and text, by id
    unseen = {key for _, key in parts if key} - _TEXT_FIELDS
    for line, content in file.rows():
        try:
            text_id, text, seen = _parse_text(content, parts)
            unseen -= seen
            first, first_text = kept.setdefault(text_id, (line, text))
            if first != line:
                same = "the same text" if text == first_text else "another text"
                raise _BadRowError("duplicate_id", f"line {first} has it, with {same}", text_id)
        except _BadRowError as bad:
            file.reject(line, *bad.args)
    if kept and unseen:
        raise DataError(f"sources.template names {', '.join(sorted(unseen))}, which no row of {file.name} has")
    file.texts, file.kept = Texts(ids=tuple(kept), texts=tuple(text for _, text in kept.values())), len(kept)
    file.rejected = {row.id: row for row in file.quarantined}


def _parse_text(content: str, parts: Sequence[tuple[str, str | None]]) -> tuple[str, str, set[str]]:
    """Return a row's id, its text, and the fields of the template that it has."""
    try:
        row = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _BadRowError("broken_json", str(error).replace("line 1 ", "")) from None
    if not isinstance(row, dict):
        raise _BadRowError("not_an_object", f"expected an object with _id and text, got a {type(row).__name__}")
    text_id = row.get("_id")
    if text_id is None or (isinstance(text_id, str) and not text_id.strip()):
        raise _BadRowError("missing_id", f"_id is absent, null or blank; keys: {_show(list(row))}")
    if isinstance(text_id, bool) or not isinstance(text_id, str | int):
        raise _BadRowError("wrong_type", f"_id must be a string or integer, got a {type(text_id).__name__}")
    text_id = str(text_id)
    fields = {key: _field(row, key) for _, key in parts if key}
    for key, value in fields.items():
        if not isinstance(value, str | None):
            raise _BadRowError("wrong_type", f"{key} must be a string, got a {type(value).__name__}", text_id)
    text = "".join(literal + ((key and fields[key]) or "") for literal, key in parts).strip()
    text_fields = [key for key in fields if key in _TEXT_FIELDS]
    if not any((fields[key] or "").strip() for key in text_fields):
        raise _BadRowError("empty_text", f"nothing in {text_fields}; the row has {_show(list(row))}", text_id)
    try:
        (text_id + text).encode()
    except UnicodeEncodeError as error:
        raise _BadRowError("not_utf8", f"{error.object[error.start]!r} is no character", text_id) from None
    return text_id, text, {key for key, value in fields.items() if value}


def _field(row: Any, path: str) -> Any:
    """Return a field, `a.b` being b in a; None where there is none. A name with a dot in it comes first."""
    if isinstance(row, dict) and path not in row and "." in path:
        outer, _, inner = path.partition(".")
        return _field(row.get(outer), inner)
    return row.get(path) if isinstance(row, dict) else None


def _read_qrels(file: _File, queries: _File, documents: _File) -> Pairs:
    """Return the pairs of a split: those with a score above 0."""
    judgements: dict[tuple[int, int], tuple[int, float]] = {}  # line and score, by rows of query and document
    width = 0  # columns of this file, 3 (BEIR) or 4 (TREC), as its header or first whole row has
    for line, content in file.rows():
        columns = content.split("\t") if "\t" in content else content.split()
        if not width and len(columns) in (3, 4) and all(map(str.strip, columns)):
            width = len(columns)
            named = columns[0] in queries.texts.row_of or columns[-2] in documents.texts.row_of
            if file.read == 1 and not named and not any(map(str.isdigit, columns[-1])):
                file.read = 0  # it was the header
                continue
        try:
            query_id, document_id, score = _parse_judgement(columns, width or 3)
            pair = queries.row("query", query_id, query_id), documents.row("document", document_id, query_id)
            first, first_score = judgements.setdefault(pair, (line, score))
            if first != line:
                detail = f"line {first} has this query and {_show(document_id)}; scores {first_score:g}, {score:g}"
                raise _BadRowError("duplicate_pair", detail, query_id)
        except _BadRowError as bad:
            file.reject(line, *bad.args)
    pairs = np.array([pair for pair, (_, score) in judgements.items() if score > 0], np.int64).reshape(-1, 2)
    file.kept, file.not_relevant = len(pairs), len(judgements) - len(pairs)
    return Pairs(query_rows_P=pairs[:, 0].copy(), doc_rows_P=pairs[:, 1].copy())


def _parse_judgement(columns: list[str], width: int) -> tuple[str, str, float]:
    """Return query id, document id and score."""
    if len(columns) != width or not all(map(str.strip, columns)):
        form = "query-id, corpus-id, score by tabs" if width == 3 else "query, iteration, document, score"
        raise _BadRowError("malformed_row", f"expected {form}, none empty; got {_show(columns)}")
    try:
        if math.isfinite(score := float(columns[-1])):
            return columns[0], columns[-2], score
    except ValueError:
        pass
    raise _BadRowError("bad_score", f"expected a finite number, got {_show(columns[-1])}", columns[0])


def _judged_first(queries: _File, splits: dict[str, Pairs]) -> tuple[dict[str, Pairs], int]:
    """Put the queries that no pair names last; return the pairs on the new rows, and how many are named."""
    paired_Q = np.zeros(len(queries.texts), dtype=bool)
    for pairs in splits.values():
        paired_Q[pairs.query_rows_P] = True
    order_Q = np.argsort(~paired_Q, kind="stable")
    queries.texts = queries.texts.take(order_Q.tolist())
    new_Q = np.argsort(order_Q)
    moved = {name: replace(pairs, query_rows_P=new_Q[pairs.query_rows_P]) for name, pairs in splits.items()}
    return moved, int(paired_Q.sum())


def _require(file: _File, usable: int, kind: str, *others: _File) -> None:
    """Raise DataError if nothing in the file is usable, with the reasons of the rows that were quarantined."""
    if not usable:
        bad = Counter(f"{row.reason} in {row.file}" for each in (file, *others) for row in each.quarantined)
        got = ", ".join(f"{n} {reason}" for reason, n in bad.most_common(4)) or "none"
        raise DataError(f"{file.path} has no usable {kind}; {file.read} rows, quarantined {got}: repair them")


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 48 else text[:47] + "…"
