"""Rows become the texts of documents or of queries, each kept once.

A row with the id and the text of an earlier one is a duplicate. Of rows with one id and different texts nobody knows
which was judged: all are set aside, with all that is judged of them.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from string import Formatter
from typing import Any

from hnmine.corpus.account import Account, BadRowError, shown
from hnmine.corpus.collection import Quarantined
from hnmine.corpus.fields import DOCUMENT, Names, keys_by_field, listed
from hnmine.corpus.files import Row
from hnmine.corpus.identity import identity
from hnmine.errors import DataError
from hnmine.runs.progress import say
from hnmine.text_column import RowsById, TextColumn
from hnmine.types import Texts

_VISIBLE = re.compile("[!-~\u0391-\u03c9\u0401-\u0451\u05d0-\u05ea\u0621-\u063a\u0904-\u0939\u0e01-\u0e2e\u3041-\u30fa"
                      "\u4e00-\u9fff\uac00-\ud7a3]")  # fmt: skip
"""Characters that anybody sees; a text with one of them is not empty."""


MOST_CHARACTERS = 2_000_000
"""What is read of a text: a thousand pages. One that is longer is cut there, and that is said."""


class TextTable:
    """Texts by id, with the places they come from."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.row_of = RowsById(())
        self.texts = TextColumn()
        self._first = dict[str, int]()  # row of each id, until all are read
        self.files: list[str] = []
        self.places = (array("L"), array("Q"))  # of each text: number of the file, and line
        self.rejected: dict[str, Quarantined] = {}  # by id: rows that cannot be used
        self.disputed = set[str]()  # ids of several texts
        self.cut: list[str] = []  # of each text that was too long, where it stands

    def add(self, row: Row, text_id: str, text: str, account: Account) -> None:
        """Keep a text, once, and no more than the beginning of a very long one."""
        if len(text) > MOST_CHARACTERS:
            text = text[:MOST_CHARACTERS]
            self.cut.append(f"{shown(text_id)} in line {row.line} of {row.file}")
        if not self.files or self.files[-1] != row.file:
            self.files.append(row.file)
        first = self._first.setdefault(text_id, len(self.texts))
        if first == len(self.texts):
            self.texts.append(text)
            self.places[0].append(len(self.files) - 1)
            self.places[1].append(row.line)
            return
        where = Row(self.files[self.places[0][first]], self.places[1][first], {})
        if text_id not in self.disputed:
            if identity(text) == identity(self.texts[first]):
                detail = f"line {where.line} of {where.file} has it, with the same text"
                raise BadRowError("duplicate_id", detail, text_id)
            self.disputed.add(text_id)
            self.rejected[text_id] = account.reject(where, *_conflict(text_id, row))
        raise BadRowError(*_conflict(text_id, where))

    def close(self) -> None:
        """Drop the texts whose id is that of another; say which are cut. Only now the rows of ids are known."""
        if self.cut:
            count = f"{len(self.cut):,} {self.kind}(s) have more than {MOST_CHARACTERS:,} characters and are cut there"
            say("read", f"{count}, the first: {self.cut[0]}; divide what is to be found whole", level="warning")
        if self.disputed:
            pairs = zip(self._first, self.texts, strict=True)
            self.texts = TextColumn(text for name, text in pairs if name not in self.disputed)
        self.row_of = RowsById(TextColumn(name for name in self._first if name not in self.disputed))
        self._first.clear()

    def kept(self) -> Texts:
        """Return the texts."""
        return Texts(ids=self.row_of.ids, texts=self.texts)

    def row(self, text_id: str, query_id: str) -> int:
        """Return the row of a text; without one the judgement of `query_id` is a bad row."""
        row = self.row_of.get(text_id)
        if row is None:
            fate = f"is not in {self.files[0]}"
            if len(self.files) > 1:
                fate += f" and {len(self.files) - 1} files more"
            if bad := self.rejected.get(text_id):
                fate = f"was quarantined: {bad.reason} in line {bad.line} of {bad.file}"
            raise BadRowError(f"unknown_{self.kind}", f"{self.kind} {shown(text_id)} {fate}", query_id)
        return row

    def __contains__(self, text_id: str) -> bool:
        return text_id in self.row_of or text_id in self.rejected


