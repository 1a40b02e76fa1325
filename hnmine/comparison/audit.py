"""How dangerous is a domain? Hide judged positives and count how often each rule takes one for a negative.

The two conditions look where unlabelled right answers live. Where queries have several judged positives that can be
measured: keep one of them as PD, hide the others, and let each rule choose its first negative. The share of choices
that are hidden positives estimates the share of false negatives; the yield says how many pairs get a choice at all.

The interval is Wilson's at 95 %, for as many independent choices as those of the queries are worth: choices for one
query resemble each other, so the variance is that between queries (of a ratio, by linearisation). A bootstrap over
queries gives the same where something was hidden, but says "0 to 0" of ten choices without one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np

from hnmine.arms.choose import choose
from hnmine.arms.rules import RULES, Rule
from hnmine.mining.conditions import Known
from hnmine.ranking.first_stage import NO_ROW
from hnmine.types import Int64, Pairs, Space

TWO_CONDITIONS = "two conditions"
_SAFE, _USABLE = 0.03, 0.10
_Z = 1.959964  # 95 %, two-sided


@dataclass(frozen=True, kw_only=True)
class Trials:
    """The judged pairs of queries with several positives, together by query; of each pair the other ones are hidden."""

    pairs: Pairs
    known: Known
    """Of each pair its own positive."""
    right: Known
    """Of each pair all positives of its query."""

    @property
    def queries(self) -> int:
        """Number of queries."""
        return len(np.unique(self.pairs.query_rows_P))


def hide(pairs: Pairs, groups_N: Int64, judged: Mapping[int, Collection[int]] | None = None) -> Trials:
    """Make a trial of each pair whose query has a positive of another text, which can be hidden.

    Args:
        pairs: judged pairs; of copies of one text, one is taken.
        groups_N: equal text, equal number; copies of PD are never chosen, copies of a hidden one count as it.
        judged: of each query row all documents that were judged right, where `pairs` are a sample; None: they are all.
    """
    rows = []
    for query, docs in pairs.positives_of().items():
        of_text = {int(groups_N[doc]): doc for doc in reversed(docs)}
        every = docs if judged is None else judged[query]
        if len({int(groups_N[doc]) for doc in every}) > 1:
            rows += [(query, doc, tuple(every)) for doc in sorted(of_text.values())]
    return Trials(
        pairs=Pairs(
            query_rows_P=np.array([query for query, _, _ in rows], dtype=np.int64),
            doc_rows_P=np.array([doc for _, doc, _ in rows], dtype=np.int64),
        ),
        known=Known.of([(doc,) for _, doc, _ in rows], groups_N),
        right=Known.of([docs for _, _, docs in rows], groups_N),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Audited:
    """What a rule did, by query: pairs offered, of these with a negative, negatives, of these hidden positives."""

    offered_Q: Int64
    selected_Q: Int64
    chosen_Q: Int64
    hidden_Q: Int64

    @classmethod
    def of(cls, trials: Trials, pair_M: Int64, doc_rows_M: Int64) -> Audited:
        """Count the negatives that were chosen for the pairs of the trials."""
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
        rate, worth = self.hidden_rate, self._independent
        if not worth:
            return 0.0, 1.0
        centre, scale = rate + _Z**2 / (2 * worth), 1 + _Z**2 / worth
        half = _Z * math.sqrt(rate * (1 - rate) / worth + (_Z / (2 * worth)) ** 2)
        return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)

    @property
    def _independent(self) -> float:
        """As many independent choices would have this variance; at most the choices, and without variance, queries."""
        queries, rate = int(np.count_nonzero(self.chosen_Q)), self.hidden_rate
        if queries < 2 or not 0 < rate < 1:
            return queries
        spread = float(np.square(self.hidden_Q - rate * self.chosen_Q).sum()) * queries / (queries - 1)
        return min(self.negatives, rate * (1 - rate) * self.negatives**2 / spread) if spread else self.negatives


def audit(
    space: Space,
    trials: Trials,
    *,
    seed: int,
    rules: Mapping[str, Rule] | None = None,
    first_QK: Int64 | None = None,
    done: Callable[[int], None] = lambda _pairs: None,
) -> dict[str, Audited]:
    """Let every rule choose one negative for every pair of the trials.

    Args:
        space: documents and queries.
        trials: from `hide`.
        seed: of the random rules.
        rules: by name; default `RULES`.
        first_QK: the first stage's documents of every query of the space, for the rules that choose from these.
        done: is told how many pairs were finished since the last call.
    """
    rules = RULES if rules is None else rules
    chosen = choose(space, trials.pairs, trials.known, rules, count=1, seed=seed, first_QK=first_QK, done=done)
    results = {}
    for name, rows_P1 in chosen.items():
        pair_M, column_M = np.nonzero(rows_P1 != NO_ROW)
        results[name] = Audited.of(trials, pair_M, rows_P1[pair_M, column_M])
    return results


def table(results: Mapping[str, Audited]) -> str:
    """Return the printed table."""
    width = max(len(name) for name in results)
    lines = [f"{'rule':<{width}}  hidden positives  95 % interval   yield  negatives"]
    for name, result in results.items():
        low, high = result.interval
        interval = f"{low:.1%} - {high:.1%}"
        lines.append(
            f"{name:<{width}}  {result.hidden_rate:>16.1%}  {interval:>13}  {result.yield_rate:>6.1%}"
            f"  {result.negatives:>9,}"
        )
    return "\n".join(lines)


def verdict(results: Mapping[str, Audited], configured: str | None = None) -> str:
    """Say what the measured rate of the two conditions, and of what is `configured`, means for this domain."""
    said = f"Of the two conditions' first negatives, {_judge(results[TWO_CONDITIONS])}."
    return said if configured is None else f"{said}\nAs configured ({configured}), {_judge(results[configured])}."


def _judge(result: Audited) -> str:
    """Judge by the upper end of the interval: a small sample proves nothing safe."""
    (low, high), rate = result.interval, result.hidden_rate
    if not result.negatives:
        return "there is none: every pair is without"
    if high <= _SAFE:
        risk = "safe here"
    elif high <= _USABLE:
        risk = "usable with anchors (the default); look at some triplets by eye"
    elif rate > _USABLE and low > _SAFE:
        risk = "dangerous here: several documents are right for a query and few are judged; use guards, or another rule"
    else:
        risk = "too few to tell; judge more right documents of the same queries, or look at triplets by eye"
    return f"{rate:.1%} ({low:.1%} to {high:.1%}) are right answers that were hidden: {risk}"
