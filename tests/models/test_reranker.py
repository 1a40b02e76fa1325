"""Re-rankers of both kinds through one interface."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hnmine.models.reranker import BiEncoder, CrossEncoder, load_reranker
from tests.builders.models import tiny_cross_encoder, tiny_letter_encoder
from tests.builders.texts import random_text_pairs

KINDS = {"cross-encoder": (tiny_cross_encoder, CrossEncoder), "bi-encoder": (tiny_letter_encoder, BiEncoder)}


@pytest.mark.parametrize("kind", KINDS)
def test_either_kind_scores_trains_and_is_saved_through_one_interface(kind: str, tmp_path: Path) -> None:
    build, expected_class = KINDS[kind]
    settings = {"max_tokens": 64, "device": "cpu", "dtype": "float32"}
    reranker = load_reranker(kind, build(tmp_path / "model"), **settings)
    assert isinstance(reranker, expected_class)
    queries, documents = random_text_pairs(20)
    finished: list[int] = []
    before = reranker.scores(queries, documents, finished.append)
    assert sum(finished) == 20
    rows = reranker.tokenize(queries, documents)
    assert len(rows) == 20
    assert all(0 < reranker.length(row) <= 64 for row in rows)
    assert 0 < reranker.pass_cost < reranker.tokens_per_pass
    reranker.train_mode()
    scores = reranker.forward(rows)
    np.testing.assert_allclose(scores.detach().numpy(), before, atol=1e-5)
    scores.sum().backward()
    assert any(weight.grad is not None and weight.grad.abs().max() > 0 for weight in reranker.model.parameters())
    reranker.save(tmp_path / "saved")
    again = load_reranker(kind, tmp_path / "saved", **settings)
    np.testing.assert_allclose(again.scores(queries, documents), before, atol=1e-6)
