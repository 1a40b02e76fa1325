"""What computes a re-ranker's scores: the modules of sentence-transformers' CrossEncoder as one torch module.

The transformer computes in the number format that was asked for, and all that follows it in float32: in bfloat16 most
documents of a list would have the same score.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from hnmine.errors import ModelError
from hnmine.models.openvino import CompiledNetwork
from hnmine.types import Float32

Features = dict[str, Any]  # tokenised pairs as a model takes them: tensors by name, and a few plain values


class ScoringNetwork(torch.nn.Module):
    """Features in, one score a pair out, before the activation; gradients flow."""

    def __init__(self, library: Any, dtype: str) -> None:
        """Take a loaded CrossEncoder of sentence-transformers, whose weights are float32."""
        super().__init__()
        self.library, self.dtype = library, dtype
        network = library.transformers_model
        self._attention = getattr(getattr(network, "config", None), "_attn_implementation", None)
        if dtype != "float32" and network is not None and network.base_model is not network:
            for head in network.children():
                if head is not network.base_model:
                    _compute_in_float32(head)

    def forward(self, features: Features, dtype: str | None = None) -> Tensor:
        """Return the scores (n,), computed in `dtype`, None: in the model's."""
        number_type = getattr(torch, dtype or self.dtype)
        first, *others = self.library.children()
        with torch.autocast(self.library.device.type, dtype=number_type, enabled=number_type != torch.float32):
            features = first(dict(features))
        features = {name: _as_float32(value) for name, value in features.items()}
        for module in others:
            features = module(features)
        scores: Tensor = features["scores"]
        return scores.float().reshape(len(scores))

    def attend(self, implementation: str | None) -> None:
        """Compute attention this way from now on, None: as the model was loaded."""
        network = self.library.transformers_model
        if self._attention is not None:
            network.set_attn_implementation(implementation or self._attention)

    def compiled(self, features: Features, more: Features, dtype: str, lanes: int) -> CompiledNetwork:
        """Compile the transformer without its heads by OpenVINO, by one batch of features, and check it on another.

        Raises:
            ModelError: OpenVINO cannot take it, or computes something else.
        """
        body = self.library.transformers_model.base_model
        arguments = inspect.signature(body.forward).parameters
        batches = iter([features, more])

        def tokenize(_texts: list[str]) -> Features:
            return {name: value for name, value in next(batches).items() if name in arguments}

        return CompiledNetwork(body, "last_hidden_state", tokenize, dtype, lanes)

    @contextmanager
    def computed_by(self, compiled: CompiledNetwork | None) -> Iterator[None]:
        """Let the compiled transformer compute, in this context; None: torch's own."""
        if compiled is None:
            yield
            return
        body = self.library.transformers_model.base_model
        signature = inspect.signature(body.forward)
        pooler = getattr(body, "pooler", None)

        def forward(*args: Any, **kwargs: Any) -> BaseModelOutputWithPooling:
            hidden = compiled(**signature.bind(*args, **kwargs).arguments)
            return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=pooler and pooler(hidden))

        body.forward = forward
        try:
            yield
        finally:
            del body.forward


def refuse_not_finite(kind: str, scores: Float32) -> None:
    """Raise ModelError if some score is NaN or infinite."""
    if bad := int((~np.isfinite(scores)).sum()):
        raise ModelError(
            f"the {kind} gives NaN or infinity for {bad} of {len(scores)} pairs; its weights are broken: get the "
            "folder anew, or, if a training broke them, lower train.learning_rate"
        )


def _compute_in_float32(module: Any) -> None:
    """Let a module compute in float32, autocast or not; copies of it do too."""
    kind: Any = type(module)

    class Float32(kind):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            tensors = [_as_float32(value) for value in args]
            device = next((value.device.type for value in tensors if isinstance(value, Tensor)), "cpu")
            with torch.autocast(device, enabled=False):
                return super().forward(*tensors, **{name: _as_float32(value) for name, value in kwargs.items()})

    module.float()
    module.__class__ = Float32


def _as_float32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
