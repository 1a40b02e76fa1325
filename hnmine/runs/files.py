"""Files that are complete or absent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a hidden path to write; one rename makes it `path` if the block succeeds. Missing folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{path.name}.tmp")
    try:
        yield hidden
        hidden.replace(path)
    finally:
        hidden.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, complete or not at all."""
    with whole_file(path) as hidden:
        hidden.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
