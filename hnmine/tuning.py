"""From negatives to re-rankers: the start, one model a preset, and the best of them on dev.

    anchored    the configured loss; every pair's mined negatives and its anchors (easier ones) in one list
    paper       arXiv 2505.18366 as written: margin loss on the mined negatives alone
    positives   row 2 of its tables: each positive by itself, no negative at all

A re-ranker that was trained before from the same start, lists, settings and versions is reused.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hnmine import device as devices
from hnmine import weights
from hnmine.config import TeacherConfig, TrainConfig, TrainPreset
from hnmine.errors import DataError
from hnmine.fitting import DEV_METRIC, Recipe
from hnmine.lists import Lists, first_stage_anchors, random_anchors, training_lists
from hnmine.progress import say, track
from hnmine.runs import Run, digest, versions, write_json
from hnmine.splits import Splits
from hnmine.trackers import tracking
from hnmine.training import train

START = "start"
_RECORD = "hnmine.json"
_FEW_QUERIES = 30


class _Record(BaseModel):
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


def tune(splits: Splits, config: TrainConfig, run: Run) -> tuple[dict[str, Any], dict[str, str]]:
    """Train every preset of the configuration and point OUT/reranker to the best on dev.

    Returns:
        what to record, and the sha256 of the models' files by path in OUT.

    Raises:
        DataError: OUT holds no negatives of this data, or a folder stands where the link belongs.
        ModelError: the start cannot be loaded, or training breaks.
    """
    link = run.out / "reranker"
    if link.exists() and not link.is_symlink():
        raise DataError(
            f"{link} is no link to the best of {run.out / 'rerankers'}; move it away or choose another --out"
        )
    tuning = _Tuning(splits, config, run)
    start, warm_up = tuning.start()
    start_dev = warm_up.dev if warm_up else None
    records = {preset: tuning.fit(preset, start, *tuning.lists(preset), start_dev) for preset in config.presets}
    best = max(records, key=lambda name: records[name].dev)
    _point(link, Path("rerankers") / best)
    after, (before, *_) = records[best].dev, records[best].dev_by_step.values()
    say("train", f"{link} → rerankers/{best}: {DEV_METRIC} on dev {after:.3f} ({after - before:+.3f})")
    files: dict[str, str] = {}
    for name, record in (*records.items(), *([(START, warm_up)] if warm_up else [])):
        folder = f"rerankers/{name}"
        files |= run.sha256_of(f"{folder}/{_RECORD}") | {f"{folder}/{file}": sha for file, sha in record.files.items()}
    found = {
        "dev": splits.dev_name,
        "kind": config.kind,
        "max_tokens": config.max_tokens,
        "start": {"model": config.model, "revision": config.revision, "warmed_up": warm_up is not None}
        | (warm_up.facts() if warm_up else {}),
        "best": best,
        "presets": {name: record.facts() for name, record in records.items()},
    }
    return found, files


class _Tuning:
    """What all presets share: the pairs, the mined negatives, the dev queries and the settings."""

    def __init__(self, splits: Splits, config: TrainConfig, run: Run) -> None:
        self._splits, self._config, self._run = splits, config, run
        self._documents, self._queries = splits.collection.documents, splits.collection.queries
        self._positives = _with_copies(splits)
        self._mined = {
            (query, positive): [row for row in rows if row not in self._positives[query]]  # judged since it was mined
            for (query, positive), rows in _read_negatives(run.out / "negatives.parquet", splits).items()
        }
        device = devices.choose(config.device)
        self._recipe = Recipe.of(config, device, devices.choose_dtype(config.dtype, device.kind, training=True))
        self._teacher = None if config.teacher is None else _Teacher(config.teacher, device)
        self._workers = config.workers or (max(1, devices.visible_gpus()) if device.kind == "gpu" else 1)
        self._pairs = splits.train
        if config.max_pairs is not None and config.max_pairs < len(splits.train):
            rng = np.random.default_rng(config.seed)
            self._pairs = splits.train.take(np.sort(rng.choice(len(splits.train), config.max_pairs, replace=False)))
        splits.first_stage(np.union1d(self._pairs.query_rows_P, splits.dev.query_rows_P))
        self._dev = splits.task(splits.dev, config.dev_queries, config.seed)
        fewer = f", fewer than train.dev_queries={config.dev_queries}" if len(self._dev) < config.dev_queries else ""
        say("train", f"dev: {len(self._dev):,} queries of {splits.dev_name}{fewer}; training on {device}")
        if len(self._dev) < _FEW_QUERIES:
            say(
                "train",
                f"warning: {len(self._dev)} dev queries are too few to tell a better step from a lucky one; judge "
                f"{_FEW_QUERIES} at least",
            )

    def start(self) -> tuple[Path, _Record | None]:
        """Return the re-ranker before fine-tuning; a model without a ranking head is warmed up, and has a record."""
        from hnmine.reranker import has_head

        config = self._config
        folder = weights.resolve(config.model, config.revision)
        if config.kind == "bi-encoder" or has_head(folder):
            return folder, None
        say(
            "train",
            f"{config.model} has no ranking head: warmed up first, on random negatives of the same pairs",
        )
        nothing: list[list[int]] = [[] for _ in range(len(self._pairs))]
        lists = training_lists(
            self._documents, self._queries, self._pairs, nothing, self._random(config.warm_up.negatives)
        )
        recipe = replace(
            self._recipe,
            loss="infonce",
            in_batch_negatives=0,
            learning_rate=config.warm_up.learning_rate,
            epochs=config.warm_up.epochs,
            evaluations_per_epoch=1,
        )
        record = self.fit(START, folder, lists, recipe, None)
        return self._run.out / "rerankers" / START, record

    def lists(self, preset: TrainPreset) -> tuple[Lists, Recipe]:
        """Return what a preset trains on, and how."""
        keys = zip(self._pairs.query_rows_P.tolist(), self._pairs.doc_rows_P.tolist(), strict=True)
        hard = [self._mined.get(key, []) for key in keys]
        anchors: list[list[int]] = [[] for _ in hard]
        settings, recipe = self._config.anchors, self._recipe
        if preset == "positives":
            recipe, hard = replace(recipe, loss="bce", in_batch_negatives=0), anchors
        elif preset == "paper":
            recipe = replace(recipe, loss="margin", in_batch_negatives=0)
        elif settings.source == "random":
            anchors = self._random(settings.per_pair)
        else:
            first = self._splits.first_stage(self._pairs.query_rows_P)
            upper = {query: rows[: settings.depth] for query, (rows, _) in first.items()}
            anchors = first_stage_anchors(self._pairs, self._positives, upper, settings.per_pair, self._config.seed)
        in_batch = recipe.in_batch_negatives
        lists = training_lists(
            self._documents,
            self._queries,
            self._pairs,
            hard,
            anchors,
            bare=preset == "positives" or in_batch > 0,
            positives=self._positives if in_batch else None,
        )
        if not len(lists):
            raise DataError(
                f"preset {preset}: none of {len(self._pairs)} train pairs has a negative, so there is nothing to train "
                "on; use --preset anchored with train.anchors.per_pair of 1 or more, or see `dropped` in manifest.json"
            )
        if preset == "positives":
            say("train", "positives: warning: without negatives all it can learn is that everything is right")
        elif not any(anchors) and not in_batch:
            say(
                "train",
                f"{preset}: warning: without anchors every negative is nearer to its query than its positive, so that "
                '"less alike is better" fits all of them (similarity inversion); dev decides whether it harms',
            )
        mined = sum(1 for negatives in hard if negatives)
        say(
            "train",
            f"{preset}: {len(lists):,} pairs, {mined:,} of them with mined negatives; {recipe.loss} loss"
            + (f", {in_batch:,} in-batch negatives a pair" if in_batch else ""),
        )
        return lists, recipe

    def _random(self, per_pair: int) -> list[list[int]]:
        return random_anchors(self._pairs, self._positives, len(self._documents), per_pair, self._config.seed)

    def fit(self, name: str, start: Path, lists: Lists, recipe: Recipe, start_dev: float | None) -> _Record:
        """Train one re-ranker and return its record, or that of the same trained before.

        `start_dev` is what the dev queries say of the start, where that is known already.
        """
        out, dev = self._run.out / "rerankers" / name, self._dev
        teacher = self._teacher if recipe.loss == "marginmse" else None
        settings = asdict(recipe) | ({} if teacher is None else {"teacher": teacher.facts()})
        identity = digest(
            {
                "start": weights.folder_sha256(start),
                "lists": digest([lists.queries, lists.documents, [sorted(texts) for texts in lists.judged]]),
                "dev": digest([dev.queries.texts, dev.doc_rows_QK.tolist(), sorted(dev.document_texts.items())]),
                "recipe": settings,
                "workers": self._workers,
                "versions": versions(),
            }
        )
        known = _read_record(name, out)
        if known is not None and known.identity == identity:
            if known.files == _files_of(out):
                say(
                    "train",
                    f"{name}: reused {out} (same pairs, settings, versions); {DEV_METRIC} on dev {known.dev:.3f}",
                )
                return known
            say("train", f"{name}: {out} is not as it was when its training ended, so it is trained again")
        if teacher is not None:
            lists = teacher.teach(name, lists, recipe.scale)
        curves = self._run.out / "tensorboard" / name
        with tracking(name, curves, self._config.mlflow, settings) as tracker:
            trained = train(
                name,
                start,
                lists,
                dev,
                recipe,
                out,
                workers=self._workers,
                identity=identity,
                start_dev=start_dev,
                tracker=tracker,
            )
        record = _Record(
            identity=identity,
            files=_files_of(out),
            lists=len(lists),
            steps=trained.steps,
            best_step=trained.best_step,
            dev=trained.dev[trained.best_step],
            dev_by_step={str(step): trained.dev[step] for step in sorted(trained.dev)},
            recipe=settings,
        )
        _write_card(out, name, record)
        write_json(out / _RECORD, record.model_dump())  # last: a folder without it is not trusted
        before = f" (start {trained.dev[0]:.3f})" if 0 in trained.dev else ""
        say(
            "train",
            f"{name}: kept step {trained.best_step} of {trained.steps}, {DEV_METRIC} on dev {record.dev:.3f}{before}",
        )
        return record


class _Teacher:
    """The cross-encoder that marginmse learns from, found before anything is trained and loaded when it is needed."""

    def __init__(self, config: TeacherConfig, device: devices.Choice) -> None:
        from hnmine.reranker import cross_encoder

        self._config, self._device = config, device
        self._dtype = devices.choose_dtype(config.dtype, device.kind)
        self._folder = cross_encoder("train.teacher.model", config.model, config.revision)

    def facts(self) -> dict[str, Any]:
        """Return all that decides its scores."""
        sha256 = digest(weights.folder_sha256(self._folder))
        return self._config.model_dump() | {"dtype": self._dtype, "files": sha256}

    def teach(self, name: str, lists: Lists, scale: float) -> Lists:
        """Return the lists with its scores, which a student's reach when multiplied by `scale`."""
        from hnmine.reranker import Reranker

        say("train", f"{name}: the teacher is {self._config.model} on {self._device}, {self._dtype}")
        device, most = self._device.torch_name, self._config.max_tokens
        reranker = Reranker(self._folder, max_tokens=most, device=device, dtype=self._dtype, engine=self._config.engine)
        sizes = [len(documents) for documents in lists.documents]
        queries = [query for query, size in zip(lists.queries, sizes, strict=True) for _ in range(size)]
        documents = [text for documents in lists.documents for text in documents]
        with track("train", f"{name}: taught", len(documents), "documents") as progress:
            scores = reranker.scores(queries, documents, progress.advance) / scale
        of_lists = np.split(scores, np.cumsum(sizes)[:-1])
        return replace(lists, teacher=tuple(tuple(scores.tolist()) for scores in of_lists))


