"""Arms side by side: one start, one budget, every way to choose negatives; what each is worth on the test queries.

An arm says which lists the re-ranker is trained on; all else is the same. Its learning rate is the best on dev, found
with the first seed: of one small grid, and beyond its end as long as dev gains, so that no arm loses by its step size.
With `compare.sizes` and `compare.models` there is a table for each number of train pairs and each start: which way is
best may depend on both. What is done is kept and not done again:

OUT/compare/<arm>-<seed>.json               one training: its learning rate, dev and test metrics, yield
OUT/evaluation/compare-<arm>-<seed>.parquet  its scores and metrics, query by query
OUT/compare.md, OUT/compare.json            the tables, renewed after every training

Where there are several tables, `-<pairs>` and `-<model>` follow the seed.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from hnmine.arms.arm import Arm, Ground, known_arms, named_arms
from hnmine.comparison import audit as auditing
from hnmine.config.base import slug
from hnmine.config.root import Config
from hnmine.errors import DataError
from hnmine.ranking.evaluate import TESTED, Blend, Scorer
from hnmine.ranking.significance import paired
from hnmine.ranking.splits import Splits
from hnmine.ranking.task import METRICS, PerQuery, means, measure, table_by_length
from hnmine.runs.files import write_json
from hnmine.runs.folder import Kept, Run, read_kept, versions
from hnmine.runs.hashing import digest
from hnmine.runs.progress import clock, say, track
from hnmine.training.lists import Lists
from hnmine.training.trainer import Bench, Record
from hnmine.training.worker import Recipe
from hnmine.types import Float32, Float64

FIRST_STAGE, NO_TRAINING = "first stage", "no fine-tuning"
_FEWEST_TRIALS = 30  # hidden right answers that are worth a share
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
    blend: dict[str, float]
    """What it is blended with, by weights that dev chooses."""
    blended: dict[str, float]
    """The metrics of that."""
    scores: dict[str, str]
    """sha256 of the file of its scores, by path in OUT."""
    seconds: float


def compare(splits: Splits, config: Config, run: Run) -> dict[str, Any]:
    """Train and measure every arm; return the tables and what they are made of.

    Raises:
        ConfigError: an arm is not known.
        DataError: there are fewer train pairs than `compare.sizes` asks for.
    """
    chosen = _chosen_arms(config)
    blocks = _blocks(splits, config, chosen, run)
    order = list(product(range(config.compare.seeds), blocks, chosen))
    text, pace = "", _Pace()
    for done, (seed, block, name) in enumerate(order, 1):
        cell = block.cells.cell(name, chosen[name], config.seed + seed, block.pairs)
        if cell is None:
            say("compare", f"{name}: there is nothing to train on, no pair has a negative or nobody a lesson; left out")
            continue
        block.found.setdefault(name, []).append(cell)
        text = _tables([block for block in blocks if block.found])
        run.write_text("compare.md", f"```\n{text}\n```\n")
        pace.add(cell[0], first=not seed)
        if done < len(order):
            left = clock(sum(pace.seconds(its.lists(chosen[arm]), first=not of) for of, its, arm in order[done:]))
            say("compare", f"{done} of {len(order)} trainings are in {run.out / 'compare.md'}; about {left} left")
    if not text:
        raise DataError(
            f"none of {', '.join(chosen)} has anything to train on; name other arms (`hnmine compare --list`)"
        )
    record = {
        "table": text,
        "queries": len(blocks[0].cells.test),
        "blocks": [block.facts() for block in blocks],
        "config": config.model_dump(mode="json"),
        "versions": versions(),
    }
    write_json(run.out / "compare.json", record)
    return record


@dataclass(kw_only=True)
class _Pace:
    """How long cells take: by their lists, and by the learning rates that an arm's first seed tries for all seeds."""

    took: float = 0.0
    lists: int = 0
    rates: list[int] = field(default_factory=list)

    def add(self, cell: Cell, *, first: bool) -> None:
        self.took += cell.seconds
        self.lists += cell.lists * len(cell.dev_by_rate)
        self.rates += [len(cell.dev_by_rate)] if first else []

    def seconds(self, lists: int, *, first: bool) -> float:
        return self.took / self.lists * lists * (statistics.fmean(self.rates) if first else 1)


