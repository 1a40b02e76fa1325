"""The recipe of a training, and the one door to a gradient: re-rankers and encoders alike change their weights here.

Dropout is off in training: networks are in evaluation mode, in which gradients flow as well. So a step is a function
of its losses, its number and the weights, and a checkpoint is weights, AdamW's moments and a number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hnmine.config.training import Kind, Loss, TrainConfig
from hnmine.errors import ModelError
from hnmine.models.batches import is_out_of_memory
from hnmine.runs.device import Choice, choose_dtype

WARM_UP_SHARE = 0.1
"""Share of the steps in which the learning rate rises."""
WEIGHT_DECAY = 0.01
CLIP_NORM = 1.0
"""The gradient's largest norm; a longer one is scaled down to it."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings of one training."""

    kind: Kind
    loss: Loss
    margin: float
    epochs: int
    learning_rate: float
    pairs_per_batch: int
    max_tokens: int
    evaluations_per_epoch: int
    seed: int
    dtype: str
    engine: str
    device: str
    lora: dict[str, Any] | None = None
    """The settings of `LoraConfig`; None: all weights are trained."""
    weights: str = "float32"
    gradient_checkpointing: bool | None = None
    in_batch_negatives: int = 0
    """Positives of the other pairs of a step that a list gets as further negatives."""

    @classmethod
    def of(cls, settings: TrainConfig, device: Choice, *, learning_rate: float, seed: int, engine: str) -> Recipe:
        """Take the settings of the same names; the device decides the number type where it is `auto`."""
        names = {field.name for field in fields(cls)} - {"learning_rate", "dtype"}
        dtype = "bfloat16" if settings.weights == "bfloat16" else settings.dtype
        return cls(
            **settings.model_dump(include=names),
            learning_rate=learning_rate,
            seed=seed,
            dtype=choose_dtype(dtype, device.kind, training=True),
            engine=engine,
            device=device.torch_name,
        )

    @property
    def scale(self) -> float:
        """The factor of the scores in all losses but the margin's; a cosine is too flat for a softmax."""
        return 20.0 if self.kind == "bi-encoder" else 1.0

    def steps(self, lists: int) -> int:
        """Return the number of steps over so many lists."""
        return math.ceil(lists / self.pairs_per_batch) * self.epochs

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of a step, counted from 0: it rises linearly, then falls linearly to zero."""
        rising = max(1, round(steps * WARM_UP_SHARE))
        return self.learning_rate * min((step + 1) / rising, max(0.0, (steps - step) / max(1, steps - rising)))

    def batches(self, lists: int) -> Iterator[tuple[list[int], bool]]:
        """Yield the positions of each step's lists, and whether the dev queries are evaluated after the step.

        The seed alone decides the order, so every worker sees the same.
        """
        rng = np.random.default_rng(self.seed)
        per_epoch, evaluations = math.ceil(lists / self.pairs_per_batch), self.evaluations_per_epoch
        evaluated = {math.ceil(per_epoch * (i + 1) / evaluations) for i in range(evaluations)}
        for _epoch in range(self.epochs):
            order = rng.permutation(lists).tolist()
            for step in range(per_epoch):
                start = step * self.pairs_per_batch
                yield order[start : start + self.pairs_per_batch], step + 1 in evaluated


class Optimizer:
    """AdamW on one network, with the learning rate of a recipe; biases and norms do not decay."""

    def __init__(self, network: Any, recipe: Recipe, steps: int) -> None:
        """Take a torch module and the number of steps in which the learning rate rises and falls."""
        self._network, self._recipe, self._steps = network, recipe, steps
        network.eval()
        trained = [weight for weight in network.parameters() if weight.requires_grad]
        matrices = [weight for weight in trained if weight.ndim > 1]
        vectors = [weight for weight in trained if weight.ndim <= 1]
        self.adamw = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}],
            lr=recipe.learning_rate,
            fused=True,
        )

    def step(
        self,
        number: int,
        losses: Iterable[Tensor],
        *,
        average: Callable[[], None] = lambda: None,
        make_room: Callable[[], None] | None = None,
    ) -> float:
        """Do step `number`, counted from 0, down the gradient of the sum of the losses; return that sum.

        Each loss is propagated back before the next is computed, so only one part's activations are in memory.
        `average` makes gradients the mean over all workers. Where memory runs out the losses are asked for anew after
        `make_room`, so the gradient is that of the whole step, once.

        Raises:
            ModelError: the gradient is not finite, or memory ran out for good.
        """
        # Find the gradient, anew where memory runs out.
        while (total := self._propagated(losses)) is None:
            self.adamw.zero_grad(set_to_none=True)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if make_room is None:
                raise ModelError(f"out of memory at step {number + 1}; lower train.pairs_per_batch or train.max_tokens")
            make_room()
        average()
        norm = torch.nn.utils.clip_grad_norm_(self._network.parameters(), CLIP_NORM)
        if not torch.isfinite(norm):  # the same on every worker, as gradients are
            raise ModelError(
                f"the gradient became {norm.item()} at step {number + 1}; lower the learning rate "
                "(train.learning_rate of a re-ranker)"
            )
        # Take the step.
        for group in self.adamw.param_groups:
            group["lr"] = self._recipe.rate(number, self._steps)
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        return total

    def _propagated(self, losses: Iterable[Tensor]) -> float | None:
        """Propagate the losses back and return their sum, None if memory ran out; outside it holds no activations."""
        try:
            total = torch.zeros(())
            for loss in losses:
                torch.autograd.backward(loss)
                total = total.to(loss.device) + loss.detach()
            return float(total)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return None
