"""Run files: the documents that a system found for each query, as TREC and MS MARCO write them.

    query_id Q0 doc_id rank score tag        TREC, six columns
    query_id doc_id rank                     MS MARCO, three; the score is the rank below zero

Columns are parted by tabs, or else by blanks; with tabs an id may hold a blank. Order is that of score, then of rank,
then of lines.
"""

from __future__ import annotations

import gzip
import io
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hnmine.corpus.files import File
from hnmine.errors import DataError
from hnmine.runs.directory import Directory
from hnmine.runs.files import whole_file
from hnmine.runs.progress import say
from hnmine.types import NO_ROW, Float32, Int64, Texts

_FORMS = {6: "query_id Q0 doc_id rank score tag", 3: "query_id doc_id rank"}  # by the number of columns
_EXPECTED = " or ".join(_FORMS.values())
UNWRITABLE = re.compile(r"[\t\r\n]|^\s|\s$|^$")


class _Line(NamedTuple):
    number: int
    query_id: str
    doc_id: str
    rank: int
    score: float
    scored: bool  # whether the line says so


def read_run(address: str | Path, documents: Texts, queries: Texts) -> Callable[[Int64, int], tuple[Int64, Float32]]:
    """Read a run file, packed or not, and return it as a first stage.

    A document that a query has twice is kept once, with its best score. Lines of queries or documents that the
    collection does not have are ignored. Both are counted.

    Raises:
        DataError: there is no such file, a line has another form than the first, its score is not finite, or scores
            and ranks have changed places.
    """
    # Collect each query's documents, the best line of each.
    lists: dict[int, dict[int, tuple[float, int, int]]] = {}
    foreign, doubled, scored = 0, 0, True
    for line in _lines(str(address)):
        query, doc = queries.row_of.get(line.query_id), documents.row_of.get(line.doc_id)
        if query is None or doc is None:
            foreign += 1
            continue
        scored = line.scored
        docs, place = lists.setdefault(query, {}), (-line.score, line.rank, line.number)
        doubled += doc in docs
        docs[doc] = min(place, docs.get(doc, place))

    # Order them, and say what is strange.
    ranked = {query: sorted((place, doc) for doc, place in docs.items()) for query, docs in lists.items()}
    if problem := _exchanged(list(ranked.values()), scored):
        raise DataError(f"{address}: {problem}")
    said = f"{address}: {len(ranked):,} queries"
    said += f", {foreign:,} lines of others ignored" if foreign else ""
    said += f", {doubled:,} lines of a document that its query has already" if doubled else ""
    say("evaluate", said)
    other = sum(any(a[0][1] > b[0][1] for a, b in pairwise(docs)) for docs in ranked.values())
    if other:
        message = f"{address}: scores and ranks of {other:,} queries disagree; scores decide, the highest first"
        say("evaluate", message, level="warning")

    def first(query_rows: Int64, depth: int) -> tuple[Int64, Float32]:
        rows_QK = np.full((len(query_rows), depth), NO_ROW, dtype=np.int64)
        scores_QK = np.zeros((len(query_rows), depth), dtype=np.float32)
        for at, query in enumerate(query_rows.tolist()):
            for place, ((score, _, _), doc) in enumerate(ranked.get(query, [])[:depth]):
                rows_QK[at, place], scores_QK[at, place] = doc, -score
        return rows_QK, scores_QK

    return first


def _exchanged(lists: Sequence[Sequence[tuple[tuple[float, int, int], int]]], scored: bool) -> str | None:
    """Return why scores and ranks have changed places in these lists of score, rank and line; None if they have not."""
    pairs = [(first[0], second[0]) for docs in lists for first, second in pairwise(docs)]
    if not pairs:
        return None
    if scored and all(first[1] > second[1] for first, second in pairs):
        return "all ranks rise with the scores; expected the best score at rank 1: exchange the columns, or the signs"
    if not scored and all(first[2] > second[2] for first, second in pairs) and min(first[1] for first, _ in pairs) > 1:
        return "the third column falls from line to line, as scores do; expected ranks: write TREC's six columns"
    return None


