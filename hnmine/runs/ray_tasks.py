"""Tasks of Ray: one function called many times, on whatever nodes there are; the answers come in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from hnmine.errors import HnmineError
from hnmine.runs.ray_session import start_ray

_Answer = TypeVar("_Answer")
_AHEAD = 2  # calls for each CPU that are begun before their answers are taken


def in_order(function: Callable[..., _Answer], calls: Iterable[tuple[Any, ...]], gpus: float = 0) -> Iterator[_Answer]:
    """Yield what the function returns for the arguments of each call; a call whose node dies is made again.

    Each call has a CPU, and so many GPUs.

    Raises:
        HnmineError: a call raised it.
    """
    start_ray()
    import ray

    task = ray.remote(num_cpus=1, num_gpus=gpus, scheduling_strategy="SPREAD")(function)
    ahead = max(2, _AHEAD * int(ray.cluster_resources().get("CPU", 1)))
    waiting: deque[Any] = deque()

    def first() -> _Answer:
        try:
            answer: _Answer = ray.get(waiting.popleft())
            return answer
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, HnmineError):
                raise error.cause from None
            raise

    for call in calls:
        if len(waiting) >= ahead:
            yield first()
        waiting.append(task.remote(*call))
    while waiting:
        yield first()
