"""Fine-tuning of re-rankers: `Trainer.fit` is the one way to train one, and to find it trained already.

Training does no harm: the start itself (step 0) is a candidate when the best step is chosen by MRR@10 on the dev
queries, and later steps must beat it strictly. What comes out is never worse on dev than what went in.

Every evaluation leaves a checkpoint, from which the next call of the same identity goes on if this one is killed. The
identity is a digest of the start's files, the lists, the dev queries, the recipe, the workers and the versions.

OUT/rerankers/<name>/     the model
OUT/tensorboard/<name>/   its curves
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from hnmine.config.root import Config
from hnmine.config.training import TAUGHT
from hnmine.corpus.text_keys import key_of
from hnmine.errors import ConfigError, ModelError
from hnmine.models.folder import adapter_base, folder_sha256, hidden_size, resolve
from hnmine.models.reranker import has_ranking_head, load_reranker
from hnmine.ranking.measures import MAIN_METRIC
from hnmine.runs.device import choose_device, visible_gpus
from hnmine.runs.files import digest
from hnmine.runs.folder import RERANKERS, START, Run
from hnmine.runs.manifest import versions
from hnmine.runs.nodes import in_cluster
from hnmine.runs.progress import say
from hnmine.training.checkpoints import STATE, SUMS, best_step, remove
from hnmine.training.gradient import Recipe
from hnmine.training.lessons import Teacher
from hnmine.training.lists import Lists, TrainingData, random_negatives, training_lists
from hnmine.training.log import TrainingLog, tracking
from hnmine.training.ray_workers import default_workers, train_on_ray
from hnmine.training.worker import Group, Job, Worker

WARM_UP_RATE, WARM_UP_NEGATIVES = 5e-5, 3
WARMED_UP = "has no ranking head: warmed up first, on random negatives of the same pairs"
"""What a body is, in words; never said of a model whose head was loaded."""
DEFAULT_RATE, DEFAULT_RATE_WIDTH = 1e-4, 384
"""The default learning rate, for a model so wide. It was found with MiniLM (`benchmarks/LOG.md`); for others it goes
down as width goes up, as Adam's best step does (Yang et al., arXiv 2203.03466); that has not been tried here."""
LORA_RATE = 10
"""With LoRA the best step is about so many times that of all weights (Schulman et al., LoRA Without Regret, 2025)."""
_AS_DECLARED = 10**9  # tokens: a model reads no more than it declares
FEW_DEV_QUERIES = 30
"""Fewer dev queries than that cannot choose a step."""


