"""A training on workers of Ray Train, on this machine or in a cluster; a worker that dies is replaced and goes on.

Ray is imported inside the functions: `ray_session` decides how a local one authenticates before it first is.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from hnmine.errors import ModelError
from hnmine.runs.ray_session import start_ray
from hnmine.training.log import Event
from hnmine.training.worker import Group, Job, Worker

# Ray Train looks at its workers so often; at its defaults of 2 and 5 s a short training ends 6 s late.
_POLLS = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5", "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5"}
_MAX_DEATHS = 3  # of workers, before a training is given up
_POLL_SECONDS = 0.5  # between two looks at what the workers logged


def train_on_ray(job: Job, work: Path, workers: int, log: Callable[[Event], None]) -> dict[int, Path]:
    """Train on so many workers; return the kept checkpoints by step, the best and the last.

    Each worker has a GPU, or its share of the CPUs. A training goes on from the latest checkpoint in the folder `work`.

    Raises:
        ModelError: a worker says so, or too many died.
    """
    start_ray()
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.util.queue import Queue

    # Describe the run; one of the same name and path goes on from its latest checkpoint.
    os.environ.update({name: seconds for name, seconds in _POLLS.items() if name not in os.environ})
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    on_gpu = job.recipe.device == "cuda"
    cpus = max(1, int(ray.cluster_resources().get("CPU", 1)) // workers)
    resources = {"GPU": 1} if on_gpu else {"CPU": cpus}
    events, failure = Queue(actor_options={"num_cpus": 0}), work.resolve() / "failure"
    failure.unlink(missing_ok=True)
    trainer = TorchTrainer(
        _work,
        train_loop_config={"job": job, "events": events, "failure": failure},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=on_gpu, resources_per_worker=resources),
        run_config=RunConfig(
            name="fit",
            storage_path=str(work.resolve()),
            checkpoint_config=CheckpointConfig(num_to_keep=1, checkpoint_score_attribute="score"),
            failure_config=FailureConfig(max_failures=_MAX_DEATHS),
        ),
    )
    # Train; a failure that a worker wrote down is the reason, whatever Ray says.
    try:
        result = _fit(trainer, events, log)
    except ray.train.TrainingFailedError as error:
        raise ModelError(failure.read_text("utf-8") if failure.exists() else _cause(error)) from None
    finally:
        events.shutdown(force=True)  # without it workers that are left end too
    if failure.exists():
        raise ModelError(failure.read_text("utf-8"))
    return {metrics["step"]: Path(checkpoint.path) for checkpoint, metrics in result.best_checkpoints or []}


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

        found = ray.train.get_checkpoint()
        with found.as_directory() if found else nullcontext() as folder:
            yield None if folder is None else Path(folder)

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
