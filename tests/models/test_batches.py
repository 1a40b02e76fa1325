"""Batches by length, batches side by side, and what a backward pass may hold."""

from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForSequenceClassification

from hnmine.models.batches import batches_by_length, side_by_side, tokens_per_backward
from tests.builders.models import load_cross_encoder, tiny_cross_encoder


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(1, 600), max_size=60), budget=st.integers(1, 2000))
def test_batches_are_a_partition_by_length_within_the_budget(lengths, budget):
    batches = batches_by_length(np.array(lengths, dtype=np.int64), budget)
    assert sorted(position for batch in batches for position in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget
    read = [lengths[i] for batch in batches for i in batch]
    assert read == sorted(read, reverse=True)
    for before, after in pairwise(batches):  # none could have taken one more
        assert (len(before) + 1) * lengths[before[0]] > budget, (before, after)


@pytest.mark.parametrize("lanes", [1, 3])
def test_side_by_side_keeps_the_order_and_leaves_the_threads_as_they_were(lanes):
    before = torch.get_num_threads()
    assert list(side_by_side(lambda item: item * item, range(50), lanes)) == [item * item for item in range(50)]
    assert torch.get_num_threads() == before


def test_side_by_side_runs_at_once_with_a_core_each_and_passes_errors_on():
    meeting = threading.Barrier(3, timeout=20)

    def meet(_item):
        meeting.wait()
        return torch.get_num_threads()

    assert list(side_by_side(meet, range(3), 3)) == [1, 1, 1]
    with pytest.raises(ZeroDivisionError):
        list(side_by_side(lambda item: 1 // item, [1, 0, 1], 2))


def test_on_a_gpu_a_backward_pass_holds_what_its_memory_holds(tmp_path: Path) -> None:
    config = AutoConfig.for_model(
        "bert", hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=64, vocab_size=50
    )
    with torch.device("meta"):
        large = AutoModelForSequenceClassification.from_config(config)
    tiny = load_cross_encoder(tiny_cross_encoder(tmp_path / "model"), max_tokens=32).model
    most = tokens_per_backward(tiny, "cuda", "bfloat16", free=2**36)
    assert most == tokens_per_backward(torch.nn.Linear(2, 2), "cuda", "bfloat16"), (
        "of what is no transformer nothing is known"
    )
    free = [2**30, 22 * 2**30, 80 * 2**30, 2**40]
    tokens = [tokens_per_backward(large, "cuda", "bfloat16", each) for each in free]
    assert tokens == sorted(tokens)
    assert 0 < tokens[0] < tokens[1] < tokens[2] < tokens[3] == most
    held = [34 * 1024 * 24 * each for each in tokens]
    assert all(0.3 * room < used < room for used, room in zip(held[1:3], free[1:3], strict=True))
    assert tokens_per_backward(large, "cuda", "float32", free[2]) == tokens[2] // 2
    assert tokens_per_backward(large, "cpu", "bfloat16") < most
