"""Collections of Python objects: dicts, lists, DataFrames, Arrow tables, `datasets` and Ray datasets.

They go the way of files: fields by the names of `fields`, every row kept or quarantined with a reason, and counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import fields as fields_of
from typing import Any

import numpy as np
import pyarrow as pa

from hnmine.config.steps import SourcesConfig
from hnmine.corpus import collection
from hnmine.corpus.assemble import Parts, assemble
from hnmine.corpus.columnar import BATCH, plain_rows, readable
from hnmine.corpus.fields import DOCUMENT, JUDGEMENT, QUERY, Names, keys_by_field
from hnmine.corpus.file_names import UNSPLIT
from hnmine.corpus.files import Row
from hnmine.corpus.qrels import FIELDS, named_rows
from hnmine.errors import DataError

_TABLES = ("__arrow_c_stream__", "iter_batches", "with_format")  # Arrow, pandas, polars; Ray; datasets
_FORMS = "a dict by id, a list of dicts, a DataFrame, an Arrow table, a datasets.Dataset or a Ray dataset"


@dataclass(frozen=True, kw_only=True, repr=False)
class Collection(collection.Collection):
    """A collection that is made of Python objects; steps take it where they take the address of a folder."""

    template: str  # by which fields of documents were joined
    verdict_files: tuple[str, ...] = ()

    @classmethod
    def of(cls, corpus: Any, queries: Any, qrels: Any, sources: SourcesConfig | None = None) -> Collection:
        """Return the collection of these documents, queries and judgements.

        Args:
            corpus: {id: text} or {id: {"title": …, "text": …}}, or rows: a list or any iterable of dicts or of
                (id, text), a pandas or polars DataFrame, an Arrow table, a datasets.Dataset, a Ray dataset. Columns
                have any name that files may give them.
            queries: the same.
            qrels: {query id: {document id: grade}} or {query id: [document id, …]}, or rows of query, document and
                grade; or any of these for each split: {"train": …, "dev": …}. Without splits it is train, of which
                shares are held out.
            sources: as `load_config(…).sources`: template, min_score, lower_grades.

        Raises:
            DataError: an object is none of these, nothing in it is usable, or ids fit the wrong way round.
        """
        parts = Parts(
            layout="Python objects",
            documents=_texts("corpus", corpus, DOCUMENT),
            queries=_texts("queries", queries, QUERY),
            judged={split: _judged(f"qrels {split}", rows) for split, rows in _splits(qrels).items()},
        )
        sources = sources or SourcesConfig()
        made = assemble(parts, sources)
        values = {field.name: getattr(made, field.name) for field in fields_of(made)}
        read = {"template": sources.template, "verdict_files": sources.verdicts}
        return cls(**values | {"layout": f"Python objects, {_digest(made)}"} | read)


def _texts(name: str, texts: Any, names: Names) -> Iterator[Row]:
    """Yield documents or queries, numbered from 1."""
    if isinstance(texts, Mapping) and texts and all(_is_table(each) for each in texts.values()):
        if len(texts) > 1:
            raise DataError(f"{name} is {len(texts)} tables, {', '.join(map(str, texts))}; expected one: give it")
        texts = next(iter(texts.values()))
    if isinstance(texts, Mapping):
        columns = {"id", "text"} <= keys_by_field(names, texts).keys() and all(map(_is_list, texts.values()))
        by_id = ({**(each if isinstance(each, Mapping) else {"text": each}), "_id": key} for key, each in texts.items())
        texts = _rows_of_columns(name, texts) if columns else by_id
    yield from _numbered(name, texts, ("_id", "text"))


def _judged(name: str, judged: Any) -> Iterator[Row]:
    """Yield judgements with the fields query, document and score."""
    if isinstance(judged, Mapping):
        judged = _rows_of_columns(name, judged) if _has_columns(judged) else _by_query(name, judged)
    yield from named_rows(_numbered(name, judged, FIELDS))


def _by_query(name: str, judged: Mapping[Any, Any]) -> Iterator[Mapping[str, Any]]:
    for query, documents in judged.items():
        if not isinstance(documents, Mapping) and not _is_list(documents):
            raise DataError(f"{name}: {query!r} has {str(documents)[:60]!r}; expected {{document id: grade}}, or ids")
        grades = documents if isinstance(documents, Mapping) else dict.fromkeys(documents, 1)
        yield from (dict(zip(FIELDS, (query, *each), strict=True)) for each in grades.items())


def _splits(qrels: Any) -> Mapping[str, Any]:
    """Return the judgements by split; those that have none are `UNSPLIT`."""
    if not isinstance(qrels, Mapping) or _has_columns(qrels):
        return {UNSPLIT: qrels}
    by_split = {name: _is_split(each) for name, each in qrels.items() if not _is_empty(each)}
    if len(set(by_split.values())) > 1:
        some, other = (next(name for name, each in by_split.items() if each is kind) for kind in (True, False))
        raise DataError(f"qrels: {some!r} has rows and {other!r} has documents; expected all to be splits, or queries")
    return qrels if any(by_split.values()) else {UNSPLIT: qrels}


def _is_split(judged: Any) -> bool:
    """Return whether a value of qrels is what a split judges; otherwise it is what a query has."""
    if not isinstance(judged, Mapping) and not _is_list(judged):
        return True
    first = next(iter(judged.values() if isinstance(judged, Mapping) else judged))
    return isinstance(first, Mapping) or _is_list(first)


def _has_columns(judged: Mapping[Any, Any]) -> bool:
    return {"query", "document"} <= keys_by_field(JUDGEMENT, judged).keys() and all(map(_is_list, judged.values()))


def _is_table(value: Any) -> bool:
    return not isinstance(value, Mapping) and any(hasattr(value, name) for name in _TABLES)


def _is_empty(value: Any) -> bool:
    return (isinstance(value, Mapping) or _is_list(value)) and not len(value)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple | set | frozenset | np.ndarray)


def _rows_of_columns(name: str, columns: Mapping[Any, Any]) -> Iterator[dict[str, Any]]:
    if len({len(column) for column in columns.values()}) > 1:
        lengths = ", ".join(f"{key} {len(column)}" for key, column in columns.items())
        raise DataError(f"{name} has columns of different lengths: {lengths}")
    return (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))


def _numbered(name: str, rows: Any, columns: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of a table or an iterable; a row that is a tuple has these columns, the last ones optional."""
    expected = f"expected a dict or ({', '.join(columns)})"
    for line, row in enumerate(_rows(name, rows), start=1):
        if isinstance(row, tuple) and hasattr(row, "_asdict"):
            row = row._asdict()
        elif isinstance(row, list | tuple) and 2 <= len(row) <= len(columns):
            row = dict(zip(columns, (*row, 1), strict=False))  # a pair is right
        if not isinstance(row, Mapping):
            yield Row(name, line, {}, "not_an_object", f"{expected}, got a {type(row).__name__}")
            continue
        yield Row(name, line, {key: _value(each) for key, each in row.items()})


