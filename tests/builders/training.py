"""A rule that a re-ranker of two layers learns in seconds: right is what begins with `yes`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from hnmine.config.root import Config
from hnmine.config.training import TrainConfig
from hnmine.ranking.measures import Task, means, measure, rerank
from hnmine.runs.folder import Run
from hnmine.training.gradient import Recipe
from hnmine.training.lists import Lists, TrainingData, TrainingList
from hnmine.training.trainer import Trainer, Training
from hnmine.types import Pairs, Texts
from tests.builders.devices import CPU
from tests.builders.judged import never_negative_of
from tests.builders.models import load_cross_encoder, tiny_cross_encoder

_SETTINGS = TrainConfig(epochs=3, pairs_per_batch=8, max_tokens=32, evaluations_per_epoch=1, dtype="float32")
LONG_TRAINING = {"epochs": 30, "learning_rate": 3e-4, "evaluations_per_epoch": 1}
"""Settings of a training long enough to be interrupted."""
Trained = tuple[Path, Training]
"""The folder of a model, and what came of its training."""


def quick_recipe(**changes: object) -> Recipe:
    """Return a recipe that learns the rule in seconds, with changes."""
    # Nothing is to be gained by OpenVINO on a model this small.
    return replace(Recipe.of(_SETTINGS, CPU, learning_rate=3e-3, seed=0, engine="torch"), **changes)


def yes_no_lists(count: int, *, reversed_labels: bool = False) -> Lists:
    """Relevant is what begins with `yes`; lists have one to three negatives."""
    rng = np.random.default_rng(0)
    good, bad = ("no", "yes") if reversed_labels else ("yes", "no")
    names = ["".join(rng.choice(list("abcdef"), size=4)) for _ in range(count)]
    return tuple(
        TrainingList(
            query=name, documents=(f"{good} {name}", *(f"{bad} {name}{'x' * i}" for i in range(rng.integers(1, 4))))
        )
        for name in names
    )


def yes_no_dev_task() -> Task:
    """The same rule on other names: of eight documents two begin with `yes`, one of these is right."""
    names = ("abc", "fed", "cab", "bad", "deaf", "face")
    texts = [f"{'yes' if i % 4 == 0 else 'no'} {'xyzw'[i % 4] * 2}" for i in range(8)]
    return Task(
        queries=Texts(ids=names, texts=names),
        doc_rows_QK=np.tile(np.arange(8), (len(names), 1)),
        first_scores_QK=np.zeros((len(names), 8), np.float32),
        document_texts=dict(enumerate(texts)),
        relevant=tuple(frozenset({0, 4}) for _ in names),
    )


def yes_no_metric(model: Path) -> float:
    """Return MRR@10 of a re-ranker on the dev task."""
    task = yes_no_dev_task()
    return means(measure(task, rerank(task, load_cross_encoder(model, max_tokens=32).scores)))["MRR@10"]


def wrong_start(folder: Path) -> Path:
    """Save a re-ranker that prefers the wrong documents."""
    starts = (tiny_cross_encoder(folder / str(seed), seed=seed, spread=1) for seed in range(100))
    return next(model for model in starts if yes_no_metric(model) < 0.4)


def quick_trainer(start: Path, out: Path, workers: int = 1, by_ray: bool = False) -> Trainer:
    """Return a trainer with nothing but the dev task, in the run folder `out`."""
    nothing = Texts(ids=(), texts=())
    no_rows = np.empty(0, dtype=np.int64)
    data = TrainingData(
        documents=nothing,
        queries=nothing,
        pairs=Pairs(query_rows_P=no_rows, doc_rows_P=no_rows),
        never_negative=never_negative_of((), {}),
        dev=yes_no_dev_task(),
        dev_name="dev",
    )
    settings = _SETTINGS.model_copy(update={"model": str(start), "workers": workers})
    run = Run(out=out, config=Config(), manifest={})
    config = Config(train=settings, device="cpu", engine="torch", ray=by_ray or workers > 1)
    return Trainer(data, config, run)


def train_quickly(
    start: Path, out: Path, given: Lists, workers: int = 1, by_ray: bool = False, **changes: object
) -> Trained:
    """Train the quick recipe, with changes, in the run folder `out`; return the model's folder, and what came of it."""
    trainer = quick_trainer(start, out, workers, by_ray)
    return trainer.folder("model"), trainer.fit("model", start, given, quick_recipe(**changes))


def after_checkpoints(out: Path, count: int, act: Callable[[], None]) -> threading.Thread:
    """Do something as soon as so many checkpoints were written in the run `out`; Ray registers one a moment later."""

    def watch() -> None:
        seen: set[str] = set()
        deadline = time.monotonic() + 120
        while len(seen) < count and time.monotonic() < deadline:
            for pattern in ("fit/checkpoint_2*", "checkpoint-*"):  # Ray's, ours
                seen |= {path.name for path in out.glob(f"rerankers/.train-model-*/{pattern}")}
            time.sleep(0.005)
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread
