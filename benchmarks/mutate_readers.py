"""Spoiled collections in every layout: a reader reads them, or refuses them by name, and never fails otherwise.

    python benchmarks/mutate_readers.py --minutes 10 [--seed 0] [--json mutate_readers.json]

A small random collection is written in one layout after the other (`tests/builders/layouts.py`), and one to four things
are changed in its files: bytes flipped, cut or doubled, values exchanged for others of another type, huge numbers, deep
nesting, columns removed or exchanged, files renamed, emptied, packed again. Reading goes on in a process of its own, so
that a crash and an endless loop are found too. Prints and writes the counts by layout; exit code 1 if anything failed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, TimeoutError
from concurrent.futures.process import BrokenProcessPool
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1]))

from hnmine.config.steps import SourcesConfig
from hnmine.corpus.layouts import read_collection
from hnmine.corpus.objects import Collection
from hnmine.errors import HnmineError
from hnmine.runs.files import write_json
from hnmine.runs.manifest import versions
from tests.builders.layouts import LAYOUTS, document_rows, judged_rows, pack, query_rows, random_plain

OBJECTS = "Python objects"
SECONDS = 30  # of one reading; more is an endless loop
TOKENS = (
    b"\0", b"\xff\xfe", b'"', b'""', b"\r", b"\n\n", b"\t", b",", b"\xed\xa0\x80", b"\\ud800", b"\xef\xbb\xbf",
    b"1e999", b"9" * 400, b"9" * 6000, b"[" * 100_000, b'{"a":' * 50_000, b"\x1f\x8b", b"PAR1", b"ARROW1\0\0",
    b"\xff\xff\xff\xff", b"<DOC>", b"</DOC>", b"<top>", b"<!ENTITY a 'b'>", b"&#xD800;", b"null", b"NaN", b"[]",
)  # fmt: skip
NESTED = json.loads("[" * 200 + "]" * 200)
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, float("nan"), float("inf"), 10**400, 10**4000, "", " ", "\u200b", "\ud800", "a\0b", [], {},
    ["a", "b"], ["a", 1], {"a": {"b": 1}}, NESTED, "x" * 300_000, "d0", "q0",
)  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Spoil and read until the time is over; return 1 if a reading failed otherwise than by name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the result is written")
    options = parser.parse_args(arguments)

    # Take the layouts in turn; a seed decides the collection and what becomes of it.
    counts: dict[str, Counter[str]] = {name: Counter() for name in (*LAYOUTS, OBJECTS)}
    failures: list[dict[str, Any]] = []
    names, seed, start = list(counts), options.seed, time.monotonic()
    pool = ProcessPoolExecutor(1)
    while time.monotonic() - start < options.minutes * 60:
        layout = names[seed % len(names)]
        try:
            outcome, detail = pool.submit(spoil_and_read, layout, seed).result(timeout=SECONDS)
        except (TimeoutError, BrokenProcessPool) as error:
            outcome, detail = "failed", f"the process ended or did not end: {type(error).__name__}"
            for process in list(getattr(pool, "_processes", {}).values()):
                process.kill()
            pool = ProcessPoolExecutor(1)
        counts[layout][outcome] += 1
        if outcome == "failed":
            failures.append({"layout": layout, "seed": seed, "error": detail})
            print(f"{layout}, seed {seed}: {detail}", flush=True)
        seed += 1
    pool.shutdown()

    # Say what came of it.
    found = {name: {key: each[key] for key in ("read", "refused", "failed")} for name, each in counts.items()}
    total = {key: sum(each[key] for each in found.values()) for key in ("read", "refused", "failed")}
    for name, each in found.items():
        print(f"{name:45} {each['read']:6} read {each['refused']:6} refused {each['failed']:4} failed")
    result = {"minutes": options.minutes, "seed": options.seed, "collections": total, "layouts": found}
    if options.json:
        write_json(options.json, {**result, "failures": failures[:50], "versions": versions()})
    print(json.dumps(total))
    return int(bool(failures))


def spoil_and_read(layout: str, seed: int) -> tuple[str, str]:
    """Return read, refused or failed, and the kind of refusal or the end of the traceback."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        if layout == OBJECTS:
            objects = spoiled_objects(draw)
        else:
            folder = Path(name) / "set"
            LAYOUTS[layout].fill(folder, random_plain(draw))
            for _ in range(draw.randrange(1, 5)):
                spoil(folder, draw)
        try:
            collection = Collection.of(*objects) if layout == OBJECTS else read_collection(folder, SourcesConfig())
            json.dumps([vars(row) for row in collection.quarantined]).encode()
            assert len(collection.documents), "no document"
        except HnmineError as error:
            str(error).encode()
            return "refused", type(error).__name__
        except Exception:
            return "failed", traceback.format_exc()[-1500:]
    return "read", ""


