"""Dropout on a CPU from cheap random numbers: torch draws its own one by one, a third of the time of a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_LEVELS = 2**16  # the rate is rounded to as many parts


def seeded(device: str, seed: int) -> AbstractContextManager[Any]:
    """Seed torch, and in the block all dropout: on a CPU from a generator of its own, so threads change nothing."""
    torch.manual_seed(seed)
    return _Dropout(seed) if device == "cpu" else nullcontext()


class _Dropout(TorchFunctionMode):
    """Replaces `torch.nn.functional.dropout`, which layers and plain attention call, while it is entered."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = np.random.SFC64(seed)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.nn.functional.dropout:
            kwargs = dict(kwargs or {})
            return self._dropout(*args, *([kwargs.pop("input")] if "input" in kwargs else []), **kwargs)
        return func(*args, **(kwargs or {}))

    def _dropout(self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        assert not inplace
        dropped = round(p * _LEVELS)
        if not training or not dropped:
            return x
        drawn = self._random.random_raw(-(-x.numel() // 4)).view(np.uint16)[: x.numel()]
        mask = torch.from_numpy(drawn >= dropped).view(x.shape).to(x.dtype)
        return x * mask.mul_(_LEVELS / max(1, _LEVELS - dropped))
