"""How often does each way to mine take a right answer for a negative? Hide judged positives and count.

The two conditions look where unlabelled right answers live. Where queries have several judged positives that can be
measured: keep one of them as PD, hide the others, and let each rule choose negatives. The share of its choices that are
hidden positives estimates its share of false negatives; the yield says how many pairs get a negative at all.

The interval is Wilson's at 95 % for the effective number of independent choices: choices for one query resemble each
other, so the variance is that between queries (of a ratio, by linearisation). A bootstrap over queries gives the same
where something was hidden, but says "0 to 0" of ten choices without one.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hnmine.arms.choose import choose_negatives
from hnmine.arms.rules import RULES, Rule
from hnmine.config.mining import GuardsConfig, SelectConfig
from hnmine.errors import DataError
from hnmine.mining.conditions import Known
from hnmine.mining.mine import Judged, denoise_model, groups_of_equal_text
from hnmine.project import Project
from hnmine.ranking.first_stage import Bm25
from hnmine.runs.files import write_json
from hnmine.runs.manifest import versions
from hnmine.runs.progress import track
from hnmine.runs.tables import text_table
from hnmine.types import NO_ROW, Done, Int64, Pairs, Space

TWO_CONDITIONS = "two conditions"
TRIED_GUARDS = {
    "two conditions, margin 0.05": GuardsConfig(margin=0.05),
    "two conditions, margin 0.02": GuardsConfig(margin=0.02),
    "two conditions, first_rank 10": GuardsConfig(first_rank=10),
    "two conditions, margin 0.02, first_rank 5": GuardsConfig(margin=0.02, first_rank=5),
}
"""Guards that are measured whatever is configured."""
_BM25_DEPTH = 100  # documents of a query that rules of the first stage look at
_SAFE, _USABLE = 0.03, 0.10  # shares of hidden positives
_Z = 1.959964  # quantile of the normal distribution for 95 %, two-sided


@dataclass(frozen=True, kw_only=True)
class Trials:
    """The judged pairs of queries with several positives, grouped by query; of each pair the others are hidden."""

    pairs: Pairs
    known: Known
    """Of each pair its positive alone."""
    right: Known
    """Of each pair all positives of its query."""


def hide_positives(pairs: Pairs, groups_N: Int64, judged: Mapping[int, Collection[int]] | None = None) -> Trials:
    """Make a trial of each pair whose query has a positive of another text, which can be hidden.

    Args:
        pairs: judged pairs; of copies of one text, one is taken.
        groups_N: equal text, equal number; copies of PD are never chosen, copies of a hidden one count as it.
        judged: of each query row all documents that were judged right, where `pairs` are a sample; None: they are all.
    """
    trials = []
    for query, docs in pairs.positives_of().items():
        of_text = {int(groups_N[doc]): doc for doc in reversed(docs)}
        right = docs if judged is None else judged[query]
        if len({int(groups_N[doc]) for doc in right}) > 1:
            trials += [(query, doc, right) for doc in sorted(of_text.values())]
    rows_P2 = np.array([trial[:2] for trial in trials], dtype=np.int64).reshape(-1, 2)
    return Trials(
        pairs=Pairs(query_rows_P=rows_P2[:, 0], doc_rows_P=rows_P2[:, 1]),
        known=Known([(doc,) for _, doc, _ in trials], groups_N),
        right=Known([right for _, _, right in trials], groups_N),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class HiddenChoices:
    """Choices of one rule: pairs offered, of these with a negative; by query negatives, of these hidden positives."""

    offered: int
    selected: int
    chosen_Q: Int64
    hidden_Q: Int64

    @classmethod
    def count(cls, trials: Trials, pair_M: Int64, doc_rows_M: Int64) -> HiddenChoices:
        """Count the negatives (M) that were chosen for the pairs of the trials."""
        rows_Q, pairs = trials.pairs.renumbered()
        hidden_M = trials.right.mask(pair_M, doc_rows_M)
        return cls(
            offered=len(pairs),
            selected=len(np.unique(pair_M)),
            chosen_Q=np.bincount(pairs.query_rows_P[pair_M], minlength=len(rows_Q)),
            hidden_Q=np.bincount(pairs.query_rows_P[pair_M[hidden_M]], minlength=len(rows_Q)),
        )

    @property
    def negatives(self) -> int:
        """Number of negatives chosen."""
        return int(self.chosen_Q.sum())

    @property
    def hidden_rate(self) -> float:
        """Share of the negatives that are hidden positives; 0 if none was chosen."""
        return int(self.hidden_Q.sum()) / max(1, self.negatives)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the hidden rate; see the module."""
        # Count the independent choices with this variance: at most all choices, and without variance the queries.
        rate, queries = self.hidden_rate, int(np.count_nonzero(self.chosen_Q))
        count: float = queries
        if queries > 1 and 0 < rate < 1:
            spread = float(np.square(self.hidden_Q - rate * self.chosen_Q).sum()) * queries / (queries - 1)
            count = min(self.negatives, rate * (1 - rate) * self.negatives**2 / spread) if spread else self.negatives
        if not count:
            return 0.0, 1.0
        # Take Wilson's interval of so many.
        centre, scale = rate + _Z**2 / (2 * count), 1 + _Z**2 / count
        half = _Z * math.sqrt(rate * (1 - rate) / count + (_Z / (2 * count)) ** 2)
        return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)

    def facts(self) -> dict[str, Any]:
        """Return what is recorded and shown."""
        return {
            "hidden": self.hidden_rate,
            "interval": self.interval,
            "yield": self.selected / max(1, self.offered),
            "negatives": self.negatives,
        }


