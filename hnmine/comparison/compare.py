"""Arms side by side: one start, one budget, every way to choose negatives; what each is worth on the test queries.

With `compare.sizes` and `compare.models` there is a table for each number of train pairs and each start: which arm is
best may depend on both. What is done is kept and not done again (`cells`).

OUT/compare.md, OUT/compare.json    the tables, renewed after every training
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import yaml

from hnmine.arms.arm import Arm, compared_arms
from hnmine.arms.list_maker import read_mined
from hnmine.comparison.cells import FIRST_STAGE, NO_TRAINING, Arrived, Cells
from hnmine.config.base import slug
from hnmine.config.root import Config
from hnmine.errors import DataError
from hnmine.project import Project
from hnmine.ranking.evaluate import Measured, Ranking
from hnmine.ranking.measures import MAIN_METRIC, METRICS, Task, means, paired
from hnmine.report.rankings import length_table
from hnmine.runs.files import write_json
from hnmine.runs.manifest import versions
from hnmine.runs.progress import clock, say
from hnmine.runs.tables import text_table
from hnmine.training.lists import TrainingData
from hnmine.types import Float64

_NOT_OF_TRAINING = {"compare", "nightly", "select", "guards"}
"""Sections of the configuration that the training of the winner does not read."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """One table: the arms that began with the same start and had the same number of pairs."""

    label: str
    """Empty if there is no other block."""
    references: Mapping[str, Measured]
    hidden: Mapping[str, float]
    """Share of an arm's first negatives that are right answers nobody had labelled, where it can be measured."""
    arms: dict[str, list[Arrived]] = field(default_factory=dict)
    """Of each arm the cells, one a seed."""
    start: str = ""
    """What has to be known of the model that all arms began with."""

    def per_query(self, name: str, metric: str = MAIN_METRIC) -> Float64:
        """Return every query's value (Q,) of a reference, or its mean over the seeds of an arm."""
        if name in self.references:
            return self.references[name].alone.values[metric]
        mean_Q: Float64 = np.mean([each.values[metric] for each in self.arms[name]], axis=0)
        return mean_Q

    def names(self) -> list[str]:
        """Return the references, then the arms, the best first."""
        return [*self.references, *sorted(self.arms, key=lambda name: -self.per_query(name).mean())]


@dataclass(frozen=True, kw_only=True)
class Setup(Block):
    """A table, and what is trained for it."""

    cells: Cells
    pairs: int | None
    """Number of train pairs; None: all."""

    def work(self, arm: Arm, seed: int, config: Config) -> int:
        """Return about how many lists a cell trains on: one a pair, and lessons; the first seed tries all rates."""
        pairs = 0 if arm.lessons == "alone" else self.pairs or self.cells.pairs
        lists = pairs + (config.train.lessons if arm.lessons else 0)
        return lists * (1 if seed else len(config.compare.learning_rates))

    def facts(self) -> dict[str, Any]:
        """Return what compare.json records."""
        return {
            "model": self.cells.model,
            "pairs": self.pairs or self.cells.pairs,
            "hidden_positives": self.hidden,
            "arms": {name: [each.cell.model_dump() for each in cells] for name, cells in self.arms.items()},
            "against_start": {
                name: vars(paired(self.per_query(name), self.per_query(NO_TRAINING))) for name in self.arms
            },
        } | {
            name: {"metrics": means(each.alone.values), "blended": means(each.best.values)}
            for name, each in self.references.items()
        }


def compare(project: Project) -> dict[str, Any]:
    """Train and measure every arm; return the record, with the tables and the command that trains the winner."""
    config, run = project.config, project.run
    # Make the starts, and measure what is trained for none of the arms.
    arms = compared_arms(config)
    setups = _setups(project, arms)
    # Train cell by cell, and write the tables after each.
    order = list(product(range(config.compare.seeds), setups, arms))
    text, seconds, work = "", 0.0, 0
    for done, (seed, setup, name) in enumerate(order, 1):
        found = setup.cells.cell(name, arms[name], config.seed + seed, setup.pairs)
        if found is None:
            say("compare", f"{name}: there is nothing to train on, no pair has a negative or nobody a lesson; left out")
            continue
        setup.arms.setdefault(name, []).append(found)
        shown = [each for each in setups if each.arms]
        text = comparison_text(shown, project.evaluator.test, config.evaluate.first_stage)
        run.write_text("compare.md", f"```\n{text}\n```\n")
        seconds, work = seconds + found.cell.seconds, work + setup.work(arms[name], seed, config)
        if done < len(order):
            left = seconds / work * sum(each.work(arms[arm], number, config) for number, each, arm in order[done:])
            message = f"{done} of {len(order)} trainings are in {run.out / 'compare.md'}; about {clock(left)} left"
            say("compare", message)
    if not text:
        raise DataError(
            f"none of {', '.join(arms)} has anything to train on; name other arms (`hnmine compare --list`)"
        )
    # Record, and say how the winner is trained.
    record = {
        "table": text,
        "winner": _winner_text(project, setups),
        "queries": len(project.evaluator.test),
        "blocks": [setup.facts() for setup in setups],
        "config": config.model_dump(mode="json"),
        "versions": versions(),
    }
    write_json(run.out / "compare.json", record)
    return record


