from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hnmine.models import cross_encoder
from hnmine.models.cross_encoder import PROBES, CrossEncoder
from hnmine.models.last_layer import compute_one_token
from tests.builders.rerankers import LAYOUTS

QUERIES, DOCUMENTS = ([pair[side] for pair in PROBES] for side in (0, 1))
READS_ONE_TOKEN = {
    "Bert": "encoder.layer.1.intermediate",
    "MPNet": "encoder.layer.1.intermediate",
    "DebertaV2": "encoder.layer.1.intermediate",
    "DistilBert": "transformer.layer.1.ffn.lin1",
    "ModernBert": "layers.1.mlp.Wi",
    "Qwen3 of yes and no, with a chat template": "layers.1.mlp.up_proj",
}


def load(folder: Path, name: str) -> CrossEncoder:
    LAYOUTS[name].build(folder)
    return CrossEncoder(folder, max_tokens=64, device="cpu", dtype="float32", engine="torch")


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, str], CrossEncoder]:
    """Load a model whose last layer computes all tokens, as any other layer does."""

    def load_whole(folder: Path, name: str) -> CrossEncoder:
        with monkeypatch.context() as patched:
            patched.setattr(cross_encoder, "compute_one_token", lambda _network, _scores: False)
            return load(folder, name)

    return load_whole


def tokens_seen(model: CrossEncoder, path: str, work: Callable[[], Any]) -> set[int]:
    """Return the tokens a text that a module of the body sees while some work is done."""
    seen = set[int]()
    part = model.library.transformers_model.base_model.get_submodule(path)
    handle = part.register_forward_hook(lambda _part, inputs, _output: seen.add(inputs[0].shape[1]))
    work()
    handle.remove()
    return seen


def gradients(model: CrossEncoder) -> dict[str, Tensor]:
    """Return the gradient of every weight that has one, of a loss over pairs of different length."""
    model.model.zero_grad()
    scores = model.forward(model.tokenize(QUERIES, DOCUMENTS))
    torch.autograd.backward((scores * torch.arange(1.0, 1 + len(scores))).sum())
    return {name: weight.grad.clone() for name, weight in model.model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("name", READS_ONE_TOKEN)
def test_scores_and_gradients_are_those_of_the_whole_layer(
    name: str, whole: Callable[[Path, str], CrossEncoder], tmp_path: Path
) -> None:
    path, model, slow = READS_ONE_TOKEN[name], load(tmp_path / "1", name), whole(tmp_path / "2", name)
    assert tokens_seen(model, path, lambda: model.scores(QUERIES, DOCUMENTS)) == {1}
    assert min(tokens_seen(slow, path, lambda: slow.forward(slow.tokenize(QUERIES, DOCUMENTS)))) > 1
    np.testing.assert_allclose(model.scores(QUERIES, DOCUMENTS), slow.scores(QUERIES, DOCUMENTS), atol=1e-6, rtol=1e-5)
    found, expected = gradients(model), gradients(slow)
    largest = max(float(each.abs().max()) for each in expected.values())
    for weight, gradient in expected.items():
        torch.testing.assert_close(found[weight], gradient, atol=1e-5 * largest, rtol=1e-3)


@pytest.mark.parametrize("name", ["modules: mean, dense", "Albert", "Qwen3"])
def test_a_head_that_reads_more_tokens_gets_them_all(
    name: str, whole: Callable[[Path, str], CrossEncoder], tmp_path: Path
) -> None:
    """ALBERT's one layer is all of its layers; Qwen3 pads on the right here, so the last token is not what is read."""
    model, slow = load(tmp_path / "1", name), whole(tmp_path / "2", name)
    assert np.array_equal(model.scores(QUERIES, DOCUMENTS), slow.scores(QUERIES, DOCUMENTS))
    last = {"modules: mean, dense": "encoder.layer.1.intermediate", "Qwen3": "layers.1.mlp.up_proj"}.get(name)
    if last is not None:
        assert min(tokens_seen(model, last, lambda: model.forward(model.tokenize(QUERIES, DOCUMENTS)))) > 1


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_the_mean_of_tokens_is_told_from_the_first_however_small_the_scores(
    scale: float, whole: Callable[[Path, str], CrossEncoder], tmp_path: Path
) -> None:
    model = whole(tmp_path / "model", "Bert")
    body, rows = model.library.transformers_model, model.tokenize(QUERIES, DOCUMENTS)
    features = model.library.tokenizer.pad(rows, return_tensors="pt")

    def hidden() -> Tensor:
        with torch.inference_mode():
            return torch.as_tensor(body.base_model(**features).last_hidden_state) * scale

    assert not compute_one_token(body, lambda: hidden().mean(dim=(1, 2)))
    assert not compute_one_token(body, lambda: hidden()[:, 1].mean(dim=1))
    assert not compute_one_token(body, lambda: hidden()[:, 0].mean(dim=1) * 0)
    assert compute_one_token(body, lambda: hidden()[:, 0].mean(dim=1))