def _conflict(text_id: str, other: Row) -> tuple[str, str, str]:
    """Return reason, detail and id of a bad row whose id `other` has too."""
    detail = f"line {other.line} of {other.file} has it, with another text: both are set aside"
    return "conflicting_id", detail, text_id


def read_texts(
    kind: str, rows: Iterable[Row], names: Names, template: str, account: Account, address: str
) -> TextTable:
    """Read documents or queries."""
    # See what the template asks for.
    parts = [(text, key) for text, key, _, _ in Formatter().parse(template)]
    keys = [key for _, key in parts if key]
    roles = [key for key in keys if key in ("title", "text")] if "text" in keys else keys  # what makes it no empty text
    unseen, table = set(keys) - {"title", "text"}, TextTable(kind)
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
        except BadRowError as bad:
            rejected = account.reject(row, *bad.args)
            if len(bad.args) > 2 and bad.args[0] != "duplicate_id":
                table.rejected.setdefault(bad.args[2], rejected)
    table.close()

    # Refuse what gives no texts, or not those that are meant.
    if not table.texts:
        other = "; for another text: sources.template='{title} {its_name}'" if names is DOCUMENT else ""
        raise account.nothing(address, f"usable {kind}", f"expected fields {listed(names)}{other}")
    if not with_text and textless:
        raise DataError(
            f"{address} has documents of titles alone; line {textless.line} of {textless.file} has the keys "
            f"{shown(list(textless.fields))}; expected {listed({'text': names['text']})}; for another text: "
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
        raise BadRowError("missing_id", f"no id, absent, null or blank; keys: {shown(list(fields))}")
    text_id = id_as_text(text_id)

    # Join the fields of the template.
    values = {key: _joined(fields, key, keys.get(key, key), text_id) for _, key in parts if key}
    text = "".join([literal + (values[key] if key else "") for literal, key in parts]).strip()
    text = text[: MOST_CHARACTERS + 1]
    said = "".join([values[key] for key in roles])
    if not (_VISIBLE.search(said, 0, 200) or identity(said)):
        raise BadRowError("empty_text", f"nothing in {roles}; keys: {shown(list(fields))}", text_id)
    if not (text_id.isascii() and text.isascii()):
        try:
            (text_id + text).encode()
        except UnicodeEncodeError as error:
            raise BadRowError("not_utf8", f"{error.object[error.start]!r} is no character", text_id) from None
    return text_id, text, values


def _joined(fields: Mapping[str, Any], key: str, name: str, text_id: str) -> str:
    """Return a field of the template as text, a list of texts joined by line ends."""
    value = fields.get(name)
    if type(value) is str:
        return value[: 2 * MOST_CHARACTERS]
    if value is None and "." in name and name not in fields:  # `a.b` is b in a
        outer, _, inner = name.partition(".")
        within = fields.get(outer)
        return _joined(within, key, inner, text_id) if isinstance(within, Mapping) else ""
    if value is None or (isinstance(value, float) and value != value):  # pandas writes NaN where nothing is
        return ""
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return "\n".join(value)[: 2 * MOST_CHARACTERS]
    raise BadRowError("wrong_type", f"{key} must be a string or strings, got a {type(value).__name__}", text_id)


def id_as_text(value: Any) -> str:
    """Return an id as text."""
    if type(value) is str:
        return value
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadRowError("wrong_type", f"an id must be a string or integer, got a {type(value).__name__}")
    try:
        return str(value)
    except ValueError as error:  # an integer of thousands of digits
        raise BadRowError("wrong_type", str(error)) from None
