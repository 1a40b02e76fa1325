"""Rows of documents, queries and judgements become a collection; every row is kept, or quarantined with a reason.

A text is kept once: a row with the id and the text of an earlier one is a duplicate. Of rows with one id and different
texts nobody knows which was judged: all are set aside, with all that is judged of them.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from string import Formatter
from typing import Any

import numpy as np

from hnmine.config.steps import SourcesConfig
from hnmine.corpus.collection import Collection, Quarantined, judged_first
from hnmine.corpus.fields import DOCUMENT, JUDGEMENT, QUERY, Names, keys_by_field, listed
from hnmine.corpus.files import Row
from hnmine.corpus.identity import identity
from hnmine.corpus.qrels import FIELDS, score_of
from hnmine.errors import DataError
from hnmine.types import Judgements, Texts

DEV_NAMES = ("validation", "valid", "val")  # of a split that is dev, if no other has that name
_UNREADABLE = {"not_utf8", "broken_json", "not_an_object", "malformed_row", "missing_id", "wrong_type", "bad_score"}
_VISIBLE = re.compile("[!-~\u0391-\u03c9\u0401-\u0451\u05d0-\u05ea\u0621-\u063a\u0904-\u0939\u0e01-\u0e2e\u3041-\u30fa"
                      "\u4e00-\u9fff\uac00-\ud7a3]")  # fmt: skip
"""Characters that anybody sees; a text with one of them is not empty."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a layout found: rows, each iterable read once and in this order, and files that nothing reads.

    Fields of documents and queries have any names of `fields`; those of judgements are query, document and score.
    """

    layout: str  # in words
    documents: Iterable[Row]
    queries: Iterable[Row]
    judged: Mapping[str, Iterable[Row]]  # by split
    unread: tuple[str, ...] = ()  # each "name (why)"
    address: str = "the collection"  # for messages


def assemble(parts: Parts, sources: SourcesConfig, quarantined: list[Quarantined] | None = None) -> Collection:
    """Read the rows and return the collection.

    Args:
        parts: the rows.
        sources: how a document's fields are joined, and what a positive is.
        quarantined: takes every bad row as soon as it is found, so that they are known if this fails.

    Raises:
        DataError: nothing usable is among documents, queries, or the judgements of a split; the template names what no
            document has; or ids of judgements fit the wrong way round.
    """
    # Read the texts, then the judgements, whose ids must be among those of the texts.
    account = _Account([] if quarantined is None else quarantined)
    documents = _read_texts("document", parts.documents, DOCUMENT, sources.template, account, parts.address)
    queries = _read_texts("query", parts.queries, QUERY, "{text}", account, parts.address)
    judged = _named(parts.judged, sources)
    splits = {split: _read_judgements(split, rows, queries, documents, account) for split, rows in judged.items()}

    # Account for every row.
    ordered, splits = judged_first(
        Texts(ids=tuple(queries.row_of), texts=tuple(queries.texts)), splits, sources.min_score
    )
    places = {file: place for place, file in enumerate(account.read)}
    account.bad.sort(key=lambda row: (places[row.file], row.line))
    bad = Counter(row.file for row in account.bad)
    collection = Collection(
        documents=documents.kept(),
        queries=ordered,
        splits=splits,
        min_score=sources.min_score,
        lower_are_negatives=sources.lower_grades == "negatives",
        rows_read=dict(account.read),
        rows_kept={file: read - bad[file] for file, read in account.read.items()},
        quarantined=tuple(account.bad),
        layout=parts.layout,
        unread=parts.unread,
    )
    if not len(collection.judged):
        expected, highest = "expected qrels that name one", [each.grades_J.max(initial=0) for each in splits.values()]
        if sources.min_score is not None and max(highest, default=0) > 0:
            expected = f"the highest grade is {max(highest):g}, below sources.min_score={sources.min_score:g}: lower it"
        raise DataError(_nothing(parts.address, "query with a right document", account, expected))
    return collection


class _BadRowError(Exception):
    """A row that goes to quarantine: reason, detail and, where known, id."""


@dataclass
class _Account:
    """Rows that were read, by file, and those that were bad."""

    bad: list[Quarantined]
    read: Counter[str] = field(default_factory=Counter)

    def reject(self, row: Row, reason: str, detail: str, row_id: str | None = None) -> Quarantined:
        """Quarantine a row."""
        row_id = row_id and row_id.encode(errors="backslashreplace").decode()  # half characters do not print
        detail = detail[:120].encode(errors="backslashreplace").decode()
        self.bad.append(Quarantined(file=row.file, line=row.line, reason=reason, id=row_id, detail=detail))
        return self.bad[-1]

    def good(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Count the rows; yield those that are not known to be bad."""
        for row in rows:
            self.read[row.file] += 1
            if row.reason:
                self.reject(row, row.reason, row.detail)
            else:
                yield row


