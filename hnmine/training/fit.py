"""Fine-tuning of the re-ranker on lists of one positive and its negatives: what is kept, and what is told on the way.

Training that does no harm: the start itself (step 0) is a candidate when the best step is chosen by MRR@10 on the
dev queries, and later steps must beat it strictly. What comes out is never worse on dev than what went in.

Every look at the dev queries leaves a checkpoint, from which the next call with the same name and identity goes on, if
this one is killed. Where the work is done, `workers` says.
"""

from __future__ import annotations

import math
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from hnmine.errors import ModelError
from hnmine.ranking.task import Task
from hnmine.runs.progress import Progress, say
from hnmine.training.backends import BEGINS, RESUMED, Here, News, OfRay
from hnmine.training.lists import Lists
from hnmine.training.trackers import Tracker
from hnmine.training.worker import STATE, Job, Recipe, best_of


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
    by_ray: bool,
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
        workers: among which each step's lists are shared out; more than one need Ray.
        by_ray: on workers of Ray Train; else in this process.
        identity: names all that decides the result; what an interrupted call of the same left is gone on with.
        start_dev: what the dev queries say of the start, if that is known already.
        tracker: is told loss, learning rate and dev metric.

    Raises:
        ModelError: the gradient or the scores become non-finite, or a worker cannot load the model.
    """
    assert by_ray or workers == 1
    steps = recipe.steps(len(lists))
    where = f"{workers} worker(s) on" if by_ray else "on"
    say("train", f"{name}: {len(lists):,} lists, {steps} step(s), {where} {recipe.device}, {recipe.dtype}")
    work = _work_folder(out, identity)
    job = Job(start=start.resolve(), lists=lists, dev=dev, recipe=recipe, start_dev=start_dev)
    place = OfRay(job, work, workers) if by_ray else Here(job, work)
    try:
        with _following(name, place, job, tracker):
            folders = place.fit()
        history = place.history()
        best = best_of(history)
        _replace(out, start if best == 0 else folders[best])
    except ModelError as error:
        shutil.rmtree(work, ignore_errors=True)  # to go on from there would end the same way
        raise ModelError(f"training of {name} failed: {error}") from None
    finally:
        place.close()
    shutil.rmtree(work, ignore_errors=True)
    return Trained(best_step=best, steps=steps, dev=history)


def _work_folder(out: Path, identity: str) -> Path:
    """Return the folder of the checkpoints; what a call with another identity left is removed."""
    prefix = f".train-{out.name}-"
    work = out.parent / f"{prefix}{identity[:20]}"
    for other in out.parent.glob(f"{prefix}*"):
        if other != work and "-" not in other.name.removeprefix(prefix):  # else it is of a longer name
            shutil.rmtree(other, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    return work


class _following:
    """Show the workers' news while the block runs, and pass them on to the tracker."""

    def __init__(self, name: str, place: Here | OfRay, job: Job, tracker: Tracker | None) -> None:
        self._name, self._place, self._job, self._tracker = name, place, job, tracker
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
        last = False
        while not last:
            last = self._stop.wait(0.5)
            for news in self._place.news():
                self._tell(news)
        if self._progress is not None:
            self._progress.finish()

    def _tell(self, news: News) -> None:
        recipe = self._job.recipe
        if news.metric == RESUMED:
            say("train", f"{self._name}: goes on from the checkpoint of step {news.step}")
            return
        if news.metric == BEGINS:
            recipe = self._job.recipe
            total = len(self._job.lists) * recipe.epochs - news.step * recipe.pairs_per_batch
            if self._progress is None and total > 0:
                self._progress = Progress("train", self._name, total, "lists", begun=time.time() - news.at)
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
        self._loss = _smooth(self._loss, news.value)
        self._padding = _smooth(self._padding, news.padding)
        if self._progress is not None:
            self._progress.advance(news.pairs, f"loss {self._loss:.3f}, {self._padding:.1%} padding")


def _smooth(before: float, now: float) -> float:
    return now if math.isnan(before) else 0.9 * before + 0.1 * now


def _replace(out: Path, source: Path) -> None:
    """Put a copy of the model folder `source` at `out`, without what a checkpoint holds beside the model."""
    hidden = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(hidden, ignore_errors=True)  # of a call that was killed
    shutil.copytree(source, hidden, ignore=shutil.ignore_patterns(STATE))
    hidden.chmod(0o755)
    if out.exists():
        shutil.rmtree(out)
    hidden.rename(out)
