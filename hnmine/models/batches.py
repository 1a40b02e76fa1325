"""How much a model computes at once: batches of like length, batches side by side, and what fits into the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from hnmine.types import Int64

TOKENS_PER_BATCH = {"cpu": 2048, "gpu": 65_536}
"""Tokens of a forward pass, padding included: on a CPU its activations stay in the caches, a GPU is filled by it."""
TOKENS_PER_BACKWARD = {"cpu": 32_768, "cuda": 131_072}  # most of which activations are kept, by torch's device
MAX_LANES = 8  # batches side by side in one process: they share its Python interpreter

_FEWEST_TOKENS_PER_BACKWARD = 4096
Item = TypeVar("Item")
Result = TypeVar("Result")


def batches_by_length(lengths: Int64, tokens_per_batch: int) -> list[list[int]]:
    """Group positions of like length, longest first, so that rows times the longest stay within the budget.

    A text that is longer than the budget is a batch of its own.
    """
    batches: list[list[int]] = []
    current: list[int] = []
    for position in np.argsort(-lengths, kind="stable").tolist():
        if current and (len(current) + 1) * int(lengths[current[0]]) > tokens_per_batch:
            batches.append(current)
            current = []
        current.append(position)
    if current:
        batches.append(current)
    return batches


def lanes_on(device: str) -> int:
    """Return how many batches this process computes side by side: on a CPU one for each thread that torch has."""
    import torch

    return min(MAX_LANES, torch.get_num_threads()) if device == "cpu" else 1


def side_by_side(work: Callable[[Item], Result], items: Iterable[Item], lanes: int) -> Iterator[Result]:
    """Yield `work(item)` of every item, in order, `lanes` at a time, each with one thread of torch.

    Batches on a core each leave fewer cores waiting than one batch on all cores.
    """
    import torch

    if lanes == 1:
        yield from map(work, items)
        return

    def on_one_core(item: Item) -> Result:
        torch.set_num_threads(1)
        return work(item)

    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(lanes) as pool:
            yield from pool.map(on_one_core, items)
    finally:
        torch.set_num_threads(threads)


def tokens_per_backward(network: Any, device: str, dtype: str, free: int | None = None) -> int:
    """Return how many tokens one backward pass may have, so that the device holds their activations.

    A layer keeps 34 bytes a token and unit of its width in half precision (Korthikanti et al., arXiv 2205.05198, Eq. 1
    without attention scores, which fused attention does not keep). Here it is 38, since norms are kept in float32.
    `network` has neither gradients nor an optimizer yet; `free` bytes are free on the GPU, None: what it says itself.
    """
    import torch

    most = TOKENS_PER_BACKWARD[device]
    configs = (getattr(module, "config", None) for module in network.modules())
    config = next((config for config in configs if hasattr(config, "num_hidden_layers")), None)
    if device == "cpu" or config is None:
        return most
    bytes_per_token: int = (76 if dtype == "float32" else 38) * config.hidden_size * config.num_hidden_layers
    gradients_and_moments = 12 * sum(weights.numel() for weights in network.parameters())  # of AdamW, in float32
    free = torch.cuda.mem_get_info()[0] if free is None else free
    fitting = int(0.7 * (free - gradients_and_moments)) // bytes_per_token
    return min(most, max(_FEWEST_TOKENS_PER_BACKWARD, fitting))