class _TextTable:
    """Texts by id, with the places they come from."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.row_of: dict[str, int] = {}
        self.texts: list[str] = []
        self.files: list[str] = []
        self.places = (array("L"), array("Q"))  # of each text: number of the file, and line
        self.rejected: dict[str, Quarantined] = {}  # by id: rows that cannot be used
        self.disputed = set[str]()  # ids of several texts

    def add(self, row: Row, text_id: str, text: str, account: _Account) -> None:
        """Keep a text, once."""
        if not self.files or self.files[-1] != row.file:
            self.files.append(row.file)
        first = self.row_of.setdefault(text_id, len(self.texts))
        if first == len(self.texts):
            self.texts.append(text)
            self.places[0].append(len(self.files) - 1)
            self.places[1].append(row.line)
            return
        where = Row(self.files[self.places[0][first]], self.places[1][first], {})
        if text_id not in self.disputed:
            if identity(text) == identity(self.texts[first]):
                detail = f"line {where.line} of {where.file} has it, with the same text"
                raise _BadRowError("duplicate_id", detail, text_id)
            self.disputed.add(text_id)
            self.rejected[text_id] = account.reject(where, *_conflict(text_id, row))
        raise _BadRowError(*_conflict(text_id, where))

    def close(self) -> None:
        """Drop the texts whose id is that of another."""
        if self.disputed:
            kept = [(name, self.texts[row]) for name, row in self.row_of.items() if name not in self.disputed]
            self.row_of = {name: row for row, (name, _) in enumerate(kept)}
            self.texts = [text for _, text in kept]

    def kept(self) -> Texts:
        """Return the texts."""
        return Texts(ids=tuple(self.row_of), texts=tuple(self.texts))

    def row(self, text_id: str, query_id: str) -> int:
        """Return the row of a text; without one the judgement of `query_id` is a bad row."""
        row = self.row_of.get(text_id)
        if row is None:
            fate = f"is not in {self.files[0]}"
            if len(self.files) > 1:
                fate += f" and {len(self.files) - 1} files more"
            if bad := self.rejected.get(text_id):
                fate = f"was quarantined: {bad.reason} in line {bad.line} of {bad.file}"
            raise _BadRowError(f"unknown_{self.kind}", f"{self.kind} {_show(text_id)} {fate}", query_id)
        return row

    def __contains__(self, text_id: str) -> bool:
        return text_id in self.row_of or text_id in self.rejected


def _conflict(text_id: str, other: Row) -> tuple[str, str, str]:
    """Return reason, detail and id of a bad row whose id `other` has too."""
    detail = f"line {other.line} of {other.file} has it, with another text: both are set aside"
    return "conflicting_id", detail, text_id


def _read_texts(
    kind: str, rows: Iterable[Row], names: Names, template: str, account: _Account, address: str
) -> _TextTable:
    """Read documents or queries."""
    # See what the template asks for.
    parts = [(text, key) for text, key, _, _ in Formatter().parse(template)]
    keys = [key for _, key in parts if key]
    roles = [key for key in keys if key in ("title", "text")] if "text" in keys else keys  # what makes it no empty text
    unseen, table = set(keys) - {"title", "text"}, _TextTable(kind)
    textless: Row | None = None  # has a title, and perhaps its text under a name that nobody knows
    with_text = "text" not in keys

    # Read the rows.
    for row in account.good(rows):
        try:
            text_id, text, values = _parse_text(row.fields, names, parts, roles)
            if not with_text:
                with_text = "text" in keys_by_field(names, row.fields)
                textless = textless or (row if _has_unknown_text(row.fields, names) else None)
            if unseen:
                unseen.difference_update(key for key, value in values.items() if value)
            table.add(row, text_id, text, account)
        except _BadRowError as bad:
            rejected = account.reject(row, *bad.args)
            if len(bad.args) > 2 and bad.args[0] != "duplicate_id":
                table.rejected.setdefault(bad.args[2], rejected)
    table.close()

    # Refuse what gives no texts, or not those that are meant.
    if not table.texts:
        other = "; for another text: sources.template='{title} {its_name}'" if names is DOCUMENT else ""
        raise DataError(_nothing(address, f"usable {kind}", account, f"expected fields {listed(names)}{other}"))
    if not with_text and textless:
        raise DataError(
            f"{address} has documents of titles alone; line {textless.line} of {textless.file} has the keys "
            f"{_show(list(textless.fields))}; expected {listed({'text': names['text']})}; for another text: "
            "sources.template='{title} {its_name}', for none: sources.template='{title}'"
        )
    if unseen:
        raise DataError(f"sources.template names {', '.join(sorted(unseen))}, which no {kind} has in {address}")
    return table


def _has_unknown_text(fields: Mapping[str, Any], names: Names) -> bool:
    """Return whether a field has text whose name nobody knows."""
    known = set(keys_by_field(names, fields).values())
    return any(isinstance(value, str) and value.strip() for key, value in fields.items() if key not in known)


def _parse_text(
    fields: Mapping[str, Any], names: Names, parts: Sequence[tuple[str, str | None]], roles: Sequence[str]
) -> tuple[str, str, dict[str, str]]:
    """Return a row's id, its text, and the fields of the template."""
    # Find the id.
    keys = keys_by_field(names, fields)
    text_id = fields[keys["id"]] if "id" in keys else None
    if text_id is None or (isinstance(text_id, str) and not text_id.strip()):
        raise _BadRowError("missing_id", f"no id, absent, null or blank; keys: {_show(list(fields))}")
    text_id = _id(text_id)

    # Join the fields of the template.
    values = {key: _joined(fields, key, keys.get(key, key), text_id) for _, key in parts if key}
    text = "".join([literal + (values[key] if key else "") for literal, key in parts]).strip()
    said = "".join([values[key] for key in roles])
    if not (_VISIBLE.search(said, 0, 200) or identity(said)):
        raise _BadRowError("empty_text", f"nothing in {roles}; keys: {_show(list(fields))}", text_id)
    if not (text_id.isascii() and text.isascii()):
        try:
            (text_id + text).encode()
        except UnicodeEncodeError as error:
            raise _BadRowError("not_utf8", f"{error.object[error.start]!r} is no character", text_id) from None
    return text_id, text, values