def count_hidden_choices(
    space: Space,
    trials: Trials,
    *,
    seed: int,
    rules: Mapping[str, Rule] = RULES,
    first_QK: Int64 | None = None,
    done: Done = lambda _pairs: None,
) -> dict[str, HiddenChoices]:
    """Let every rule choose one negative for every pair of the trials, and count; see `choose_negatives`."""
    chosen = choose_negatives(
        space, trials.pairs, trials.known, rules, count=1, seed=seed, first_QK=first_QK, done=done
    )
    counts = {}
    for name, doc_rows_P1 in chosen.items():
        pair_M, column_M = np.nonzero(doc_rows_P1 != NO_ROW)
        counts[name] = HiddenChoices.count(trials, pair_M, doc_rows_P1[pair_M, column_M])
    return counts


Risk = Mapping[str, Any]
"""`HiddenChoices.facts` of a rule."""


def audit(project: Project) -> dict[str, Any]:
    """Measure the risk of each rule, and of the two conditions with some guards and as configured; return the record.

    Writes OUT/audit.json. The record has `table` and `verdict` for people beside.

    Raises:
        DataError: no query has two judged positives.
    """
    config, collection = project.config, project.collection
    denoise_model(config.guards)  # its absence is said before hours of encoding
    # Hide positives, and embed the queries that have several.
    split = config.sources.train_split
    trials = hide_positives(collection.pairs(split), groups_of_equal_text(collection.documents))
    if not len(trials.pairs):
        raise DataError(
            f"no query of {split} has two judged positives, so none can be hidden; judge a second right document for "
            "some 50 queries, or look at triplets by eye"
        )
    rows_Q, pairs = trials.pairs.renumbered()
    trials, queries = replace(trials, pairs=pairs), collection.queries.take(rows_Q)
    fused = project.fuse(queries)
    space = project.reduce(fused)
    # Let the rules choose, then mine with guards.
    first_QK, _ = Bm25(collection.documents, k1=config.evaluate.k1, b=config.evaluate.b).first(queries, _BM25_DEPTH)
    with track("audit", f"{len(queries):,} queries with several positives", len(pairs), "pairs") as progress:
        counts = count_hidden_choices(space, trials, seed=config.seed, first_QK=first_QK, done=progress.advance)
    settings, configured = _settings(config.guards, config.select)
    judged = Judged(pairs=pairs, queries=queries, known=trials.known)
    mined, _ = project.select_each(judged, fused, space, settings)
    counts |= {name: HiddenChoices.count(trials, each.pair_M, each.doc_rows_M) for name, each in mined.items()}
    # Record.
    risks = {name: choices.facts() for name, choices in counts.items()}
    record = {
        "queries": len(queries),
        "pairs": len(pairs),
        "rules": risks,
        "config": config.model_dump(mode="json"),
        "versions": versions(),
    }
    write_json(project.run.out / "audit.json", record)
    return record | {"table": risk_table(risks), "verdict": verdict(risks, configured)}


def _settings(guards: GuardsConfig, select: SelectConfig) -> tuple[dict[str, tuple[GuardsConfig, int]], str | None]:
    """Return guards and numbers of negatives to mine with, by name; the name of those configured, if not the rule."""
    tried = {name: (each, 1) for name, each in TRIED_GUARDS.items()}
    if guards == GuardsConfig() and select.negatives == 1:
        return tried, None
    name = TWO_CONDITIONS + (", guarded" if guards != GuardsConfig() else "")
    name += f", {select.negatives} a pair" if select.negatives > 1 else ""
    return tried | {name: (guards, select.negatives)}, name


def risk_table(risks: Mapping[str, Risk]) -> str:
    """Return one line a rule."""
    rows = []
    for name, risk in risks.items():
        low, high = risk["interval"]
        shares = [f"{risk['hidden']:.1%}", f"{low:.1%} - {high:.1%}", f"{risk['yield']:.1%}"]
        rows.append([name, *shares, f"{risk['negatives']:,}"])
    return text_table(rows, ["rule", "hidden positives", "95 % interval", "yield", "negatives"])


def verdict(risks: Mapping[str, Risk], configured: str | None = None) -> str:
    """Say what the measured risk of the two conditions, and of what is `configured`, means for this domain."""
    first = f"Of the {TWO_CONDITIONS}' first negatives, {_judgement(risks[TWO_CONDITIONS])}."
    return first if configured is None else f"{first}\nAs configured ({configured}), {_judgement(risks[configured])}."


def _judgement(risk: Risk) -> str:
    """Judge by the upper end of the interval: a small sample proves nothing safe."""
    (low, high), share = risk["interval"], risk["hidden"]
    if not risk["negatives"]:
        return "there is none: every pair is without"
    if high <= _SAFE:
        meaning = "safe here"
    elif high <= _USABLE:
        meaning = "usable with anchors (the default); look at some triplets by eye"
    elif share > _USABLE and low > _SAFE:
        meaning = (
            "dangerous here: several documents are right for a query and few are judged; use guards, or another rule"
        )
    else:
        meaning = "too few to tell; judge more right documents of the same queries, or look at triplets by eye"
    return f"{share:.1%} ({low:.1%} to {high:.1%}) are right answers that were hidden: {meaning}"
