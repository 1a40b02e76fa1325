"""What is measured against what a larger pass really keeps; layers that are computed twice; what running out means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd.graph import saved_tensors_hooks

from hnmine.errors import ModelError
from hnmine.models.reranker import Reranker, load_reranker
from hnmine.training.memory import (
    MOST_TOKENS,
    SHARE,
    Room,
    does_not_fit,
    free_bytes,
    is_out_of_memory,
    measure_room,
    recompute_layers,
    refused_by_name,
)
from tests.builders.models import tiny_letter_encoder
from tests.builders.rerankers import LAYOUTS

FAMILIES = ("Bert", "MPNet", "DebertaV2", "ModernBert", "Qwen3", "Albert", "Qwen3 of yes and no, with a chat template")
PLENTY = 2**34


def load(name: str, folder: Path, attention: str | None = None, kind: str = "cross-encoder") -> Reranker:
    built = tiny_letter_encoder(folder) if kind == "bi-encoder" else LAYOUTS[name].build(folder)
    model = load_reranker(kind, built, max_tokens=96, device="cpu", dtype="float32", engine="torch")
    model.train_mode()
    if attention is not None:
        model.model.attend(attention)
    return model


def letters(count: int) -> str:
    return " ".join("abcdef"[i % 6] for i in range(count))


def kept_bytes(model: Reranker, rows: list[Any]) -> int:
    """What the forward pass saves that is no weight, by address while all of it is alive."""
    weights = {weight.data_ptr() for weight in model.model.parameters()}
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        scores = model.forward(rows)
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in kept}
    assert scores.requires_grad
    return sum(size for address, size in storages.items() if address not in weights)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", FAMILIES)
def test_what_two_lengths_keep_says_what_batches_of_any_length_keep(name: str, attention: str, tmp_path: Path) -> None:
    if attention == "sdpa" and name in ("MPNet", "DebertaV2"):
        pytest.skip("transformers has no other attention for it than eager")
    model = load(name, tmp_path / "model", attention)
    texts = [(letters(20), letters(60)), ("a", "b")]
    room, recomputed = measure_room(model, texts, checkpointing=False, free=PLENTY)
    assert not recomputed
    for words, rows in ((70, 5), (40, 9), (20, 3)):
        batch = model.tokenize([letters(5)] * rows, [letters(words - 1), *[letters(words)] * (rows - 1)])
        found = rows * room.taken(np.array([max(map(model.length, batch))]))[0]
        assert 0.85 < found / kept_bytes(model, batch) < 1.3, (words, rows)


def test_the_budget_is_a_share_of_what_is_left_beside_gradients_and_moments(tmp_path: Path) -> None:
    model, texts = load("Bert", tmp_path / "model"), [(letters(20), letters(60))]
    weights = sum(4 * weight.numel() for weight in model.model.parameters())
    small = measure_room(model, texts, checkpointing=False, free=3 * weights + 2**24)[0]
    assert small.budget == pytest.approx(SHARE["cpu"] * 2**24, rel=1e-3)
    assert 0 < small.tokens(80) < MOST_TOKENS["cpu"]
    plenty = measure_room(model, texts, checkpointing=False, free=2**40)[0]
    assert plenty.tokens(82) == pytest.approx(MOST_TOKENS["cpu"], rel=0.01)
    for frozen in list(model.model.parameters())[:10]:
        frozen.requires_grad_(False)
    assert measure_room(model, texts, checkpointing=False, free=3 * weights + 2**24)[0].budget > small.budget


def test_layers_are_computed_twice_where_few_texts_fit_otherwise_or_it_is_asked_for(tmp_path: Path) -> None:
    texts = [(letters(20), letters(60))]
    plenty, asked, tight = (load("Bert", tmp_path / str(i)) for i in range(3))
    room, recomputed = measure_room(plenty, texts, checkpointing=None, free=PLENTY)
    assert not recomputed
    assert measure_room(asked, texts, checkpointing=True, free=PLENTY)[1]
    weights = sum(4 * weight.numel() for weight in tight.model.parameters())
    free = 3 * weights + 4 * room.taken(np.array([82]))[0] / SHARE["cpu"]
    narrow, recomputed = measure_room(tight, texts, checkpointing=None, free=free)
    assert recomputed
    assert narrow.taken(np.array([82]))[0] < room.taken(np.array([82]))[0]
    with pytest.raises(ModelError, match=r"one query with one document, 8\d tokens, does not fit .*train\.lora"):
        measure_room(load("Bert", tmp_path / "none"), texts, checkpointing=None, free=3 * weights)


def gradients(model: Reranker, rows: list[Any]) -> list[torch.Tensor | None]:
    model.model.zero_grad()
    torch.autograd.backward(model.forward(rows).square().sum())
    return [None if weight.grad is None else weight.grad.clone() for weight in model.model.parameters()]


@pytest.mark.parametrize("name", [*FAMILIES, "GPT2 of yes and no", "LoRA of a Bert re-ranker"])
def test_layers_that_are_computed_twice_give_the_same_gradient_bit_for_bit_and_keep_less(
    name: str, tmp_path: Path
) -> None:
    model = load(name, tmp_path / "model")
    rows = model.tokenize([letters(8)] * 4, [letters(40)] * 4)
    expected, scores, before = gradients(model, rows), model.forward(rows), kept_bytes(model, rows)
    assert recompute_layers(model.model) > 0
    assert torch.equal(model.forward(rows), scores)
    assert kept_bytes(model, rows) < 0.6 * before
    for found, wanted in zip(gradients(model, rows), expected, strict=True):
        assert (found is None) == (wanted is None)
        assert wanted is None or torch.equal(found, wanted)


def test_a_bi_encoder_is_measured_too_and_a_network_without_layers_is_refused(tmp_path: Path) -> None:
    model = load("", tmp_path / "model", kind="bi-encoder")
    room, _ = measure_room(model, [(letters(20), letters(60)), ("a", "b")], checkpointing=None, free=PLENTY)
    assert room.taken(np.array([30]))[0] > 0
    assert recompute_layers(torch.nn.Linear(2, 2)) == 0


@given(linear=st.floats(0.1, 1e6), square=st.floats(0, 1e3), longest=st.integers(1, 4096), rows=st.floats(1, 100))
def test_room_is_halved_until_one_text_is_all_that_fits(
    linear: float, square: float, longest: int, rows: float
) -> None:
    room = Room(0.0, linear, square)
    one = float(room.taken(np.array([longest]))[0])
    room.budget = 1.001 * rows * one
    with pytest.raises(ModelError, match=f"^out of memory: .* {longest:,} tokens"):  # noqa: PT012
        for _ in range(20):
            before = room.budget
            room.halve(longest)
            assert room.budget == before / 2
    assert one <= 1.001 * room.budget < 2.01 * one


def test_what_a_cpu_says_when_memory_runs_out_is_known_and_refused_by_name() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60)
    for error in (raised.value, MemoryError(), torch.OutOfMemoryError("CUDA out of memory")):
        assert is_out_of_memory(error)
        with pytest.raises(ModelError, match=r"^out of memory: .*train\.lora"), refused_by_name():
            raise error
    with pytest.raises(RuntimeError, match="another"), refused_by_name():
        raise RuntimeError("another")
    assert not is_out_of_memory(does_not_fit(3))
    assert 2**20 < free_bytes("cpu") < 2**50


class OutOfMemory:
    """A CrossEncoder's forward pass on a device that holds so many tokens of activations."""

    def __init__(self, model: Reranker, most: int) -> None:
        self._model, self._most, self._forward, self.failures = model, most, model.forward, 0

    def __call__(self, rows: list[Any]) -> torch.Tensor:
        if sum(map(self._model.length, rows)) > self._most:
            self.failures += 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self._forward(rows)


def test_measuring_what_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    model = load("Bert", tmp_path / "model")
    model.forward = OutOfMemory(model, 100)  # type: ignore[method-assign]
    with pytest.raises(ModelError, match=r"one query with one document, 8\d tokens, does not fit"):
        measure_room(model, [(letters(20), letters(60))], checkpointing=False, free=PLENTY)
