"""Where a training runs: in this process, or on workers of Ray Train; both end with the same model.

In this process nothing has to start, which on one machine without several GPUs is all there is to gain. A job that is
killed goes on from its last checkpoint in both; a worker of Ray Train that dies is replaced, and goes on from there.

Ray is imported inside the functions: `session` decides how a local one authenticates before it first is.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hnmine.errors import ModelError
from hnmine.runs.ray_session import start_ray
from hnmine.training.worker import DEV_METRIC, Job, Worker, best_of

# Ray Train looks at its workers so often; at its defaults of 2 and 5 s a short training ends 6 s late.
_POLLS = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5", "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5"}
_RETRIES = 3  # of workers that died
BEGINS, RESUMED = "begins", "resumed"


@dataclass(frozen=True)
class News:
    """What a worker tells: the value of `metric` at a step; of a loss, its pairs and the share that was padding."""

    metric: str
    step: int
    value: float
    pairs: int = 0
    padding: float = 0.0
    at: float = field(default_factory=time.time)


class Board:
    """Where workers tell how far they are. What was said before a restart is not said again."""

    def __init__(self) -> None:
        self._news: list[News] = []
        self._history: dict[int, float] = {}
        self._failure = ""
        self._last = 0

    def begins(self, step: int) -> None:
        """Hear that the work after this step begins."""
        self._news.append(News(BEGINS, step, 0.0))

    def trained(self, step: int, loss: float, pairs: int, padding: float) -> None:
        """Hear of a step and its loss."""
        if step > self._last:
            self._last = step
            self._news.append(News("loss", step, loss, pairs, padding))

    def resumed(self, step: int, history: Mapping[int, float]) -> None:
        """Hear that training goes on after a step, and what the dev queries said until then."""
        self._news.append(News(RESUMED, step, 0.0))
        self.looked(history)

    def looked(self, history: Mapping[int, float]) -> None:
        """Hear what the dev queries said so far, by step."""
        self._news += [News(DEV_METRIC, step, history[step]) for step in history if step not in self._history]
        self._history |= history

    def failed(self, message: str) -> None:
        """Hear of a failure that a new try cannot mend."""
        self._failure = message

    def failure(self) -> str:
        """Return that failure, or nothing."""
        return self._failure

    def news(self) -> list[News]:
        """Return what was heard since the last call."""
        news, self._news = self._news, []
        return news

    def history(self) -> dict[int, float]:
        """Return what the dev queries said, by step."""
        return self._history


class Here:
    """One worker: this process."""

    def __init__(self, job: Job, work: Path) -> None:
        self._job, self._work, self._board = job, work, Board()
        self.news, self.history = self._board.news, self._board.history

    def fit(self) -> dict[int, Path]:
        """Train; return the checkpoints that were kept, by step: the last and the best."""
        alone = _Alone(self._work)
        Worker(self._job, alone, self._board).run()
        return alone.steps()

    def close(self) -> None:
        """There is nothing to be closed."""


class _Alone:
    """The only worker, and its checkpoints: folders that have their name once they are whole."""

    rank, count = 0, 1

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        shutil.rmtree(self._hidden, ignore_errors=True)

    @property
    def _hidden(self) -> Path:
        return self._folder / ".checkpoint"

    def steps(self) -> dict[int, Path]:
        return {int(path.name.rpartition("-")[2]): path for path in self._folder.glob("checkpoint-*")}

    def checkpoint(self) -> nullcontext[Path | None]:
        steps = self.steps()
        return nullcontext(steps[max(steps)] if steps else None)

    def joined(self, network: Any, partly: bool) -> Any:  # noqa: ARG002
        return network

    def report(self, step: int, dev: Mapping[int, float], write: Callable[[Path], None] | None) -> None:
        if write is None:
            return
        self._hidden.mkdir()
        write(self._hidden)
        self._hidden.rename(self._folder / f"checkpoint-{step}")
        for other, path in self.steps().items():
            if other not in (step, best_of(dev)):
                shutil.rmtree(path)

    def agreed(self, value: bool) -> bool:
        return value


class OfRay:
    """Workers of Ray Train, on this machine or a cluster's."""

    def __init__(self, job: Job, work: Path, workers: int) -> None:
        start_ray()
        import ray

        for name, seconds in _POLLS.items():
            os.environ.setdefault(name, seconds)
        logging.getLogger("ray.train").setLevel(logging.ERROR)
        self._job, self._work, self._workers = job, work, workers
        self._board = ray.remote(num_cpus=0)(Board).remote()

    def news(self) -> list[News]:
        """Return what the workers told since the last call."""
        import ray

        news: list[News] = ray.get(self._board.news.remote())
        return news

    def history(self) -> dict[int, float]:
        """Return what the dev queries said, by step."""
        import ray

        history: dict[int, float] = ray.get(self._board.history.remote())
        return history

    def close(self) -> None:
        """End the board, without which workers that are still there end too."""
        import ray

        ray.kill(self._board)

    def fit(self) -> dict[int, Path]:
        """Train; return the checkpoints that were kept, by step.

        Raises:
            ModelError: a worker says so, or workers died more often than is put up with.
        """
        import ray
        from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        on_gpu = self._job.recipe.device == "cuda"
        cpus = max(1, int(ray.cluster_resources().get("CPU", 1)) // self._workers)
        trainer = TorchTrainer(
            _loop,
            train_loop_config={"job": self._job, "board": self._board},
            scaling_config=ScalingConfig(
                num_workers=self._workers,
                use_gpu=on_gpu,
                resources_per_worker={"GPU": 1} if on_gpu else {"CPU": cpus},
            ),
            run_config=RunConfig(  # a run of the same name and path goes on from its latest checkpoint
                name="fit",
                storage_path=str(self._work.resolve()),
                checkpoint_config=CheckpointConfig(num_to_keep=1, checkpoint_score_attribute="score"),
                failure_config=FailureConfig(max_failures=_RETRIES),
            ),
        )
        try:
            result = _in_thread(trainer.fit)
        except ray.train.TrainingFailedError as error:
            raise ModelError(ray.get(self._board.failure.remote()) or _cause(error)) from None
        if failure := ray.get(self._board.failure.remote()):
            raise ModelError(failure)
        return {metrics["step"]: Path(checkpoint.path) for checkpoint, metrics in result.best_checkpoints or []}


def _loop(settings: dict[str, Any]) -> None:
    """Run one worker; a failure that a new try cannot mend is left on the board."""
    board = _Told(settings["board"])
    if board.failure():
        return
    try:
        Worker(settings["job"], _Member(), board).run()
    except ModelError as error:
        board.failed(str(error))
        raise


class _Told:
    """The board, as an actor elsewhere; it fails where the driver has given up, and so does the worker."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def begins(self, step: int) -> None:
        self._actor.begins.remote(step)

    def trained(self, step: int, loss: float, pairs: int, padding: float) -> None:
        self._actor.trained.remote(step, loss, pairs, padding)

    def resumed(self, step: int, history: Mapping[int, float]) -> None:
        self._actor.resumed.remote(step, history)

    def looked(self, history: Mapping[int, float]) -> None:
        self._wait_for(self._actor.looked.remote(history))

    def failed(self, message: str) -> None:
        self._wait_for(self._actor.failed.remote(message))

    def failure(self) -> str:
        failure: str = self._wait_for(self._actor.failure.remote())
        return failure

    @staticmethod
    def _wait_for(answer: Any) -> Any:
        import ray

        return ray.get(answer)


class _Member:
    """One of several workers of Ray Train."""

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

    def joined(self, network: Any, partly: bool) -> Any:
        from ray.train.torch import prepare_model

        # Each forward pass would exchange buffers, but workers take as many passes as their own texts need.
        how = {"broadcast_buffers": False, "find_unused_parameters": partly}
        return prepare_model(network, parallel_strategy_kwargs=how)

    def report(self, step: int, dev: Mapping[int, float], write: Callable[[Path], None] | None) -> None:
        import ray.train

        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if write is not None:
                write(Path(folder))
                checkpoint = ray.train.Checkpoint.from_directory(folder)
            # of equal values the earlier step is the better; Ray keeps the best score and the latest
            ray.train.report({"step": step, "score": dev.get(step, 0.0) - 1e-9 * step}, checkpoint=checkpoint)

    def agreed(self, value: bool) -> bool:
        from ray.train.collective import broadcast_from_rank_zero

        return bool(broadcast_from_rank_zero(value))


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
    worker_errors = getattr(error, "worker_failures", None) or {}
    for failure in worker_errors.values():
        inner = getattr(failure, "cause", None) or failure
        return str(inner)
    return str(error)
