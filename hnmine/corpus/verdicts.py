"""Verdicts of people on mined negatives: a page of `hnmine explain --sample` with boxes ticked, or a table.

A page has before each pair of boxes a comment that names query and document; all else in it is for people:

    <!-- hnmine {"query_id": "q1", "document_id": "d7", "texts": "…"} -->
    - [ ] right
    - [x] wrong

`texts` names what was read: a verdict on another text than today's is none. A table is TSV, CSV, JSON lines or Parquet
with the columns query_id, document_id (or negative_id) and verdict.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from hnmine.corpus.fields import JUDGEMENT, keys_by_field, listed
from hnmine.corpus.files import File, Row, open_folder
from hnmine.corpus.identity import identity
from hnmine.corpus.rows import rows
from hnmine.errors import DataError

RIGHT, WRONG = "right", "wrong"
VERDICT = {
    "query": JUDGEMENT["query"],
    "document": (*JUDGEMENT["document"], "negative_id"),
    "verdict": ("verdict",),
    "texts": ("texts",),
}
"""Names of the fields of a table; `texts` may be absent."""
_START, _END = "<!-- hnmine ", " -->"
_BOX = re.compile(rf"\s*[-*+]\s*\[([^\]]*)\]\s*\W*({RIGHT}|{WRONG})\b", re.I)


def marker(query_id: str, document_id: str, texts: str) -> str:
    """Return the line of a page that says which pair the boxes after it are about."""
    fields = json.dumps({"query_id": query_id, "document_id": document_id, "texts": texts})
    return _START + fields.replace("--", "-\\u002d").replace(">", "\\u003e").replace("<", "\\u003c") + _END


def texts_digest(query: str, document: str) -> str:
    """Return 12 hexadecimal digits that name what people read in the two texts."""
    return hashlib.sha256(f"{identity(query)}\0{identity(document)}".encode()).hexdigest()[:12]


def verdict_rows(addresses: Sequence[str]) -> Iterator[Row]:
    """Yield the verdicts of files, and of the files of folders: rows with the fields query, document, verdict, texts.

    What nobody ticked on a page is no row.

    Raises:
        DataError: there is no such file, or it holds nothing that could be a verdict.
    """
    for address in addresses:
        if "://" not in address and not Path(address).exists():
            raise DataError(f"sources.verdicts: {address} does not exist; expected a reviewed page or a table")
        for file in open_folder(address).files:
            found = False
            for row in _rows_of(file):
                found = True
                yield row._replace(file=str(file))
            if not found:
                raise DataError(f"sources.verdicts: {file} holds no verdict; expected {_EXPECTED}")


_EXPECTED = f"ticked boxes on a page of `hnmine explain --sample`, or columns {listed(VERDICT)}"


def _rows_of(file: File) -> Iterator[Row]:
    with file.opened() as (kind, stream):
        is_page = kind == "text" and (file.name.endswith(".md") or _START.encode() in stream.peek(1))
        if is_page:
            yield from _from_page((line.decode(errors="replace") for line in stream), file.name)
            return
    for row in rows(file):
        names = keys_by_field(VERDICT, row.fields)
        if not row.reason and (missing := [each for each in ("query", "document", "verdict") if each not in names]):
            keys = list(row.fields)
            row = row._replace(reason="malformed_row", detail=f"no {' and no '.join(missing)} in {keys}")
        yield row._replace(fields={field: row.fields[key] for field, key in names.items()})


def _from_page(lines: Iterable[str], name: str) -> Iterator[Row]:
    place, ticked, fields = 0, list[str](), dict[str, Any]()
    for number, line in enumerate(chain(lines, [_START]), 1):
        # End the pair before, and begin the next one.
        if line.lstrip().startswith(_START):
            if fields and ticked:
                yield Row(name, place, fields | {"verdict": " and ".join(ticked)})
            place, ticked, fields = number, [], {}
            if not line.strip().removeprefix(_START.strip()):
                continue
            try:
                found = json.loads(line.strip().removeprefix(_START).removesuffix(_END))
                keys = keys_by_field(VERDICT, found)
                fields = {field: found[keys[field]] for field in ("query", "document", "texts")}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                yield Row(name, number, {}, "broken_json", f"the comment before the boxes: {error!r}")
        # Note a box that is ticked.
        elif (box := _BOX.match(line)) and box[1].strip():
            if not place:
                yield Row(name, number, {}, "malformed_row", "a box with no comment before it that names a pair")
            ticked.append(box[2].lower())
