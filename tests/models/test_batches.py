"""Batches by length, and batches side by side."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hnmine.errors import ModelError
from hnmine.models.batches import batches_by_length, halved_if_too_large, side_by_side


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


@given(st.lists(st.integers(0, 99), min_size=1, max_size=30), st.integers(1, 40))
def test_what_is_too_large_is_computed_in_halves(items: list[int], fits: int) -> None:
    asked: list[int] = []

    def work(some: Sequence[int]) -> np.ndarray:
        asked.append(len(some))
        if len(some) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory") if len(some) % 2 else MemoryError
        return np.array(some, np.float32) * 2

    found = halved_if_too_large(work, items, "rerank")
    assert found.tolist() == [2 * item for item in items]
    assert max(asked) == len(items)


def test_one_text_that_is_too_large_is_an_error_and_others_are_passed_on() -> None:
    def work(error: BaseException) -> Callable[[Sequence[str]], np.ndarray]:
        def fail(some: Sequence[str]) -> np.ndarray:
            raise error

        return fail

    with pytest.raises(ModelError, match="rerank: out of memory for one text"):
        halved_if_too_large(work(torch.OutOfMemoryError("CUDA out of memory")), ["a", "b", "c"], "rerank")
    with pytest.raises(RuntimeError, match="shape"):
        halved_if_too_large(work(RuntimeError("shape")), ["a", "b", "c"], "rerank")
