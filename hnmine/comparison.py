"""Arms side by side: one start, one budget, every way to choose negatives; what each is worth on the test queries.

An arm says which lists the re-ranker is trained on; all else is the same. Its learning rate is the best on dev of one
small grid, found with the first seed, so that no arm loses by its step size. What is done is kept and not done again:

OUT/compare/<arm>-<seed>.json               one training: its learning rate, dev and test metrics, yield
OUT/evaluation/compare-<arm>-<seed>.parquet  its scores and metrics, query by query
OUT/compare.md, OUT/compare.json            the table, renewed after every training
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from hnmine import arms, auditing
from hnmine.bench import Bench
from hnmine.config import Config
from hnmine.ensemble import Ensemble, encode
from hnmine.errors import ConfigError
from hnmine.evaluation import METRICS, PerQuery, means, measure
from hnmine.first_stage import NO_ROW
from hnmine.fitting import Recipe
from hnmine.lists import Lists, training_lists
from hnmine.mining import groups_of_equal_text
from hnmine.progress import say, track
from hnmine.ranking import TESTED, Scorer
from hnmine.rules import GUARDED, MIXTURES, RULES, Rule, about
from hnmine.runs import Run, digest, versions, write_json
from hnmine.select import Known
from hnmine.significance import paired
from hnmine.splits import Splits
from hnmine.star import TrainingSet
from hnmine.train_config import Loss
from hnmine.tuned import Method, Tuned, start_of
from hnmine.types import Int64, Pairs, Role, Space, Texts

NO_TRAINING = "no fine-tuning"


_TUNED: dict[Method, str] = {
    "STAR": "The nearest to a bi-encoder tuned with static hard and random negatives (arXiv 2104.08051).",
    "ADORE + STAR": "The nearest to STAR's, its query tower then tuned against what it finds (arXiv 2104.08051).",
    "ANCE": "The nearest to a bi-encoder whose hard negatives are found anew every epoch (arXiv 2007.00808).",
}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to choose what is trained on."""

    about: str
    rule: Rule | None = None
    """Chooses negatives of each pair; None: there are none."""
    encoder: str | None = None
    """In whose own space the rule looks; None: in that of the ensemble."""
    tuned: Method | None = None
    """By which the encoder is tuned first in whose space the rule looks; None: it is not."""
    in_batch: bool = False
    """Whether as many positives of the other pairs of a step are negatives too."""
    loss: Loss | None = None
    """None: the configured one."""


def known_arms(config: Config) -> dict[str, Arm]:
    """Return every arm by name, in the order of the table; with several encoders the two conditions in each as well."""
    found = {
        "positives only": Arm(about="Each positive by itself, no negative at all.", loss="bce"),
        "in-batch": Arm(about="Positives of the other pairs in the step.", in_batch=True),
    }
    found |= {name: Arm(about=about(rule), rule=rule) for name, rule in (RULES | GUARDED | MIXTURES).items()}
    what = "The two conditions and the margin loss, as in arXiv 2505.18366."
    found["the paper"] = Arm(about=what, rule=RULES["two conditions"], loss="margin")
    found["BM25 and in-batch"] = Arm(about="Half of each.", rule=RULES["BM25"], in_batch=True)
    if start_of(config) is not None:
        found |= {name: Arm(about=what, rule=RULES["nearest document"], tuned=name) for name, what in _TUNED.items()}
    if len(config.encoders) > 1:
        for encoder in config.encoders:
            what = f"The two conditions in the space of {encoder.name} alone."
            rule = RULES["two conditions"]
            found[f"two conditions, {encoder.name}"] = Arm(about=what, rule=rule, encoder=encoder.name)
    return found


