"""What a backward pass may hold: measured on the model itself, and halved where it was too much.

A network keeps for its backward pass what its own forward pass saves: how much differs by architecture, attention and
number type, so a table of families would be wrong for the next one. It is counted here, byte by byte, on a few texts of
the training itself. Of one text of n tokens that is about a n + b n², where b is that of attention matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from hnmine.errors import ModelError
from hnmine.models.batches import is_out_of_memory
from hnmine.models.reranker import Reranker
from hnmine.runs.memory import container_room
from hnmine.types import Float64, Int64

MOST_TOKENS = {"cpu": 8192, "cuda": 131_072}
"""Tokens of one backward pass, by torch's device; more gain nothing."""
SHARE = {"cpu": 0.5, "cuda": 0.7}
"""Of what is free that activations may take: a CPU's memory is others' too, and passes need some for what they pass."""
FEWEST_ROWS = 8
"""Where fewer of the longest texts fit, layers are computed twice instead of kept."""
Rows = list[list[Any]]
_CACHES = ("past_key_values", "past_key_value", "layer_past")


@dataclass
class Room:
    """How much one backward pass may hold, in the unit of `linear` and `square`: bytes, or tokens where these are 1, 0.

    A text of n tokens takes `linear` n + `square` n².
    """

    budget: float
    linear: float = 1.0
    square: float = 0.0
    is_short: bool = False
    """Whether memory allows less than would be of use."""

    def taken(self, lengths_n: Int64) -> Float64:
        """Return what each text (n,) of so many tokens takes."""
        tokens_n = lengths_n.astype(np.float64)
        return tokens_n * (self.linear + self.square * tokens_n)

    def tokens(self, longest: int) -> int:
        """Return how many tokens fit, in texts of this length."""
        return int(self.budget / (self.linear + self.square * longest))

    def halve(self, longest: int) -> None:
        """Allow half as much, or what half of the texts of this length took, if that is less.

        Raises:
            ModelError: not even one text of this length would fit.
        """
        if self.tokens(longest) < 2 * longest:
            raise does_not_fit(longest)
        self.budget /= 2


def does_not_fit(tokens: int) -> ModelError:
    """Return the error of a model for which one text is too much."""
    return ModelError(
        f"out of memory: one query with one document, {tokens:,} tokens, does not fit beside the model; lower "
        "train.max_tokens, set train.gradient_checkpointing=true, or train fewer weights with --set "
        "train.lora='{rank: 16}'"
    )


