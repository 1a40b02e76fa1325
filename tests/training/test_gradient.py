"""A step of the optimizer against torch's own, what it refuses, and that it goes on from its moments."""

from __future__ import annotations

import copy

import pytest
import torch

from hnmine.config.load import load
from hnmine.errors import ModelError
from hnmine.training.gradient import CLIP_NORM, WEIGHT_DECAY, Optimizer, Recipe
from tests.builders.devices import CPU
from tests.builders.training import quick_recipe

STEPS = 5


def network() -> torch.nn.Module:
    torch.manual_seed(1)
    return torch.nn.Sequential(
        torch.nn.Linear(4, 6), torch.nn.Dropout(0.5), torch.nn.LayerNorm(6), torch.nn.Linear(6, 1)
    )


def losses(model: torch.nn.Module, step: int, scale: float = 30.0) -> list[torch.Tensor]:
    rows = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(step))
    return [scale * model(part).square().sum() for part in rows]


def test_steps_are_those_of_adamw_with_clipping_decay_of_matrices_and_the_rate_of_the_recipe() -> None:
    model, recipe = network(), quick_recipe(learning_rate=0.05)
    other = copy.deepcopy(model).eval()
    optimizer = Optimizer(model, recipe, STEPS)
    assert not model.training, "dropout is off"
    groups = [
        {"params": [weight for weight in other.parameters() if (weight.ndim > 1) == matrix], "weight_decay": decay}
        for matrix, decay in ((True, WEIGHT_DECAY), (False, 0.0))
    ]
    theirs = torch.optim.AdamW(groups, lr=1.0)
    for step in range(STEPS):
        expected = sum(losses(other, step))
        expected.backward()
        assert torch.nn.utils.clip_grad_norm_(other.parameters(), CLIP_NORM) > CLIP_NORM, "else nothing is clipped"
        for group in theirs.param_groups:
            group["lr"] = recipe.rate(step, STEPS)
        theirs.step()
        theirs.zero_grad()
        assert optimizer.step(step, losses(model, step)) == pytest.approx(expected.item(), rel=1e-5)
    for weight, wanted in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(weight, wanted, rtol=1e-5, atol=1e-6)


def test_each_loss_is_propagated_before_the_next_is_computed() -> None:
    model = network()
    seen = []

    def parts():
        for loss in losses(model, 0):
            seen.append(next(model.parameters()).grad is not None)
            yield loss

    Optimizer(model, quick_recipe(), STEPS).step(0, parts())
    assert seen == [False, True]


def test_it_goes_on_from_its_moments() -> None:
    model = network()
    optimizer = Optimizer(model, quick_recipe(), STEPS)
    optimizer.step(0, losses(model, 0))
    other = copy.deepcopy(model)
    resumed = Optimizer(other, quick_recipe(), STEPS)
    resumed.adamw.load_state_dict(copy.deepcopy(optimizer.adamw.state_dict()))
    for each, network_ in ((optimizer, model), (resumed, other)):
        each.step(1, losses(network_, 1))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_a_gradient_that_is_not_finite_is_refused_and_changes_no_weight() -> None:
    model = network()
    before = [weight.clone() for weight in model.parameters()]
    with pytest.raises(ModelError, match=r"^the gradient became (inf|nan) at step 3; lower the learning rate"):
        Optimizer(model, quick_recipe(), STEPS).step(2, losses(model, 0, scale=1e38))
    assert all(torch.equal(weight, old) for weight, old in zip(model.parameters(), before, strict=True))


def test_lora_with_nothing_said_is_of_rank_16_merged_and_its_other_weights_may_be_bfloat16() -> None:
    train = load(overrides=["train={lora: {}, weights: bfloat16}"]).train
    assert train.lora is not None
    assert (train.lora.rank, train.lora.alpha, train.lora.keep) == (16, 32, "merged")
    recipe = Recipe.of(train, CPU, learning_rate=1.0, seed=0, engine="torch")
    assert (recipe.lora, recipe.dtype) == (train.lora.model_dump(), "bfloat16")