class Cell(BaseModel):
    """One training of one arm; OUT/compare/<arm>-<seed>.json."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    identity: str
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
    seconds: float


def compare(splits: Splits, config: Config, run: Run) -> dict[str, Any]:
    """Train and measure every arm; return the table and what it is made of.

    Raises:
        ConfigError: an arm is not known.
    """
    chosen = _chosen_arms(config)
    ground = _Ground(splits, config, run)
    hidden, start = ground.hidden_rates(chosen), ground.start_values()
    found: dict[str, list[tuple[Cell, PerQuery]]] = {}
    table = ""
    for seed in range(config.compare.seeds):
        for name, arm in chosen.items():
            cell = ground.cell(name, arm, config.train.seed + seed)
            if cell is None:
                say("compare", f"{name}: no pair has a negative, so there is nothing to train on; left out")
                continue
            found.setdefault(name, []).append(cell)
            table = _table(found, start, hidden)
            run.write_text("compare.md", f"```\n{table}\n```\n")
    record = {
        "table": table,
        "queries": len(ground.test),
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
    known = known_arms(config)
    if config.compare.arms is None:
        return known
    name_of = {slug(name): name for name in known}
    if unknown := [name for name in config.compare.arms if slug(name) not in name_of]:
        raise ConfigError(f"compare.arms: {', '.join(unknown)} is not known; known are: {', '.join(name_of)}")
    return {name_of[slug(name)]: known[name_of[slug(name)]] for name in config.compare.arms}


def slug(name: str) -> str:
    """Return an arm's name as it is written on a command line and in file names."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")


