"""What trainings share: the pairs, the dev queries, the start; and what was trained before is not trained again.

A re-ranker's folder has a record with an identity: a digest of the start's files, the lists, the dev queries, the
recipe, the workers and the versions. Where it is the same and the files are as they were left, the model is reused.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hnmine.config.base import slug
from hnmine.config.root import Config
from hnmine.config.training import LOADED_BY, TAUGHT, Kind
from hnmine.embedding.score_store import Score, Scored
from hnmine.mining.guards import RowScores
from hnmine.models import folder as weights
from hnmine.ranking.splits import Splits
from hnmine.runs import device as devices
from hnmine.runs.files import write_json
from hnmine.runs.folder import Run, versions
from hnmine.runs.hashing import digest
from hnmine.runs.progress import say, track
from hnmine.training.fit import train
from hnmine.training.lists import Lists, random_anchors, training_lists
from hnmine.training.trackers import tracking
from hnmine.training.worker import DEV_METRIC, Recipe, load
from hnmine.types import Float64, Int64

START = "start"
_FEW_QUERIES = 30
_WARM_UP_NEGATIVES, _WARM_UP_RATE = 3, 5e-5
"""Random negatives a pair, and the learning rate, of the one epoch that gives a model a ranking head."""
_TEACHER_TOKENS = 256  # of query and document together
_RATE, _RATE_WIDTH = 1e-4, 384
"""The learning rate by default, for a model so wide. It was found with MiniLM (`benchmarks/LOG.md`); for others it goes
down as width goes up, as Adam's best step does (Yang et al., arXiv 2203.03466); that has not been tried here."""


