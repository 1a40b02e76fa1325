"""`hnmine export`: what was mined, in the format of another tool, in a folder or a file of its own.

FOLDER/…                 the files of the format, see `export_formats`
FOLDER/README.md         what they are, and how the tool reads them
FOLDER/.hnmine-export    the sha256 of each; a folder without it, or with other files, is never replaced
"""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from hnmine.corpus.collection import Collection
from hnmine.errors import ConfigError, DataError
from hnmine.report.export_formats import FORMATS, Format
from hnmine.report.mined import Source
from hnmine.runs.files import file_sha256, put_in_place, whole_file, write_json
from hnmine.runs.folder import refuse_source
from hnmine.runs.tables import text_table

_OF_FILES = {".json", ".jsonl", ".parquet", ".arrow", ".csv", ".tsv", ".txt", ".trec", ".qrels", ".gz", ".zip"}
MARK = ".hnmine-export"
"""The file that says what hnmine wrote; tools that read all files of a folder pass over a hidden one."""
CAUTION = (
    "Scores are cosines of the space that was mined. A hard negative has a higher score than its positive, so do not "
    "let a model learn them: it would learn to put the wrong document first."
)


def export(
    out: str | Path,
    to: str,
    target: str | Path,
    *,
    data: str | Path | Collection | None = None,
    scores: bool = False,
    negatives: int | None = None,
) -> dict[str, Any]:
    """Write what was mined into OUT in the format `to` of another tool, see `formats_table`; return what was written.

    Args:
        out: a run folder.
        to: the name of the format.
        target: a new folder, one that an earlier export left, or a new file of the format's ending, where one suffices.
        data: the collection or its address; judgements and whole corpora come from it.
        scores: give sentence-transformers cosines in the place of labels.
        negatives: of each n-tuple; None: as many as keep most of them.

    Raises:
        ConfigError: there is no such format, or an option would have no effect on it.
        DataError: OUT holds nothing to export, or the target holds what hnmine did not write.
    """
    # Refuse what cannot be done before anything is read.
    out, target = Path(out), Path(target).expanduser().resolve()  # a link stays, and leads to what is written
    if to not in FORMATS:
        raise ConfigError(f"there is no format {to!r}; expected one of {', '.join(FORMATS)}")
    form = FORMATS[to]
    refuse_source(data, target, "what is exported to")
    _refuse_idle(to, form, data, scores, negatives)
    alone = target.suffix.lower() in _OF_FILES and not target.is_dir()
    if alone and not (form.alone and target.suffix == Path(form.file).suffix):
        ending = f", or of a file that ends in {Path(form.file).suffix}" if form.alone else ""
        raise ConfigError(f"{target} looks like a file; {to} expects the name of a folder{ending}")
    known = _known_files(target, alone)

    # Write.
    source = Source.open(out, data, scores=scores, width=negatives)
    caution = CAUTION if scores or form.scores == "kept" else ""
    facts: dict[str, Any] = {"format": to, "caution": caution, "hnmine": version("hnmine")}
    try:
        facts |= _put(source, form, facts, target, None if alone else known)
    except OSError as error:
        raise DataError(f"{target} cannot be written: {error}; make way or room there, or choose another") from None
    return facts | {"path": str(target)}


def _put(source: Source, form: Format, facts: dict[str, Any], target: Path, known: set[str] | None) -> dict[str, Any]:
    """Write beside the target, then put it there, in the place of `known` files; None: the main file alone.

    Return what was counted, and how it is read.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    hidden = target.parent / f".{target.name}.export"
    shutil.rmtree(hidden, ignore_errors=True)
    hidden.mkdir()
    try:
        counts = form.write(source, hidden)
        load = form.load_text(hidden, counts, target, target if known is None else None)
        if known is None:
            with whole_file(target) as new:
                (hidden / form.file).replace(new)
        else:
            _finish(hidden, form, facts | {"counts": counts})
            put_in_place(hidden, target, {MARK, *known})
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return {"load": load, "counts": counts}


def export_text(found: dict[str, Any]) -> str:
    """Return what an export says at its end."""
    counts = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in found["counts"].items())
    return "\n".join(filter(None, (f"{found['path']}: {counts}", f"read it by: {found['load']}", found["caution"])))


def formats_table() -> str:
    """Return every format by name."""
    return text_table([(name, each.about) for name, each in FORMATS.items()], ("format", "what it is"), left=(0, 1))


def _known_files(target: Path, alone: bool) -> set[str]:
    """Return the files that an export left there; raise DataError if anything else is there."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return set()
    if alone or not target.is_dir():
        raise DataError(f"{target} exists; remove it, or choose another name")
    mark, known = target / MARK, dict[str, str]()
    with suppress(OSError, ValueError, KeyError, TypeError):  # none, or not ours
        known = dict(json.loads(mark.read_text(encoding="utf-8"))["files"])
    for path in sorted(target.rglob("*")):
        name = path.relative_to(target).as_posix()
        if path.is_file() and path != mark and known.get(name) != file_sha256(path):
            problem = "has changed since" if name in known else "is not of an export"
            raise DataError(f"{target} is not replaced, since {name} {problem}; remove it, or choose another folder")
    return set(known)


def _refuse_idle(
    to: str, form: Format, data: str | Path | Collection | None, scores: bool, negatives: int | None
) -> None:
    """Refuse options that would have no effect, and a collection that is needed and missing."""
    if form.needs_data and data is None:
        raise ConfigError(f"{to} is made of the collection: give the one that OUT was mined from as --data")
    for option, given, useful in (
        ("--data", data is not None, form.needs_data),
        ("--scores", scores, form.scores == "asked"),
        ("--negatives", negatives is not None, to == "n-tuple"),
    ):
        if given and not useful:
            raise ConfigError(f"{option} would have no effect on {to}; leave it out")
    if negatives is not None and negatives < 1:
        raise ConfigError(f"--negatives: expected 1 or more, got {negatives}")


def _finish(folder: Path, form: Format, facts: dict[str, Any]) -> None:
    """Add what the files are, for people and for `datasets`, and the mark."""
    parts = sorted(path for path in folder.glob("*/train.parquet") if path.parent.name in ("data", "ids"))
    named = {"data": "default", "ids": "ids"}
    configs = [
        {"config_name": named[path.parent.name], "data_files": path.relative_to(folder).as_posix()} for path in parts
    ]
    front = f"---\n{yaml.safe_dump({'configs': configs, 'tags': ['hnmine']}, sort_keys=False)}---\n" if configs else ""
    counts = "\n".join(f"* {count:,} {name.replace('_', ' ')}" for name, count in facts["counts"].items())
    beside = "`ids/` has the ids of each row of `data/`, in the same order.\n" if (folder / "ids").is_dir() else ""
    load = form.load_text(folder, facts["counts"], Path("."))
    text = (
        f"{front}# {form.about}\n\nExported by hnmine {facts['hnmine']} as `{facts['format']}`.\n\n{counts}\n\n"
        f"Read it by `{load}`.\n{beside}{facts['caution']}\n"
    )
    (folder / "README.md").write_text(text, encoding="utf-8", errors="backslashreplace")
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files = {path.relative_to(folder).as_posix(): file_sha256(path) for path in paths}
    write_json(folder / MARK, facts | {"files": files, "load": load})
