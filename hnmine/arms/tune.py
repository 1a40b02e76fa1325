"""From arms to re-rankers: each arm trains one from the same start, and the best of them on dev is what is deployed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hnmine.arms.arm import Arm, preset_arms
from hnmine.arms.list_maker import ListMaker, read_mined
from hnmine.arms.trained import Shelf
from hnmine.embedding.ensemble import Ensemble
from hnmine.errors import DataError
from hnmine.models.folder import folder_sha256
from hnmine.ranking.measures import MAIN_METRIC
from hnmine.ranking.splits import Splits
from hnmine.runs.files import digest, settle
from hnmine.runs.folder import RERANKERS, START
from hnmine.runs.progress import say
from hnmine.training.trainer import WARMED_UP, Trainer, Training

BEST = "reranker"
"""The link in OUT that points to the best re-ranker."""


def train_presets(
    trainer: Trainer, splits: Splits, ensemble: Ensemble, *, earlier: bool = True
) -> tuple[dict[str, Any], dict[str, str]]:
    """Train every arm that train.presets names, and point OUT/reranker to the best on dev of all in OUT.

    With `earlier` those that earlier commands trained are among them.

    Returns:
        what to record, and the sha256 of the models' files by path in OUT.

    Raises:
        ConfigError: a preset is not known.
        DataError: OUT lacks negatives that an arm needs, an arm has nothing to train on, or a folder stands where the
            link belongs.
        ModelError: the start cannot be loaded, or training breaks.
    """
    # Refuse what cannot end well.
    run, config, arms = trainer.run, trainer.config, preset_arms(trainer.config)
    link = run.out / BEST
    if link.exists() and not link.is_symlink():
        raise DataError(f"{link} is no link to the best of {run.out / RERANKERS}; move it away or choose another --out")
    mined = read_mined(run, trainer.data) if any(arm.mined for arm in arms.values()) else {}
    # Train the arms.
    start, warm_up = trainer.start()
    maker, shelf = ListMaker(trainer, start, splits, ensemble, mined), Shelf(trainer, earlier=earlier)
    for name, arm in arms.items():
        shelf.add(name, _train(name, arm, maker, trainer, start, shelf))
    # Choose the best, and point to it.
    known = {name: shelf.known[name] for name in (*arms, *(name for name in shelf.known if name not in arms))}
    best = max(known, key=lambda name: known[name].dev)
    renamed = link.with_name(f".{link.name}.tmp")  # one rename, so that there is a link at any time
    renamed.unlink(missing_ok=True)
    renamed.symlink_to(Path(RERANKERS) / best, target_is_directory=True)
    renamed.replace(link)
    settle(run.out)
    after, before = known[best].dev, trainer.start_dev(start)
    of_earlier = "" if best in arms else ", of an earlier command and better than what was trained now"
    say("train", f"{link} → {RERANKERS}/{best}: {MAIN_METRIC} on dev {after:.3f} ({after - before:+.3f}){of_earlier}")
    # Record what was found.
    files = shelf.files() | (run.cache.files(f"{RERANKERS}/{START}") if warm_up else {})
    warmed_up = {"warmed_up": warm_up is not None} | (warm_up.model_dump() | {"head": WARMED_UP} if warm_up else {})
    found: dict[str, Any] = {
        "dev": trainer.data.dev_name,
        "kind": config.train.kind,
        "max_tokens": config.train.max_tokens,
        "start": {"model": config.train.model, "files": digest(folder_sha256(trainer.model))} | warmed_up,
        "best": best,
        "presets": {name: each.facts() for name, each in known.items()},
    }
    if any(arm.lessons for arm in arms.values()) and maker.lessons is not None:
        found["distilled"] = maker.lessons.facts()
    return found, files


def _train(name: str, arm: Arm, maker: ListMaker, trainer: Trainer, start: Path, shelf: Shelf) -> Training:
    """Train one arm, and say what may be wrong with it."""
    lists, recipe, facts = maker.lists(arm, trainer.config.seed)
    if not lists:
        raise DataError(
            f"preset {name}: none of {len(trainer.data.pairs)} train pairs has a negative, or there is no lesson, so "
            "there is nothing to train on; use --preset anchored with train.anchors of 1 or more, or see `dropped` in "
            "manifest.json"
        )
    # Say what it trains on, and warn of lists that teach the wrong thing.
    lessons, share = sum(each.is_lesson for each in lists), facts["pairs_with_negatives"]
    among = f", {lessons:,} lessons among them" if lessons else ""
    distinct = f"{facts['negatives']:,} negatives, {facts['documents']:,} distinct documents"
    negatives = f"{distinct}, of {share:.0%} of the pairs"
    say("train", f"{name}: {len(lists):,} lists{among}; {negatives}; {recipe.loss} loss")
    if arm.mined and not (arm.anchored and trainer.config.train.anchors):
        say(
            "train",
            f"{name}: without anchors every negative is nearer to its query than its positive, so that "
            '"less alike is better" fits all of them (similarity inversion); dev decides whether it harms',
            level="warning",
        )
    if not facts["negatives"] and not recipe.in_batch_negatives and not lessons:
        say("train", f"{name}: without negatives all it can learn is that everything is right", level="warning")
    # Train, and suggest smaller steps where these led nowhere.
    shelf.make_room(name, trainer.identity(start, lists, recipe))
    training = trainer.fit(name, start, lists, recipe)
    if not training.best_step:
        say(
            "train",
            f"{name}: no step beats the start on dev, which stays as it is; try train.learning_rate="
            f"{recipe.learning_rate / 5:g} instead of {recipe.learning_rate:g}, or other arms (`hnmine compare`)",
            level="warning",
        )
    return training
