"""The one door to a gradient: re-rankers and encoders alike change their weights here and nowhere else.

Dropout is off in training: networks are in evaluation mode, in which gradients flow as well. So a step is a function
of its losses, its number and the weights, and a checkpoint is weights, AdamW's moments and a number.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from hnmine.errors import ModelError
from hnmine.training.recipe import Recipe

WEIGHT_DECAY = 0.01
CLIP_NORM = 1.0
"""The gradient's largest norm; a longer one is scaled down to it."""


class Optimizer:
    """AdamW on one network, with the learning rate of a recipe; biases and norms do not decay."""

    def __init__(self, network: Any, recipe: Recipe, steps: int) -> None:
        """Take a torch module and the number of steps in which the learning rate rises and falls."""
        self._network, self._recipe, self._steps = network, recipe, steps
        network.eval()
        matrices = [weight for weight in network.parameters() if weight.ndim > 1]
        vectors = [weight for weight in network.parameters() if weight.ndim <= 1]
        self.adamw = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}],
            lr=recipe.learning_rate,
            fused=True,
        )

    def step(self, number: int, losses: Iterable[Tensor]) -> float:
        """Do step `number`, counted from 0, down the gradient of the sum of the losses; return that sum.

        Each loss is propagated back before the next is computed, so only one part's activations are in memory.

        Raises:
            ModelError: the gradient is not finite.
        """
        total = torch.zeros(())
        for loss in losses:
            torch.autograd.backward(loss)
            total = total.to(loss.device) + loss.detach()
        norm = torch.nn.utils.clip_grad_norm_(self._network.parameters(), CLIP_NORM)
        if not torch.isfinite(norm):  # the same on every worker, as gradients are
            raise ModelError(
                f"the gradient became {norm.item()} at step {number + 1}; lower the learning rate "
                "(train.learning_rate of a re-ranker)"
            )
        for group in self.adamw.param_groups:
            group["lr"] = self._recipe.rate(number, self._steps)
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        return float(total)