@dataclass(frozen=True, kw_only=True)
class _Block:
    """One table: a start and a number of train pairs, and what was found."""

    cells: _Cells
    pairs: int | None
    """None: all."""
    label: str
    """Empty if there is no other."""
    references: dict[str, tuple[PerQuery, dict[str, float]]]
    """What nothing was trained for: metrics, and those of the blend."""
    hidden: Mapping[str, float]
    """Of each arm the share of hidden right answers, where it can be measured; the start judges some."""
    found: dict[str, list[tuple[Cell, PerQuery]]] = field(default_factory=dict)

    def lists(self, arm: Arm) -> int:
        """Return about how many lists an arm trains on: one a pair, and lessons."""
        pairs = 0 if arm.distillation == "alone" else self.pairs or self.cells.pairs
        return pairs + (self.cells.lessons if arm.distillation else 0)

    def facts(self) -> dict[str, Any]:
        arms = {name: [cell.model_dump() for cell, _ in cells] for name, cells in self.found.items()}
        model = self.cells.model
        facts = {"model": model, "pairs": self.pairs or self.cells.pairs, "hidden_positives": self.hidden, "arms": arms}
        return facts | {name: {"metrics": means(of), "blended": mine} for name, (of, mine) in self.references.items()}


def _blocks(splits: Splits, config: Config, chosen: Mapping[str, Arm], run: Run) -> list[_Block]:
    models, sizes = config.compare.models or (config.train.model,), config.compare.sizes or (None,)
    there = min(len(splits.train), config.train.max_pairs or len(splits.train))
    if config.compare.sizes and max(config.compare.sizes) > there:
        raise DataError(f"compare.sizes asks for {max(config.compare.sizes):,} train pairs, there are {there:,}")
    blocks = []
    for model in models:
        train = config.train.model_copy(update={"model": model})
        own = f"-{slug(Path(model).name)}" if len(models) > 1 else ""
        cells = _Cells(splits, config.model_copy(update={"train": train}), run, own)
        references, hidden = cells.references(), cells.hidden_rates(chosen)
        for pairs in sizes:
            of_size = "" if pairs is None else f"{pairs:,} pairs"
            label = ", ".join(filter(None, [of_size, Path(model).name if len(models) > 1 else ""]))
            blocks.append(_Block(cells=cells, pairs=pairs, label=label, references=references, hidden=hidden))
    return blocks


def refuse_unknown(config: Config) -> None:
    """Raise ConfigError if an arm is not known: before the collection is read."""
    _chosen_arms(config)


def _chosen_arms(config: Config) -> dict[str, Arm]:
    if config.compare.arms is not None:
        return named_arms(config, config.compare.arms, "compare.arms")
    others = config.train.pairs_per_batch - 1
    unasked = {name: arm for name, arm in known_arms(config).items() if not arm.asked}
    return {name: arm for name, arm in unasked.items() if arm.of_batch(config.compare.negatives) <= others}


