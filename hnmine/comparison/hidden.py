"""How often does a rule take a right answer for a negative? Hide judged positives and count.

The two conditions look where unlabelled right answers live. Where queries have several judged positives that can be
measured: keep one of them as PD, hide the others, and let each rule choose negatives. The share of its choices that are
hidden positives estimates its share of false negatives; the yield says how many pairs get a negative at all.

The interval is Wilson's at 95 % for the effective number of independent choices: choices for one query resemble each
other, so the variance is that between queries (of a ratio, by linearisation). A bootstrap over queries gives the same
where something was hidden, but says "0 to 0" of ten choices without one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hnmine.arms.choose import choose_negatives
from hnmine.arms.rules import RULES, Rule
from hnmine.mining.conditions import Known
from hnmine.ranking.first_stage import NO_ROW
from hnmine.types import Int64, Pairs, Space

_Z = 1.959964  # quantile of the normal distribution for 95 %, two-sided


@dataclass(frozen=True, kw_only=True)
class Trials:
    """The judged pairs of queries with several positives, grouped by query; of each pair the others are hidden."""

    pairs: Pairs
    known: Known
    """Of each pair its positive alone."""
    right: Known
    """Of each pair all positives of its query."""

    @property
    def queries(self) -> int:
        """Number of queries."""
        return len(np.unique(self.pairs.query_rows_P))


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
            trials += [(query, doc, tuple(right)) for doc in sorted(of_text.values())]
    return Trials(
        pairs=Pairs(
            query_rows_P=np.array([query for query, _, _ in trials], dtype=np.int64),
            doc_rows_P=np.array([doc for _, doc, _ in trials], dtype=np.int64),
        ),
        known=Known.of([(doc,) for _, doc, _ in trials], groups_N),
        right=Known.of([right for _, _, right in trials], groups_N),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class HiddenChoices:
    """Choices of one rule by query: pairs offered, of these with a negative, negatives, of these hidden positives."""

    offered_Q: Int64
    selected_Q: Int64
    chosen_Q: Int64
    hidden_Q: Int64

    @classmethod
    def count(cls, trials: Trials, pair_M: Int64, doc_rows_M: Int64) -> HiddenChoices:
        """Count the negatives (M) that were chosen for the pairs of the trials."""
        query_P = np.unique(trials.pairs.query_rows_P, return_inverse=True)[1]

        def by_query(pair_n: Int64) -> Int64:
            return np.bincount(query_P[pair_n], minlength=trials.queries)

        return cls(
            offered_Q=by_query(np.arange(len(trials.pairs))),
            selected_Q=by_query(np.unique(pair_M)),
            chosen_Q=by_query(pair_M),
            hidden_Q=by_query(pair_M[trials.right.mask(pair_M, doc_rows_M)]),
        )

    @property
    def negatives(self) -> int:
        """Number of negatives chosen."""
        return int(self.chosen_Q.sum())

    @property
    def hidden_rate(self) -> float:
        """Share of the negatives that are hidden positives; 0 if none was chosen."""
        return int(self.hidden_Q.sum()) / self.negatives if self.negatives else 0.0

    @property
    def yield_rate(self) -> float:
        """Share of the pairs that got a negative."""
        return int(self.selected_Q.sum()) / max(1, int(self.offered_Q.sum()))

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the hidden rate; see the module."""
        rate, count = self.hidden_rate, self._effective_choices
        if not count:
            return 0.0, 1.0
        centre, scale = rate + _Z**2 / (2 * count), 1 + _Z**2 / count
        half = _Z * math.sqrt(rate * (1 - rate) / count + (_Z / (2 * count)) ** 2)
        return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)

    def facts(self) -> dict[str, Any]:
        """Return what is recorded and shown."""
        return {
            "hidden": self.hidden_rate,
            "interval": self.interval,
            "yield": self.yield_rate,
            "negatives": self.negatives,
        }

    @property
    def _effective_choices(self) -> float:
        """Number of independent choices with this variance: at most all choices, and without variance the queries."""
        queries, rate = int(np.count_nonzero(self.chosen_Q)), self.hidden_rate
        if queries < 2 or not 0 < rate < 1:
            return queries
        spread = float(np.square(self.hidden_Q - rate * self.chosen_Q).sum()) * queries / (queries - 1)
        return min(self.negatives, rate * (1 - rate) * self.negatives**2 / spread) if spread else self.negatives


def count_hidden_choices(
    space: Space,
    trials: Trials,
    *,
    seed: int,
    rules: Mapping[str, Rule] | None = None,
    first_QK: Int64 | None = None,
    done: Callable[[int], None] = lambda _pairs: None,
) -> dict[str, HiddenChoices]:
    """Let every rule choose one negative for every pair of the trials, and count.

    Args:
        space: documents and queries.
        trials: from `hide_positives`.
        seed: of the random rules.
        rules: by name; default `RULES`.
        first_QK: the first stage's documents of every query of the space, for the rules that choose from these.
        done: hears how many pairs were finished since its last call.
    """
    rules = RULES if rules is None else rules
    chosen = choose_negatives(
        space, trials.pairs, trials.known, rules, count=1, seed=seed, first_QK=first_QK, done=done
    )
    counts = {}
    for name, doc_rows_P1 in chosen.items():
        pair_M, column_M = np.nonzero(doc_rows_P1 != NO_ROW)
        counts[name] = HiddenChoices.count(trials, pair_M, doc_rows_P1[pair_M, column_M])
    return counts
