"""Files of a collection, and what is read of them."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hnmine.corpus.files import open_folder
from hnmine.corpus.rows import rows


def rows_in(content: bytes, name: str = "table", columns: tuple[str, ...] | None = None) -> list[tuple[int, dict]]:
    """Line and fields of each row; a bad row is a failure."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(content)
        found = list(rows(open_folder(folder).files[0], columns))
    assert not any(row.reason for row in found), found
    return [(row.line, dict(row.fields)) for row in found]
