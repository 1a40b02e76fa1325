"""Rows become the texts of documents or of queries, each kept once.

A row with the id and the text of an earlier one is a duplicate. Of rows with one id and different texts nobody knows
which was judged: all are set aside, with all that is judged of them.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from hnmine.corpus.account import Account, BadRowError, shown
from hnmine.corpus.collection import Quarantined
from hnmine.corpus.fields import listed
from hnmine.corpus.files import Row
from hnmine.corpus.identity import identity
from hnmine.corpus.parquet_texts import DistantText, ParquetFiles, ParquetTexts
from hnmine.corpus.text_rows import RowParser
from hnmine.runs.progress import track
from hnmine.text_column import RowsById, TextColumn
from hnmine.types import Role, Texts


class TextTable:
    """Texts by id, with the places they come from."""

    def __init__(self, role: Role, texts: TextColumn | ParquetTexts) -> None:
        """Begin with an empty column, which takes the texts."""
        self.role, self.texts = role, texts
        self.row_of = RowsById(())
        self._first = dict[str, int]()  # row of each id, until all are read
        self.files: list[str] = []
        self.places = (array("L"), array("Q"))  # of each text: number of the file, and line
        self.rejected: dict[str, Quarantined] = {}  # by id: rows that cannot be used
        self.disputed = set[str]()  # ids of several texts

    def add(self, row: Row, text_id: str, text: str | DistantText, account: Account) -> None:
        """Keep a text, once."""
        if not self.files or self.files[-1] != row.file:
            self.files.append(row.file)
        first = self._first.setdefault(text_id, len(self.texts))
        if first == len(self.texts):
            self.texts.append(text)  # type: ignore[arg-type]
            self.places[0].append(len(self.files) - 1)
            self.places[1].append(row.line)
            return
        where = Row(self.files[self.places[0][first]], self.places[1][first], {})
        if text_id not in self.disputed:
            if self._is_same(first, text):
                detail = f"line {where.line} of {where.file} has it, with the same text"
                raise BadRowError("duplicate_id", detail, text_id)
            self.disputed.add(text_id)
            self.rejected[text_id] = account.reject(where, *_conflict(text_id, row))
        raise BadRowError(*_conflict(text_id, where))

    def _is_same(self, first: int, text: str | DistantText) -> bool:
        if isinstance(text, str):
            return identity(text) == identity(self.texts[first])
        assert isinstance(self.texts, ParquetTexts)
        return self.texts.is_same(first, text)

    def reject(self, row: Row, account: Account, reason: str, detail: str, text_id: str | None = None) -> None:
        """Quarantine a row, and remember why its id is not there."""
        rejected = account.reject(row, reason, detail, text_id)
        if text_id is not None and reason != "duplicate_id":
            self.rejected.setdefault(text_id, rejected)

    def close(self) -> None:
        """Drop the texts whose id is that of another. Only now the rows of ids are known."""
        if self.disputed:
            self.texts = self.texts.kept(name not in self.disputed for name in self._first)
        self.row_of = RowsById(TextColumn(name for name in self._first if name not in self.disputed))
        self._first.clear()

    def kept(self) -> Texts:
        """Return the texts."""
        return Texts(ids=self.row_of.ids, texts=self.texts)

    def row(self, text_id: str, query_id: str) -> int:
        """Return the row of a text; without one the judgement of `query_id` is a bad row."""
        row = self.row_of.get(text_id)
        if row is None:
            fate = f"is not in {self.files[0]}"
            if len(self.files) > 1:
                fate += f" and {len(self.files) - 1} files more"
            if bad := self.rejected.get(text_id):
                fate = f"was quarantined: {bad.reason} in line {bad.line} of {bad.file}"
            raise BadRowError(f"unknown_{self.role}", f"{self.role} {shown(text_id)} {fate}", query_id)
        return row

    def __contains__(self, text_id: str) -> bool:
        return text_id in self.row_of or text_id in self.rejected


def _conflict(text_id: str, other: Row) -> tuple[str, str, str]:
    """Return reason, detail and id of a bad row whose id `other` has too."""
    detail = f"line {other.line} of {other.file} has it, with another text: both are set aside"
    return "conflicting_id", detail, text_id


def read_texts(role: Role, rows: Iterable[Row], template: str, account: Account, address: str) -> TextTable:
    """Read documents or queries."""
    # Read the rows.
    table, parser = TextTable(role, TextColumn()), RowParser(role, template)
    for row in account.good(rows):
        try:
            table.add(row, *parser.parse(row), account)
        except BadRowError as bad:
            table.reject(row, account, *bad.args)
    table.close()

    # Refuse what gives no texts, or not those that are meant.
    require_texts(table, parser, account, address)
    return table


def read_parquet_texts(files: ParquetFiles, account: Account, address: str) -> TextTable:
    """Read documents by the workers of a Ray cluster; the texts stay in the files."""
    table, parser = TextTable("document", ParquetTexts(files)), RowParser("document", files.template)
    with track("read", "documents", files.rows, "rows") as progress:
        for part in files.read():
            account.read[part.file] += part.rows
            for text_id, text in zip(part.ids, part.texts(), strict=True):
                row = Row(part.file, text.place - part.before, {})
                try:
                    table.add(row, text_id, text, account)
                except BadRowError as bad:
                    table.reject(row, account, *bad.args)
            for line, reason in part.bad:
                table.reject(Row(part.file, line, {}), account, *reason)
            parser.join(part.parser)
            progress.advance(part.rows)
    table.close()
    require_texts(table, parser, account, address)
    return table


def require_texts(table: TextTable, parser: RowParser, account: Account, address: str) -> None:
    """Raise DataError if there are no texts, or not those that are meant."""
    if not len(table.texts):
        other = "; for another text: sources.template='{title} {its_name}'" if table.role == "document" else ""
        raise account.nothing(address, f"usable {table.role}", f"expected fields {listed(parser.names)}{other}")
    parser.finish(address)
