"""A bi-encoder as re-ranker against sentence-transformers, and trained for real."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hnmine.training.fit import Trained, train
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from hnmine.errors import ModelError
from hnmine.models.bi_encoder import BiEncoder
from hnmine.ranking.measures import means, measure
from hnmine.ranking.task import rerank
from hnmine.training import losses
from tests.builders.folders import hidden_files
from tests.builders.models import spoil_weights, tiny_cross_encoder, tiny_word_encoder
from tests.builders.texts import SENTENCES
from tests.builders.training import quick_recipe, yes_no_dev_task, yes_no_lists

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


def test_the_triplet_loss_is_that_of_the_paper(tmp_path: Path) -> None:
    """Eq. 7 with Eq. 8: max(0, d(Q,PD) - d(Q,D) + margin), d = 1 - cosine."""
    folder = with_prompts(tiny_word_encoder(tmp_path / "model"))
    positive, negative = cosines(folder)[0], cosines(folder)[2]
    scores = torch.tensor([[positive, negative]])
    loss = losses.make("margin", 0.2)(scores, torch.ones(1, 2, dtype=torch.bool))
    assert loss.item() == pytest.approx(max(0, (1 - positive) - (1 - negative) + 0.2), abs=1e-6)


def test_scores_are_multiplied_before_every_loss_but_the_margin() -> None:
    scores, mask = torch.tensor([[0.3, 0.1, 0.5]]), torch.ones(1, 3, dtype=torch.bool)
    assert torch.equal(losses.make("infonce", 1.0, 20.0)(scores, mask), losses.infonce(20 * scores, mask))
    assert torch.equal(losses.make("margin", 0.2, 20.0)(scores, mask), losses.margin(scores, mask, 0.2))


def test_what_is_broken_is_a_model_error(tmp_path: Path) -> None:
    folder = tiny_word_encoder(tmp_path / "model")
    with pytest.raises(ModelError, match="gives NaN or infinity for 7 of 7 pairs"):
        load(spoil_weights(folder)).scores(QUERIES, SENTENCES)
    (folder / "model.safetensors").write_bytes(b"garbage")
    with pytest.raises(ModelError, match=r"bi-encoder .*model cannot be loaded"):
        load(folder)


def fit(out: Path, workers: int = 1) -> Trained:
    """Train a small one, whose transformer has a pooler that mean pooling does not ask."""
    body, start = out.parent / "models" / "body", out.parent / "models" / "start"
    if not start.exists():
        tiny_cross_encoder(body, head=False, spread=1)
        SentenceTransformer(modules=[Transformer(str(body)), Pooling(32, "mean")], device="cpu").save(str(start))
    settings = quick_recipe(kind="bi-encoder", scale=20.0, learning_rate=1e-3, epochs=4)
    given = yes_no_lists(33)
    return train(out.name, start, given, yes_no_dev_task(), settings, out, workers=workers, by_ray=workers > 1)


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_train_what_one_trains(tmp_path: Path) -> None:
    one, two = (fit(tmp_path / str(workers), workers) for workers in (1, 2))
    assert one.steps == two.steps
    assert one.dev == pytest.approx(two.dev)
    begun, alone, together = (load(tmp_path / name).scores(QUERIES, SENTENCES) for name in ("models/start", "1", "2"))
    assert np.abs(alone - together).max() < np.abs(alone - begun).max() / 1000


def test_training_improves_it_and_the_folder_is_a_sentence_transformer(tmp_path: Path) -> None:
    out = tmp_path / "model"
    outcome = fit(out)
    assert outcome.dev[outcome.best_step] >= outcome.dev[0]
    assert 0 in outcome.dev
    assert outcome.best_step > 0
    kept = means(measure(yes_no_dev_task(), rerank(yes_no_dev_task(), load(out, max_tokens=32).scores)))["MRR@10"]
    assert kept == pytest.approx(outcome.dev[outcome.best_step])
    assert SentenceTransformer(str(out), device="cpu").encode(["yes"]).shape == (1, 32)
    assert hidden_files(tmp_path) == []
