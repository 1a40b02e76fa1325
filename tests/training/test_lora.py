"""LoRA beside any layout: what is trained, what is merged for scoring and saving, adapters that the library reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder

from hnmine.errors import ModelError
from hnmine.models.reranker import Reranker, load_reranker
from hnmine.training.lora import add_lora, merged, save_adapter, trained_weights
from tests.builders.models import tiny_letter_encoder
from tests.builders.rerankers import LAYOUTS

QUERIES, DOCUMENTS = ["abc", "face", "x"], ["yes abc", "no face of the", "a word " * 5]
HEADS = {
    "Bert": {"classifier"},
    "XLMRoberta": {"classifier"},
    "DebertaV2": {"pooler", "classifier"},
    "ModernBert": {"head", "classifier"},
    "Qwen3": {"score"},
    "Qwen3 of yes and no, with a chat template": set(),
    "Llama that generates": set(),
}
"""What of the transformer is trained beside the narrow matrices."""
MODULES = ("modules: mean, dense", "modules: first token, dense, norm, dense")


def load(folder: Path, kind: Any = "cross-encoder") -> Reranker:
    return load_reranker(
        kind,
        folder,
        max_tokens=64,
        device="cpu",
        dtype="float32",
        **({"engine": "torch"} if kind != "bi-encoder" else {}),
    )


def adapted(folder: Path, frozen_dtype: str = "float32", kind: Any = "cross-encoder") -> Reranker:
    """A re-ranker with matrices that are no longer 0, as after some steps."""
    model = load(folder, kind)
    add_lora(model.model, rank=3, alpha=6, seed=0, frozen_dtype=frozen_dtype)
    rng = torch.Generator().manual_seed(1)
    for weight in trained_weights(model.model).values():
        weight.data += 0.1 * torch.randn(weight.shape, generator=rng)
    return model


@pytest.mark.parametrize("name", HEADS)
def test_the_scores_are_as_before_and_the_matrices_and_the_head_alone_are_trained(name: str, tmp_path: Path) -> None:
    model = load(LAYOUTS[name].build(tmp_path / "model"))
    before, names = model.raw_scores(QUERIES, DOCUMENTS), set(dict(model.model.named_parameters()))
    add_lora(model.model, rank=3, alpha=6, seed=0, frozen_dtype="float32")
    np.testing.assert_allclose(model.raw_scores(QUERIES, DOCUMENTS), before, atol=1e-6, rtol=1e-6)
    trained = trained_weights(model.model)
    matrices = {each for each in trained if ".lora_" in each}
    assert {min(weight.shape) for each, weight in trained.items() if each in matrices} == {3}
    heads = {each for each in trained if each not in matrices}
    assert {each.removeprefix("library.0.model.").split(".")[0] for each in heads} == HEADS[name]
    assert heads <= names
    torch.autograd.backward(model.forward(model.tokenize(QUERIES, DOCUMENTS)).sum())
    assert all(weight.grad is not None for each, weight in trained.items() if each in matrices)
    assert all(weight.grad is None for weight in model.model.parameters() if not weight.requires_grad)


@pytest.mark.parametrize("frozen", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["Bert", "Qwen3", *MODULES])
def test_merged_it_computes_the_same_and_afterwards_is_what_it_was_bit_for_bit(
    name: str, frozen: str, tmp_path: Path
) -> None:
    model = adapted(LAYOUTS[name].build(tmp_path / "model"), frozen)
    before = {each: weight.clone() for each, weight in model.model.named_parameters()}
    assert {weight.dtype for weight in before.values()} == {torch.float32, getattr(torch, frozen)}
    if frozen == "float32":
        expected = model.raw_scores(QUERIES, DOCUMENTS)
        with merged(model.model):
            np.testing.assert_allclose(model.raw_scores(QUERIES, DOCUMENTS), expected, atol=1e-5)
    with merged(model.model):
        assert not any(".lora_" in each for each, _ in model.model.named_parameters())
        assert {weight.dtype for weight in model.model.parameters()} == {torch.float32}
        scores = model.scores(QUERIES, DOCUMENTS)
        model.save(tmp_path / "saved")
    peer = CrossEncoder(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_allclose(peer.predict(list(zip(QUERIES, DOCUMENTS, strict=True))), scores, atol=1e-5)
    after = dict(model.model.named_parameters())
    assert after.keys() == before.keys()
    assert all(torch.equal(after[each], weight) for each, weight in before.items())


@pytest.mark.parametrize("name", [*HEADS, *MODULES, "modules: mean, dense, the transformer in a folder"])
def test_an_adapter_is_read_by_the_library_and_here_beside_its_base(name: str, tmp_path: Path) -> None:
    base = LAYOUTS[name].build(tmp_path / "model")
    model = adapted(base)
    with merged(model.model):
        scores = model.scores(QUERIES, DOCUMENTS)
    save_adapter(model, tmp_path / "saved", base)
    assert not list((tmp_path / "saved").glob("model*.safetensors"))
    peer = CrossEncoder(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_allclose(peer.predict(list(zip(QUERIES, DOCUMENTS, strict=True))), scores, atol=1e-5)
    np.testing.assert_allclose(load(tmp_path / "saved").scores(QUERIES, DOCUMENTS), scores, atol=1e-5)
    assert np.abs(load(base).scores(QUERIES, DOCUMENTS) - scores).max() > 1e-4


def test_an_adapter_of_a_hub_s_snapshot_names_it_and_its_commit(tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    base = LAYOUTS["Bert"].build(tmp_path / "hub" / "models--some--ranker" / "snapshots" / commit)
    save_adapter(adapted(base), tmp_path / "saved", base)
    written = (tmp_path / "saved" / "adapter_config.json").read_text("utf-8")
    assert '"base_model_name_or_path": "some/ranker"' in written
    assert f'"revision": "{commit}"' in written


def test_a_bi_encoder_is_trained_with_lora_too(tmp_path: Path) -> None:
    model = adapted(tiny_letter_encoder(tmp_path / "model"), kind="bi-encoder")
    expected = model.raw_scores(QUERIES, DOCUMENTS)
    with merged(model.model):
        np.testing.assert_allclose(model.raw_scores(QUERIES, DOCUMENTS), expected, atol=1e-5)
        model.save(tmp_path / "saved")
    np.testing.assert_allclose(load(tmp_path / "saved", "bi-encoder").scores(QUERIES, DOCUMENTS), expected, atol=1e-5)


def test_what_is_an_adapter_already_or_no_transformer_is_refused(tmp_path: Path) -> None:
    model = load(LAYOUTS["LoRA of a Bert re-ranker"].build(tmp_path / "model"))
    with pytest.raises(ModelError, match=r"the start is an adapter, which is trained as it is; set train\.lora=null"):
        add_lora(model.model, rank=3, alpha=6, seed=0, frozen_dtype="float32")
    with pytest.raises(ModelError, match="no transformer"):
        add_lora(torch.nn.Linear(2, 2), rank=3, alpha=6, seed=0, frozen_dtype="float32")