def _id(value: Any) -> str:
    """Return an id as text."""
    if type(value) is str:
        return value
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _BadRowError("wrong_type", f"an id must be a string or integer, got a {type(value).__name__}")
    try:
        return str(value)
    except ValueError as error:  # an integer of thousands of digits
        raise _BadRowError("wrong_type", str(error)) from None


def _joined(fields: Mapping[str, Any], key: str, name: str, text_id: str) -> str:
    """Return a field of the template as text, a list of texts joined by line ends."""
    value = fields.get(name)
    if type(value) is str:
        return value
    if value is None and "." in name and name not in fields:  # `a.b` is b in a
        outer, _, inner = name.partition(".")
        within = fields.get(outer)
        return _joined(within, key, inner, text_id) if isinstance(within, Mapping) else ""
    if value is None or (isinstance(value, float) and value != value):  # pandas writes NaN where nothing is
        return ""
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return "\n".join(value)
    raise _BadRowError("wrong_type", f"{key} must be a string or strings, got a {type(value).__name__}", text_id)


def _named(judged: Mapping[str, Iterable[Row]], sources: SourcesConfig) -> dict[str, Iterable[Row]]:
    """Return the splits, those of the settings first; the first of `DEV_NAMES` is dev, if no other is."""
    other = next((name for name in DEV_NAMES if name in judged and sources.dev_split not in judged), None)
    named = {sources.dev_split if name == other else name: rows for name, rows in judged.items()}
    order = (sources.train_split, sources.dev_split, sources.test_split)
    return {name: named[name] for name in dict.fromkeys((*order, *named)) if name in named}


