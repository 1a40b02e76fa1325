"""Encoders that several tests of this package plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from hnmine.config.encoders import EncoderConfig, LexicalConfig
from hnmine.models.plan import Plan, plan
from tests.builders.devices import CPU
from tests.builders.embedding import TEXTS
from tests.builders.models import tiny_word_encoder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A random transformer that reads queries with a prompt."""
    folder = tmp_path_factory.mktemp("embed")
    config = EncoderConfig(
        name="tiny", model=str(tiny_word_encoder(folder / "model")), dtype="float32", query_prompt="query : "
    )
    return plan(config, TEXTS["document"], folder, CPU, engine="torch")


@pytest.fixture
def lexical(tmp_path: Path) -> Plan:
    """A lexical encoder, fitted on the documents of `TEXTS`."""
    config = EncoderConfig(name="lexical", lexical=LexicalConfig(width=8))
    return plan(config, TEXTS["document"], tmp_path / "fit", CPU, 8192)
