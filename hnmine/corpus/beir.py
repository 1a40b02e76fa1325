"""BEIR folders and folders of `datasets`: documents, queries and judgements by the names of files and folders.

    corpus.jsonl           or corpus/…, also documents, docs, passages    {"_id": …, "title": …, "text": …}
    queries.jsonl          or queries/…, also questions                   {"_id": …, "text": …}
    qrels/<split>.tsv      or qrels/<split>/…, qrels.<split>.tsv, and default/ or data/, as mteb has them

Each may be JSON lines, CSV, TSV, Parquet or Arrow, packed or not, and in parts: corpus-00000-of-00002.jsonl.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import NamedTuple

from hnmine.corpus.assemble import DEV_NAMES, Parts
from hnmine.corpus.columnar import parquet_rows
from hnmine.corpus.file_names import UNSPLIT, both, has_rows, missing, require_whole
from hnmine.corpus.files import File, Folder
from hnmine.corpus.qrels import judgement_rows
from hnmine.corpus.rows import rows_of

EXPECTED = "corpus.jsonl, queries.jsonl and qrels/<split>.tsv, or folders corpus/, queries/ and qrels/ or default/"
_ENDINGS = re.compile(r"(\.(jsonl?|ndjson|csv|tsv|txt|trec|qrels?|parquet|arrow))?(\.(gz|bz2|zstd?|xz|lz4))?$", re.I)
_COUNTED = r"(?:part|shard|chunk)?[-_.]?\d{2,}-of-\d{2,}(?:-[0-9a-f]{8,})?"
_PART = rf"(?P<part>[-_.]{_COUNTED}|[-_.](?:part|shard|chunk)[-_.]?\d.*|[-_.]\d+)?"
_NAMES = {
    "documents": re.compile(rf"(?P<split>)(corpus|documents|docs|passages){_PART}", re.I),
    "queries": re.compile(rf"(?P<split>)(queries|questions){_PART}", re.I),
    "qrels": re.compile(rf"qrels([-_.](?P<split>[a-z]\w*?))?{_PART}", re.I),
}
_FOLDERS = (
    dict.fromkeys(("corpus", "documents", "docs", "passages"), "documents")
    | dict.fromkeys(("queries", "questions"), "queries")
    | dict.fromkeys(("qrels", "default", "data"), "qrels")
)
_USUAL = ("train", "dev", "test", *DEV_NAMES)
_QRELS = re.compile(r"^qrels?[-_.](?=\w)|(?<=\w)[-_.]qrels?$", re.I)  # in the name of a file, which says no more
_IN_FOLDER = re.compile(rf"(?P<split>.+?)(?P<part>[-_.]{_COUNTED}|[-_.]part[-_.]?\d.*)?")


class _Place(NamedTuple):
    """What a name says of a file."""

    role: str
    split: str  # of judgements
    table: str  # name that all parts of a table share; it ends in `*` if there may be several


def recognise(folder: Folder) -> Parts | str | None:
    """Return the parts of a folder in this layout; what it lacks, if it has some of them; None if it has none."""
    # Give each file its place.
    tables: dict[_Place, list[File]] = defaultdict(list)
    unread = []
    for file in folder.files:
        place = _place(file.name)
        if place is None:
            unread.append(f"{file.name} (not of this layout)")
            continue
        if place.role != "qrels" and _has_ids_alone(file):
            unread.append(f"{file.name} (ids without texts, as files of vectors have them)")
            continue
        other = next((each for each in tables if each[:2] == place[:2]), place)
        if other in tables and (other != place or not place.table.endswith("*")):
            raise both(tables[other][0], file)
        tables[place].append(file)

    # See what is missing.
    files = {role: {place.split: table for place, table in tables.items() if place.role == role} for role in _NAMES}
    if not files["documents"] and not files["queries"]:
        return None
    if lacking := missing(files):
        return lacking
    require_whole([file for table in tables.values() for file in table])

    # Read.
    documents = files["documents"][""]
    return Parts(
        layout="folder of datasets" if all("/" in file.name for file in documents) else "BEIR folder",
        documents=rows_of(documents),
        document_files=tuple(documents),
        queries=rows_of(files["queries"][""]),
        judged={split: judgement_rows(table) for split, table in files["qrels"].items()},
        unread=tuple(unread),
    )


def _has_ids_alone(file: File) -> bool:
    """Return whether it is a Parquet file of one column, vectors not counted."""
    with file.opened() as (kind, _):
        _, row = next(parquet_rows(file), (0, {})) if kind == "parquet" else (0, {})
    return len(row) == 1


def _place(name: str) -> _Place | None:
    """Return what a name says, None if it says nothing of this layout."""
    # Find the role.
    *folders, stem = (_ENDINGS.sub("", part, count=1) for part in name.split("/"))
    if not has_rows(name) or (stem == name.rpartition("/")[2] and "." in stem):  # an ending nobody knows
        return None
    if not folders:
        found = ((role, pattern.fullmatch(stem)) for role, pattern in _NAMES.items())
        role, match = next(((role, match) for role, match in found if match), ("", None))
    else:
        role = _FOLDERS.get(folders[0].lower(), "")
        match = _IN_FOLDER.fullmatch(_QRELS.sub("", stem) if role == "qrels" else stem)
    if not role or match is None:
        return None

    # Find the split, and the table that the file is, or is a part of.
    split = ""
    if role == "qrels":
        split = match["split"] or UNSPLIT
        if len(folders) > 1 and split.lower() not in _USUAL:
            split = folders[1]
        split = split.lower() if split.lower() in _USUAL else UNSPLIT if folders and split == "data" else split
    if folders:
        table = "/".join([*(folders if split else folders[:1]), split])
    else:
        table = stem.removesuffix(match["part"] or "")
    if match["part"] or len(folders) > 1 or (folders and role != "qrels"):
        table += "/*"  # whatever its parts are called
    return _Place(role, split, table)