class Record(BaseModel):
    """What is known of a re-ranker that was trained here; OUT/rerankers/<name>/hnmine.json."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    identity: str
    files: dict[str, str]
    """sha256 of every file of the model."""
    lists: int
    steps: int
    best_step: int
    dev: float
    dev_by_step: dict[str, float] = Field(min_length=1)
    """The first is that of the start, unless it has no ranking head."""
    recipe: dict[str, Any]

    def facts(self) -> dict[str, Any]:
        """Return what the manifest tells of it; it names the files apart."""
        return self.model_dump(exclude={"files"})


class Bench:
    """The pairs that are trained on, the dev queries and the settings; the start, and trainings from it."""

    def __init__(self, splits: Splits, whole: Config, run: Run) -> None:
        config = whole.train
        self._splits, self._config, self._seed, self._run = splits, config, whole.seed, run
        self.documents, self.queries = splits.collection.documents, splits.collection.queries
        self.positives = _with_copies(splits)
        """What is never a negative of a query row: its judged positives, and documents of the same text."""
        device = devices.choose_device(whole.device)
        self._folder = weights.resolve(config.model)
        dtype = devices.choose_dtype(config.dtype, device.kind, training=True)
        rate = config.learning_rate or _RATE * _RATE_WIDTH / weights.hidden_size(self._folder)
        self.recipe = Recipe.of(config, device, dtype, seed=whole.seed, engine=whole.engine, learning_rate=rate)
        self.start_dev: dict[Path, float] = {}
        """What the dev queries say of each start that something was trained from; measured once."""
        self._teacher = None if config.teacher is None else _Teacher(config.teacher, device, whole.engine, run)
        gpus = devices.visible_gpus() if device.kind == "gpu" and whole.ray is not False else 0
        self._workers = config.workers or max(1, gpus)
        cluster = bool(os.environ.get("RAY_ADDRESS"))
        self._by_ray = cluster or self._workers > 1 if whole.ray is None else whole.ray
        self.pairs = splits.train
        if config.max_pairs is not None and config.max_pairs < len(splits.train):
            rng = np.random.default_rng(whole.seed)
            self.pairs = splits.train.take(np.sort(rng.choice(len(splits.train), config.max_pairs, replace=False)))
        splits.first_stage(np.union1d(self.pairs.query_rows_P, splits.dev.query_rows_P))
        self.dev = splits.task(splits.dev, config.dev_queries, whole.seed)
        fewer = f", fewer than train.dev_queries={config.dev_queries}" if len(self.dev) < config.dev_queries else ""
        say("train", f"dev: {len(self.dev):,} queries of {splits.dev_name}{fewer}; training on {device}")
        if len(self.dev) < _FEW_QUERIES:
            say(
                "train",
                f"{len(self.dev)} dev queries are too few to tell a better step from a lucky one; judge "
                f"{_FEW_QUERIES} at least",
                level="warning",
            )

    def start(self, name: str = START) -> tuple[Path, Record | None]:
        """Return the re-ranker before fine-tuning; a model without a ranking head is warmed up, and has a record.

        `name` is what the warmed-up one is kept under: others may go on from one of the same name.
        """
        from hnmine.models.cross_encoder import has_head

        config = self._config
        if config.kind == "bi-encoder" or has_head(self._folder):
            return self._folder, None
        say(
            "train",
            f"{config.model} has no ranking head: warmed up first, on random negatives of the same pairs",
        )
        nothing: list[list[int]] = [[] for _ in range(len(self.pairs))]
        lists = training_lists(self.documents, self.queries, self.pairs, nothing, self.random(_WARM_UP_NEGATIVES))
        recipe = replace(
            self.recipe,
            loss="infonce",
            in_batch_negatives=0,
            learning_rate=_WARM_UP_RATE,
            epochs=1,
            evaluations_per_epoch=1,
        )
        record, warm = self.fit(name, self._folder, lists, recipe), self._run.out / "rerankers" / name
        self.start_dev[warm] = record.dev
        return warm, record

    def scores_of(self, model: Path) -> RowScores:
        """Return what asks a re-ranker how relevant documents are, by rows; what it has said is kept."""
        recipe = self.recipe
        how: dict[str, Any] = {"max_tokens": recipe.max_tokens, "dtype": recipe.dtype, "engine": recipe.engine}

        def ask() -> Score:
            return load(recipe.kind, model, device=recipe.device, **how).scores

        scored = Scored(slug(model.name), model, ask, [recipe.kind, how], self._run)

        def scores(query_rows_F: Int64, doc_rows_F: Int64) -> Float64:
            with track("train", f"judged by {model.name}", len(query_rows_F), "documents") as progress:
                return scored.of_rows(self.queries, query_rows_F, self.documents, doc_rows_F, progress.advance)

        return scores

    def random(self, per_pair: int) -> list[list[int]]:
        """Return random documents for every pair, none of them right."""
        return random_anchors(self.pairs, self.positives, len(self.documents), per_pair, self._seed)

    def fit(self, name: str, start: Path, lists: Lists, recipe: Recipe) -> Record:
        """Train one re-ranker and return its record, or that of the same trained before."""
        out = self._run.out / "rerankers" / name
        identity = self.identity(start, lists, recipe)
        settings = self._settings(lists, recipe)
        known = _read_record(name, out)
        if known is not None and known.identity == identity:
            if known.files == _files_of(out):
                say(
                    "train",
                    f"{name}: reused {out} (same pairs, settings, versions); {DEV_METRIC} on dev {known.dev:.3f}",
                )
                if "0" in known.dev_by_step:
                    self.start_dev[start] = known.dev_by_step["0"]
                return known
            say("train", f"{name}: {out} is not as it was when its training ended, so it is trained again")
        if self._teacher is not None and self._has_to_teach(lists, recipe):
            lists = self._teacher.teach(name, lists, recipe.scale)
        curves = self._run.out / "tensorboard" / name
        with tracking(name, curves, self._config.mlflow, settings) as tracker:
            trained = train(
                name,
                start,
                lists,
                self.dev,
                recipe,
                out,
                workers=self._workers,
                by_ray=self._by_ray,
                identity=identity,
                start_dev=self.start_dev.get(start),
                tracker=tracker,
            )
        record = Record(
            identity=identity,
            files=_files_of(out),
            lists=len(lists),
            steps=trained.steps,
            best_step=trained.best_step,
            dev=trained.dev[trained.best_step],
            dev_by_step={str(step): trained.dev[step] for step in sorted(trained.dev)},
            recipe=settings,
        )
        _write_card(out, name, record, self._about_data())
        write_json(out / weights.RECORD, record.model_dump())  # last: a folder without it is not trusted
        before = f" (start {trained.dev[0]:.3f})" if 0 in trained.dev else ""
        if 0 in trained.dev:
            self.start_dev[start] = trained.dev[0]
        say(
            "train",
            f"{name}: kept step {trained.best_step} of {trained.steps}, {DEV_METRIC} on dev {record.dev:.3f}{before}",
        )
        return record

    def identity(self, start: Path, lists: Lists, recipe: Recipe) -> str:
        """Return a name for all that decides what a training ends with."""
        dev = self.dev
        return digest(
            {
                "start": weights.folder_sha256(start),
                "lists": digest(
                    [
                        lists.queries,
                        lists.documents,
                        [sorted(texts) for texts in lists.judged],
                        *lists.teacher,
                        *lists.is_lesson,
                    ]
                ),
                "dev": digest([*dev.texts, [sorted(rows) for rows in dev.relevant]]),
                "recipe": self._settings(lists, recipe),
                "workers": self._workers,
                "versions": versions(),
            }
        )

    def _about_data(self) -> str:
        texts = self.documents.texts
        return (
            f"Data: {len(texts):,} documents (digest {digest(texts)}), {len(self.pairs):,} train pairs, "
            f"{len(self.dev):,} dev queries."
        )

    def _settings(self, lists: Lists, recipe: Recipe) -> dict[str, Any]:
        taught = self._teacher is not None and self._has_to_teach(lists, recipe)
        return asdict(recipe) | ({"teacher": self._teacher.facts()} if self._teacher is not None and taught else {})

    @staticmethod
    def _has_to_teach(lists: Lists, recipe: Recipe) -> bool:
        """Whether the loss needs a teacher's scores, and lists have none."""
        return recipe.loss in TAUGHT and bool(lists.untaught)


