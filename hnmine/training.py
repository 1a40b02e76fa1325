"""Fine-tuning of the re-ranker by Ray Train, on lists of one positive and its negatives.

Training that does no harm: the start itself (step 0) is a candidate when the best step is chosen by MRR@10 on the
dev queries, and later steps must beat it strictly. What comes out is never worse on dev than what went in.

Every look at the dev queries leaves a checkpoint. A worker that dies is replaced and goes on from the last one; so does
the next call with the same name and identity, if this one is killed.

Ray is imported inside the functions: `session` decides how a local one authenticates before it first is.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hnmine.errors import ModelError
from hnmine.evaluation import Task
from hnmine.fitting import DEV_METRIC, STATE, Job, Recipe, best_of, loop
from hnmine.lists import Lists
from hnmine.progress import Progress, say
from hnmine.session import start_ray
from hnmine.trackers import Tracker

# Ray Train looks at its workers so often; at its defaults of 2 and 5 s a short training ends 6 s late.
_POLLS = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5", "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5"}
_RETRIES = 3  # of workers that died
_RESUMED = "resumed"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The outcome: which step was kept, and what every look at the dev queries said."""

    best_step: int
    steps: int
    dev: dict[int, float]
    """MRR@10 on the dev queries by step; 0 is the start."""


def train(
    name: str,
    start: Path,
    lists: Lists,
    dev: Task,
    recipe: Recipe,
    out: Path,
    *,
    workers: int,
    identity: str = "",
    start_dev: float | None = None,
    tracker: Tracker | None = None,
) -> Trained:
    """Fine-tune the model in `start` on `lists` and write the best step to `out`, replacing what is there.

    Args:
        name: in messages.
        start: model folder; one without a ranking head gets a fresh one, and has no step 0.
        lists: what is trained on.
        dev: the queries that choose the step.
        recipe: how.
        out: model folder to be written.
        workers: of Ray Train; each step's lists are shared out among them.
        identity: names all that decides the result; what an interrupted call of the same left is gone on with.
        start_dev: what the dev queries say of the start, if that is known already.
        tracker: is told loss, learning rate and dev metric.

    Raises:
        ModelError: the gradient or the scores become non-finite, or a worker cannot load the model.
    """
    start_ray()
    import ray

    for name_of, seconds in _POLLS.items():
        os.environ.setdefault(name_of, seconds)
    _quiet_ray_train()
    steps = recipe.steps(len(lists))
    say("train", f"{name}: {len(lists):,} pairs, {steps} steps, {workers} worker(s) on {recipe.device}, {recipe.dtype}")
    work = _work_folder(out, identity)
    board = _board()
    job = Job(start=start.resolve(), lists=lists, dev=dev, recipe=recipe, start_dev=start_dev)
    try:
        with _following(name, board, job, tracker):
            folders = _fit(job, board, work, workers)
        history: dict[int, float] = ray.get(board.history.remote())
        best = best_of(history)
        _replace(out, start if best == 0 else folders[best])
    except ModelError as error:
        shutil.rmtree(work, ignore_errors=True)  # to go on from there would end the same way
        raise ModelError(f"training of {name} failed: {error}") from None
    finally:
        ray.kill(board)
    shutil.rmtree(work, ignore_errors=True)
    return Trained(best_step=best, steps=steps, dev=history)


def _fit(job: Job, board: Any, work: Path, workers: int) -> dict[int, Path]:
    """Run the workers; return the checkpoints that were kept, by step.

    Raises:
        ModelError: a worker says so, or workers died more often than is put up with.
    """
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    on_gpu = job.recipe.device == "cuda"
    cpus = max(1, int(ray.cluster_resources().get("CPU", 1)) // workers)
    trainer = TorchTrainer(
        loop,
        train_loop_config={"job": job, "board": board},
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=on_gpu,
            resources_per_worker={"GPU": 1} if on_gpu else {"CPU": cpus},
        ),
        run_config=RunConfig(  # a run of the same name and path goes on from its latest checkpoint
            name="fit",
            storage_path=str(work.resolve()),
            checkpoint_config=CheckpointConfig(num_to_keep=1, checkpoint_score_attribute="score"),
            failure_config=FailureConfig(max_failures=_RETRIES),
        ),
    )
    try:
        result = _in_thread(trainer.fit)
    except ray.train.TrainingFailedError as error:
        raise ModelError(ray.get(board.failure.remote()) or _cause(error)) from None
    if failure := ray.get(board.failure.remote()):
        raise ModelError(failure)
    return {metrics["step"]: Path(checkpoint.path) for checkpoint, metrics in result.best_checkpoints or []}


