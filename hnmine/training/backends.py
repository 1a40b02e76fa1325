"""Where a training runs: in this process, or on workers of Ray Train; both end with the same model.

This process has nothing to start, so one machine without several GPUs is fastest here. A command that is killed goes on
from its last checkpoint in both; a worker of Ray Train that dies is replaced, and goes on from there.

Ray is imported inside the functions: `ray_session` decides how a local one authenticates before it first is.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

from hnmine.errors import ModelError
from hnmine.runs.ray_session import start_ray
from hnmine.training.checkpoints import best_step
from hnmine.training.log import Event, TrainingLog
from hnmine.training.worker import Job, Worker

# Ray Train looks at its workers so often; at its defaults of 2 and 5 s a short training ends 6 s late.
_POLLS = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5", "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5"}
_MAX_DEATHS = 3  # of workers, before a training is given up
_CHECKPOINT = "checkpoint-"


class Backend(Protocol):
    """Runs one training."""

    def train(self) -> dict[int, Path]:
        """Train; return the kept checkpoints by step: the best and, if it is another, the last.

        Raises:
            ModelError: the training cannot succeed.
        """

    def events(self) -> list[Event]:
        """Return what was logged since the last call."""

    def history(self) -> dict[int, float]:
        """Return MAIN_METRIC by step."""

    def close(self) -> None:
        """Release what the backend holds."""


class ThisProcess:
    """One worker: this process."""

    def __init__(self, job: Job, work: Path) -> None:
        """Take a job and the folder of its checkpoints."""
        self._job, self._group, self._log = job, _SingleWorker(work), TrainingLog()

    def train(self) -> dict[int, Path]:
        """Train; see `Backend`."""
        Worker(self._job, self._group, self._log.add).run()
        return self._group.checkpoints()

    def events(self) -> list[Event]:
        """Return what was logged since the last call."""
        return self._log.read()

    def history(self) -> dict[int, float]:
        """Return MAIN_METRIC by step."""
        return self._log.history()

    def close(self) -> None:
        """There is nothing to release."""


class _SingleWorker:
    """A group of one, and its checkpoints: folders that get their names once they are whole."""

    rank, count = 0, 1

    def __init__(self, folder: Path) -> None:
        self._folder, self._hidden = folder, folder / ".checkpoint"
        shutil.rmtree(self._hidden, ignore_errors=True)

    def checkpoints(self) -> dict[int, Path]:
        return {int(path.name.removeprefix(_CHECKPOINT)): path for path in self._folder.glob(f"{_CHECKPOINT}*")}

    def checkpoint(self) -> nullcontext[Path | None]:
        found = self.checkpoints()
        return nullcontext(found[max(found)] if found else None)

    def join(self, network: Any, *, unused_weights: bool) -> Any:  # noqa: ARG002
        return network

    def report(self, step: int, history: Mapping[int, float], write: Callable[[Path], None] | None) -> None:
        if write is None:
            return
        self._hidden.mkdir()
        write(self._hidden)
        self._hidden.rename(self._folder / f"{_CHECKPOINT}{step}")
        for other, path in self.checkpoints().items():
            if other not in (step, best_step(history)):
                shutil.rmtree(path)


class RayTrain:
    """Workers of Ray Train, on this machine or in a cluster."""

    def __init__(self, job: Job, work: Path, workers: int) -> None:
        """Start or join Ray; the log becomes an actor."""
        start_ray()
        import ray

        for name, seconds in _POLLS.items():
            os.environ.setdefault(name, seconds)
        logging.getLogger("ray.train").setLevel(logging.ERROR)
        self._job, self._work, self._workers = job, work, workers
        self._log = ray.remote(num_cpus=0)(TrainingLog).remote()

    def train(self) -> dict[int, Path]:
        """Train; see `Backend`. A worker that dies is replaced a few times."""
        import ray
        from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        # Share the cluster's CPUs out, or give each worker a GPU.
        on_gpu = self._job.recipe.device == "cuda"
        cpus = max(1, int(ray.cluster_resources().get("CPU", 1)) // self._workers)
        trainer = TorchTrainer(
            _work_on_ray,
            train_loop_config={"job": self._job, "log": self._log},
            scaling_config=ScalingConfig(
                num_workers=self._workers,
                use_gpu=on_gpu,
                resources_per_worker={"GPU": 1} if on_gpu else {"CPU": cpus},
            ),
            run_config=RunConfig(  # a run of the same name and path goes on from its latest checkpoint
                name="fit",
                storage_path=str(self._work.resolve()),
                checkpoint_config=CheckpointConfig(num_to_keep=1, checkpoint_score_attribute="score"),
                failure_config=FailureConfig(max_failures=_MAX_DEATHS),
            ),
        )
        # A failure that is in the log is the reason, whatever Ray says.
        try:
            result = _in_thread(trainer.fit)
        except ray.train.TrainingFailedError as error:
            raise ModelError(ray.get(self._log.failure.remote()) or _cause(error)) from None
        if failure := ray.get(self._log.failure.remote()):
            raise ModelError(failure)
        return {metrics["step"]: Path(checkpoint.path) for checkpoint, metrics in result.best_checkpoints or []}

    def events(self) -> list[Event]:
        """Return what was logged since the last call."""
        import ray

        events: list[Event] = ray.get(self._log.read.remote())
        return events

    def history(self) -> dict[int, float]:
        """Return MAIN_METRIC by step."""
        import ray

        history: dict[int, float] = ray.get(self._log.history.remote())
        return history

    def close(self) -> None:
        """End the log, without which workers that are left end too."""
        import ray

        ray.kill(self._log)


def _work_on_ray(settings: dict[str, Any]) -> None:
    """Run one worker; this is what runs in a process of Ray Train. A failure that a new try cannot mend is logged."""
    import ray

    log = settings["log"]
    if ray.get(log.failure.remote()):
        return

    def add(event: Event) -> None:
        added = log.add.remote(event)
        if event.kind == "evaluated":
            ray.get(added)  # the driver's history must be whole; this fails where the driver has given up

    try:
        Worker(settings["job"], _RayWorker(), add).run()
    except ModelError as error:
        ray.get(log.fail.remote(str(error)))
        raise


class _RayWorker:
    """The group of workers of Ray Train, as one of them sees it."""

    def __init__(self) -> None:
        import ray.train

        context = ray.train.get_context()
        self.rank, self.count = context.get_world_rank(), context.get_world_size()

    @contextmanager
    def checkpoint(self) -> Iterator[Path | None]:
        import ray.train

        found = ray.train.get_checkpoint()
        with found.as_directory() if found else nullcontext() as folder:
            yield None if folder is None else Path(folder)

    def join(self, network: Any, *, unused_weights: bool) -> Any:
        from ray.train.torch import prepare_model

        # Each forward pass would exchange buffers, but workers take as many passes as their own texts need.
        options = {"broadcast_buffers": False, "find_unused_parameters": unused_weights}
        return prepare_model(network, parallel_strategy_kwargs=options)

    def report(self, step: int, history: Mapping[int, float], write: Callable[[Path], None] | None) -> None:
        import ray.train

        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if write is not None:
                write(Path(folder))
                checkpoint = ray.train.Checkpoint.from_directory(folder)
            # Ray keeps the best score and the latest; of equal metrics the earlier step is the better.
            ray.train.report({"step": step, "score": history.get(step, 0.0) - 1e-9 * step}, checkpoint=checkpoint)


def _in_thread(work: Callable[[], Any]) -> Any:
    """Call `work` outside the main thread, where Ray Train would take Ctrl-C for itself, for good, and exit with 0."""
    outcome: Future[Any] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome.result()


def _cause(error: BaseException) -> str:
    """Return what the first worker that failed said."""
    failures = getattr(error, "worker_failures", None) or {}
    first = next(iter(failures.values()), error)
    return str(getattr(first, "cause", None) or first)
