"""Which layout a folder or an address has, and its reading as a collection."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from hnmine.config.steps import SourcesConfig
from hnmine.corpus import beir, marco_trec, triples
from hnmine.corpus.assemble import Parts, assemble
from hnmine.corpus.collection import Collection, Quarantined
from hnmine.corpus.files import File, Folder, open_folder
from hnmine.errors import DataError

LAYOUTS = (beir, marco_trec, triples)
"""Modules of layouts, the first that recognises a folder reads it. Each has

    EXPECTED: str                                      the files of a folder, for messages
    recognise(folder: Folder) -> Parts | str | None    None: another layout; text: this one, but for what is missing

The address of the folder and what is strange in it are added to the parts here.
"""


def read_collection(
    address: str | Path,
    sources: SourcesConfig,
    quarantined: list[Quarantined] | None = None,
    *,
    by_workers: bool = False,
) -> Collection:
    """Read a folder, or what lies at an address of pyarrow.fs.

    Args:
        address: a folder, a file that holds all, or s3://bucket/prefix, gs://bucket/prefix …
        sources: how documents are joined, and what the splits are called.
        quarantined: takes every bad row as soon as it is found, so that they are known if this fails.
        by_workers: workers of the Ray cluster read documents in Parquet files at an address such as s3://…, which all
            nodes see; their texts stay there.

    Raises:
        ConfigError: the address cannot be understood.
        DataError: no layout, or several, are recognised; or a file, a row or a setting keeps all from being used.
    """
    seen_by_all = "://" in str(address)
    return assemble(recognise(open_folder(address)), sources, quarantined, by_workers=by_workers and seen_by_all)


def recognise(folder: Folder) -> Parts:
    """Return the parts of a folder, or of the only folder in it that holds a collection, as a zip archive leaves it.

    Raises:
        DataError: no layout, or several collections, are recognised.
    """
    answers = _answers(folder)
    if isinstance(answers[-1], Parts):
        return answers[-1]
    inner = [each for each in _folders(folder) if _holds_collection(each)]
    if len(inner) > 1:
        names = ", ".join(each.address for each in inner[:6])
        raise DataError(f"{folder.address} holds several collections: {names}; give one of them")
    if inner:
        parts, start = recognise(inner[0]), f"{inner[0].address.removeprefix(folder.address)[1:]}/"
        beside = (f"{file.name} (beside {start})" for file in folder.files if not file.name.startswith(start))
        return replace(parts, unread=(*parts.unread, *beside, *folder.strange))
    reasons = dict.fromkeys(answer for answer in answers if isinstance(answer, str))
    problem = "; ".join(reasons) or "no layout is recognised"
    if archives := [file.name for file in folder.files if re.search(r"\.(zip|tar|tgz|7z|rar)\b", file.name)]:
        problem += f"; unpack {', '.join(archives[:4])}"
    there = ", ".join([file.name for file in folder.files[:16]] + list(folder.strange[:4])) or "nothing"
    expected = "; or ".join(layout.EXPECTED for layout in LAYOUTS)
    raise DataError(f"{folder.address}: {problem}; it holds {there}; expected {expected}: give the folder of these")


def _answers(folder: Folder) -> list[Parts | str | None]:
    """Return what the layouts say, up to the first that has all parts."""
    answers: list[Parts | str | None] = []
    for layout in LAYOUTS:
        answer = layout.recognise(folder)
        if isinstance(answer, Parts):
            unread = (*answer.unread, *folder.strange)
            return [*answers, replace(answer, unread=unread, address=folder.address)]
        answers.append(answer)
    return answers


def _holds_collection(folder: Folder) -> bool:
    return isinstance(_answers(folder)[-1], Parts) or any(map(_holds_collection, _folders(folder)))


def _folders(folder: Folder) -> list[Folder]:
    """Return the folders in this one that have files."""
    names = dict.fromkeys(name for file in folder.files if (name := file.name.partition("/")[0]) != file.name)
    return [
        Folder(
            f"{folder.address}/{name}",
            tuple(
                File(file.folder / name, file.name.removeprefix(f"{name}/"))
                for file in folder.files
                if file.name.startswith(f"{name}/")
            ),
        )
        for name in names
    ]
