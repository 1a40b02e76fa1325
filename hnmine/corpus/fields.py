"""Names of the fields of documents, queries and judgements: one table for every layout and for Python objects.

Names are compared without case and without `-`, `_`, dots and blanks: Query-ID and query_id are one. Of several names
that a row has, the first of the table is taken, and of its spellings the one of the table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType

_TEXT = ("text", "contents", "content", "passage", "body")
_DOCUMENT_ID = ("docid", "document_id", "corpus_id", "pid", "passage_id", "docno", "did")
_QUERY_ID = ("query_id", "qid", "question_id")

DOCUMENT = MappingProxyType(
    {"id": ("_id", "id", *_DOCUMENT_ID), "title": ("title",), "text": (*_TEXT, "document", "segment")}
)
QUERY = MappingProxyType({"id": ("_id", "id", *_QUERY_ID), "text": ("text", "query", "question", *_TEXT[1:])})
JUDGEMENT = MappingProxyType(
    {
        "query": (*_QUERY_ID, "query", "topic_id", "topic"),
        "document": (*_DOCUMENT_ID, "document", "doc", "passage"),
        "score": ("score", "relevance", "rel", "label", "grade", "rating", "gain", "judgement", "judgment"),
    }
)
Names = Mapping[str, tuple[str, ...]]


def plain(name: str) -> str:
    """Return a name as names are compared."""
    return re.sub(r"[-_.\s]", "", name).lower()


def keys_by_field(names: Names, keys: Iterable[str]) -> Mapping[str, str]:
    """Return, of the fields in `names`, the keys under which a row with these keys holds them."""
    return _keys_by_field(tuple(names.items()), tuple(keys))


def any_known(keys: Iterable[str]) -> bool:
    """Return whether one of these keys is the name of any field."""
    return any(keys_by_field(names, keys) for names in (DOCUMENT, QUERY, JUDGEMENT))


@lru_cache(maxsize=256)
def _keys_by_field(names: tuple[tuple[str, tuple[str, ...]], ...], keys: tuple[str, ...]) -> Mapping[str, str]:
    exact = {name for _, known in names for name in known}
    order = sorted((key for key in keys if isinstance(key, str)), key=lambda key: key in exact)
    spelled = {plain(key): key for key in order}
    chosen = {}
    for field, known in names:
        spellings = (each if each in keys else spelled.get(plain(each)) for each in known)
        chosen[field] = next((key for key in spellings if key is not None), None)
    return MappingProxyType({field: key for field, key in chosen.items() if key is not None})


def listed(names: Names) -> str:
    """Return the names of each field for a message: `id (_id, id, …), text (…)`."""
    return "; ".join(f"{field} ({', '.join(known)})" for field, known in names.items())
