"""Bi-encoders as re-rankers, against SentenceTransformer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from hnmine.errors import ModelError
from hnmine.models.bi_encoder import BiEncoder
from tests.builders.models import spoil_weights, tiny_word_encoder
from tests.builders.texts import SENTENCES

QUERIES = ["deploy mysql", "in the cloud", "deploy mysql", "a", "premises", "b c", "deploy mysql"]


def load(folder: Path, max_tokens: int = 64, dtype: str = "float32") -> BiEncoder:
    return BiEncoder(folder, max_tokens=max_tokens, device="cpu", dtype=dtype)


def with_prompts(folder: Path) -> Path:
    path = folder / "config_sentence_transformers.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"prompts": {"query": "query : ", "document": "passage : "}}))
    return folder


def cosines(folder: Path, max_tokens: int = 64) -> np.ndarray:
    model = SentenceTransformer(str(folder), device="cpu")
    model.max_seq_length = min(max_tokens, model.max_seq_length)
    q, d = model.encode(QUERIES, prompt="query : "), model.encode(SENTENCES, prompt="passage : ")
    return (q * d).sum(axis=1) / np.linalg.norm(q, axis=1) / np.linalg.norm(d, axis=1)


@pytest.mark.parametrize("max_tokens", [64, 12])
def test_the_score_is_the_cosine_of_the_library_with_the_models_prompts(max_tokens: int, tmp_path: Path) -> None:
    folder, reported = with_prompts(tiny_word_encoder(tmp_path / "model")), []
    scores = load(folder, max_tokens).scores(QUERIES, SENTENCES, reported.append)
    np.testing.assert_allclose(scores, cosines(folder, max_tokens), atol=1e-5)
    assert sum(reported) == len(QUERIES)
    assert scores.std() > 0.01


def test_prompts_that_are_given_stand_instead_of_the_models_own(tmp_path: Path) -> None:
    folder = tiny_word_encoder(tmp_path / "model")
    prompts = {"query": "query : ", "document": "passage : "}
    given = BiEncoder(folder, max_tokens=64, device="cpu", dtype="float32", prompts=prompts)
    np.testing.assert_allclose(given.scores(QUERIES, SENTENCES), cosines(folder), atol=1e-5)
    assert not np.allclose(given.scores(QUERIES, SENTENCES), load(folder).scores(QUERIES, SENTENCES), atol=1e-4)


def test_in_training_the_scores_are_the_same_and_a_query_is_encoded_once(tmp_path: Path) -> None:
    encoder = load(with_prompts(tiny_word_encoder(tmp_path / "model")))
    seen: list[int] = []
    handle = encoder.model.encoder.register_forward_pre_hook(lambda _, given: seen.append(len(given[0]["input_ids"])))
    rows = encoder.tokenize(QUERIES, SENTENCES)
    scores = encoder.forward(rows)
    handle.remove()
    assert seen == [5, 7]
    np.testing.assert_allclose(scores.detach(), encoder.scores(QUERIES, SENTENCES), atol=1e-5)
    assert all(encoder.length(row) >= 2 for row in rows)


def test_what_is_broken_is_a_model_error(tmp_path: Path) -> None:
    folder = tiny_word_encoder(tmp_path / "model")
    with pytest.raises(ModelError, match="gives NaN or infinity for 7 of 7 pairs"):
        load(spoil_weights(folder)).scores(QUERIES, SENTENCES)
    (folder / "model.safetensors").write_bytes(b"garbage")
    with pytest.raises(ModelError, match=r"bi-encoder .*model cannot be loaded"):
        load(folder)
