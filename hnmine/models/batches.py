"""How much a model computes at once: batches of like length, and batches side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from hnmine.errors import ModelError
from hnmine.runs.progress import say
from hnmine.types import Float32, Int64

TOKENS_PER_BATCH = {"cpu": 2048, "gpu": 65_536}
"""Tokens of a forward pass, padding included: on a CPU its activations stay in the caches, a GPU is filled by it."""
MAX_LANES = 8  # batches side by side in one process: they share its Python interpreter

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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of a GPU or a CPU."""
    import torch

    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


def halved_if_too_large(work: Callable[[Sequence[Item]], Float32], items: Sequence[Item], step: str) -> Float32:
    """Return `work(items)` (n, ...); where memory runs out, half of them after the other, and so on; `step` says it.

    Raises:
        ModelError: memory runs out for one alone.
    """
    import torch

    try:
        return work(items)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Outside of the handler, whose error holds what the work had allocated.
    if len(items) == 1:
        raise ModelError(f"{step}: out of memory for one text beside the model; read fewer tokens of it")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = len(items) // 2
    say(step, f"out of memory for {len(items):,} texts at once; halves are computed", level="warning")
    parts = [halved_if_too_large(work, part, step) for part in (items[:middle], items[middle:])]
    return np.concatenate(parts)
