"""What several tests of arms begin with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hnmine.runs.folder import Run
from tests.builders.collections import write_collection
from tests.builders.presets import run_with_negatives


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_collection(tmp_path / "data")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """A run folder with two mined negatives."""
    with run_with_negatives(tmp_path / "out") as opened:
        yield opened