class Training(BaseModel):
    """What came of a training."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    identity: str
    lists: int
    steps: int
    best_step: int
    """The step that was kept; 0 is the start."""
    dev: float
    """MAIN_METRIC of that step."""
    dev_by_step: dict[str, float] = Field(min_length=1)
    """MAIN_METRIC of every evaluation; the first is that of the start, unless the start has no ranking head."""
    recipe: dict[str, Any]


class Trainer:
    """Trains re-rankers on one collection, in one run folder."""

    def __init__(self, data: TrainingData, config: Config, run: Run) -> None:
        """Find the model and the teacher, and say what is trained on and where.

        Raises:
            ModelError: the model or the teacher is missing or unusable.
            DeviceError: a GPU was asked for and is not there.
        """
        self.data, self.config, self.run = data, config, run
        self._start_dev: dict[Path, float] = {}
        # Resolve the recipe, the teacher and the workers.
        settings, engine, choice = config.train, config.engine, choose_device(config.device)
        self.model = resolve(settings.model)
        for setting, read in (
            ("train.model", self.model),
            ("train.teacher", settings.teacher and resolve(settings.teacher)),
        ):
            if read and run.replaces(read):
                raise ConfigError(
                    f"{setting}: {read} is in --out, where training replaces models; choose another --out"
                )
        default_rate = DEFAULT_RATE * (LORA_RATE if settings.lora else 1)
        rate = settings.learning_rate or default_rate * DEFAULT_RATE_WIDTH / hidden_size(self.model)
        self.recipe = Recipe.of(settings, choice, learning_rate=rate, seed=config.seed, engine=engine)
        self._teacher = Teacher(settings.teacher, choice, engine, run.out / "scored") if settings.teacher else None
        self._workers = settings.workers or _default_workers(choice.kind == "gpu", config.ray, settings.pairs_per_batch)
        several_or_cluster = self._workers > 1 or bool(os.environ.get("RAY_ADDRESS"))
        self._by_ray = several_or_cluster if config.ray is None else config.ray
        # Say what there is to choose steps by.
        count = len(data.dev)
        fewer = f", fewer than train.dev_queries={settings.dev_queries}" if count < settings.dev_queries else ""
        say("train", f"dev: {count:,} queries of {data.dev_name}{fewer}; training on {choice}")
        if count < FEW_DEV_QUERIES:
            few = f"{count} dev queries are too few to tell a better step from a lucky one"
            say("train", f"{few}; judge {FEW_DEV_QUERIES} at least", level="warning")

    def folder(self, name: str) -> Path:
        """Return the folder of a re-ranker that is trained here."""
        return self.run.out / RERANKERS / name

    def start(self, name: str = START) -> tuple[Path, Training | None]:
        """Return the re-ranker before fine-tuning; a model without a ranking head is warmed up under this name first.

        The warm-up is one epoch of InfoNCE on random negatives of the same pairs.
        """
        if self.config.train.kind == "bi-encoder" or has_ranking_head(self.model):
            return self.model, None
        model = self.config.train.model
        say("train", f"{model} {WARMED_UP}")
        data, seed = self.data, self.recipe.seed
        negatives = random_negatives(data.pairs, data.never_negative, len(data.documents), WARM_UP_NEGATIVES, seed)
        lists = training_lists(data.documents, data.queries, data.pairs, negatives)
        recipe = replace(self.recipe, loss="infonce", learning_rate=WARM_UP_RATE, epochs=1, evaluations_per_epoch=1)
        if recipe.lora is not None:  # what comes out has the head that an adapter's base needs
            recipe = replace(recipe, learning_rate=WARM_UP_RATE * LORA_RATE, lora=recipe.lora | {"keep": "merged"})
        training = self.fit(name, self.model, lists, recipe)
        self._start_dev[self.folder(name)] = training.dev
        return self.folder(name), training

    def start_dev(self, start: Path) -> float:
        """Return MAIN_METRIC of a start that something was trained from."""
        return self._start_dev[start]

    def fit(self, name: str, start: Path, lists: Lists, recipe: Recipe) -> Training:
        """Train a re-ranker and write it to `folder(name)`, replacing what is there; or find the same trained before.

        A start without a ranking head gets a fresh one, and has no step 0.

        Raises:
            ModelError: the gradient or the scores become non-finite, or a worker cannot load the model.
        """
        out, key, identity = self.folder(name), f"{RERANKERS}/{name}", self.identity(start, lists, recipe)
        known = self.run.cache.get(key, identity, Training)
        if known is not None:
            found = f"reused {out} (same pairs, settings, versions); {MAIN_METRIC} on dev {known.dev:.3f}"
            say("train", f"{name}: {found}")
            if "0" in known.dev_by_step:
                self._start_dev[start] = known.dev_by_step["0"]
            return known
        self.run.claim(key)
        # Ask the teacher, and train.
        settings = self._decisive(lists, recipe)
        if (teacher := self._teacher_for(lists, recipe)) is not None:
            lists = teacher.teach(name, lists, recipe.scale)
        start_dev = self._start_dev.get(start)
        job = Job(start=start.resolve(), lists=lists, dev=self.data.dev, recipe=recipe, start_dev=start_dev)
        start_time = time.monotonic()
        best, history = self._train(name, job, identity, settings)
        self.run.seconds[f"train: {name}"] = round(time.monotonic() - start_time, 3)
        # Remember it.
        training = Training(
            identity=identity,
            lists=len(lists),
            steps=recipe.steps(len(lists)),
            best_step=best,
            dev=history[best],
            dev_by_step={str(step): history[step] for step in sorted(history)},
            recipe=settings,
        )
        files = [
            path for file in folder_sha256(out) if (path := out / file).is_file()
        ]  # an adapter's base lies elsewhere
        self.run.cache.put(key, identity, training, files)
        kept = f"kept step {best} of {training.steps}, {MAIN_METRIC} on dev {training.dev:.3f}"
        if 0 in history:
            self._start_dev[start] = history[0]
            kept += f" (start {history[0]:.3f})"
        say("train", f"{name}: {kept}")
        return training

    def _train(self, name: str, job: Job, identity: str, settings: dict[str, Any]) -> tuple[int, dict[int, float]]:
        """Run a job and write its best step to `folder(name)`; return that step and MAIN_METRIC by step."""
        out, recipe, lists = self.folder(name), job.recipe, len(job.lists)
        on = f"{self._workers} worker(s) on" if self._by_ray else "on"
        say("train", f"{name}: {lists:,} lists, {recipe.steps(lists)} step(s), {on} {recipe.device}, {recipe.dtype}")
        # Go on where a killed call of the same identity stopped.
        work = work_folder(out, identity)
        curves = self.run.out / "tensorboard" / name
        try:
            with (
                tracking(name, curves, self.config.train.mlflow, settings) as track,
                closing(TrainingLog(name, recipe, lists, track)) as log,
            ):
                if self._by_ray:
                    checkpoints = train_on_ray(job, work, self._workers, log.add)
                else:
                    group = Group(work)
                    Worker(job, group, log.add).run()
                    checkpoints = group.checkpoints()
            best = best_step(log.history)
            if best and best not in checkpoints:
                raise ModelError(f"the checkpoint of step {best}, the best, is damaged; the same command trains anew")
            self._publish(checkpoints[best] if best else _as_saved(job.start, recipe, work / "start"), name)
        except ModelError as error:
            remove(work)  # to go on from there would end the same way
            raise ModelError(f"training of {name} failed: {error}") from None
        remove(work)
        return best, log.history

    def _publish(self, model: Path, name: str) -> None:
        """Put a copy of a model folder at `folder(name)`, without what a checkpoint holds beside it."""
        hidden = self.folder(f".{name}.tmp")
        shutil.rmtree(hidden, ignore_errors=True)  # left by a call that was killed
        shutil.copytree(model, hidden, ignore=shutil.ignore_patterns(STATE, SUMS))
        self.run.place(hidden, f"{RERANKERS}/{name}")

    def identity(self, start: Path, lists: Lists, recipe: Recipe) -> str:
        """Return a digest of all that decides what a training ends with."""
        dev, keys = self.data.dev, dict[str, str]()  # long texts stand in many lists

        def key(text: str) -> str:
            if text not in keys:
                keys[text] = key_of(text).hex()
            return keys[text]

        listed = [
            (
                key(each.query),
                [key(document) for document in each.documents],
                sorted(map(key, each.never_negative)),
                each.teacher,
                each.is_lesson,
            )
            for each in lists
        ]
        return digest(
            {
                "start": folder_sha256(start),
                "lists": digest(listed),
                "dev": digest([*dev.texts, [sorted(rows) for rows in dev.relevant]]),
                "recipe": self._decisive(lists, recipe),
                "workers": self.config.train.workers or 1,  # what a cluster happens to have changes but rounding
                "versions": versions(),
            }
        )

    def _decisive(self, lists: Lists, recipe: Recipe) -> dict[str, Any]:
        """Return the settings that decide a training: the recipe, and the teacher where it is heard."""
        teacher = self._teacher_for(lists, recipe)
        return asdict(recipe) | ({"teacher": teacher.facts()} if teacher is not None else {})

    def _teacher_for(self, lists: Lists, recipe: Recipe) -> Teacher | None:
        """Return the teacher where the loss needs its scores, and some lists have none."""
        return None if recipe.loss not in TAUGHT or all(each.teacher for each in lists) else self._teacher


def _default_workers(on_gpu: bool, ray: bool | None, most: int) -> int:
    """Return one worker a GPU of this machine; in a cluster as many as all of it has room for, each with a pair."""
    if ray is False:
        return 1
    return min(most, default_workers(on_gpu)) if in_cluster() else max(1, visible_gpus() if on_gpu else 1)


def work_folder(out: Path, identity: str) -> Path:
    """Return the folder of the checkpoints of the model folder `out`; what another identity left there is removed."""
    prefix = f".train-{out.name}-"
    work = out.parent / f"{prefix}{identity[:20]}"
    for other in out.parent.glob(f"{prefix}*"):
        if other != work and "-" not in other.name.removeprefix(prefix):  # else it is of a longer name
            shutil.rmtree(other, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    return work


def _as_saved(start: Path, recipe: Recipe, out: Path) -> Path:
    """Return the start; an adapter as it is saved: its base is found from any place, and the library loads it."""
    if adapter_base(start) is None:
        return start
    load_reranker(recipe.kind, start, max_tokens=_AS_DECLARED, device="cpu", dtype="float32").save(out)
    return out
