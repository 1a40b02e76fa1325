"""A row becomes a text: its id, and the fields of a template joined."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from string import Formatter
from typing import Any

from hnmine.corpus.account import BadRowError, shown
from hnmine.corpus.fields import DOCUMENT, QUERY, Names, keys_by_field, listed
from hnmine.corpus.files import Row
from hnmine.corpus.identity import identity
from hnmine.errors import DataError
from hnmine.runs.progress import say
from hnmine.types import Role

_VISIBLE = re.compile("[!-~\u0391-\u03c9\u0401-\u0451\u05d0-\u05ea\u0621-\u063a\u0904-\u0939\u0e01-\u0e2e\u3041-\u30fa"
                      "\u4e00-\u9fff\uac00-\ud7a3]")  # fmt: skip
"""Characters that anybody sees; a text with one of them is not empty."""

MOST_CHARACTERS = 2_000_000
"""What is read of a text: a thousand pages. One that is longer is cut there, and that is said."""


class RowParser:
    """Makes texts of rows, and remembers what shows that the rows are not those that are meant."""

    def __init__(self, role: Role, template: str) -> None:
        """Join the fields of documents or queries by a template such as `{title} {text}`."""
        self._role, self._parts = role, [(text, key) for text, key, _, _ in Formatter().parse(template)]
        keys = [key for _, key in self._parts if key]
        self._roles = [key for key in keys if key in ("title", "text")] if "text" in keys else keys
        """Fields without which a text is empty."""
        self.unseen = set(keys) - {"title", "text"}
        """Fields of the template that no row had."""
        self.with_text = "text" not in keys
        """Whether a row had a text, where the template asks for one."""
        self.textless: Row | None = None
        """A row that has a title, and perhaps its text under a name that nobody knows."""
        self.cut: list[str] = []
        """Where each text stands that was too long."""

    @property
    def names(self) -> Names:
        """What the fields may be called."""
        return DOCUMENT if self._role == "document" else QUERY

    def parse(self, row: Row) -> tuple[str, str]:
        """Return id and text of a row, of a very long text no more than its beginning; or raise BadRowError."""
        text_id, text, values = _parse_text(row.fields, self.names, self._parts, self._roles)
        if not self.with_text:
            self.with_text = "text" in keys_by_field(self.names, row.fields)
            self.textless = self.textless or (row if _has_unknown_text(row.fields, self.names) else None)
        if self.unseen:
            self.unseen.difference_update(key for key, value in values.items() if value)
        if len(text) > MOST_CHARACTERS:
            self.cut.append(f"{shown(text_id)} in line {row.line} of {row.file}")
        return text_id, text[:MOST_CHARACTERS]

    def join(self, other: RowParser) -> None:
        """Take what another one, of other rows, remembers."""
        self.unseen &= other.unseen
        self.with_text |= other.with_text
        self.textless = self.textless or other.textless
        self.cut += other.cut

    def finish(self, address: str) -> None:
        """Say which texts were cut; raise DataError if the rows, all of them, are not those that are meant."""
        if self.cut:
            count = f"{len(self.cut):,} {self._role}(s) have more than {MOST_CHARACTERS:,} characters and are cut there"
            say("read", f"{count}, the first: {self.cut[0]}; divide what is to be found whole", level="warning")
        if not self.with_text and self.textless:
            raise DataError(
                f"{address} has documents of titles alone; line {self.textless.line} of {self.textless.file} has the "
                f"keys {shown(list(self.textless.fields))}; expected {listed({'text': self.names['text']})}; for "
                "another text: sources.template='{title} {its_name}', for none: sources.template='{title}'"
            )
        if self.unseen:
            fields = ", ".join(sorted(self.unseen))
            raise DataError(f"sources.template names {fields}, which no {self._role} has in {address}")


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