def _read_judgements(
    split: str, rows: Iterable[Row], queries: _TextTable, documents: _TextTable, account: _Account
) -> Judgements:
    """Read what one split judges."""
    # Keep each pair once.
    pairs, grades, lines = array("q"), array("f"), array("q")
    known: dict[int, int] = {}  # position in these, by query row * number of documents + document row
    strangers: dict[bool, dict[tuple[str, str], Row]] = {False: {}, True: {}}  # fit only as they are, only reversed
    before = len(account.bad)
    for row in account.good(rows):
        try:
            query, document, score = _parse_judgement(row)
            grade = score_of(score)
            if grade is None:
                raise _BadRowError("bad_score", f"expected a finite number, got {_show(score)}", query)
            query_row, document_row = queries.row_of.get(query), documents.row_of.get(document)
            if query_row is None or document_row is None:
                straight = query in queries and document in documents
                if straight != (document in queries and query in documents):
                    strangers[not straight].setdefault((query, document), row)
                query_row, document_row = queries.row(query, query), documents.row(document, query)
            pair = query_row * len(documents.texts) + document_row
            first = known.setdefault(pair, len(pairs))
            if first < len(pairs):
                scores = f"scores {grades[first]:g}, {grade:g}"
                detail = f"line {lines[first]} has this query and {_show(document)}; {scores}"
                grades[first] = max(grades[first], grade)  # what anybody judged right is no negative
                raise _BadRowError("duplicate_pair", detail, query)
            pairs.append(pair)
            grades.append(grade)
            lines.append(row.line)
        except _BadRowError as bad:
            account.reject(row, *bad.args)

    # Refuse what is the wrong way round, and what nobody can read.
    judged = Judgements(
        query_rows_J=np.array(pairs, np.int64) // len(documents.texts),
        doc_rows_J=np.array(pairs, np.int64) % len(documents.texts),
        grades_J=np.array(grades, np.float32),
    )
    if strangers[True]:
        _refuse_reversed(judged, queries, documents, len(strangers[False]), strangers[True])
    bad_rows = account.bad[before:]
    if not pairs and bad_rows and all(bad.reason in _UNREADABLE for bad in bad_rows):
        raise DataError(_nothing(bad_rows[0].file, f"usable judgement of {split}", account, listed(JUDGEMENT)))
    return judged


def _refuse_reversed(
    judged: Judgements,
    queries: _TextTable,
    documents: _TextTable,
    straight: int,
    reversed_rows: Mapping[tuple[str, str], Row],
) -> None:
    """Raise DataError if more rows fit only the wrong way round than only as they are: those kept, and `straight`."""
    is_document = [name in documents for name in queries.row_of]
    is_query = [name in queries for name in documents.row_of]
    pairs = zip(judged.query_rows_J.tolist(), judged.doc_rows_J.tolist(), strict=True)
    straight += sum(not (is_document[query] and is_query[document]) for query, document in pairs)
    (query, document), row = next(iter(reversed_rows.items()))
    if len(reversed_rows) > straight:
        raise DataError(
            f"{row.file}: {len(reversed_rows):,} rows fit only if query and document are exchanged, {straight:,} only "
            f"as they are; in line {row.line} the query {_show(query)} is the id of a document, and {_show(document)} "
            "that of a query: exchange the names of the columns, or write a header"
        )


def _parse_judgement(row: Row) -> tuple[str, str, Any]:
    """Return query id, document id and score."""
    query, document, score = (row.fields[name] for name in FIELDS)
    for value in (query, document):
        if value is None or (isinstance(value, str) and not value.strip()):
            shown = _show([query, document])
            raise _BadRowError("malformed_row", f"expected {', '.join(FIELDS)}, none empty; got {shown}")
    return _id(query), _id(document), score


def _nothing(address: str, kind: str, account: _Account, expected: str) -> str:
    """Return the message of a file or folder with nothing usable: the reasons, and one bad row."""
    bad = Counter(f"{row.reason} in {row.file}" for row in account.bad)
    got = ", ".join(f"{n:,} {reason}" for reason, n in bad.most_common(4)) or "none"
    row = account.bad[-1] if account.bad else None
    shown = f"; line {row.line} of {row.file}: {row.detail}" if row else ""
    if row and row.reason == "not_utf8":
        expected = "expected UTF-8: iconv -f LATIN1 -t UTF-8 OLD > NEW, with the encoding that it has for LATIN1"
    rows = ", ".join(f"{n:,} of {file}" for file, n in account.read.items()) or "none"
    return f"{address} has no {kind}; rows read: {rows}; quarantined: {got}{shown}; {expected}"


def _show(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of thousands of digits
        text = "a huge number"
    return text if len(text) <= 48 else text[:47] + "…"