def spoiled_objects(draw: random.Random) -> list[Any]:
    """Return documents, queries and judgements as objects of some form, a few values of which were exchanged."""
    plain = random_plain(draw)
    tables: list[list[dict[str, Any]]] = [
        document_rows(plain),
        query_rows(plain),
        [row for rows in plain.judgements.values() for row in judged_rows(rows)],
    ]
    for _ in range(draw.randrange(1, 5)):
        row = draw.choice(draw.choice(tables))
        row[draw.choice([*row, *row, "id", "other"])] = draw.choice(VALUES)
    return [in_some_form(rows, draw) for rows in tables]


def in_some_form(rows: list[dict[str, Any]], draw: random.Random) -> Any:
    """Return rows as one of the objects that hold them, or something else."""
    form = draw.choice(["list", "iterator", "pandas", "arrow", "tuples", "dict", "value"])
    try:
        if form == "pandas":
            return pd.DataFrame(rows)
        if form == "arrow":
            return pa.Table.from_pylist(rows)
    except (pa.ArrowException, ValueError, TypeError, OverflowError, UnicodeError):  # there is no such table
        return rows
    others = {
        "iterator": iter(rows),
        "tuples": [tuple(row.values()) for row in rows],
        "dict": {str(number): row for number, row in enumerate(rows)},
        "value": draw.choice(VALUES),
    }
    return others.get(form, rows)


