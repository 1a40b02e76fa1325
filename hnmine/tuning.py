"""From negatives to re-rankers: the start, one model a preset, and the best of them on dev.

    anchored    the configured loss; every pair's mined negatives and its anchors (easier ones) in one list
    paper       arXiv 2505.18366 as written: margin loss on the mined negatives alone

A re-ranker that was trained before from the same start, lists, settings and versions is reused.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from hnmine import device as devices
from hnmine import weights
from hnmine.config import TrainConfig, TrainPreset
from hnmine.errors import DataError
from hnmine.fitting import DEV_METRIC, Recipe
from hnmine.lists import Lists, first_stage_anchors, random_anchors, training_lists
from hnmine.progress import say
from hnmine.runs import Run, digest, versions, write_json
from hnmine.splits import Splits
from hnmine.training import train

START = "start"


def tune(splits: Splits, config: TrainConfig, run: Run) -> dict[str, Any]:
    """Train every preset of the configuration and point OUT/reranker to the best on dev; return what to record.

    Raises:
        DataError: OUT holds no negatives of this data.
        ModelError: the start cannot be loaded, or training breaks.
    """
    tuning = _Tuning(splits, config, run)
    start, record = tuning.start()
    outcomes = {preset: tuning.fit(preset, start, *tuning.lists(preset), record["dev"]) for preset in config.presets}
    best = max(outcomes, key=lambda name: outcomes[name]["dev"])
    _point(run.out / "reranker", Path("rerankers") / best)
    after, before = outcomes[best]["dev"], outcomes[best]["dev_by_step"]["0"]
    say(
        "train",
        f"{run.out / 'reranker'} → rerankers/{best}: {DEV_METRIC} on dev {after:.3f} ({after - before:+.3f})",
    )
    return {"dev": splits.dev_name, "start": record, "best": best, "presets": outcomes}


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
        self._recipe = Recipe.of(config, device, devices.choose_dtype(config.dtype, device.kind))
        self._workers = config.workers or (max(1, devices.visible_gpus()) if device.kind == "gpu" else 1)
        self._pairs = splits.train
        if config.max_pairs is not None and config.max_pairs < len(splits.train):
            rng = np.random.default_rng(config.seed)
            self._pairs = splits.train.take(np.sort(rng.choice(len(splits.train), config.max_pairs, replace=False)))
        splits.first_stage(np.union1d(self._pairs.query_rows_P, splits.dev.query_rows_P))
        self._dev = splits.task(splits.dev, config.dev_queries, config.seed)
        say("train", f"dev: {len(self._dev):,} queries of {splits.dev_name}; training on {device}")

    def start(self) -> tuple[Path, dict[str, Any]]:
        """Return the re-ranker before fine-tuning and its record; a model without a ranking head is warmed up."""
        from hnmine.reranker import has_head

        config = self._config
        folder = weights.resolve(config.model, config.revision)
        if has_head(folder):
            return folder, {"model": config.model, "warmed_up": False, "dev": None}
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
            learning_rate=config.warm_up.learning_rate,
            epochs=config.warm_up.epochs,
            evaluations_per_epoch=1,
        )
        record = self.fit(START, folder, lists, recipe, None)
        return self._run.out / "rerankers" / START, {"model": config.model, "warmed_up": True, **record}

    def lists(self, preset: TrainPreset) -> tuple[Lists, Recipe]:
        """Return what a preset trains on, and how."""
        keys = zip(self._pairs.query_rows_P.tolist(), self._pairs.doc_rows_P.tolist(), strict=True)
        hard = [self._mined.get(key, []) for key in keys]
        anchors: list[list[int]] = [[] for _ in hard]
        settings, recipe = self._config.anchors, self._recipe
        if preset == "paper":
            recipe = replace(recipe, loss="margin")
        elif settings.source == "random":
            anchors = self._random(settings.per_pair)
        else:
            first = self._splits.first_stage(self._pairs.query_rows_P)
            upper = {query: rows[: settings.depth] for query, (rows, _) in first.items()}
            anchors = first_stage_anchors(self._pairs, self._positives, upper, settings.per_pair, self._config.seed)
        lists = training_lists(self._documents, self._queries, self._pairs, hard, anchors)
        if not len(lists):
            raise DataError(
                f"preset {preset}: none of {len(self._pairs)} train pairs has a negative, so there is nothing to train "
                "on; use --preset anchored with train.anchors.per_pair of 1 or more, or see `dropped` in manifest.json"
            )
        if not any(anchors):
            say(
                "train",
                f"{preset}: warning: without anchors every negative is nearer to its query than its positive, so that "
                '"less alike is better" fits all of them (similarity inversion); dev decides whether it harms',
            )
        mined = sum(1 for negatives in hard if negatives)
        say(
            "train",
            f"{preset}: {len(lists):,} pairs, {mined:,} of them with mined negatives; {recipe.loss} loss",
        )
        return lists, recipe

    def _random(self, per_pair: int) -> list[list[int]]:
        return random_anchors(self._pairs, self._positives, len(self._documents), per_pair, self._config.seed)

    def fit(self, name: str, start: Path, lists: Lists, recipe: Recipe, start_dev: float | None) -> dict[str, Any]:
        """Train one re-ranker and return its record, unless the same was trained before.

        `start_dev` is what the dev queries say of the start, where that is known already.
        """
        out, dev = self._run.out / "rerankers" / name, self._dev
        identity = digest(
            {
                "start": weights.folder_sha256(start),
                "lists": digest([lists.queries, lists.documents]),
                "dev": digest([dev.queries.texts, dev.doc_rows_QK.tolist(), sorted(dev.document_texts.items())]),
                "recipe": asdict(recipe),
                "workers": self._workers,
                "versions": versions(),
            }
        )
        path = out / "hnmine.json"
        if path.is_file():
            known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if known["identity"] == identity:
                say(
                    "train",
                    f"{name}: reused {out} (same pairs, settings, versions); {DEV_METRIC} on dev {known['dev']:.3f}",
                )
                return known
        trained = train(name, start, lists, dev, recipe, out, workers=self._workers, start_dev=start_dev)
        record = {
            "identity": identity,
            "lists": len(lists),
            "steps": trained.steps,
            "best_step": trained.best_step,
            "dev": trained.dev[trained.best_step],
            "dev_by_step": {str(step): value for step, value in trained.dev.items()},
            "recipe": asdict(recipe),
        }
        _write_card(out, name, record)
        write_json(path, record)  # last: a folder without it is not trusted
        before = f" (start {trained.dev[0]:.3f})" if 0 in trained.dev else ""
        say(
            "train",
            f"{name}: kept step {trained.best_step} of {trained.steps}, "
            f"{DEV_METRIC} on dev {record['dev']:.3f}{before}",
        )
        return record


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
    rows = pq.read_table(path, columns=["query_id", "positive_id", "negative_id", "rank"]).to_pylist()
    documents, queries = splits.collection.documents.row_of, splits.collection.queries.row_of
    mined: dict[tuple[int, int], list[int]] = {}
    try:
        for row in sorted(rows, key=lambda row: row["rank"]):
            key = queries[row["query_id"]], documents[row["positive_id"]]
            mined.setdefault(key, []).append(documents[row["negative_id"]])
    except KeyError as error:
        raise DataError(f"{path} names {error}, which --data does not have; mine again from this data") from None
    return mined


def _write_card(out: Path, name: str, record: dict[str, Any]) -> None:
    steps = "\n".join(f"| {step} | {value:.4f} |" for step, value in record["dev_by_step"].items())
    (out / "README.md").write_text(
        f"---\nlibrary_name: sentence-transformers\npipeline_tag: text-ranking\ntags: [cross-encoder, hnmine]\n---\n"
        f"# Re-ranker `{name}`, fine-tuned by hnmine\n\n"
        f"Trained on {record['lists']:,} lists; step {record['best_step']} of {record['steps']} was kept.\n\n"
        f"| step | {DEV_METRIC} on dev |\n|---|---|\n{steps}\n\n"
        f"```json\n{json.dumps(record['recipe'], indent=1)}\n{json.dumps(versions(), indent=1)}\n```\n\n"
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