class _Cells:
    """Trainings of arms from one start, and what they are worth on the test queries."""

    def __init__(self, splits: Splits, config: Config, run: Run, own: str = "") -> None:
        """Make the start if it has no ranking head; `own` marks what is kept of this one."""
        self._config, self._run, self._own = config, run, own
        self.model, self.first_stage = config.train.model, config.evaluate.first_stage
        self._bench = Bench(splits, config, run)
        self._start, _ = self._bench.start(f"{_START}{own}")
        self._ground = Ground(self._bench, self._start, splits, config, run)
        self.pairs, self.lessons = len(self._bench.pairs), config.train.lessons
        self._order = np.random.default_rng(config.seed).permutation(self.pairs)
        self.test = splits.task(splits.test, config.evaluate.queries, config.seed)
        scoring = config.train.kind, config.train.max_tokens, run
        self._scorer = Scorer(self.test, config, *scoring)
        self._blend = Blend(splits, self.test, config, *scoring)
        self._scorers = [self._scorer] if self._blend.scorer is None else [self._scorer, self._blend.scorer]
        self._rates: dict[tuple[str, int | None], float] = {}  # of what has a learning rate already

    def references(self) -> dict[str, tuple[PerQuery, dict[str, float]]]:
        """Return the test metrics of the first stage and of the re-ranker that all arms begin with, and of blends."""
        name = f"compare: start{self._own}"
        scores = {
            FIRST_STAGE: [self.test.first_scores_QK],
            NO_TRAINING: [scorer.scores(name, self._start) for scorer in self._scorers],
        }
        return {row: (measure(self.test, of[0]), means(self._blend.of(*of)[1])) for row, of in scores.items()}

    def hidden_rates(self, chosen: Mapping[str, Arm]) -> dict[str, float]:
        """Return how often each arm's first negative is a hidden right answer, where the train pairs can tell."""
        ground = self._ground
        trials = auditing.hide(ground.pairs, ground.groups_N, ground.judged)
        if len(trials.pairs) < _FEWEST_TRIALS:
            return {}
        # a tuned encoder has seen what is hidden
        asked = {name: arm for name, arm in chosen.items() if arm.rule is not None and arm.tuned is None}
        rates: dict[str, float] = {}
        with track("audit", "hidden positives", len(asked) * len(trials.pairs), "pairs") as progress:
            for name, arm in asked.items():
                found, _ = ground.negatives(arm, 1, 0, trials.pairs, trials.known, each_alone=True)
                first = [(pair, rows[0]) for pair, rows in enumerate(found) if rows]
                pair_M, doc_M = np.array(first, dtype=np.int64).reshape(-1, 2).T
                rates[name] = auditing.Audited.of(trials, pair_M, doc_M).hidden_rate
                progress.advance(len(trials.pairs))
        return rates

    def cell(self, name: str, arm: Arm, seed: int, pairs: int | None) -> tuple[Cell, PerQuery] | None:
        """Train the arm with this seed and measure it, or return what was measured before; None: on nothing.

        Of the pairs so many, drawn by `seed`, the fewer among the more; None: all.
        """
        began = time.monotonic()
        own = f"{slug(name)}-{seed}{self._own if pairs is None else f'-{pairs}{self._own}'}"
        path = self._run.out / "compare" / f"{own}.json"
        known_rate = self._rates.get((name, pairs))
        rates = self._config.compare.learning_rates if known_rate is None else (known_rate,)
        lists, recipe, facts = self._ground.lists(arm, seed, None if pairs is None else np.sort(self._order[:pairs]))
        if not len(lists):
            return None
        identity = digest([self._bench.identity(self._start, lists, replace(recipe, learning_rate=r)) for r in rates])
        identity = digest([identity, self._scorer.identity])
        known, asked = read_kept(path, Cell, identity), f"compare: {own}"
        scores = None if known is None else self._stored(asked, known.scores)
        if known is None or scores is None:
            records = self._at_rates(own, lists, recipe, rates)
            best = max(records, key=lambda rate: records[rate].dev)
            model = self._model(own, best)
            scores, kept = [scorer.scores(asked, model) for scorer in self._scorers], {}
            trained = {
                "identity": identity,
                "arm": name,
                "seed": seed,
                "learning_rate": best,
                "dev_by_rate": {f"{rate:g}": record.dev for rate, record in records.items()},
                "best_step": records[best].best_step,
                "lists": len(lists),
                **facts,
                "seconds": round(time.monotonic() - began, 1),
            }
        else:
            trained = known.model_dump(exclude={"metrics", "blend", "blended", "scores"})
            kept = known.scores  # of dev too, where nothing is blended this time
        values = measure(self.test, scores[0])
        weights, of_blend = self._blend.of(*scores)
        files = kept | self._run.sha256_of(*(scorer.table_of(asked) for scorer in self._scorers))
        cell = Cell(**trained, metrics=means(values), blend=weights, blended=means(of_blend), scores=files)
        path.parent.mkdir(exist_ok=True)
        write_json(path, cell.model_dump())
        for rate in cell.dev_by_rate:
            shutil.rmtree(self._model(own, float(rate)), ignore_errors=True)  # all arms' would fill a disk
        self._rates[name, pairs] = cell.learning_rate
        tested = f"{TESTED} {cell.metrics[TESTED]:.3f} at a learning rate of {cell.learning_rate:g}"
        on = "" if pairs is None else f", {pairs:,} pairs"
        say("compare", f"{name}, seed {seed}{on}: {tested}")
        return cell, values

    def _at_rates(self, own: str, lists: Lists, recipe: Recipe, rates: Sequence[float]) -> dict[float, Record]:
        """Train at each learning rate; where the largest of several is the best on dev, at twice that too, and so on.

        So no arm loses by a grid that ends too early for it.
        """

        def fit(rate: float) -> Record:
            return self._bench.fit(f"{own}-{rate:g}", self._start, lists, replace(recipe, learning_rate=rate))

        records = {rate: fit(rate) for rate in rates}
        largest = max(records)
        while len(records) > 1 and all(records[largest].dev > records[rate].dev for rate in records if rate < largest):
            largest *= 2
            records[largest] = fit(largest)
        return records

    def _model(self, own: str, rate: float) -> Path:
        return self._run.out / "rerankers" / f"{own}-{rate:g}"

    def _stored(self, asked: str, files: Mapping[str, str]) -> list[Float32] | None:
        """Return the scores on test and dev that a cell left, if its files are as they were."""
        wanted = [scorer.table_of(asked) for scorer in self._scorers]
        if self._run.sha256_of(*wanted) != {path: files.get(path) for path in wanted}:
            return None
        found = [scores for scorer in self._scorers if (scores := scorer.stored(asked)) is not None]
        return found if len(found) == len(wanted) else None


