"""Arms side by side: one start, one budget, every way to choose negatives; what each is worth on the test queries.

An arm says which lists the re-ranker is trained on; all else is the same. Its learning rate is the best on dev of one
small grid, found with the first seed, so that no arm loses by its step size. What is done is kept and not done again:

OUT/compare/<arm>-<seed>.json               one training: its learning rate, dev and test metrics, yield
OUT/evaluation/compare-<arm>-<seed>.parquet  its scores and metrics, query by query
OUT/compare.md, OUT/compare.json            the table, renewed after every training
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from hnmine import auditing
from hnmine.bench import Bench
from hnmine.config import Config
from hnmine.evaluation import METRICS, PerQuery, means, measure
from hnmine.ground import Arm, Ground, known_arms, named_arms, slug
from hnmine.progress import say, track
from hnmine.ranking import TESTED, Scorer, table_of
from hnmine.runs import Kept, Run, digest, read_kept, versions, write_json
from hnmine.significance import paired
from hnmine.splits import Splits

NO_TRAINING = "no fine-tuning"
_START = "compare-start"
"""Of its own: what `train` left, and `evaluate` compares with, began with another if a setting differs."""


class Cell(Kept):
    """One training of one arm; OUT/compare/<arm>-<seed>.json."""

    arm: str
    seed: int
    learning_rate: float
    dev_by_rate: dict[str, float]
    """MRR@10 on the dev queries, by learning rate."""
    best_step: int
    lists: int
    negatives: int
    pairs_with_negatives: float
    """The share of the pairs: the yield."""
    metrics: dict[str, float]
    """On the test queries."""
    scores: dict[str, str]
    """sha256 of the file of its scores, by path in OUT."""
    seconds: float


def compare(splits: Splits, config: Config, run: Run) -> dict[str, Any]:
    """Train and measure every arm; return the table and what it is made of.

    Raises:
        ConfigError: an arm is not known.
    """
    chosen = _chosen_arms(config)
    cells = _Cells(splits, config, run)
    hidden, start = cells.hidden_rates(chosen), cells.start_values()
    found: dict[str, list[tuple[Cell, PerQuery]]] = {}
    table = ""
    for seed in range(config.compare.seeds):
        for name, arm in chosen.items():
            cell = cells.cell(name, arm, config.train.seed + seed)
            if cell is None:
                say("compare", f"{name}: no pair has a negative, so there is nothing to train on; left out")
                continue
            found.setdefault(name, []).append(cell)
            table = _table(found, start, hidden)
            run.write_text("compare.md", f"```\n{table}\n```\n")
    record = {
        "table": table,
        "queries": len(cells.test),
        "start": means(start),
        "hidden_positives": hidden,
        "arms": {name: [cell.model_dump() for cell, _ in cells] for name, cells in found.items()},
        "config": config.model_dump(mode="json"),
        "versions": versions(),
    }
    write_json(run.out / "compare.json", record)
    return record


def refuse_unknown(config: Config) -> None:
    """Raise ConfigError if an arm is not known: before the collection is read."""
    _chosen_arms(config)


def _chosen_arms(config: Config) -> dict[str, Arm]:
    if config.compare.arms is not None:
        return named_arms(config, config.compare.arms, "compare.arms")
    return {name: arm for name, arm in known_arms(config).items() if not arm.asked}


class _Cells:
    """Trainings of arms on one ground, and what they are worth on the test queries."""

    def __init__(self, splits: Splits, config: Config, run: Run) -> None:
        self._config, self._run = config, run
        self._bench = Bench(splits, config.train, run)
        self._start, _ = self._bench.start(_START)
        self._ground = Ground(self._bench, self._start, splits, config, run)
        self.test = splits.task(splits.test, config.evaluate.queries, config.evaluate.seed)
        self._scorer = Scorer(self.test, config, config.train.kind, config.train.max_tokens, run)
        self._rates: dict[str, float] = {}  # of the arms whose learning rate is chosen

    def start_values(self) -> PerQuery:
        """Return the test metrics of the re-ranker that all arms begin with."""
        return measure(self.test, self._scorer.scores("compare: start", self._start))

    def hidden_rates(self, chosen: Mapping[str, Arm]) -> dict[str, float]:
        """Return how often each rule's first negative is a hidden right answer, where the train pairs can tell."""
        ground = self._ground
        trials = auditing.hide(ground.pairs, ground.groups_N)
        rates: dict[str, float] = {}
        for arms_of in _by_space(chosen) if len(trials.pairs) else ():
            rules = {name: arm.rule for name, arm in arms_of.items() if arm.rule is not None}
            space = ground.space(next(iter(arms_of.values())), 0)
            with track("audit", "hidden positives", len(trials.pairs), "pairs") as progress:
                audited = auditing.audit(
                    space, trials, seed=0, rules=rules, first_QK=ground.first_QK, done=progress.advance
                )
            rates |= {name: found.hidden_rate for name, found in audited.items()}
        return rates

    def cell(self, name: str, arm: Arm, seed: int) -> tuple[Cell, PerQuery] | None:
        """Train the arm with this seed and measure it, or return what was measured before; None: on nothing."""
        began = time.monotonic()
        own = f"{slug(name)}-{seed}"
        path = self._run.out / "compare" / f"{own}.json"
        rates = (self._rates[name],) if name in self._rates else self._config.compare.learning_rates
        lists, recipe, facts = self._ground.lists(arm, seed)
        if not len(lists):
            return None
        recipes = {rate: replace(recipe, learning_rate=rate) for rate in rates}
        identity = digest([self._bench.identity(self._start, lists, each) for each in recipes.values()])
        identity = digest([identity, self._scorer.identity])
        known = read_kept(path, Cell, identity)
        values = self._scorer.stored(f"compare: {own}") if known and self._are_whole(known.scores) else None
        fitted = {rate: f"{own}-{rate:g}" for rate in rates}
        folders = {rate: self._run.out / "rerankers" / model for rate, model in fitted.items()}
        if known is None or values is None:
            records = {rate: self._bench.fit(fitted[rate], self._start, lists, each) for rate, each in recipes.items()}
            best = max(records, key=lambda rate: records[rate].dev)
            values = measure(self.test, self._scorer.scores(f"compare: {own}", folders[best]))
            known = Cell(
                identity=identity,
                arm=name,
                seed=seed,
                learning_rate=best,
                dev_by_rate={f"{rate:g}": record.dev for rate, record in records.items()},
                best_step=records[best].best_step,
                lists=len(lists),
                **facts,
                metrics=means(values),
                scores=self._run.sha256_of(table_of(f"compare: {own}")),
                seconds=round(time.monotonic() - began, 1),
            )
            path.parent.mkdir(exist_ok=True)
            write_json(path, known.model_dump())
        for folder in folders.values():
            shutil.rmtree(folder, ignore_errors=True)  # the models of all arms would fill a disk
        self._rates[name] = known.learning_rate
        tested = f"{TESTED} {known.metrics[TESTED]:.3f} at a learning rate of {known.learning_rate:g}"
        say("compare", f"{name}, seed {seed}: {tested}")
        return known, values

    def _are_whole(self, files: Mapping[str, str]) -> bool:
        """Whether these files of the run are as they were."""
        return self._run.sha256_of(*files) == files


