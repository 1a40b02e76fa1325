"""What the names of files say: what they hold, which split they belong to, and whether all parts are there once."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence, Sized

from hnmine.corpus.files import File
from hnmine.errors import DataError

UNSPLIT = "train"  # split of what names none; shares of it are held out
_ENDINGS = re.compile(r"(\.(jsonl?|ndjson|csv|tsv|txt|trec|xml|sgml?|parquet|arrow))?(\.(gz|bz2|zstd?|xz|lz4))?$", re.I)
_NO_ROWS = re.compile(
    r"(^|/)((state|dataset_infos?|dataset_dict)\.json|(readme|licen[cs]e|copying)([-_.][^/.]*|[-_.][^/]*\.(txt|rst))?)$"
    r"|\.(md|py|ya?ml|html|pdf|zip|tar|tar\.gz|tgz|lock|log|sha256|md5)$",
    re.I,
)
_SPLIT = re.compile(
    r"(?:^|[-_./]|doc|pass)(train|training|dev|development|validation|valid|val|test|testing|eval)(?=\d*(?:[-_./]|$))",
    re.I,
)
_PART = re.compile(r"^(.*?)\d{2,}-of-(\d{2,})")
_USUAL = {"training": "train", "development": "dev", "testing": "test"}

_ROLES = {
    "qrels": re.compile(r"(^|[-_.\d])qrels?([-_.]|$)", re.I),
    "queries": re.compile(r"(^|[-_.])(queries|questions|topics?)([-_.]|$)", re.I),
    "documents": re.compile(r"(^|[-_.])(collection|docs|documents|corpus|passages|psgs)([-_.]|$)", re.I),
}
_FOLDERS = (
    dict.fromkeys(("collections", "collection", "corpus", "docs", "documents"), "documents")
    | dict.fromkeys(("topics", "queries"), "queries")
    | {"qrels": "qrels"}
)


def stem(name: str) -> str:
    """Return a name without what its content and packing add to it."""
    return _ENDINGS.sub("", name)


def has_rows(name: str) -> bool:
    """Return whether a file of this name may have rows."""
    return not _NO_ROWS.search(name)


def role_of(name: str) -> str:
    """Return what a file of this name holds (documents, queries, qrels), "" if it does not say.

    Its own name says more than that of its folder.
    """
    *folders, last = name.split("/")
    if not has_rows(name) or (folders and folders[0].lower() not in _FOLDERS):
        return ""
    named = next((role for role, pattern in _ROLES.items() if pattern.search(stem(last))), "")
    return named or (_FOLDERS[folders[0].lower()] if folders else "")


def split_in(name: str) -> str | None:
    """Return the split that a name has in it (train, dev, validation, test …), None if it has none."""
    match = _SPLIT.search(stem(name))
    return _USUAL.get(match[1].lower(), match[1].lower()) if match else None


def by_split(files: Sequence[File], kind: str) -> dict[str, File]:
    """Return one file for each split: of `qrels.dev` and `qrels.dev.small`, dev and dev.small; `kind` is qrels here.

    A file that names no split is `UNSPLIT` if it is the only one; of several each has the rest of its name.
    """
    splits: dict[str, File] = {}
    for file in sorted(files, key=lambda each: (len(each.name), each.name)):
        rest = re.sub(rf"{kind}[-_./]?|[-_./]?{kind}", "", stem(file.name)) or UNSPLIT
        split = split_in(file.name) or (UNSPLIT if len(files) == 1 else rest)
        splits[split if split not in splits else rest if rest not in splits else file.name] = file
    return splits


def missing(there: Mapping[str, Sized]) -> str:
    """Return which of documents, queries and qrels a folder has, and which it lacks; empty if it has all."""
    has = [role for role, each in there.items() if each]
    lacks = [role for role, each in there.items() if not each]
    return f"it has {' and '.join(has)}, but no {' and no '.join(lacks)}" if lacks else ""


def both(file: File, other: File) -> DataError:
    """Return the error of two files where one is expected."""
    return DataError(f"{file.folder} holds both {file.name} and {other.name}; expected one: remove the other")


def require_whole(files: Sequence[File]) -> None:
    """Raise DataError if one file is there twice (packed, or in two kinds), or parts are missing of a known number."""
    known: dict[str, File] = {}
    parts = defaultdict[tuple[str, int], list[str]](list)
    for file in files:
        other = known.setdefault(stem(file.name), file)
        if other is not file:
            raise both(other, file)
        if match := _PART.search(stem(file.name)):
            parts[match[1], int(match[2])].append(file.name)
    for (start, count), there in parts.items():
        if len(there) != count:
            some = ", ".join(there[:4])
            raise DataError(f"{files[0].folder} has {len(there)} of {count} parts of {start}…: {some}; copy the others")