def _tables(blocks: Sequence[_Block]) -> str:
    """Return the table of every block, and before them, if there are several, one of all."""
    seeds = max(len(cells) for block in blocks for cells in block.found.values())
    parts = [
        f"{len(blocks[0].cells.test):,} test queries, {seeds} seed(s); spread: the highest {TESTED} of an arm's seeds "
        "less the lowest\n"
        f"blended: {TESTED} of a sum of the scores, those of the first stage and of the encoders, weighted on dev\n"
        "hidden: share of first negatives that are right answers nobody had labelled, where that can be measured"
    ]
    if (first_stage := blocks[0].cells.first_stage) != "bm25":
        parts[0] += f"\nBM25, in a name, is the first stage, here {first_stage}"
    if len(blocks) > 1:
        parts.append(_side_by_side(blocks))
    for block in blocks:
        values = _over_seeds(block.found, TESTED)
        of = {name: of for name, (of, _) in block.references.items()}
        of |= {name: {TESTED: values[name]} for name in _ordered(values)}
        parts += [block.label] if block.label else []
        parts.append(arms_table(block.found, block.references, block.hidden))
        parts += [by_length] if (by_length := table_by_length(block.cells.test, of)) else []
    return "\n\n".join(parts)


def _side_by_side(blocks: Sequence[_Block]) -> str:
    """Return one table of the arms' means, a column a block."""
    columns = [{name: float(of[TESTED].mean()) for name, (of, _) in block.references.items()} for block in blocks]
    for column, block in zip(columns, blocks, strict=True):
        column |= {name: float(of.mean()) for name, of in _over_seeds(block.found, TESTED).items()}
    names = list(dict.fromkeys(name for column in columns for name in column))
    width = max(map(len, names))
    lines = ["  ".join([f"{TESTED:<{width}}", *(block.label for block in blocks)])]
    for name in names:
        cells = (f"{column[name]:.3f}" if name in column else "" for column in columns)
        fields = [f"{cell:>{len(block.label)}}" for cell, block in zip(cells, blocks, strict=True)]
        lines.append("  ".join([f"{name:<{width}}", *fields]))
    return "\n".join(lines)


def _over_seeds(found: Mapping[str, list[tuple[Cell, PerQuery]]], metric: str) -> dict[str, Float64]:
    """Return of each arm every query's mean over the seeds."""
    return {name: np.mean([of[metric] for _, of in cells], axis=0) for name, cells in found.items()}


def _ordered(values: Mapping[str, Float64]) -> list[str]:
    return sorted(values, key=lambda name: -float(values[name].mean()))


def arms_table(
    found: Mapping[str, list[tuple[Cell, PerQuery]]],
    references: Mapping[str, tuple[PerQuery, dict[str, float]]],
    hidden: Mapping[str, float],
) -> str:
    """Return the table of the arms so far, the best first: means over seeds, and paired tests over the queries.

    Tested are each query's means over the seeds, against the start and against the arm with the highest mean.
    """
    values = _over_seeds(found, TESTED)
    order = _ordered(values)
    start, _ = references[NO_TRAINING]
    width = max(map(len, [*references, *order]))
    head = "  ".join(f"{metric:>7}" for metric in METRICS)
    lines = [f"{'':<{width}}  {head}  blended  spread  yield  hidden    rate  against start           p  p to first"]
    for name, (of, mine) in references.items():
        cells_of = "  ".join(f"{value:>7.3f}" for value in means(of).values())
        lines.append(f"{name:<{width}}  {cells_of}  {mine[TESTED]:>7.3f}")
    for name in order:
        cells = [cell for cell, _ in found[name]]
        of_metric = {metric: [cell.metrics[metric] for cell in cells] for metric in METRICS}
        to_start = paired(values[name], start[TESTED])
        to_first = "" if name == order[0] else f"{paired(values[order[0]], values[name]).p:>11.2g}"
        share = float(np.mean([cell.pairs_with_negatives for cell in cells]))
        lines.append(
            f"{name:<{width}}  "
            + "  ".join(f"{np.mean(of):>7.3f}" for of in of_metric.values())
            + f"  {np.mean([cell.blended[TESTED] for cell in cells]):>7.3f}"
            + f"  {np.ptp(of_metric[TESTED]):>6.3f}  {share:>5.0%}  "
            + (f"{hidden[name]:>6.1%}" if name in hidden else f"{'':>6}")
            + f"  {cells[0].learning_rate:>6.0e}"
            + f"  {to_start.difference:+.3f} ({to_start.low:+.3f} to {to_start.high:+.3f})"
            + f"  {to_start.p:>6.2g}{to_first}"
        )
    return "\n".join(lines)