@contextmanager
def refused_by_name() -> Iterator[None]:
    """Turn the error of a device that is out of memory, for which the block has no remedy, into one that names some.

    Raises:
        ModelError: memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(
            "out of memory: the model, its gradients and moments do not fit; train fewer weights with --set "
            "train.lora='{rank: 16}', and hold the others in half with --set train.weights=bfloat16"
        ) from None


def free_bytes(device: str) -> int:
    """Return the bytes that this process may still allocate on a device of torch; on a CPU its container's limit holds.

    What torch holds in reserve on a GPU counts as free.
    """
    if device == "cpu":
        return min(int(psutil.virtual_memory().available), container_room())
    return int(torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated())


def measure_room(
    model: Reranker, texts: Sequence[tuple[str, str]], *, checkpointing: bool | None, free: float
) -> tuple[Room, bool]:
    """Return what fits beside a model that is ready to train but has neither gradients nor moments, of `free` bytes.

    `texts` are (query, document), the longest of the training first. With `checkpointing` layers keep only their input
    and are computed again in the backward pass; None: if fewer than `FEWEST_ROWS` of the longest fit otherwise. The
    second of what is returned says whether they do.

    Raises:
        ModelError: not even one text fits, or the network has no layers that could be computed again.
    """
    # Count what each kept text takes, and leave room for gradients and AdamW's moments.
    device = model.device
    trained = sum(weight.numel() * weight.element_size() for weight in model.model.parameters() if weight.requires_grad)
    rows, longest = _rows(model, texts)
    kept, shared = np.zeros(2), 0.0
    try:
        kept, shared = _measured(model, rows)
    except ModelError:
        if checkpointing is False:
            raise
    budget = SHARE[device] * (free - 3 * trained - shared)
    if kept.any():
        room = _fitted(budget, rows, kept, model, MOST_TOKENS[device])
        if checkpointing is False or (checkpointing is None and room.tokens(longest) >= FEWEST_ROWS * longest):
            return _with_one(room, longest), False

    # Keep the layers' inputs instead; in the backward pass one layer at a time is kept whole.
    layers = recompute_layers(model.model)
    if not layers and checkpointing:
        raise ModelError("train.gradient_checkpointing: this model has no list of layers; set it to false or auto")
    inputs, _ = _measured(model, rows)
    kept = inputs + kept / max(1, layers)
    return _with_one(_fitted(budget, rows, kept, model, MOST_TOKENS[device]), longest), bool(layers)


def recompute_layers(network: Any) -> int:
    """Let each layer keep only its input, and compute it again in the backward pass; return the number of layers.

    The layers are the list of modules with the most weights. The result is the same bit for bit, as dropout is off.
    """
    lists = [module for module in network.modules() if isinstance(module, torch.nn.ModuleList) and len(module)]
    if not lists:
        return 0
    layers = max(lists, key=lambda modules: sum(weight.numel() for weight in modules.parameters()))
    for layer in layers:
        layer.forward = _twice(layer.forward)
    return len(layers)


def _twice(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a layer's forward pass that is computed again where a gradient is asked for; it writes no cache."""

    def computed(*given: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*given, **named)
        named |= {name: None for name in _CACHES if name in named}
        return checkpoint(forward, *given, use_reentrant=False, preserve_rng_state=False, **named)

    return computed


def _rows(model: Reranker, texts: Sequence[tuple[str, str]]) -> tuple[Rows, int]:
    """Return rows to measure, two of the longest text and two of one about half as long; and the longest's tokens."""
    (query, document), (other, _) = texts[0], texts[-1]
    pair = short = model.tokenize([query, other], [document, document])
    longest = model.length(pair[0])
    while model.length(short[0]) > longest // 2 and (query or document):
        query, document = query[: len(query) // 2], document[: len(document) // 2]
        short = model.tokenize([query, other[: len(query)]], [document, document])
    return [pair, short], longest


def _measured(model: Reranker, rows: Rows) -> tuple[Float64, float]:
    """Return what a text of each of two lengths takes, and what the texts of a pass share, in bytes."""
    try:
        one_and_two = [(_saved_bytes(model, pair[:1]), _saved_bytes(model, pair)) for pair in rows]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise does_not_fit(model.length(rows[0][0])) from None
    shared = max(0, 2 * one_and_two[0][0] - one_and_two[0][1])  # weights in another number type, positions
    return np.array([two - one for one, two in one_and_two], dtype=np.float64), shared


def _saved_bytes(model: Reranker, rows: list[Any]) -> int:
    """Return the bytes that the forward pass of these rows keeps for its backward pass, weights not among them."""
    weights = {each.untyped_storage().data_ptr() for each in model.model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        scores = model.forward(rows)
    del scores  # until here no storage was freed, and none of another has its address
    return sum(kept.values())


def _fitted(budget: float, rows: Rows, kept: Float64, model: Reranker, most: int) -> Room:
    """Return the room whose texts take what two lengths were measured to take, and no more than `most` tokens."""
    longest, short = (max(map(model.length, pair)) for pair in rows)
    per_token, per_short_token = kept / (longest, short)
    square = max(0.0, (per_token - per_short_token) / (longest - short)) if longest > short else 0.0
    linear = per_token - square * longest
    enough = most * per_token
    return Room(float(min(budget, enough)), float(linear), float(square), bool(budget < enough))


def _with_one(room: Room, longest: int) -> Room:
    """Return the room, if one text of this length is in it."""
    if room.tokens(longest) < longest:
        raise does_not_fit(longest)
    return room