def _value(value: Any) -> Any:
    """Return a value as Python has it; None for what pandas has where nothing is."""
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    return value.item() if isinstance(value, np.generic) else value


def _rows(name: str, rows: Any) -> Iterable[Any]:
    """Return the rows of a table or an iterable."""
    if _is_table(rows):
        return _rows_of_batches(name, rows)
    if isinstance(rows, pa.RecordBatch):
        return _rows_of_batches(name, pa.Table.from_batches([rows]))
    if isinstance(rows, str | bytes) or not isinstance(rows, Iterable):
        hint = "; the address of a folder goes to the step itself" if isinstance(rows, str) else ""
        hint = "; call its .collect()" if hasattr(rows, "collect") else hint
        raise DataError(f"{name} is a {type(rows).__name__}; expected {_FORMS}{hint}")
    return rows


def _rows_of_batches(name: str, table: Any) -> Iterator[dict[str, Any]]:
    try:
        if hasattr(table, "iter_batches"):
            batches = table.iter_batches(batch_format="pyarrow", batch_size=BATCH)
        elif hasattr(table, "with_format"):
            batches = table.with_format("arrow").iter(batch_size=BATCH)
        else:
            batches = pa.RecordBatchReader.from_stream(table)
        for batch in batches:
            yield from plain_rows(batch, readable(name, batch.schema))
    except DataError:
        raise
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{name} cannot be read as a table: {error}; expected one type in each column") from error


def _digest(made: collection.Collection) -> str:
    """Return 16 hexadecimal digits that name what is in a collection."""
    digest = hashlib.sha256()
    for texts in (made.documents, made.queries):
        for text_id, text in zip(texts.ids, texts.texts, strict=True):
            digest.update(f"{len(text_id)} {len(text)} {text_id}{text}".encode())
        digest.update(b"\0")
    verdicts = {"verdicts": made.verdicts} if len(made.verdicts) else {}
    for name, judged in sorted((made.splits | verdicts).items()):
        digest.update(name.encode())
        for array in (judged.query_rows_J, judged.doc_rows_J, judged.grades_J):
            digest.update(array.tobytes())
    return digest.hexdigest()[:16]
