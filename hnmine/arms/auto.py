"""Preset `auto`: which negatives help depends on the domain, so a few ways are tried and the best is trained in full.

Successive halving (Jamieson and Talwalkar, arXiv 1502.07943): each arm at each learning rate trains on the same few
pairs; the better half by MRR@10 on dev goes on with twice as many, from the same start, until one is left. The dev
queries that choose the arm choose the step as well, so what they say of the winner flatters it; the test queries see
none of this. As with every preset, the start is kept where nothing beats it on dev.

OUT/auto/<arm>-<learning rate>-<pairs>.json keeps what one trial said, so none is made twice.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hnmine.arms.arm import Arm, Ground
from hnmine.config.base import slug
from hnmine.config.training import AutoConfig
from hnmine.errors import DataError
from hnmine.runs.folder import Kept, Run, read_kept, write_json
from hnmine.runs.progress import say
from hnmine.training.lists import Lists
from hnmine.training.trainer import Bench
from hnmine.training.worker import DEV_METRIC, Recipe
from hnmine.types import Int64


class Trial(Kept):
    """What one training of an arm on some pairs said."""

    arm: str
    learning_rate: float
    pairs: int
    lists: int
    dev: float
    """The best MRR@10 of its steps; that of the start, if it has one, is not among them."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The arm that won, what it trains on, how, and all trials."""

    arm: str
    lists: Lists
    recipe: Recipe
    trials: list[Trial]

    def facts(self) -> dict[str, Any]:
        """Return what the manifest tells of the choice."""
        of = [trial.model_dump(exclude={"identity"}) for trial in self.trials]
        return {"arm": self.arm, "learning_rate": self.recipe.learning_rate, "trials": of}


def choose(
    bench: Bench,
    ground: Ground,
    arms: Mapping[str, Arm],
    config: AutoConfig,
    run: Run,
) -> Chosen:
    """Try the arms and return the best.

    Args:
        bench: pairs, dev queries, trainings.
        ground: makes an arm's lists.
        arms: by name.
        config: how many pairs are first, and which learning rates.
        run: where trials are kept.

    Raises:
        DataError: no arm has a negative of any pair.
    """
    trials = _Trials(bench, ground, arms, run)
    order = np.random.default_rng(bench.recipe.seed).permutation(len(bench.pairs))
    left = [(name, rate) for name in arms for rate in config.learning_rates]
    pairs, every = config.pairs, []
    while len(left) > 1:
        at = np.sort(order[:pairs])
        found = [trial for name, rate in left if (trial := trials.trial(name, rate, at)) is not None]
        if not found:
            raise DataError(
                f"preset auto: none of {len(at)} train pairs has a negative by any of {', '.join(arms)}; name others "
                "in train.auto.arms (`hnmine compare --list`)"
            )
        found.sort(key=lambda trial: -trial.dev)  # of equals the first in the list of arms
        every += found
        half = found[: len(left) // 2]
        best = half[0]
        say(
            "train",
            f"auto: {len(found)} trials on {len(at):,} pairs, {len(half)} go on; first {best.arm} at a learning rate "
            f"of {best.learning_rate:g}, {DEV_METRIC} on dev {best.dev:.3f}",
        )
        left = [(trial.arm, trial.learning_rate) for trial in half]
        pairs *= 2
    name, rate = left[0]
    lists, recipe, _ = ground.lists(arms[name], bench.recipe.seed)
    say("train", f"auto: {name} at a learning rate of {rate:g} is trained in full")
    recipe = replace(recipe, learning_rate=rate)
    return Chosen(arm=name, lists=lists, recipe=recipe, trials=every)


class _Trials:
    """Makes trials, or finds them."""

    def __init__(
        self,
        bench: Bench,
        ground: Ground,
        arms: Mapping[str, Arm],
        run: Run,
    ) -> None:
        self._bench, self._ground, self._arms, self._run = bench, ground, arms, run

    def trial(self, name: str, rate: float, at: Int64) -> Trial | None:
        """Train an arm on the pairs at these positions, or return what was found before; None: on nothing."""
        bench, arm, start = self._bench, self._arms[name], self._ground.start
        lists, recipe, _ = self._ground.lists(arm, bench.recipe.seed, at, len(at) / len(bench.pairs))
        if not len(lists):
            return None
        recipe = replace(recipe, learning_rate=rate, evaluations_per_epoch=1)
        own = f"{slug(name)}-{rate:g}-{len(at)}"
        path = self._run.out / "auto" / f"{own}.json"
        identity = bench.identity(start, lists, recipe)
        trial = read_kept(path, Trial, identity)
        if trial is None:
            record = bench.fit(f"auto-{own}", start, lists, recipe)
            trial = Trial(
                identity=identity,
                arm=name,
                learning_rate=rate,
                pairs=len(at),
                lists=len(lists),
                dev=max(value for step, value in record.dev_by_step.items() if step != "0"),
            )
            path.parent.mkdir(exist_ok=True)
            write_json(path, trial.model_dump())
        shutil.rmtree(self._run.out / "rerankers" / f"auto-{own}", ignore_errors=True)
        return trial
