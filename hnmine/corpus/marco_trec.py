"""MS MARCO and TREC: files that are named after what they hold, one for each split.

collection.tsv, msmarco-docs.tsv, docs.jsonl, docs/…       documents: `id text` or `id url title text` between tabs,
                                                           or JSON lines, Parquet, or TREC's markup (`markup`)
queries.<split>.tsv, topics.<name>.txt, topics.xml         queries: `id text` between tabs, or the same
qrels.<split>.tsv, qrels.<name>.txt                        judgements, mostly TREC's four columns
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from hnmine.corpus.assemble import Parts
from hnmine.corpus.fields import DOCUMENT, QUERY, Names, keys_by_field, listed
from hnmine.corpus.file_names import by_split, missing, require_whole, role_of, stem
from hnmine.corpus.files import HEAD, File, Folder, Row
from hnmine.corpus.markup import DOCUMENT_TAGS, TOPIC_TAGS, Tags, is_markup, markup_rows
from hnmine.corpus.qrels import judgement_rows
from hnmine.corpus.rows import filled, is_json, rows
from hnmine.errors import DataError

EXPECTED = "collection.tsv or docs…, queries.<split>.tsv or topics…, and qrels.<split>.tsv (MS MARCO, TREC)"
_COLUMNS = {2: ("id", "text"), 4: ("id", "url", "title", "text")}


def recognise(folder: Folder) -> Parts | str | None:
    """Return the parts of a folder in this layout; what it lacks, if it has two of three; None if it has fewer."""
    # Find the files of each role.
    files: dict[str, list[File]] = {"documents": [], "queries": [], "qrels": []}
    unread = []
    for file in folder.files:
        if role := role_of(file.name):
            files[role].append(file)
        else:
            unread.append(f"{file.name} (its name says nothing of documents, queries or qrels)")
    if lacking := missing(files):
        return lacking if sum(map(bool, files.values())) == 2 else None

    # Read them; the queries of a small split are among those of the large one.
    require_whole([file for each in files.values() for file in each])
    stems = {stem(file.name) for file in files["queries"]}
    queries = [
        file for file in files["queries"] if stem(file.name).removesuffix(".small") not in stems - {stem(file.name)}
    ]
    unread += [f"{file.name} (its queries are in the larger file)" for file in files["queries"] if file not in queries]
    return Parts(
        layout="MS MARCO or TREC files",
        documents=_texts(files["documents"], DOCUMENT, DOCUMENT_TAGS),
        queries=_once(_texts(queries, QUERY, TOPIC_TAGS)),
        judged={split: judgement_rows([file]) for split, file in by_split(files["qrels"], "qrels?").items()},
        unread=tuple(unread),
    )


def _texts(files: Sequence[File], names: Names, tags: Tags) -> Iterator[Row]:
    """Yield the rows of documents or queries of these files."""
    for file in filled(files):
        with file.opened() as (kind, stream):
            head = stream.peek(HEAD)[:HEAD]
            if kind == "text" and is_markup(head):
                yield from markup_rows(file.name, stream, tags)
                continue
            columns = None if kind != "text" or is_json(file, stream) else _columns(file, head, names)
        yield from rows(file, columns)


def _once(queries: Iterator[Row]) -> Iterator[Row]:
    """Yield the rows without those that another file has too: queries of two splits."""
    known: dict[tuple[Any, ...], str] = {}
    for row in queries:
        keys = keys_by_field(QUERY, row.fields)
        key = tuple(row.fields[keys[name]] for name in ("id", "text") if name in keys)
        if not all(isinstance(each, str) for each in key) or known.setdefault(key, row.file) == row.file:
            yield row


def _columns(file: File, head: bytes, names: Names) -> Sequence[str] | None:
    """Return the columns of a table without a header; None if it has one."""
    text = head.decode("utf-8", "replace").removeprefix("\ufeff").lstrip()
    first = text.partition("\n")[0].rstrip("\r")
    if any({"id", "text"} <= keys_by_field(names, first.split(delimiter)).keys() for delimiter in "\t,;"):
        return None
    columns = _COLUMNS.get(first.count("\t") + 1)
    if columns is None or (names is QUERY and len(columns) > 2):
        raise DataError(
            f"{file} begins with {first[:80]!r}; expected id and text with a tab between them"
            f"{', or id, url, title and text' if names is DOCUMENT else ''}; or a header with {listed(names)}"
        )
    return columns