class _Ground:
    """What all arms share: pairs, spaces, first stage, start, test queries."""

    def __init__(self, splits: Splits, config: Config, run: Run) -> None:
        self._splits, self._config, self._run = splits, config, run
        self._bench = Bench(splits, config.train, run)
        pairs = self._bench.pairs
        rows, at = np.unique(pairs.query_rows_P, return_inverse=True)
        self._local = Pairs(query_rows_P=at.astype(np.int64), doc_rows_P=pairs.doc_rows_P)
        texts: dict[Role, Texts] = {"document": self._bench.documents, "query": self._bench.queries.take(rows.tolist())}
        self._encoders = [encoder.name for encoder in config.encoders]
        self._ensemble: Ensemble = encode(texts, config, run)
        first = splits.first_stage(pairs.query_rows_P)
        self._first_QK: Int64 = np.stack([first[row][0] for row in rows.tolist()])
        self._groups_N = groups_of_equal_text(self._bench.documents)
        self._start, warm_up = self._bench.start()
        self._start_dev = None if warm_up is None else warm_up.dev
        self.test = splits.task(splits.test, config.evaluate.queries, config.evaluate.seed)
        self._scorer = Scorer(self.test, config, config.train.kind, config.train.max_tokens, run)
        self._tuned: Tuned | None = None
        self._rates: dict[str, float] = {}  # of the arms whose learning rate is chosen

    def start_values(self) -> PerQuery:
        """Return the test metrics of the re-ranker that all arms begin with."""
        return measure(self.test, self._scorer.scores("compare: start", self._start))

    def space(self, arm: Arm, seed: int) -> Space:
        """Return the space in which the arm's rule looks."""
        if arm.tuned is not None:
            self._tuned = self._tuned or Tuned(self._training_set(), self._config, self._run)
            return self._tuned.space(arm.tuned, seed)
        if arm.encoder is None:
            return self._ensemble.space
        return self._ensemble.single_spaces()[self._encoders.index(arm.encoder)]

    def _training_set(self) -> TrainingSet:
        rows = np.unique(self._bench.pairs.query_rows_P).tolist()
        known = {at: self._bench.positives[row] for at, row in enumerate(rows)}
        queries = self._bench.queries.take(rows)
        return TrainingSet(documents=self._bench.documents, queries=queries, pairs=self._local, known=known)

    def hidden_rates(self, chosen: Mapping[str, Arm]) -> dict[str, float]:
        """Return how often each rule's first negative is a hidden right answer, where the train pairs can tell."""
        trials = auditing.hide(self._local, self._groups_N)
        rates: dict[str, float] = {}
        for arms_of in _by_encoder(chosen).values() if len(trials.pairs) else ():
            rules = {name: arm.rule for name, arm in arms_of.items() if arm.rule is not None}
            space = self.space(next(iter(arms_of.values())), 0)
            with track("audit", "hidden positives", len(trials.pairs), "pairs") as progress:
                audited = auditing.audit(
                    space, trials, seed=0, rules=rules, first_QK=self._first_QK, done=progress.advance
                )
            rates |= {name: found.hidden_rate for name, found in audited.items()}
        return rates

    def cell(self, name: str, arm: Arm, seed: int) -> tuple[Cell, PerQuery] | None:
        """Train the arm with this seed and measure it, or return what was measured before; None: on nothing."""
        began = time.monotonic()
        own = f"{slug(name)}-{seed}"
        path = self._run.out / "compare" / f"{own}.json"
        rates = (self._rates[name],) if name in self._rates else self._config.compare.learning_rates
        lists, recipe, facts = self._lists(arm, seed)
        if not len(lists):
            return None
        recipes = {rate: replace(recipe, learning_rate=rate) for rate in rates}
        identity = digest([self._bench.identity(self._start, lists, each) for each in recipes.values()])
        identity = digest([identity, self._scorer.identity])
        values = self._scorer.stored(f"compare: {own}")
        known = _read_cell(path, identity)
        if known is None or values is None:
            fitted = {rate: f"{own}-{rate:g}" for rate in rates}
            records = {
                rate: self._bench.fit(fitted[rate], self._start, lists, each, self._start_dev)
                for rate, each in recipes.items()
            }
            best = max(records, key=lambda rate: records[rate].dev)
            folders = {rate: self._run.out / "rerankers" / model for rate, model in fitted.items()}
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
                seconds=round(time.monotonic() - began, 1),
            )
            path.parent.mkdir(exist_ok=True)
            write_json(path, known.model_dump())
            for folder in folders.values():
                shutil.rmtree(folder)  # the models of all arms would fill a disk
        self._rates[name] = known.learning_rate
        tested = f"{TESTED} {known.metrics[TESTED]:.3f} at a learning rate of {known.learning_rate:g}"
        say("compare", f"{name}, seed {seed}: {tested}")
        return known, values

    def _lists(self, arm: Arm, seed: int) -> tuple[Lists, Recipe, dict[str, Any]]:
        """Return what the arm trains on, how, and how many negatives it has chosen of what share of the pairs."""
        bench, most = self._bench, self._config.compare.negatives
        in_batch = 0 if not arm.in_batch else most if arm.rule is None else most // 2
        rows_PM = np.full((len(bench.pairs), 0), NO_ROW, dtype=np.int64)
        if arm.rule is not None:
            known = Known.of([bench.positives[query] for query in bench.pairs.query_rows_P.tolist()], self._groups_N)
            rows_PM = arms.choose(
                self.space(arm, seed),
                self._local,
                known,
                {"": arm.rule},
                count=most - in_batch,
                seed=seed,
                first_QK=self._first_QK,
            )[""]
        lists = training_lists(
            bench.documents,
            bench.queries,
            bench.pairs,
            [[row for row in rows if row != NO_ROW] for rows in rows_PM.tolist()],
            [[] for _ in rows_PM],
            bare=arm.rule is None or in_batch > 0,
            positives=bench.positives if in_batch else None,
        )
        recipe = replace(bench.recipe, seed=seed, in_batch_negatives=in_batch, loss=arm.loss or bench.recipe.loss)
        chosen_PM = rows_PM != NO_ROW
        facts = {"negatives": int(chosen_PM.sum()), "pairs_with_negatives": float(chosen_PM.any(axis=1).mean())}
        return lists, recipe, facts


def _by_encoder(chosen: Mapping[str, Arm]) -> dict[str | None, dict[str, Arm]]:
    """Return the arms by the space that their rules look in."""
    found: dict[str | None, dict[str, Arm]] = {}
    for name, arm in chosen.items():
        if arm.rule is not None and arm.tuned is None:  # a tuned encoder has seen what would be hidden
            found.setdefault(arm.encoder, {})[name] = arm
    return found


def _read_cell(path: Path, identity: str) -> Cell | None:
    try:
        cell = Cell.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    return cell if cell.identity == identity else None


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
