"""How a model is trained: the settings that decide it, and the order and the sizes of its steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np

from hnmine.config.training import Kind, Loss, TrainConfig
from hnmine.runs.device import Choice, choose_dtype

WARM_UP_SHARE = 0.1
"""Share of the steps in which the learning rate rises."""


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
    in_batch_negatives: int = 0
    """Positives of the other pairs of a step that a list gets as further negatives."""

    @classmethod
    def of(cls, settings: TrainConfig, device: Choice, *, learning_rate: float, seed: int, engine: str) -> Recipe:
        """Take the settings of the same names; the device decides the number type where it is `auto`."""
        names = {field.name for field in fields(cls)} - {"learning_rate", "dtype"}
        return cls(
            **settings.model_dump(include=names),
            learning_rate=learning_rate,
            seed=seed,
            dtype=choose_dtype(settings.dtype, device.kind, training=True),
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
