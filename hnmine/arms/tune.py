"""From negatives to re-rankers: the start, one model a preset, and the best of them on dev.

    anchored    the configured loss; every pair's mined negatives and its anchors (easier ones) in one list
    distilled   the same, with lessons from first stage and encoders among them (`distillation`), where these can teach
    paper       arXiv 2505.18366 as written: margin loss on the mined negatives alone
    positives   row 2 of its tables: each positive by itself, no negative at all
    others      a way to choose negatives that `hnmine compare` knows (`ground`), trained in full

All begin at the same start; `bench` trains them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from hnmine.arms.arm import Arm, Ground, preset_arms
from hnmine.config.root import Config
from hnmine.errors import DataError
from hnmine.models import folder as weights
from hnmine.ranking.splits import Splits
from hnmine.runs.folder import Run
from hnmine.runs.progress import say
from hnmine.training.lessons import lessons_if_any
from hnmine.training.lists import Lists, first_stage_anchors, training_lists
from hnmine.training.trainer import START, Bench, Record
from hnmine.training.worker import DEV_METRIC, Recipe

_ANCHORS_DEPTH = 50  # documents of a query's first stage that anchors are drawn from
_PAPER_RATE = 0.2
"""Of the learning rate by default: larger steps on its triplets alone made re-rankers worse (`benchmarks/LOG.md`)."""


def tune(splits: Splits, whole: Config, run: Run) -> tuple[dict[str, Any], dict[str, str]]:
    """Train every preset of the configuration and point OUT/reranker to the best on dev.

    Returns:
        what to record, and the sha256 of the models' files by path in OUT.

    Raises:
        ConfigError: a preset is not known.
        DataError: OUT holds no negatives of this data, or a folder stands where the link belongs.
        ModelError: the start cannot be loaded, or training breaks.
    """
    config, link = whole.train, run.out / "reranker"
    if link.exists() and not link.is_symlink():
        raise DataError(
            f"{link} is no link to the best of {run.out / 'rerankers'}; move it away or choose another --out"
        )
    bench = Bench(splits, whole, run)
    presets = _Presets(bench, splits, whole, run)
    start, warm_up = bench.start()
    records: dict[str, Record] = {}
    others: dict[str, Record] = {START: warm_up} if warm_up else {}
    told: dict[str, Any] = {}
    for preset in config.presets:
        lists, recipe, its = presets.chosen(preset, start)
        told |= its
        records[preset] = bench.fit(preset, start, lists, recipe)
        if not records[preset].best_step:
            say(
                "train",
                f"{preset}: no step beats the start on dev, which stays as it is; try train.learning_rate="
                f"{recipe.learning_rate / 5:g} instead of {recipe.learning_rate:g}",
                level="warning",
            )
    best = max(records, key=lambda name: records[name].dev)
    _point(link, Path("rerankers") / best)
    after, before = records[best].dev, bench.start_dev[start]
    say("train", f"{link} → rerankers/{best}: {DEV_METRIC} on dev {after:.3f} ({after - before:+.3f})")
    files: dict[str, str] = {}
    for name, record in (records | others).items():
        folder = f"rerankers/{name}"
        files |= run.sha256_of(f"{folder}/{weights.RECORD}") | {
            f"{folder}/{file}": sha for file, sha in record.files.items()
        }
    found = {
        "dev": splits.dev_name,
        "kind": config.kind,
        "max_tokens": config.max_tokens,
        "start": {"model": config.model, "warmed_up": warm_up is not None}
        | (warm_up.facts() if warm_up else {}),
        "best": best,
        "presets": {name: record.facts() for name, record in records.items()},
    } | told
    return found, files


class _Presets:
    """What each preset trains on."""

    def __init__(self, bench: Bench, splits: Splits, whole: Config, run: Run) -> None:
        self._bench, self._splits, self._whole, self._run = bench, splits, whole, run
        self._config, self._arms = whole.train, preset_arms(whole)
        self._ground: Ground | None = None
        run.require_mined()
        self._mined = {
            (query, positive): [
                row for row in rows if row not in bench.positives.get(query, ())
            ]  # judged since it was mined
            for (query, positive), rows in _read_negatives(run.out / "negatives.parquet", splits).items()
        }

    def chosen(self, preset: str, start: Path) -> tuple[Lists, Recipe, dict[str, Any]]:
        """Return what a preset trains on, how, and what the manifest tells of it."""
        if preset == "distilled":
            lists, recipe = self.lists(preset, start)
            taught = lessons_if_any(self._bench, self._splits, self._whole, self._run)
            if taught is None:
                return lists, recipe, {}
            say("train", f"distilled: with {len(taught.lists):,} lessons among them")
            return lists.with_lessons(taught.lists), recipe, {"distilled": taught.facts()}
        if preset not in self._arms:
            return *self.lists(preset, start), {}
        self._ground = ground = self._ground or Ground(self._bench, start, self._splits, self._whole, self._run)
        arm = self._arms[preset]
        told: dict[str, Any] = {}
        lists, recipe = self._of_arm(preset, arm, ground)
        if arm.distillation and (own := ground.lessons()):
            told["distilled"] = own.facts()
        return lists, recipe, told

    def _of_arm(self, name: str, arm: Arm, ground: Ground) -> tuple[Lists, Recipe]:
        lists, recipe, facts = ground.lists(arm, self._whole.seed)
        if not len(lists):
            raise DataError(f"preset {name}: no train pair has a negative by it, or there is no lesson for it")
        if arm.loss == "margin" and self._config.learning_rate is None:
            recipe = replace(recipe, learning_rate=recipe.learning_rate * _PAPER_RATE)
        say(
            "train",
            f"{name}: {len(lists):,} lists, {facts['negatives']:,} negatives of {facts['pairs_with_negatives']:.0%} of "
            f"the pairs; {recipe.loss} loss",
        )
        return lists, recipe

    def lists(self, preset: str, start: Path) -> tuple[Lists, Recipe]:
        """Return what a preset trains on, and how; of the start only its mistakes are asked."""
        bench = self._bench
        keys = zip(bench.pairs.query_rows_P.tolist(), bench.pairs.doc_rows_P.tolist(), strict=True)
        hard = [self._mined.get(key, []) for key in keys]
        anchors: list[list[int]] = [[] for _ in hard]
        per_pair, recipe = self._config.anchors, bench.recipe
        if preset == "positives":
            recipe, hard = replace(recipe, loss="bce", in_batch_negatives=0), anchors
        elif preset == "paper":
            rate = self._config.learning_rate or recipe.learning_rate * _PAPER_RATE
            recipe = replace(recipe, loss="margin", in_batch_negatives=0, learning_rate=rate)
        else:
            first = self._splits.first_stage(bench.pairs.query_rows_P)
            upper = {query: rows[:_ANCHORS_DEPTH] for query, (rows, _) in first.items()}
            anchors = first_stage_anchors(bench.pairs, bench.positives, upper, per_pair, self._whole.seed)
        in_batch = recipe.in_batch_negatives
        lists = training_lists(
            bench.documents,
            bench.queries,
            bench.pairs,
            hard,
            anchors,
            bare=preset == "positives" or in_batch > 0,
            positives=bench.positives if in_batch else None,
        )
        if not len(lists):
            raise DataError(
                f"preset {preset}: none of {len(bench.pairs)} train pairs has a negative, so there is nothing to train "
                "on; use --preset anchored with train.anchors of 1 or more, or see `dropped` in manifest.json"
            )
        if preset == "positives":
            say("train", "positives: without negatives all it can learn is that everything is right", level="warning")
        elif not any(anchors) and not in_batch:
            say(
                "train",
                f"{preset}: without anchors every negative is nearer to its query than its positive, so that "
                '"less alike is better" fits all of them (similarity inversion); dev decides whether it harms',
                level="warning",
            )
        mined = sum(1 for negatives in hard if negatives)
        say(
            "train",
            f"{preset}: {len(lists):,} pairs, {mined:,} of them with mined negatives; {recipe.loss} loss"
            + (f", {in_batch:,} in-batch negatives a pair" if in_batch else ""),
        )
        return lists, recipe


def _read_negatives(path: Path, splits: Splits) -> dict[tuple[int, int], list[int]]:
    """Return the mined document rows by (query row, positive row), nearest first."""
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


def _point(link: Path, target: Path) -> None:
    """Let `link` point to `target` (relative), by one rename."""
    hidden = link.with_name(f".{link.name}.tmp")
    hidden.unlink(missing_ok=True)
    hidden.symlink_to(target, target_is_directory=True)
    hidden.replace(link)
