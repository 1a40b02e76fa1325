"""What all tests share: a private home, so that nothing of Ray or of the hub is read from or left in the user's."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

_HOME = tempfile.TemporaryDirectory(prefix="hnmine-home-")
os.environ |= {
    "HOME": _HOME.name,
    "HF_HUB_OFFLINE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
}
os.environ.pop("RAY_ADDRESS", None)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real retrieval sets; tests that need it are skipped, saying so, where it is absent."""
    folder = Path(os.environ.get("HNMINE_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real retrieval sets in {folder}; set HNMINE_DATA")
    return folder