def _work_folder(out: Path, identity: str) -> Path:
    """Return the folder of the checkpoints; what a call with another identity left is removed."""
    prefix = f".train-{out.name}-"
    work = out.parent / f"{prefix}{identity[:20]}"
    for other in out.parent.glob(f"{prefix}*"):
        if other != work:
            shutil.rmtree(other, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    return work


@dataclass(frozen=True)
class _News:
    """What a worker tells: the value of `metric` at a step; of a loss, its pairs and the share that was padding."""

    metric: str
    step: int
    value: float
    pairs: int = 0
    padding: float = 0.0


def _board() -> Any:
    """Start the small actor through which workers tell the driver how far they are."""
    import ray

    class Board:
        """What was said before a restart is not said again."""

        def __init__(self) -> None:
            self._news: list[_News] = []
            self._history: dict[int, float] = {}
            self._failure = ""
            self._last = 0

        def trained(self, step: int, loss: float, pairs: int, padding: float) -> None:
            if step > self._last:
                self._last = step
                self._news.append(_News("loss", step, loss, pairs, padding))

        def resumed(self, step: int, history: dict[int, float]) -> None:
            self._news.append(_News(_RESUMED, step, 0.0))
            self.looked(history)

        def looked(self, history: dict[int, float]) -> None:
            self._news += [_News(DEV_METRIC, step, history[step]) for step in history if step not in self._history]
            self._history |= history

        def failed(self, message: str) -> None:
            self._failure = message

        def failure(self) -> str:
            return self._failure

        def news(self) -> list[_News]:
            news, self._news = self._news, []
            return news

        def history(self) -> dict[int, float]:
            return self._history

    return ray.remote(num_cpus=0)(Board).remote()


class _following:
    """Show the board's news while the block runs, and pass them on to the tracker."""

    def __init__(self, name: str, board: Any, job: Job, tracker: Tracker | None) -> None:
        self._name, self._board, self._job, self._tracker = name, board, job, tracker
        self._progress: Progress | None = None  # its clock starts with the first step, not with the workers
        self._loss = self._padding = math.nan
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        import ray

        last = False
        while not last:
            last = self._stop.wait(0.5)
            for news in ray.get(self._board.news.remote()):
                self._tell(news)
        if self._progress is not None:
            self._progress.finish()

    def _tell(self, news: _News) -> None:
        recipe = self._job.recipe
        if news.metric == _RESUMED:
            say("train", f"{self._name}: goes on from the checkpoint of step {news.step}")
            return
        if self._tracker is not None:
            self._tracker.scalar(news.metric, news.value, news.step)
        if news.metric != "loss":
            told = f"{self._name}: step {news.step}: {news.metric} {news.value:.3f} on dev"
            say("train", told, model=self._name, training_step=news.step, mrr_at_10=news.value)
            return
        steps = recipe.steps(len(self._job.lists))
        if self._tracker is not None:
            self._tracker.scalar("learning_rate", recipe.rate(news.step - 1, steps), news.step)
            self._tracker.scalar("padding", news.padding, news.step)
        if self._progress is None:
            behind = (news.step - 1) * recipe.pairs_per_batch  # trained on before an interruption
            total = len(self._job.lists) * recipe.epochs - behind
            self._progress = Progress("train", self._name, total, "pairs")
        self._loss = _smooth(self._loss, news.value)
        self._padding = _smooth(self._padding, news.padding)
        self._progress.advance(news.pairs, f"loss {self._loss:.3f}, {self._padding:.1%} padding")


def _smooth(before: float, now: float) -> float:
    return now if math.isnan(before) else 0.9 * before + 0.1 * now


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


def _quiet_ray_train() -> None:
    logging.getLogger("ray.train").setLevel(logging.ERROR)


def _replace(out: Path, source: Path) -> None:
    """Put a copy of the model folder `source` at `out`, without what a checkpoint holds beside the model."""
    hidden = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    shutil.copytree(source, hidden, dirs_exist_ok=True, ignore=shutil.ignore_patterns(STATE))
    hidden.chmod(0o755)
    if out.exists():
        shutil.rmtree(out)
    hidden.rename(out)


def _cause(error: BaseException) -> str:
    worker_errors = getattr(error, "worker_failures", None) or {}
    for failure in worker_errors.values():
        inner = getattr(failure, "cause", None) or failure
        return str(inner)
    return str(error)