class _Teacher:
    """The cross-encoder that is learnt from, found before anything is trained and loaded when it is needed."""

    def __init__(self, model: str, device: devices.Choice, engine: str, run: Run) -> None:
        from hnmine.models.cross_encoder import cross_encoder

        self._model, self._device = model, device
        dtype = devices.choose_dtype("auto", device.kind)
        self._how: dict[str, Any] = {"max_tokens": _TEACHER_TOKENS, "dtype": dtype, "engine": engine}
        self._folder = cross_encoder("train.teacher", model)
        self._scored = Scored("teacher", self._folder, self._loaded, self._how, run)

    def facts(self) -> dict[str, Any]:
        """Return all that decides its scores."""
        sha256 = digest(weights.folder_sha256(self._folder))
        return {"model": self._model, **self._how, "files": sha256}

    def _loaded(self) -> Score:
        from hnmine.models.cross_encoder import Reranker

        say("train", f"the teacher is {self._model} on {self._device}, {self._how['dtype']}")
        return Reranker(self._folder, device=self._device.torch_name, **self._how).scores

    def teach(self, name: str, lists: Lists, scale: float) -> Lists:
        """Return the lists, those without a teacher with its scores, which a student's are when divided by `scale`."""
        sizes = [len(lists.documents[i]) for i in lists.untaught]
        queries = [lists.queries[i] for i in lists.untaught for _ in lists.documents[i]]
        documents = [text for i in lists.untaught for text in lists.documents[i]]
        with track("train", f"{name}: taught", len(documents), "documents") as progress:
            scores = self._scored.scores(queries, documents, progress.advance) / scale
        teacher = list(lists.teacher or [()] * len(lists))
        for i, of_list in zip(lists.untaught, np.split(scores, np.cumsum(sizes)[:-1]), strict=True):
            teacher[i] = tuple(of_list.tolist())
        return replace(lists, teacher=tuple(teacher))


def _read_record(name: str, folder: Path) -> Record | None:
    path = folder / weights.RECORD
    if not path.is_file():
        return None
    try:
        return Record.model_validate_json(path.read_bytes())
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
    say("train", f"{name}: {path} is not what a finished training leaves ({problem}), so it is trained again")
    return None


def _files_of(folder: Path) -> dict[str, str]:
    """Return the sha256 of a model's files, without its record."""
    return {name: value for name, value in weights.folder_sha256(folder).items() if name != weights.RECORD}


def _with_copies(splits: Splits) -> dict[int, set[int]]:
    """Return what is never a negative of a query row: its judged positives, and documents of the same text."""
    rows_of: dict[str, set[int]] = {}
    for row, text in enumerate(splits.collection.documents.texts):
        rows_of.setdefault(text, set()).add(row)
    texts = splits.collection.documents.texts
    positives = splits.collection.positives()
    return {query: set().union(*(rows_of[texts[row]] for row in rows)) for query, rows in positives.items()}


def _write_card(out: Path, name: str, record: Record, data: str) -> None:
    steps = "\n".join(f"| {step} | {value:.4f} |" for step, value in record.dev_by_step.items())
    kind: Kind = record.recipe["kind"]
    loaded = LOADED_BY[kind]
    asked = {
        "cross-encoder": "model.predict([('query', 'document')])",
        "bi-encoder": "model.similarity(model.encode_query('query'), model.encode_document('document'))",
    }[kind]
    (out / "README.md").write_text(
        f"---\nlibrary_name: sentence-transformers\npipeline_tag: text-ranking\ntags: [{kind}, hnmine]\n---\n"
        f"# Re-ranker `{name}`, fine-tuned by hnmine\n\n"
        f"{data} Trained on {record.lists:,} lists; step {record.best_step} of {record.steps} was kept.\n\n"
        f"| step | {DEV_METRIC} on dev |\n|---|---|\n{steps}\n\n"
        f"```json\n{json.dumps(record.recipe, indent=1)}\n{json.dumps(versions(), indent=1)}\n```\n\n"
        f"```python\nfrom sentence_transformers import {loaded}\n"
        f"model = {loaded}('path of this folder')\n{asked}\n```\n",
        encoding="utf-8",
    )