def _setups(project: Project, arms: Mapping[str, Arm]) -> list[Setup]:
    """Return a setup for each start and number of pairs."""
    config, settings = project.config, project.config.compare
    # Take the train pairs.
    models, sizes = settings.models or (config.train.model,), settings.sizes or (None,)
    data = TrainingData.of(project.splits, config.train, config.seed)
    if settings.sizes and max(settings.sizes) > len(data.pairs):
        raise DataError(f"compare.sizes asks for {max(settings.sizes):,} train pairs, there are {len(data.pairs):,}")
    mined = read_mined(project.run, data) if any(arm.mined for arm in arms.values()) else {}
    # Make the starts.
    setups = []
    for model in models:
        name = Path(model).name if len(models) > 1 else ""
        cells = Cells(project, data, model, mined, f"-{slug(name)}" if name else "")
        references, hidden = cells.references(), cells.hidden_rates(arms)
        for pairs in sizes:
            label = ", ".join(filter(None, ["" if pairs is None else f"{pairs:,} pairs", name]))
            made = Setup(
                label=label, references=references, hidden=hidden, cells=cells, pairs=pairs, start=cells.start_text
            )
            setups.append(made)
    return setups


def _winner_text(project: Project, setups: Sequence[Setup]) -> str:
    """Return whether an arm is worth its training, and as the last line the command that makes what is best on dev."""
    # Choose on dev: test has to stay unseen.
    candidates = [
        (fmean(max(each.cell.dev_by_rate.values()) for each in cells), setup, name)
        for setup in setups
        for name, cells in setup.arms.items()
    ]
    dev, setup, name = max(candidates, key=lambda candidate: candidate[0])
    cells = setup.arms[name]
    blended_dev = fmean(each.cell.blended_on_dev[MAIN_METRIC] for each in cells)
    label = f"{name}, blended" if blended_dev > dev else name
    shown = f"{label} ({setup.label})" if setup.label else label
    values = [each.blended if blended_dev > dev else each.values for each in cells]
    best_Q = np.mean([of_seed[MAIN_METRIC] for of_seed in values], axis=0)

    # Put it beside all that needs no training.
    untrained: dict[str, Ranking] = {}
    for reference, each in setup.references.items():
        untrained |= {reference: each.alone} | ({f"{reference}, blended": each.blend} if each.blend else {})
    rival = max(untrained, key=lambda key: on_dev(untrained[key]))
    tests = [
        f"{paired(best_Q, untrained[key].values[MAIN_METRIC])} against {key}"
        for key in dict.fromkeys([FIRST_STAGE, rival])
    ]
    figures = f"{MAIN_METRIC} on dev {max(dev, blended_dev):.3f}, and {on_dev(untrained[rival]):.3f} of {rival}"
    gains = f"On test {'; '.join(tests)}."
    if on_dev(untrained[rival]) >= max(dev, blended_dev):
        command = _command(project, "evaluate", setup, {})
        return (
            f"Deploy it or not? No arm: {rival} needs no training and is not beaten on dev. Of the arms the best is "
            f"{shown}: {figures}. {gains}\nThis writes what is best to {project.run.out / 'ranker'}:\n{command}"
        )
    train = {"learning_rate": cells[0].cell.learning_rate} | ({} if setup.pairs is None else {"max_pairs": setup.pairs})
    command = _command(project, "train", setup, train, "--preset", slug(name))
    return f"Deploy it or not? Best on dev of all is {shown}: {figures}. {gains}\nThis trains it:\n{command}"


