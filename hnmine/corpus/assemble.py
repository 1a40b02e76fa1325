"""Rows of documents, queries and judgements become a collection; every row is kept, or quarantined with a reason."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hnmine.config.steps import SourcesConfig
from hnmine.corpus.account import Account, BadRowError, shown
from hnmine.corpus.collection import NO_JUDGEMENTS, Collection, Quarantined, judged_first
from hnmine.corpus.columnar import is_parquet
from hnmine.corpus.fields import JUDGEMENT, listed
from hnmine.corpus.files import File, Row
from hnmine.corpus.parquet_texts import ParquetFiles
from hnmine.corpus.qrels import FIELDS, score_of
from hnmine.corpus.text_rows import id_as_text
from hnmine.corpus.text_table import TextTable, read_parquet_texts, read_texts
from hnmine.corpus.verdicts import RIGHT, VERDICT, WRONG, texts_digest, verdict_rows
from hnmine.errors import DataError
from hnmine.types import Judgements

DEV_NAMES = ("validation", "valid", "val")  # of a split that is dev, if no other has that name
_UNREADABLE = {"not_utf8", "broken_json", "not_an_object", "malformed_row", "missing_id", "wrong_type", "bad_score"}


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a layout found: rows, each iterable read once and in this order, and files that nothing reads.

    Fields of documents and queries have any names of `fields`; those of judgements are query, document and score.
    """

    layout: str  # in words
    documents: Iterable[Row]
    queries: Iterable[Row]
    judged: Mapping[str, Iterable[Row]]  # by split
    unread: tuple[str, ...] = ()  # each "name (why)"
    address: str = "the collection"  # for messages
    document_files: tuple[File, ...] = ()  # that the rows of documents are from, where nothing else is done to them


def assemble(
    parts: Parts, sources: SourcesConfig, quarantined: list[Quarantined] | None = None, *, by_workers: bool = False
) -> Collection:
    """Read the rows and return the collection.

    Args:
        parts: the rows.
        sources: how a document's fields are joined, and what a positive is.
        quarantined: takes every bad row as soon as it is found, so that they are known if this fails.
        by_workers: workers of a Ray cluster read documents that are in Parquet files; their texts stay there.

    Raises:
        DataError: nothing usable is among documents, queries, or the judgements of a split; the template names what no
            document has; or ids of judgements fit the wrong way round.
    """
    # Read the texts, then the judgements, whose ids must be among those of the texts.
    account = Account([] if quarantined is None else quarantined)
    if by_workers and parts.document_files and all(map(is_parquet, parts.document_files)):
        files = ParquetFiles.of(parts.document_files, sources.template)
        documents = read_parquet_texts(files, account, parts.address)
    else:
        documents = read_texts("document", parts.documents, sources.template, account, parts.address)
    queries = read_texts("query", parts.queries, "{text}", account, parts.address)
    judged = _named(parts.judged, sources)
    splits = {split: _read_judgements(split, rows, queries, documents, account) for split, rows in judged.items()}
    verdicts = _read_verdicts(sources, queries, documents, splits, account)

    # Account for every row.
    ordered, splits = judged_first(queries.kept(), splits, sources.min_score)
    ids = list(queries.row_of)
    moved = [ordered.row_of[ids[row]] for row in verdicts.query_rows_J.tolist()]
    places = {file: place for place, file in enumerate(account.read)}
    account.bad.sort(key=lambda row: (places[row.file], row.line))
    bad = Counter(row.file for row in account.bad)
    collection = Collection(
        documents=documents.kept(),
        queries=ordered,
        splits=splits,
        verdicts=replace(verdicts, query_rows_J=np.array(moved, np.int64)),
        min_score=sources.min_score,
        lower_are_negatives=sources.lower_grades == "negatives",
        rows_read=dict(account.read),
        rows_kept={file: read - bad[file] for file, read in account.read.items()},
        quarantined=tuple(account.bad),
        layout=parts.layout,
        unread=parts.unread,
    )
    if not len(collection.judged):
        expected, highest = "expected qrels that name one", [each.grades_J.max(initial=0) for each in splits.values()]
        if sources.min_score is not None and max(highest, default=0) > 0:
            expected = f"the highest grade is {max(highest):g}, below sources.min_score={sources.min_score:g}: lower it"
        raise account.nothing(parts.address, "query with a right document", expected)
    return collection


def _named(judged: Mapping[str, Iterable[Row]], sources: SourcesConfig) -> dict[str, Iterable[Row]]:
    """Return the splits, those of the settings first; the first of `DEV_NAMES` is dev, if no other is."""
    other = next((name for name in DEV_NAMES if name in judged and sources.dev_split not in judged), None)
    named = {sources.dev_split if name == other else name: rows for name, rows in judged.items()}
    order = (sources.train_split, sources.dev_split, sources.test_split)
    return {name: named[name] for name in dict.fromkeys((*order, *named)) if name in named}


