"""The ensemble: what is missing of any encoder is told before the first one encodes."""

from __future__ import annotations

import pytest

from hnmine.config import load
from hnmine.ensemble import encode
from hnmine.errors import ModelError
from hnmine.runs import open_run
from tests.test_encoders import texts_of, tiny_model


def test_every_encoder_is_planned_before_the_first_encodes(tmp_path):
    model = tiny_model(tmp_path / "model")
    second = f"{{name: b, model: {model}, dtype: float32, query_adapter: none}}"
    encoders = f"encoders=[{{name: a, model: {model}, dtype: float32}}, {second}]"
    config = load(overrides=[encoders, "embed.ray=false", "embed.device=cpu"])
    texts = {"document": texts_of(["cloud", "mysql"]), "query": texts_of(["deploy"])}
    with open_run(tmp_path / "out", config) as run, pytest.raises(ModelError, match="has no adapter none"):
        encode(texts, config, run)
    assert not list(tmp_path.rglob("*.parquet"))
