"""What several tests of training begin with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders.training import LONG_TRAINING, Trained, train_quickly, wrong_start, yes_no_lists


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wrong_start(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def trained(start: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """One worker, 33 lists in batches of 8: the last batch holds one list."""
    return train_quickly(start, tmp_path_factory.mktemp("trained"), yes_no_lists(33))


@pytest.fixture(scope="module")
def undisturbed(start: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train_quickly(start, tmp_path_factory.mktemp("undisturbed"), yes_no_lists(60), **LONG_TRAINING)