def _read_record(name: str, folder: Path) -> _Record | None:
    path = folder / _RECORD
    if not path.is_file():
        return None
    try:
        return _Record.model_validate_json(path.read_bytes())
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
    say("train", f"{name}: {path} is not what a finished training leaves ({problem}), so it is trained again")
    return None


def _files_of(folder: Path) -> dict[str, str]:
    """Return the sha256 of a model's files, without its record."""
    return {name: value for name, value in weights.folder_sha256(folder).items() if name != _RECORD}


def _with_copies(splits: Splits) -> dict[int, set[int]]:
    """Return what is never a negative of a query row: its judged positives, and documents of the same text."""
    rows_of: dict[str, set[int]] = {}
    for row, text in enumerate(splits.collection.documents.texts):
        rows_of.setdefault(text, set()).add(row)
    texts = splits.collection.documents.texts
    positives = splits.collection.positives()
    return {query: set().union(*(rows_of[texts[row]] for row in rows)) for query, rows in positives.items()}


def _read_negatives(path: Path, splits: Splits) -> dict[tuple[int, int], list[int]]:
    """Return the mined document rows by (query row, positive row), nearest first."""
    if not path.is_file():
        raise DataError(f"{path} does not exist; run `hnmine mine` with the same --data and --out first")
    try:
        rows = pq.read_table(path).select(["query_id", "positive_id", "negative_id", "rank"]).to_pylist()
        rows.sort(key=lambda row: row["rank"])
    except (OSError, ValueError, TypeError, KeyError) as error:  # Arrow's errors are children of these
        raise DataError(f"{path} cannot be read ({str(error).splitlines()[0]}); run `hnmine mine` again") from None
    documents, queries = splits.collection.documents.row_of, splits.collection.queries.row_of
    mined: dict[tuple[int, int], list[int]] = {}
    try:
        for row in rows:
            key = queries[row["query_id"]], documents[row["positive_id"]]
            mined.setdefault(key, []).append(documents[row["negative_id"]])
    except KeyError as error:
        raise DataError(f"{path} names {error}, which --data does not have; mine again from this data") from None
    return mined


def _write_card(out: Path, name: str, record: _Record) -> None:
    steps = "\n".join(f"| {step} | {value:.4f} |" for step, value in record.dev_by_step.items())
    (out / "README.md").write_text(
        f"---\nlibrary_name: sentence-transformers\npipeline_tag: text-ranking\ntags: [cross-encoder, hnmine]\n---\n"
        f"# Re-ranker `{name}`, fine-tuned by hnmine\n\n"
        f"Trained on {record.lists:,} lists; step {record.best_step} of {record.steps} was kept.\n\n"
        f"| step | {DEV_METRIC} on dev |\n|---|---|\n{steps}\n\n"
        f"```json\n{json.dumps(record.recipe, indent=1)}\n{json.dumps(versions(), indent=1)}\n```\n\n"
        "```python\nfrom sentence_transformers import CrossEncoder\nCrossEncoder('path of this folder')"
        ".predict([('query', 'document')])\n```\n",
        encoding="utf-8",
    )


def _point(link: Path, target: Path) -> None:
    """Let `link` point to `target` (relative), by one rename."""
    hidden = link.with_name(f".{link.name}.tmp")
    hidden.unlink(missing_ok=True)
    hidden.symlink_to(target, target_is_directory=True)
    hidden.replace(link)
