"""Judgements of a file: query, document and score by the names of columns, and by position only where there are none.

Without a header a row has BEIR's three columns (query, document, score) or TREC's four (query, iteration, document,
score). A table without a column of scores lists what is right: each score is 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from hnmine.corpus.delimited import Cells, bad_cells, records
from hnmine.corpus.fields import JUDGEMENT, keys_by_field, listed, plain
from hnmine.corpus.files import File, Row
from hnmine.corpus.rows import filled, is_json, rows
from hnmine.errors import DataError

FIELDS = ("query", "document", "score")
_BY_POSITION = {3: (0, 1, 2), 4: (0, 2, 3)}
_BESIDE = {"", "index", "unnamed:0", "indexlevel0", "iteration", "iter", "q0"}  # columns that say nothing of a score
_MAY_BE_TEXTS = {"query", "topic", "document", "doc", "passage"}  # beside ids of the same
_NAMES = listed(JUDGEMENT)
_EXPECTED = f"expected a header with {_NAMES}, or rows of query, document, score, or TREC's four columns"


def judgement_rows(files: Sequence[File]) -> Iterator[Row]:
    """Yield the judgements of the files of one split: rows with the fields query, document and score.

    Raises:
        DataError: a file as a whole cannot be used, or its columns have names that nobody knows.
    """
    for file in filled(files):
        with file.opened() as (kind, stream):
            if kind == "text" and not is_json(file, stream):
                yield from _from_table(file, stream)
                continue
        yield from named_rows(rows(file))


def named_rows(judged: Iterable[Row]) -> Iterator[Row]:
    """Yield rows whose fields are query, document and score, of rows that have them under any of their names.

    A row without a score is right only if the first has none.
    """
    scored = None
    for row in judged:
        if row.reason:
            yield row
            continue
        names = keys_by_field(JUDGEMENT, row.fields)
        if problem := _unclear(row.fields):
            yield row._replace(reason="malformed_row", detail=problem)
            continue
        scored = "score" in names if scored is None else scored
        if scored != ("score" in names):
            detail = f"the first row has {'a' if scored else 'no'} score; keys: {list(row.fields)}"
            yield row._replace(reason="malformed_row", detail=detail)
        else:
            query, document = row.fields[names["query"]], row.fields[names["document"]]
            score = row.fields[names["score"]] if "score" in names else 1
            yield row._replace(fields={"query": query, "document": document, "score": score})


def _from_table(file: File, stream: Iterable[bytes]) -> Iterator[Row]:
    width, query, document, score_at, start = 0, 0, 1, 2, ""
    count, counts, other = 0, False, False  # rows; whether their first cell counts them; whether a second is not 0
    for line, cells in records(file, stream, _fits, blanks=True):
        # Find the columns on the first row.
        if not width:
            bad, names, width = bad_cells(cells, len(cells)), keys_by_field(JUDGEMENT, cells), len(cells)
            if not bad and _is_header(cells):
                if problem := _unclear(cells):
                    raise DataError(f"{file}: {problem}")
                query, document = cells.index(names["query"]), cells.index(names["document"])
                score_at = cells.index(names["score"]) if "score" in names else -1
                continue
            if bad or not _fits(cells):
                raise DataError(f"{file} begins with {str(cells)[:100]}; {_EXPECTED}")
            query, document, score_at = _BY_POSITION[width]
            start, counts = cells[0], width == 4 and cells[0] in ("0", "1")

        # Read each row.
        counts = counts and cells[0] == str(int(start) + count)
        count, other = count + 1, other or cells[1:2] not in (["0"], ["Q0"], ["q0"])
        if bad := bad_cells(cells, width):
            yield Row(file.name, line, {}, *bad)
        else:
            score = cells[score_at] if score_at >= 0 else 1
            yield Row(file.name, line, {"query": cells[query], "document": cells[document], "score": score})
    if counts and other and count > 2:
        raise DataError(f"{file}: the first of its four columns counts the rows, as an index does; write a header")


def _is_header(cells: Cells) -> bool:
    names = keys_by_field(JUDGEMENT, cells)
    return "query" in names and "document" in names


def _unclear(keys: Iterable[str]) -> str | None:
    """Return why it is not clear which of the columns are query, document and score."""
    keys = list(keys)
    names = keys_by_field(JUDGEMENT, keys)
    if not _is_header(keys):
        return f"no {' and no '.join(each for each in FIELDS[:2] if each not in names)} in {keys}; expected {_NAMES}"
    for field, known in JUDGEMENT.items():
        same = [key for key in keys if plain(key) in map(plain, known) and plain(key) not in _MAY_BE_TEXTS]
        if len(same) > 1:
            return f"which is the {field}, {' or '.join(same)}? Remove the other column"
    other = [key for key in keys if plain(key) not in _BESIDE and key not in names.values()]
    if "score" not in names and other:
        return f"no score in {keys}; expected score, relevance, rel or label, or no column but query and document"
    return None


def _fits(cells: Cells) -> bool:
    return _is_header(cells) or (len(cells) in _BY_POSITION and score_of(cells[-1]) is not None)


def score_of(value: Any) -> float | None:
    """Return a score as a finite number of 32 bits; None if it is none."""
    try:
        score = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return score if math.isfinite(score) and abs(score) < 2.0**127 else None