def spoil(folder: Path, draw: random.Random) -> None:
    """Change one file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        return
    path = draw.choice(files)
    content = path.read_bytes()
    if draw.random() < 0.08:
        rename(path, content, draw)
        return
    packing = next((kind for kind in (".gz", ".bz2", ".xz", ".zst") if path.name.endswith(kind)), "")
    if packing and draw.random() < 0.8:
        path.write_bytes(pack(changed(unpack(content, packing), draw), packing))
    else:
        path.write_bytes(changed(content, draw))


def unpack(content: bytes, packing: str) -> bytes:
    """Return what was packed; as it is, if that was spoiled before."""
    import bz2
    import gzip
    import lzma

    try:
        if packing == ".zst":
            return bytes(pa.CompressedInputStream(pa.BufferReader(content), "zstd").read())
        return {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}[packing](content)
    except Exception:
        return content


def rename(path: Path, content: bytes, draw: random.Random) -> None:
    """Let a file have another name, none, or be a folder."""
    target = path.with_name(
        draw.choice(["other.bin", "train.jsonl", "corpus.jsonl", "qrels.tsv", "queries.tsv", "data"])
    )
    way = draw.randrange(4)
    if way == 0:
        path.unlink()
    elif way == 1:
        path.unlink()
        path.mkdir()
    elif not target.exists():
        (path.rename if way == 2 else target.write_bytes)(target if way == 2 else content)  # type: ignore[arg-type]


def changed(content: bytes, draw: random.Random) -> bytes:
    """Return the content of a file after one change."""
    columnar = content[:4] in (b"PAR1", b"ARRO", b"\xff\xff\xff\xff")
    ways: list[Callable[[bytes, random.Random], bytes]] = [flip, cut, insert, double]
    ways += [other_columns] * 4 if columnar else [other_value, other_value, other_cells, other_cells, other_whole]
    return draw.choice(ways)(content, draw)


def flip(content: bytes, draw: random.Random) -> bytes:
    """Change some bits."""
    changed_bytes = bytearray(content)
    for _ in range(draw.choice([1, 1, 4, 30])):
        if changed_bytes:
            changed_bytes[draw.randrange(len(changed_bytes))] ^= 1 << draw.randrange(8)
    return bytes(changed_bytes)


def cut(content: bytes, draw: random.Random) -> bytes:
    """Drop the end, the beginning or a part between."""
    start, end = sorted((draw.randrange(len(content) + 1), draw.randrange(len(content) + 1)))
    return draw.choice([content[:start], content[start:], content[:start] + content[end:]])


def double(content: bytes, draw: random.Random) -> bytes:
    """Write a part twice."""
    start, end = sorted((draw.randrange(len(content) + 1), draw.randrange(len(content) + 1)))
    return content[:end] + content[start:]


def insert(content: bytes, draw: random.Random) -> bytes:
    """Put something awkward somewhere."""
    at = draw.choice([0, len(content), draw.randrange(len(content) + 1)])
    return content[:at] + draw.choice(TOKENS) + content[at:]


def other_whole(content: bytes, draw: random.Random) -> bytes:
    """Write the text in another form."""
    text = content.decode("utf-8", "replace")
    rows = [line for line in text.splitlines() if line.strip()]
    return draw.choice(
        [
            text.encode(draw.choice(["utf-16", "utf-16-le", "utf-32", "utf-7"])),
            text.replace("\n", "\r").encode(),
            text.replace("\n", "\r\n").encode(),
            f"[{','.join(rows)}]".encode(),
            ("{" + ",".join(f'"{n}": {row}' for n, row in enumerate(rows)) + "}").encode(),
            b"",
            pack(pack(content, ".gz"), ".gz"),
            pack(content, ".zst"),
        ]
    )


def other_value(content: bytes, draw: random.Random) -> bytes:
    """Give a row of JSON lines another value, another key, or one less."""
    lines = content.split(b"\n")
    at = draw.randrange(len(lines))
    try:
        row = json.loads(lines[at])
        key = draw.choice(list(row))
    except (ValueError, TypeError, IndexError, KeyError, RecursionError):
        return other_cells(content, draw)
    for line in range(len(lines)) if draw.random() < 0.3 else [at]:  # of all rows, or of this one
        try:
            row = json.loads(lines[line])
            value = row.pop(key)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue
        way = draw.randrange(4)
        if way == 1:
            row[draw.choice(["id", "text", "query", "other", "", "\ud800", "pos", "label"])] = value
        elif way > 1:
            row[key] = draw.choice(VALUES) if way == 2 else [value, draw.choice(VALUES)]
        lines[line] = json.dumps(row).encode()
    return b"\n".join(lines)


def other_cells(content: bytes, draw: random.Random) -> bytes:
    """Remove, exchange or change a cell of one row of a table, or a column."""
    lines = content.split(b"\n")
    delimiter = draw.choice([b"\t", b",", b" "])
    first, second = draw.randrange(4), draw.randrange(4)
    value = draw.choice(
        [str(each).encode("utf-8", "replace") for each in VALUES if not isinstance(each, int)] + [b"9" * 400]
    )
    way, only = draw.randrange(3), draw.choice([None, None, draw.randrange(len(lines))])
    for number, line in enumerate(lines):
        cells = line.split(delimiter)
        if only in (None, number) and max(first, second) < len(cells):
            if way == 0:
                del cells[first]
            elif way == 1:
                cells[first], cells[second] = cells[second], cells[first]
            else:
                cells[first] = value
            lines[number] = delimiter.join(cells)
    return b"\n".join(lines)


def other_columns(content: bytes, draw: random.Random) -> bytes:
    """Remove, rename, repeat or exchange a column of Parquet or Arrow, or give it another type."""
    try:
        parquet = content.startswith(b"PAR1")
        start = 8 if content.startswith(b"ARRO") else 0
        table = pq.read_table(BytesIO(content)) if parquet else pa.ipc.open_stream(content[start:]).read_all()
        at = draw.randrange(table.num_columns)
        name, column = table.column_names[at], table.column(at)
        others: list[Any] = [
            pa.array([draw.choice([1.5, float("nan"), None, 2**53]) for _ in column], pa.float64()),
            pa.array([2**64 - 1] * len(column), pa.uint64()),
            pa.array([b"\xff"] * len(column)),
            pa.array([b"\xff"] * len(column)).view(pa.string()),
            pa.array([{"a": [{"b": 1}]}] * len(column)),
            pa.array([[1.0, 2.0]] * len(column)),
            pa.array([None] * len(column)),
            pa.array([10**20] * len(column), pa.decimal128(38)),
            pa.array([2**62] * len(column), pa.timestamp("ns")),
            pa.array([draw.choice(["", " ", "\u200b", "x", None]) for _ in column]),
            pa.array([str(each) for each in column.to_pylist()]).dictionary_encode(),
        ]
        renamed = draw.choice(["other", "id", "text", "", table.column_names[0]])
        table = draw.choice(
            [
                table.remove_column(at),
                table.set_column(at, name, draw.choice(others)),
                table.set_column(at, renamed, column),
                table.append_column(name, column),
                table.slice(0, draw.randrange(2)),
            ]
        )
        sink = BytesIO()
        if parquet:
            pq.write_table(table, sink)
        else:
            with (pa.ipc.new_file if start else pa.ipc.new_stream)(sink, table.schema) as writer:
                writer.write_table(table)
        return sink.getvalue()
    except (pa.ArrowException, ValueError, OSError, KeyError, TypeError, UnicodeError):
        return flip(content, draw)


if __name__ == "__main__":
    sys.exit(main())