def _read_judgements(
    split: str, rows: Iterable[Row], queries: TextTable, documents: TextTable, account: Account
) -> Judgements:
    """Read what one split judges."""
    # Keep each pair once.
    pairs, grades, lines = array("q"), array("f"), array("q")
    known: dict[int, int] = {}  # position in these, by query row * number of documents + document row
    strangers: dict[bool, dict[tuple[str, str], Row]] = {False: {}, True: {}}  # fit only as they are, only reversed
    before = len(account.bad)
    for row in account.good(rows):
        try:
            query, document, score = _parse_judgement(row)
            grade = score_of(score)
            if grade is None:
                raise BadRowError("bad_score", f"expected a finite number, got {shown(score)}", query)
            query_row, document_row = queries.row_of.get(query), documents.row_of.get(document)
            if query_row is None or document_row is None:
                straight = query in queries and document in documents
                if straight != (document in queries and query in documents):
                    strangers[not straight].setdefault((query, document), row)
                query_row, document_row = queries.row(query, query), documents.row(document, query)
            pair = query_row * len(documents.texts) + document_row
            first = known.setdefault(pair, len(pairs))
            if first < len(pairs):
                scores = f"scores {grades[first]:g}, {grade:g}"
                detail = f"line {lines[first]} has this query and {shown(document)}; {scores}"
                grades[first] = max(grades[first], grade)  # what anybody judged right is no negative
                raise BadRowError("duplicate_pair", detail, query)
            pairs.append(pair)
            grades.append(grade)
            lines.append(row.line)
        except BadRowError as bad:
            account.reject(row, *bad.args)

    # Refuse what is the wrong way round, and what nobody can read.
    judged = Judgements(
        query_rows_J=np.array(pairs, np.int64) // len(documents.texts),
        doc_rows_J=np.array(pairs, np.int64) % len(documents.texts),
        grades_J=np.array(grades, np.float32),
    )
    if strangers[True]:
        _refuse_reversed(judged, queries, documents, len(strangers[False]), strangers[True])
    bad_rows = account.bad[before:]
    if not pairs and bad_rows and all(bad.reason in _UNREADABLE for bad in bad_rows):
        raise account.nothing(bad_rows[0].file, f"usable judgement of {split}", listed(JUDGEMENT))
    return judged


def _read_verdicts(
    sources: SourcesConfig,
    queries: TextTable,
    documents: TextTable,
    splits: Mapping[str, Judgements],
    account: Account,
) -> Judgements:
    """Read the verdicts of people: a right document has the grade of a positive, a wrong one has 0."""
    # See what is judged right.
    if not sources.verdicts:
        return NO_JUDGEMENTS
    positives = [each.positives(sources.min_score) for each in splits.values()]
    right = {
        pair for each in positives for pair in zip(each.query_rows_P.tolist(), each.doc_rows_P.tolist(), strict=True)
    }
    grades = {RIGHT: sources.min_score or 1.0, WRONG: 0.0}
    found: dict[tuple[int, int], float] = {}

    # Keep one verdict of each pair; who says right wins.
    for row in account.good(verdict_rows(sources.verdicts)):
        try:
            query, document, verdict = _parse_verdict(row)
            pair = queries.row(query, query), documents.row(document, query)
            texts = texts_digest(queries.texts[pair[0]], documents.texts[pair[1]])
            if (row.fields.get("texts") or texts) != texts:
                raise BadRowError(
                    "text_changed", f"the text of {shown(document)} or of the query is another now", query
                )
            if pair in right and verdict == WRONG:
                raise BadRowError("judged_right", f"the qrels say that {shown(document)} is right; mend them", query)
            grade, before = grades[verdict], found.get(pair)
            found[pair] = grade if before is None else max(grade, before)
            if before is not None:
                same = "the same" if grade == before else "both verdicts, right stands"
                raise BadRowError("duplicate_pair", f"{shown(document)} has {same} before", query)
        except BadRowError as bad:
            account.reject(row, *bad.args)
    if not found:
        raise account.nothing(", ".join(sources.verdicts), "verdict", f"expected {listed(VERDICT)}, or ticked boxes")
    rows = np.array(list(found), np.int64)
    return Judgements(
        query_rows_J=rows[:, 0].copy(), doc_rows_J=rows[:, 1].copy(), grades_J=np.array([*found.values()], np.float32)
    )


def _parse_verdict(row: Row) -> tuple[str, str, str]:
    """Return query id, document id and verdict."""
    query, document, _ = _parse_judgement(row._replace(fields={**row.fields, "score": 0}))
    verdict = str(row.fields["verdict"] or "").strip().lower()
    if not verdict:
        raise BadRowError("no_verdict", f"expected {RIGHT} or {WRONG} for {shown(document)}, nothing is said", query)
    if verdict not in (RIGHT, WRONG):
        raise BadRowError("bad_verdict", f"expected {RIGHT} or {WRONG}, got {shown(verdict)}", query)
    return query, document, verdict


def _refuse_reversed(
    judged: Judgements,
    queries: TextTable,
    documents: TextTable,
    straight: int,
    reversed_rows: Mapping[tuple[str, str], Row],
) -> None:
    """Raise DataError if more rows fit only the wrong way round than only as they are: those kept, and `straight`."""
    is_document = [name in documents for name in queries.row_of]
    is_query = [name in queries for name in documents.row_of]
    pairs = zip(judged.query_rows_J.tolist(), judged.doc_rows_J.tolist(), strict=True)
    straight += sum(not (is_document[query] and is_query[document]) for query, document in pairs)
    (query, document), row = next(iter(reversed_rows.items()))
    if len(reversed_rows) > straight:
        raise DataError(
            f"{row.file}: {len(reversed_rows):,} rows fit only if query and document are exchanged, {straight:,} only "
            f"as they are; in line {row.line} the query {shown(query)} is the id of a document, and {shown(document)} "
            "that of a query: exchange the names of the columns, or write a header"
        )


def _parse_judgement(row: Row) -> tuple[str, str, Any]:
    """Return query id, document id and score."""
    query, document, score = (row.fields[name] for name in FIELDS)
    for value in (query, document):
        if value is None or (isinstance(value, str) and not value.strip()):
            detail = f"expected {', '.join(FIELDS)}, none empty; got {shown([query, document])}"
            raise BadRowError("malformed_row", detail)
    return id_as_text(query), id_as_text(document), score