def _by_space(chosen: Mapping[str, Arm]) -> list[dict[str, Arm]]:
    """Return the arms whose rule alone decides, by the space that it looks in."""
    found: dict[Any, dict[str, Arm]] = {}
    for name, arm in chosen.items():
        if arm.rule is not None and arm.judge is None and arm.tuned is None:  # a tuned encoder has seen what is hidden
            found.setdefault((arm.encoder, arm.reduce and arm.reduce.model_dump_json()), {})[name] = arm
    return list(found.values())


def _table(found: Mapping[str, list[tuple[Cell, PerQuery]]], start: PerQuery, hidden: Mapping[str, float]) -> str:
    """Return the table of the arms so far, the best first: means over seeds, and paired tests over the queries.

    Tested are each query's means over the seeds, against the start and against the arm with the highest mean.
    """
    values = {name: np.mean([of[TESTED] for _, of in cells], axis=0) for name, cells in found.items()}
    order = sorted(values, key=lambda name: -float(values[name].mean()))
    width = max(len(NO_TRAINING), *map(len, order))
    head = "  ".join(f"{metric:>7}" for metric in METRICS)
    lines = [f"{'':<{width}}  {head}  spread  yield  hidden  against start           p  p to first"]
    lines.append(f"{NO_TRAINING:<{width}}  " + "  ".join(f"{value:>7.3f}" for value in means(start).values()))
    for name in order:
        cells = [cell for cell, _ in found[name]]
        of_metric = {metric: [cell.metrics[metric] for cell in cells] for metric in METRICS}
        to_start = paired(values[name], start[TESTED])
        to_first = "" if name == order[0] else f"{paired(values[order[0]], values[name]).p:>11.2g}"
        share = float(np.mean([cell.pairs_with_negatives for cell in cells]))
        lines.append(
            f"{name:<{width}}  "
            + "  ".join(f"{np.mean(of):>7.3f}" for of in of_metric.values())
            + f"  {np.ptp(of_metric[TESTED]):>6.3f}  {share:>5.0%}  "
            + (f"{hidden[name]:>6.1%}" if name in hidden else f"{'':>6}")
            + f"  {to_start.difference:+.3f} ({to_start.low:+.3f} to {to_start.high:+.3f})"
            + f"  {to_start.p:>6.2g}{to_first}"
        )
    seeds = max(len(cells) for cells in found.values())
    queries = f"{len(start[TESTED]):,} test queries, {seeds} seed(s)"
    return "\n".join(
        [
            f"{queries}; spread: the highest {TESTED} of an arm's seeds less the lowest",
            "hidden: share of first negatives that are right answers nobody had labelled, where that can be measured",
            "",
            *lines,
        ]
    )