def write_run(
    path: Path, query_ids: Sequence[str], doc_ids: Sequence[str], doc_rows_QK: Int64, scores_QK: Float32, *, tag: str
) -> None:
    """Write a TREC run, whole or not at all, packed if its name ends in `.gz`; the same content is the same bytes.

    The order is that of the scores, and of equal scores that of the columns. Programs that read runs break ties in ways
    of their own, so of equal scores each is written as the next float32 below the one before it.

    Raises:
        DataError: a score is not finite, or an id cannot stand in a line.
    """
    # Ids with blanks need tabs.
    used = [doc_ids[row] for row in np.unique(doc_rows_QK[doc_rows_QK != NO_ROW]).tolist()]
    bad = next((each for each in (*query_ids, *used) if UNWRITABLE.search(each)), None)
    if bad is not None:
        raise DataError(f"the id {bad!r} cannot stand in a run file: expected one without tabs, line ends and edges")
    blank = "\t" if any(" " in each for each in (*query_ids, *used)) else " "

    # Lines, the scores of a query strictly falling.
    lines = []
    for query, rows_K, scores_K in zip(query_ids, doc_rows_QK, scores_QK, strict=True):
        exists = np.flatnonzero(rows_K != NO_ROW)
        if not np.isfinite(scores_K[exists]).all():
            raise DataError(f"query {query} has a score that is not finite; expected numbers: see what the model gives")
        last = np.float32(np.inf)
        for rank, at in enumerate(exists[np.argsort(-scores_K[exists], kind="stable")].tolist(), 1):
            last = min(np.float32(scores_K[at]), np.nextafter(last, np.float32(-np.inf)))
            lines.append(blank.join((query, "Q0", doc_ids[rows_K[at]], str(rank), str(last), tag)) + "\n")
    content = "".join(lines).encode()

    # The header of gzip holds no time and no name.
    if path.suffix == ".gz":
        packed = io.BytesIO()
        with gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as stream:
            stream.write(content)
        content = packed.getvalue()
    with whole_file(path) as hidden:
        hidden.write_bytes(content)


def check_run_file(address: str) -> None:
    """Raise DataError if there is no such run file, or if its first line is not one of a run."""
    next(_lines(address), None)


def _lines(address: str) -> Iterator[_Line]:
    """Yield the lines that are not empty; the first decides how many columns there are."""
    above, slash, name = address.rpartition("/")
    file = File(Directory.at(above or slash or ".", "run file", "evaluate.first_stage"), name)
    columns = 0
    with file.opened() as (kind, stream):
        if kind != "text":
            raise DataError(f"{file} is {kind}; expected lines of text: {_EXPECTED}")
        for number, raw in enumerate(stream, 1):
            try:
                cells = _cells(raw.decode("utf-8" if number > 1 else "utf-8-sig").rstrip("\r\n"))
            except UnicodeDecodeError as error:
                raise DataError(f"{file}, line {number}: not UTF-8: {error.reason}; write it as UTF-8") from None
            if cells:
                columns = columns or len(cells)
                yield _parsed(cells, columns, number, f"{file}, line {number}")


def _cells(line: str) -> list[str]:
    """Return the columns of a line; none of an empty one."""
    by_tabs = [cell.strip() for cell in line.split("\t")]
    return by_tabs if len(by_tabs) in (3, 6) else line.split()


def _parsed(cells: list[str], columns: int, number: int, where: str) -> _Line:
    try:
        if columns == 3:
            query_id, doc_id, rank = cells
            line = _Line(number, query_id, doc_id, int(rank), -int(rank), scored=False)
        else:
            query_id, _, doc_id, rank, score, _ = cells
            line = _Line(number, query_id, doc_id, int(rank), float(score), scored=True)
    except ValueError:
        raise DataError(f"{where}: expected `{_FORMS.get(columns, _EXPECTED)}`, got {' '.join(cells)[:80]!r}") from None
    if not abs(line.score) <= float(np.finfo(np.float32).max):
        raise DataError(f"{where}: the score of {line.doc_id} is {line.score}; expected a finite number of 32 bits")
    return line
