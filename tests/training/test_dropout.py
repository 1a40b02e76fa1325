"""Dropout from cheap random numbers: the rate, the scale, the gradient, and that the seed alone decides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from hnmine.training.dropout import seeded


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_a_share_is_dropped_and_the_rest_keeps_the_mean(rate: float, dtype: torch.dtype) -> None:
    x = torch.ones(300, 401, dtype=dtype)
    with seeded("cpu", 3):
        out = functional.dropout(x, p=rate)
    assert out.dtype == dtype
    dropped = float((out == 0).float().mean())
    assert dropped == pytest.approx(rate, abs=4 * (rate * (1 - rate) / x.numel()) ** 0.5)
    assert out.float().unique().tolist() == pytest.approx(
        [0, 1 / (1 - rate)], rel=1e-4 if dtype is torch.float32 else 0.01
    )
    rows, columns = (out == 0).float().mean(dim=1), (out == 0).float().mean(dim=0)
    for means, drawn in ((rows, 401), (columns, 300)):
        assert float(means.std()) == pytest.approx((rate * (1 - rate) / drawn) ** 0.5, rel=0.2), "as if independent"


def test_the_gradient_flows_through_what_was_kept() -> None:
    x = torch.ones(50, 7, requires_grad=True)
    with seeded("cpu", 0):
        out = torch.nn.Dropout(0.3).train()(x)
    torch.autograd.backward(out.sum())
    assert torch.equal(x.grad, out.detach())


def test_the_seed_alone_decides_and_every_call_draws_anew() -> None:
    x, layer = torch.ones(1000), torch.nn.Dropout(0.1).train()

    def drawn(seed: int, threads: int) -> list[torch.Tensor]:
        torch.set_num_threads(threads)
        with seeded("cpu", seed):
            first = layer(x)
            torch.rand(5)  # somebody else's
            return [first, layer(x)]

    threads = torch.get_num_threads()
    try:
        first, second = drawn(1, 1)
        assert all(torch.equal(a, b) for a, b in zip((first, second), drawn(1, 2), strict=True))
        assert not torch.equal(first, second)
        assert not torch.equal(first, drawn(2, 1)[0])
    finally:
        torch.set_num_threads(threads)


def test_what_is_not_trained_and_a_rate_of_zero_are_left_alone() -> None:
    x = torch.randn(9, 5)
    with seeded("cpu", 0):
        assert torch.nn.Dropout(0.4).eval()(x) is x
        assert functional.dropout(x, p=0.0) is x
        assert functional.dropout(input=x, p=0.4, training=False) is x
        assert not functional.dropout(x, p=1.0).any()


def test_attention_of_transformers_is_reached(tmp_path) -> None:
    from transformers import BertConfig, BertModel

    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.5}
    model = BertModel(BertConfig(vocab_size=50, attn_implementation="eager", **shape, **rates)).train()
    ids = torch.arange(20)[None]

    def states(seed: int, before: int) -> np.ndarray:
        with seeded("cpu", seed), torch.no_grad():
            torch.rand(before)
            return model(input_ids=ids).last_hidden_state.numpy()

    assert np.array_equal(states(1, 0), states(1, 7)), "not torch's generator"
    assert not np.allclose(states(1, 0), states(2, 0))
