"""Batches by length, and batches side by side."""

from __future__ import annotations

import threading
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hnmine.models.batches import batches_by_length, side_by_side


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
