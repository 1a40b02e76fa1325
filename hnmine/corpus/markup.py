"""TREC's markup: documents between <DOC> and </DOC>, topics between <top> or <topic> and its end, as SGML or XML.

The fields that are read, without case: of a document DOCNO, its title (TITLE, HEADLINE …) and its text (TEXT, LP …;
without these all that is in no other field); of a topic num, or the attribute number or id, and query or title, else
question or desc. A field ends at its end tag; without one, where the next begins. Tags inside are dropped and
characters decoded; nothing that a document type declares is looked at.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from hnmine.corpus.files import Row

_EDGE = re.compile(rb"<(/?)(?:doc|top|topic)(?:\s[^<>]*)?>", re.I)
_TAG = re.compile(r"<(/?)([a-z]\w*)(?:\s[^<>]*)?>", re.I)
_ATTRIBUTE = re.compile(r"""<\w+\s(?:[^<>]*\s)?(?:number|id)\s*=\s*["']([^"'<>]*)["']""", re.I)
_COMMENT = re.compile(r"<!--.*?-->", re.S)
_MARKUP = re.compile(r"</?[a-z][^<>]*>", re.I)
_CHARACTER = re.compile(r"&#?\w{1,31};")
_LEAD = re.compile(r"\A(?:number|topic|description) *: *", re.I)  # Number: 301

Tags = Mapping[str, Sequence[str]]  # of each field, the first that is there counts
DOCUMENT_TAGS: Tags = {
    "id": ("docno",),
    "title": ("title", "headline", "hl", "head", "ttl"),
    "text": ("text", "lp", "leadpara"),
    "other": ("docid", "dochdr"),
}
TOPIC_TAGS: Tags = {
    "id": ("num", "number", "identifier"),
    "text": ("query", "title", "question", "desc", "description"),
    "other": ("narr", "narrative", "note", "summary", "subtopic"),
}


def is_markup(head: bytes) -> bool:
    """Return whether a file that begins like this has such documents or topics."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<" and _EDGE.search(head) is not None


def markup_rows(file: str, lines: Iterable[bytes], tags: Tags) -> Iterator[Row]:
    """Yield a row with the fields id, title and text for each document or topic in the lines of this file."""
    for line, raw, whole in _records(lines):
        try:
            record = raw.decode()
        except UnicodeDecodeError as error:
            yield Row(file, line, {}, "not_utf8", f"byte {error.start} of what begins here: {error.reason}")
            continue
        if not whole:
            yield Row(file, line, {}, "malformed_row", f"what begins here has no end tag: {record[:60]!r}")
            continue
        contents, rest = _contents(record, {tag for each in tags.values() for tag in each})
        fields = {
            field: next((found for tag in each if (found := _LEAD.sub("", contents.get(tag, "")).strip())), "")
            for field, each in tags.items()
        }
        if not fields["id"] and (attribute := _ATTRIBUTE.match(record)):
            fields["id"] = html.unescape(attribute[1]).strip()
        if not fields["text"] and tags is DOCUMENT_TAGS:
            fields["text"] = rest
        yield Row(file, line, {field: fields.get(field, "") for field in ("id", "title", "text")})


def _records(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes, bool]]:
    """Yield the line where a record begins, all of it, and whether it has an end."""
    first, parts = 0, list[bytes]()
    for number, line in enumerate(lines, start=1):
        at = 0
        for edge in _EDGE.finditer(line):
            if first:
                yield first, b"".join([*parts, line[at : edge.start()]]), bool(edge[1])
            first, parts, at = (0, [], edge.end()) if edge[1] else (number, [], edge.start())
        if first:
            parts.append(line[at:])
    if first:
        yield first, b"".join(parts), False


def _contents(record: str, fields: set[str]) -> tuple[dict[str, str], str]:
    """Return the text of each of these fields, its parts on lines of their own, and the text that is in none."""
    found = [(tag, tag[2].lower()) for tag in _TAG.finditer(record) if tag[2].lower() in fields]
    ended = {name: tag.start() for tag, name in found if tag[1]}  # where the last end tag is
    parts, end, inside = {"": list[str]()}, 0, ""
    for tag, name in found:
        if not inside or (name == inside and tag[1]) or ended.get(inside, 0) <= tag.start():  # no field in a field
            parts.setdefault(inside, []).append(record[end : tag.start()])
            inside, end = "" if tag[1] else name, tag.end()
    parts.setdefault(inside, []).append(record[end:])
    rest = _text("".join(parts.pop("")))
    return {name: "\n".join(map(_text, each)) for name, each in parts.items()}, rest


def _text(markup: str) -> str:
    end = markup.rfind("-->") + 1
    bare = _MARKUP.sub(" ", _COMMENT.sub(" ", markup[: end + 2]) + markup[end + 2 :] if end else markup)
    return _CHARACTER.sub(lambda each: html.unescape(each[0]), bare).strip()
