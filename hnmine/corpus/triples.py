"""Training files: queries with right and wrong documents, whose distinct texts become the collection.

    sentence-transformers   {"anchor": …, "positive": …, "negative": …}; also query or question, and answer; several
                            negatives are negative_1, negative_2 …, or a list
                            {"sentence1": …, "sentence2": …, "label": …}; also query with passage, document or docs, and
                            with positive if there are no negatives; lists have labels
    FlagEmbedding           {"query": …, "pos": […], "neg": […]}
    Tevatron                {"query_id": …, "query": …, "positive_passages": [{"docid": …, "title": …, "text": …}],
                            "negative_passages": […]}

JSON lines, CSV, TSV, Parquet or Arrow, a file or several for each split that names have in them; without one it is
train. A text without an id has one made of its identity, so that the same text is one document in all files. What is
right has grade 1, and what has a label its label, 0 included. What is given as negative was mined, not judged: it is a
document like others, as are those of a corpus.jsonl beside the files. Scores of a teacher are not read.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from hnmine.corpus.assemble import Parts
from hnmine.corpus.fields import DOCUMENT, keys_by_field, plain
from hnmine.corpus.file_names import UNSPLIT, has_rows, require_whole, role_of, split_in
from hnmine.corpus.files import File, Folder, Row
from hnmine.corpus.identity import identity
from hnmine.corpus.rows import rows
from hnmine.errors import DataError

EXPECTED = "a file or more of training triples: anchor and positive, query and pos, or query and positive_passages"
_EXPECTED = "query and positive, or query, document and label"
_QUERY = ("query", "anchor", "question", "sentence1")
_RIGHT = ("positive", "pos", "positives", "positive_passages", "answer")
_LABELLED = ("sentence2", "passage", "passages", "document", "documents", "doc", "docs", *_RIGHT)
_WRONG = re.compile(r"(hard)?neg(ative)?(s|passages)?\d*")  # in names as `plain` has them


class Form(NamedTuple):
    """Under which keys rows hold query, documents and labels."""

    query: str
    query_id: str | None
    documents: str  # right ones, if there are no labels
    labels: str | None
    wrong: tuple[str, ...]


def recognise(folder: Folder) -> Parts | str | None:
    """Return the parts of a folder of training files, None if there are none; text if other files give them a doubt."""
    # See what each file holds.
    files, more, unread, labelled, doubtful = list[File](), list[File](), list[str](), False, False
    for file in folder.files:
        first, role = _first_row(file), role_of(file.name)
        form = None if isinstance(first, str) else form_of(tuple(first.fields))
        if form is not None:
            files.append(file)
            labelled |= form.labels is not None
        elif isinstance(first, Row) and role == "documents" and "text" in keys_by_field(DOCUMENT, first.fields):
            more.append(file)
        else:
            reason = first if isinstance(first, str) else f"its rows have {list(first.fields)}; expected {_EXPECTED}"
            unread.append(f"{file.name} ({reason})")
            doubtful |= bool(role)
    if not files:
        return next((reason for reason in unread if "expected" in reason), None)
    if doubtful or (more and labelled):  # ids may stand where texts are expected
        return "beside these are training triples: to read them alone, give their file"

    # Read them.
    require_whole([*more, *files])
    reading = _Reading(tuple(files), tuple(more))
    return Parts(
        layout="training triples",
        documents=reading.documents(),
        queries=reading.queries(),
        judged={split: reading.judgements(split) for split in dict.fromkeys(map(_split, files))},
        unread=tuple(unread),
    )


@lru_cache(maxsize=256)
def form_of(keys: tuple[str, ...]) -> Form | None:
    """Return the form of a row with these keys, None if it is none of training."""
    by_name = {plain(key): key for key in reversed(keys) if isinstance(key, str)}

    def first(names: Sequence[str]) -> str | None:
        return next((by_name[name] for name in map(plain, names) if name in by_name), None)

    query, right, wrong = first(_QUERY), first(_RIGHT), tuple(key for key in keys if _WRONG.fullmatch(plain(key)))
    labels, labelled = first(("label", "labels")), first(_LABELLED)
    query_id = first(("query_id", "qid"))
    if query is None:
        return None
    if labels is not None and labelled is not None and not wrong:
        return Form(query, query_id, labelled, labels, ())
    scored = right is not None and not wrong and "score" in by_name  # by a model, right and wrong ones alike
    return None if right is None or scored else Form(query, query_id, right, None, wrong)


def _first_row(file: File) -> Row | str:
    """Return the first row of a file, or why there is none."""
    folder, _, name = file.name.rpartition("/")
    inside = folder and ("/" in folder or (split_in(folder) is None and role_of(file.name) != "documents"))
    if inside or not has_rows(name):
        return "not of this layout"
    try:
        return next(iter(rows(file)), "no rows") if file.head().strip() else "empty"
    except DataError as error:
        return str(error)


def _split(file: File) -> str:
    return split_in(file.name) or UNSPLIT


@dataclass
class _Reading:
    """The files, read once: for documents; queries and judgements are kept meanwhile."""

    files: tuple[File, ...]
    more: tuple[File, ...]  # of documents
    asked: list[Row] = field(default_factory=list)
    judged: dict[str, list[Row]] = field(default_factory=dict)
    known: dict[tuple[str, str], int] = field(default_factory=dict)  # by kind and id: hash of what first came with it

    def documents(self) -> Iterator[Row]:
        """Yield the documents, or raise DataError if a row has the id of one where its text is expected."""
        for row in (row for file in self.more for row in rows(file)):
            if not row.reason:
                name, text, fields = _document(row.fields)
                self._is_new("document", name, text)
                row = row._replace(fields=fields)
            yield row
        for file in self.files:
            for row in rows(file):
                form = None if row.reason else form_of(tuple(row.fields))
                if row.reason:
                    yield row
                elif form is None:
                    detail = f"expected {_EXPECTED}; keys: {list(row.fields)}"
                    yield row._replace(reason="malformed_row", detail=detail)
                else:
                    yield from self._of_row(row, form, _split(file))

    def queries(self) -> Iterator[Row]:
        yield from self.asked

    def judgements(self, split: str) -> Iterator[Row]:
        yield from self.judged.get(split, ())

    def _of_row(self, row: Row, form: Form, split: str) -> Iterator[Row]:
        """Yield the documents of a row that are new; keep its query and judgements."""
        # See what is there.
        query, given = row.fields[form.query], _as_list(row.fields[form.documents])
        labels = [1] * len(given) if form.labels is None else _as_list(row.fields[form.labels])
        if not isinstance(query, str) or len(labels) != len(given):
            detail = f"expected a query as text, and a label for each document; keys: {list(row.fields)}"
            yield row._replace(reason="malformed_row", detail=detail)
            return
        query_id, text = _identified("q", row.fields.get(form.query_id or ""), query)
        if self._is_new("query", query_id, text):
            self.asked.append(Row(f"{row.file}: queries", row.line, {"id": query_id, "text": query}))

        # Give the documents, and keep the judgements.
        wrong = [document for key in form.wrong for document in _as_list(row.fields[key]) if document]
        for document, grade in (*zip(given, labels, strict=True), *((each, None) for each in wrong)):
            if self.more and isinstance(document, str) and ("document", document) in self.known:
                problem = f"{document[:40]!r} is the id of a document in {self.more[0].name}; expected its text"
                raise DataError(f"{row.file}, line {row.line}: {problem}")
            name, text, fields = _document(document)
            if self._is_new("document", name, text):
                yield Row(f"{row.file}: documents", row.line, fields)
            if grade is not None and self._is_new(f"{split} {query_id}", name, grade):
                judgement = {"query": query_id, "document": name, "score": grade}
                self.judged.setdefault(split, []).append(Row(f"{row.file}: judgements", row.line, judgement))

    def _is_new(self, kind: str, name: str, value: Any) -> bool:
        """Return whether this comes for the first time, or with another value than before."""
        place, digest = (kind, name), hash(_as_text(value))
        new = self.known.get(place) != digest
        self.known.setdefault(place, digest)
        return new


def _as_list(value: Any) -> Sequence[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _document(document: Any) -> tuple[str, str, Mapping[str, Any]]:
    """Return the id of a document, its text where the id does not say it, and its fields with the id."""
    fields = document if isinstance(document, Mapping) else {"text": document}
    keys = keys_by_field(DOCUMENT, fields)
    text = "\n".join(_as_text(fields.get(keys.get(key, key)) or "") for key in ("title", "text")).strip()
    name, text = _identified("d", fields.get(keys.get("id", "_id")), text)
    return name, text, {**fields, keys.get("id", "_id"): name}


def _identified(kind: str, given: Any, text: str) -> tuple[str, str]:
    """Return the id that was given, or one made of the text's identity; and the text, where the id does not say it."""
    if type(given) in (str, int) and str(given).strip():
        return str(given), text
    digest = hashlib.blake2b(identity(text).encode("utf-8", "surrogatepass"), digest_size=10)
    return f"{kind}-{digest.hexdigest()}", ""


def _as_text(value: Any) -> str:
    try:
        return value if isinstance(value, str) else repr(value)
    except RecursionError:
        return type(value).__name__
