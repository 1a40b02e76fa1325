"""What lies in the folder of a run or of a model."""

from __future__ import annotations

import hashlib
from pathlib import Path


def result_hashes(folder: Path) -> dict[str, str]:
    """The sha256 of every file of a run that is a result; the manifest and the record of a model tell times."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink() and path.suffix in (".parquet", ".safetensors", ".jsonl")
    }


def hidden_files(folder: Path) -> list[str]:
    """Return the names of hidden files and folders: what an interrupted training leaves beside its model."""
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]
