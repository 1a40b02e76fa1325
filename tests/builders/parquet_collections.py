"""A collection whose documents are Parquet files of several row groups at an address."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq


def as_parquet(folder: Path, documents: list[dict[str, Any]], files: int = 1, rows: int = 1000) -> None:
    """Put these documents in the place of a BEIR folder's, as so many files with row groups of so many rows."""
    (folder / "corpus.jsonl").unlink()
    (folder / "corpus").mkdir()
    table = pa.Table.from_pylist(documents)
    each = -(-len(table) // files)
    for number in range(files):
        part = table.slice(number * each, each)
        pq.write_table(part, folder / "corpus" / f"part-{number:05}.parquet", row_group_size=rows)


def put_there(folder: Path, address: str) -> None:
    """Copy a folder to an address of an object store."""
    filesystem, path = pafs.FileSystem.from_uri(address)
    pafs.copy_files(str(folder), path, source_filesystem=pafs.LocalFileSystem(), destination_filesystem=filesystem)