def on_dev(ranking: Ranking) -> float:
    """Return the main metric on dev, without which nothing is trained."""
    assert ranking.dev is not None
    return float(ranking.dev[MAIN_METRIC].mean())


def _command(project: Project, step: str, setup: Setup, train: Mapping[str, Any], *options: str) -> str:
    """Return the command of a step with every setting that it reads and that is not a default."""
    config = project.config
    settings = config.train.model_dump(mode="json", exclude_defaults=True)
    settings.pop("presets", None)
    settings |= {"model": setup.cells.model, **train}
    sections = config.model_dump(mode="json", exclude_defaults=True, exclude=_NOT_OF_TRAINING) | {"train": settings}
    command = ["hnmine", step, "--data", project.data, "--out", str(project.run.out), *options]
    return shlex.join(command + [part for setting in _as_overrides(sections) for part in ("--set", setting)])


def _as_overrides(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the leaves of a tree of settings as `key=value`."""
    overrides = []
    for key, value in tree.items():
        if isinstance(value, dict):
            overrides += _as_overrides(value, f"{prefix}{key}.")
        else:
            is_plain = isinstance(value, str) and yaml.safe_load(value) == value
            overrides.append(f"{prefix}{key}={value if is_plain else json.dumps(value)}")
    return overrides


def comparison_text(blocks: Sequence[Block], task: Task, first_stage: str) -> str:
    """Return what has to be known to read the tables, one of all blocks if there are several, and each block's."""
    seeds = max(len(found) for block in blocks for found in block.arms.values())
    legend = [
        f"{len(task):,} test queries, {seeds} seed(s)",
        f"spread: the highest {MAIN_METRIC} of an arm's seeds less the lowest",
        f"blended: {MAIN_METRIC} of a sum of scores, with those of first stage and encoders, weighted on dev",
        "hidden: share of first negatives that are right answers nobody had labelled, where that can be measured",
    ]
    if first_stage != "bm25":
        legend.append(f"BM25, in a name, is the first stage, here {first_stage}")
    parts = ["\n".join(legend), all_blocks_table(blocks) if len(blocks) > 1 else ""]
    for block in blocks:
        rows = {name: {MAIN_METRIC: block.per_query(name)} for name in block.names()}
        parts += [block.label, block.start, arms_table(block), length_table(task, rows)]
    return "\n\n".join(filter(None, parts))


def arms_table(block: Block) -> str:
    """Return one line an arm, the best first: means over seeds, tested against the start and against the first arm."""
    # Show what no arm was trained for.
    headers = ["", *METRICS, "blended", "spread", "yield", "hidden", "rate", "against start", "p", "p to first"]
    rows = [
        [
            name,
            *(f"{value:.3f}" for value in (*means(each.alone.values).values(), means(each.best.values)[MAIN_METRIC])),
        ]
        for name, each in block.references.items()
    ]
    # Show the arms, and test them.
    names = block.names()[len(block.references) :]
    for name in names:
        mean_Q, cells = block.per_query(name), [each.cell for each in block.arms[name]]
        to_start = paired(mean_Q, block.per_query(NO_TRAINING))
        rows.append(
            [
                name,
                *(f"{block.per_query(name, metric).mean():.3f}" for metric in METRICS),
                f"{fmean(cell.blended[MAIN_METRIC] for cell in cells):.3f}",
                f"{np.ptp([each.values[MAIN_METRIC].mean() for each in block.arms[name]]):.3f}",
                f"{fmean(cell.pairs_with_negatives for cell in cells):.0%}",
                f"{block.hidden[name]:.1%}" if name in block.hidden else "",
                f"{cells[0].learning_rate:.0e}",
                f"{to_start.difference:+.3f} ({to_start.low:+.3f} to {to_start.high:+.3f})",
                f"{to_start.p:.2g}",
                "" if name == names[0] else f"{paired(block.per_query(names[0]), mean_Q).p:.2g}",
            ]
        )
    return text_table(rows, headers)


def all_blocks_table(blocks: Sequence[Block]) -> str:
    """Return the main metric of every arm, a column a block."""
    columns = [{name: f"{block.per_query(name).mean():.3f}" for name in block.names()} for block in blocks]
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [[name, *(column.get(name, "") for column in columns)] for name in names]
    return text_table(rows, [MAIN_METRIC, *(block.label for block in blocks)])
