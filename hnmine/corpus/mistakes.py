"""What is wrong with a whole file of text, seen in its first bytes: named, with one row of it and what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from hnmine.corpus.fields import DOCUMENT, JUDGEMENT, QUERY, any_known, keys_by_field, plain
from hnmine.corpus.files import HEAD

_STARTS = (
    (rb"PK\x03\x04", "is a zip archive or a spreadsheet", "unpack it, or save it as CSV"),
    (rb"(?s).{257}ustar", "is a tar archive", "unpack it"),
    (rb"version https://git-lfs", "is a pointer of git-lfs, not the file", "fetch the file with `git lfs pull`"),
    (rb"(?i)\s*<(!doctype\s+html|html|head|body)\b", "is an HTML page, perhaps of an error", "fetch the file again"),
    (rb"\s*<\?xml", "is XML", "write JSON lines"),
    (rb"\x1f\x8b|BZh\d|\xfd7zXZ|\x28\xb5\x2f\xfd", "is packed twice", "unpack it once"),
    (rb"FEA1|ORC|Obj\x01", "is Feather, ORC or Avro", "write Parquet"),
    (rb"%PDF|\x80[\x02-\x05]|SQLite format 3|\x89HDF|\x93NUMPY", "is no text", "write JSON lines or Parquet"),
)
_ROWS = "expected one JSON object a line"


def mistake(head: bytes) -> str | None:
    """Return what is wrong with a file that begins like this, as the end of a sentence; None if nothing is seen."""
    for pattern, problem, remedy in _STARTS:
        if re.match(pattern, head):
            return f"{problem}, it begins {_shown(head)}; {remedy}"
    encoding = json.detect_encoding(head)
    if not encoding.startswith("utf-8") and (head[:2] in (b"\xff\xfe", b"\xfe\xff") or head[:4].count(0) >= 2):
        name, start = encoding.upper().replace("-LE", "LE").replace("-BE", "BE"), head.decode(encoding, "replace")
        remedy = f"expected UTF-8: iconv -f {name} -t UTF-8 OLD > NEW"
        return f"is written in {name}, it begins {_shown(start.encode())}{_keys(start)}; {remedy}"
    if b"\n" not in head and b"\r" in head[:-1]:
        start = head.decode("utf-8", "replace")
        remedy = r"""expected line feeds: tr "\r" "\n" < OLD > NEW"""
        return f"ends its lines with carriage returns alone, it begins {_shown(head)}{_keys(start)}; {remedy}"
    return _json_mistake(head.decode("utf-8", "replace").removeprefix("\ufeff").lstrip(), cut=len(head) >= HEAD)


def object_of_objects(row: object) -> str | None:
    """Return what is wrong with a file whose first row is this, if it holds the rows as values under their ids."""
    if not isinstance(row, dict) or not row or not all(isinstance(value, dict) for value in row.values()):
        return None
    name, value = next(iter(row.items()))
    remedy = f"{_ROWS}: jq -c 'to_entries[] | {{_id: .key}} + .value' OLD > NEW"
    if any(len(keys_by_field(names, row)) > 1 for names in (DOCUMENT, QUERY, JUDGEMENT)):
        remedy = f"{_ROWS}: frame.to_json(NEW, orient='records', lines=True)"  # it holds columns, as pandas writes
    elif value and all(isinstance(grade, int | float) for grade in value.values()):
        by_query = "to_entries[] | .key as $query | .value | to_entries[] | [$query, .key, .value]"
        remedy = f"expected query, document and score a line: jq -r '{by_query} | @tsv' OLD > NEW"
    return f"is one JSON object of objects, the first is {name[:40]!r} with {_names(value)}; {remedy}"


def object_of_texts(row: object, least: int = 4) -> str | None:
    """Return what is wrong with a file that has this row alone, if it is texts, or lists of documents, by their ids.

    A row of fewer fields than `least` may be a row whose names nobody knows.
    """
    known = {"anchor", "positive", "pos", "sentence1"}  # of training
    if not isinstance(row, dict) or len(row) < least or known.intersection(row) or any_known(row):
        return None
    if all(isinstance(value, str) for value in row.values()):
        return f"is one JSON object of texts; {_ROWS}: jq -c 'to_entries[] | {{_id: .key, text: .value}}' OLD > NEW"
    if all(isinstance(value, list) for value in row.values()):
        by_query = "to_entries[] | .key as $query | .value[] | [$query, ., 1]"
        return f"is one JSON object of lists; expected a row a line: jq -r '{by_query} | @tsv' OLD > NEW"
    return None


def renamed(files: Mapping[str, Sequence[str]]) -> list[str]:
    """Return what to call files, and columns, of which the columns say what they hold and the names do not."""
    advice = []
    for file, keys in files.items():
        name, ending = Path(file).name, "".join(Path(file).suffixes)
        if unknown := _unknown_id(keys):
            key, (first, *more) = unknown[0], JUDGEMENT[unknown[1]]
            columns = f"the column {key} {first} (or {', '.join(more)})"
            renames = columns if file.startswith("qrels") else f"it qrels/train{ending}, and {columns}"
            advice.append(f"{file} looks like judgements: call {renames}")
            continue
        if {"query", "document"} <= keys_by_field(JUDGEMENT, keys).keys():
            role, new, names = "judgements", "qrels/train", None
        elif "text" in keys_by_field(DOCUMENT, keys):
            role, new, names = "documents", "corpus", DOCUMENT
        elif "text" in keys_by_field(QUERY, keys):
            role, new, names = "queries", "queries", QUERY
        else:
            continue
        if re.match(r"corpus|documents|docs|queries|topics|collection|train|dev|test|val|qrels", name) or "/" in file:
            continue
        ids = "" if names is None or "id" in keys_by_field(names, keys) else ", and the column of ids id"
        advice.append(f"{file} looks like {role}: call it {new}{ending}{ids}")
    return advice


def _unknown_id(keys: Sequence[str]) -> tuple[str, str] | None:
    """Return the one column of judgements whose name is not known, and what it holds; None: these are none."""
    judged = keys_by_field(JUDGEMENT, keys)
    rest = [key for key in keys if key not in judged.values()]
    rest = [key for key in rest if plain(key).endswith("id")] or rest
    missing = {"query", "document"} - judged.keys()
    if {"title", "text"} & keys_by_field(DOCUMENT, keys).keys() or "score" not in judged:
        return None
    return (rest[0], missing.pop()) if len(missing) == len(rest) == 1 else None


def _json_mistake(text: str, cut: bool) -> str | None:
    """Return what is wrong with JSON that begins like this; `cut`: the file goes on."""
    lines = [line for line in text.split("\n", 20) if line.strip()]
    if re.match(r"\[\s*[\[{]", text) or (lines and lines[0].strip() == "[" and len(lines) > 1):
        return f"is one JSON array{_keys(text.lstrip('[ '))}; {_ROWS}: jq -c '.[]' OLD > NEW"
    if len(lines) < 2 or lines[0][:1] != "{" or lines[0].rstrip()[-1:] not in "{,[:" or lines[1].lstrip()[:1] == "{":
        return None
    try:
        row, _ = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        if not cut:
            return None
        row = None
    return (
        object_of_objects(row)
        or object_of_texts(row, least=2)
        or f"has JSON objects of several lines{_keys(text)}; {_ROWS}: jq -c . OLD > NEW"
    )


def _keys(text: str) -> str:
    """Return what the first JSON object in the text has, as part of a sentence."""
    try:
        row, _ = json.JSONDecoder().raw_decode(text[text.index("{") :])
    except (ValueError, RecursionError):
        return ""
    return f", the first object has {_names(row)}"


def _names(row: object) -> str:
    return (", ".join(map(repr, list(row)[:12])) or "no key") if isinstance(row, dict) else "no key"


def _shown(head: bytes) -> str:
    return repr(head[:60].decode("utf-8", "replace").strip())
