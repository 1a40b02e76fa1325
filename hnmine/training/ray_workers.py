"""A training on workers of Ray Train, on this machine or in a cluster; a worker that dies is replaced and goes on.

Ray is imported inside the functions: `ray_session` decides how a local one authenticates before it first is.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hnmine.errors import DeviceError, ModelError
from hnmine.runs.nodes import cpus_each, in_cluster, resources_by_node, this_node
from hnmine.runs.progress import say
from hnmine.runs.ray_session import start_ray
from hnmine.training.checkpoints import latest, whole
from hnmine.training.log import Event
from hnmine.training.worker import Group, Job, Worker

ROOM_SECONDS = 15 * 60
"""How long a training waits for nodes that have room for its workers; an autoscaler brings a node in five minutes."""
_START_SECONDS = 30  # that Ray Train waits for room, before what the nodes have is looked at anew
# Ray Train looks at its workers so often; at its defaults of 2 and 5 s a short training ends 6 s late.
_POLLS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(_START_SECONDS),
}
_MAX_DEATHS = 3  # of workers, before a training is given up
_MAX_PREEMPTIONS = 20  # of nodes, each with a warning; Ray's default is without end
_POLL_SECONDS = 0.5  # between two looks at what the workers logged


def default_workers(on_gpu: bool) -> int:
    """Return how many workers the whole cluster has room for: one a GPU, or one a node of about equal CPUs."""
    by_node = [amount for amount in resources_by_node("GPU" if on_gpu else "CPU").values() if amount >= 1]
    return max(1, int(sum(by_node)) if on_gpu else sum(2 * amount >= max(by_node) for amount in by_node))


def train_on_ray(
    job: Job, work: Path, workers: int, log: Callable[[Event], None], *, room_seconds: float = ROOM_SECONDS
) -> dict[int, Path]:
    """Train on so many workers; return the kept checkpoints by step, the best and the last.

    Each worker has a GPU, or its share of a node's CPUs. A training goes on from the latest checkpoint in `work`, also
    where a node was lost and those that are left have fewer CPUs.

    Raises:
        ModelError: a worker says so, or too many died.
        DeviceError: for `room_seconds` no nodes had room for the workers.
    """
    start_ray()
    from ray.train import ControllerError, TrainingFailedError
    from ray.util.queue import Queue

    # Prepare what all attempts share; the queue is to outlive every other node.
    os.environ.update({name: seconds for name, seconds in _POLLS.items() if name not in os.environ})
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    events = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": this_node()})
    failure = work.resolve() / "failure"
    failure.unlink(missing_ok=True)
    settings, lacking_since = {"job": job, "events": events, "failure": failure}, None
    # Train; where there is no room, look anew at what the nodes have. What a worker wrote down is the reason, whatever
    # Ray says.
    try:
        while True:
            begun = time.monotonic()
            trainer, asked = _trainer(settings, work, workers)
            try:
                result = _fit(trainer, events, log)
                break
            except TrainingFailedError as error:
                if failure.exists() or not isinstance(error, ControllerError) or not _had_no_room(error):
                    raise ModelError(failure.read_text("utf-8") if failure.exists() else _cause(error)) from None
                if lacking_since is None or time.monotonic() - begun > 4 * _START_SECONDS:  # it had room in between
                    lacking_since = begun
                room = f"{workers} worker(s) of {asked} each have no room on the nodes of the Ray cluster"
                if time.monotonic() - lacking_since >= (room_seconds if in_cluster() else _START_SECONDS):
                    raise DeviceError(f"{room} ({error}); add nodes, or lower train.workers") from None
                say("train", f"{room}; tried again, with what they have then", level="warning")
    finally:
        events.shutdown(force=True)  # without it workers that are left end too
    if failure.exists():
        raise ModelError(failure.read_text("utf-8"))
    return whole(Path(checkpoint.path) for checkpoint, _ in result.best_checkpoints or [])


def _had_no_room(error: Any) -> bool:
    """Whether Ray Train found no nodes for its workers, or lost one while these began."""
    from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError

    return isinstance(error.controller_failure, WorkerGroupStartupFailedError | WorkerGroupStartupTimeoutError)


def _trainer(settings: dict[str, Any], work: Path, workers: int) -> tuple[Any, str]:
    """Return a training by what the nodes have now, and what each worker asks for, in words.

    One of the same name and path goes on from its latest checkpoint.
    """
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from hnmine.training.process_group import NodeGroupConfig

    on_gpu = settings["job"].recipe.device == "cuda"
    cpus = cpus_each(list(resources_by_node("CPU").values()), workers) or 1.0  # 1: of a node that is still to come
    trainer = TorchTrainer(
        _work,
        train_loop_config=settings,
        torch_config=NodeGroupConfig(),
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=on_gpu, resources_per_worker={"GPU": 1} if on_gpu else {"CPU": cpus}
        ),
        run_config=RunConfig(
            name="fit",
            storage_path=str(work.resolve()),
            checkpoint_config=CheckpointConfig(num_to_keep=1, checkpoint_score_attribute="score"),
            failure_config=FailureConfig(
                max_failures=_MAX_DEATHS, controller_failure_limit=0, max_preemption_failures=_MAX_PREEMPTIONS
            ),
        ),
    )
    return trainer, "1 GPU" if on_gpu else f"{cpus:g} CPU(s)"


def _work(settings: dict[str, Any]) -> None:
    """Do the work of one worker, in its process; a failure that a new try cannot mend is written down."""
    failure: Path = settings["failure"]
    if failure.exists():
        return
    try:
        Worker(settings["job"], _RayGroup(), settings["events"].put).run()
    except ModelError as error:
        failure.write_text(str(error), "utf-8")
        raise


class _RayGroup(Group):
    """The workers of Ray Train, as one of them sees them."""

    def __init__(self) -> None:
        import ray.train

        context = ray.train.get_context()
        self.rank, self.count = context.get_world_rank(), context.get_world_size()
        self.neighbours = context.get_local_world_size()

    @contextmanager
    def checkpoint(self) -> Iterator[Path | None]:
        import ray.train

        # A later one than the last that Ray knows is the copy that it was making when it was stopped.
        found = ray.train.get_checkpoint()
        last = Path(found.path) if found else Path()
        yield latest(whole(each for each in last.parent.glob("checkpoint_*") if each.name <= last.name))

    def average(self, network: Any) -> None:
        import torch
        from torch import distributed

        # Agree on which weights have a gradient anywhere; one that has none stays as it is.
        trained = [weight for weight in network.parameters() if weight.requires_grad]
        device = trained[0].device
        has_gradient = torch.tensor([weight.grad is not None for weight in trained], dtype=torch.uint8, device=device)
        distributed.all_reduce(has_gradient, distributed.ReduceOp.MAX)
        # Add the gradients up, all at once.
        exchanges = []
        for weight, has_any in zip(trained, has_gradient.tolist(), strict=True):
            if has_any:
                weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad / self.count
                exchanges.append(distributed.all_reduce(weight.grad, async_op=True))
        for exchange in exchanges:
            exchange.wait()

    def report(self, step: int, history: Mapping[int, float], write: Callable[[Path], None] | None) -> None:
        import ray.train

        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if write is not None:
                write(Path(folder))
                checkpoint = ray.train.Checkpoint.from_directory(folder)
            # Ray keeps the best score and the latest; of equal metrics the earlier step is the better.
            ray.train.report({"step": step, "score": history.get(step, 0.0) - 1e-9 * step}, checkpoint=checkpoint)


def _fit(trainer: Any, events: Any, log: Callable[[Event], None]) -> Any:
    """Return what `trainer.fit` does, and log what the workers put into the queue `events` meanwhile.

    It runs outside the main thread, where Ray Train would take Ctrl-C for itself, for good, and exit with 0.
    """
    outcome: Future[Any] = Future()

    def run() -> None:
        try:
            outcome.set_result(trainer.fit())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    is_done = False
    while not is_done:
        is_done = bool(wait([outcome], timeout=_POLL_SECONDS).done)
        for event in events.get_nowait_batch(events.qsize()):
            log(event)
    return outcome.result()


def _cause(error: BaseException) -> str:
    """Return what the first worker that failed said."""
    failures = getattr(error, "worker_failures", None) or {}
    first = next(iter(failures.values()), error)
    return str(getattr(first, "cause", None) or first)
