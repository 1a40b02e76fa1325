"""How dangerous is a domain? Hide judged positives and count how often each rule takes one for a negative.

The two conditions look where unlabelled right answers live. Where queries have several judged positives that can be
measured: keep one of them as PD, hide the others, and let each rule choose its first negative. The share of choices
that are hidden positives estimates the share of false negatives; the yield says how many pairs get a choice at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from hnmine.rules import RULES, Rule, View
from hnmine.types import Int64, Pairs, Space, distance


@dataclass(frozen=True, kw_only=True)
class Audited:
    """What a rule did: `pairs` offered, `chosen` with a negative, `hidden` of these a hidden positive."""

    pairs: int
    chosen: int
    hidden: int

    @property
    def hidden_rate(self) -> float:
        """Share of the chosen that are hidden positives; 0 if none was chosen."""
        return self.hidden / self.chosen if self.chosen else 0.0

    @property
    def yield_rate(self) -> float:
        """Share of the pairs that got a negative."""
        return self.chosen / self.pairs if self.pairs else 0.0


def audit(
    space: Space,
    pairs: Pairs,
    groups_N: Int64,
    *,
    seed: int,
    rules: Mapping[str, Rule] | None = None,
    done: Callable[[int], None] = lambda _pairs: None,
) -> dict[str, Audited]:
    """Let every rule choose for every pair of a query with several positives, the others hidden.

    Args:
        space: documents and queries.
        pairs: judged pairs; of queries with one positive nothing can be hidden, so they are left out.
        groups_N: equal text, equal number; copies of PD are never chosen, copies of a hidden one count as it.
        seed: of the random rules.
        rules: by name; default `RULES`.
        done: is told how many pairs were finished since the last call.
    """
    rules = RULES if rules is None else rules
    rng = np.random.default_rng(seed)
    chosen, hidden, offered = dict.fromkeys(rules, 0), dict.fromkeys(rules, 0), 0
    for query, positives in several_positives(pairs, groups_N).items():
        query_R = space.queries_QR[query]
        d_query_N = distance(np.broadcast_to(query_R, space.docs_NR.shape), space.docs_NR)
        order_N = np.lexsort((np.arange(len(d_query_N)), d_query_N))
        judged = groups_N[positives]
        for positive, group in zip(positives, judged.tolist(), strict=True):
            offered += 1
            eligible = order_N[groups_N[order_N] != group]
            view = View(
                d_query_n=d_query_N[eligible],
                d_positive_n=distance(
                    np.broadcast_to(space.docs_NR[positive], (len(eligible), space.width)), space.docs_NR[eligible]
                ),
                radius=float(d_query_N[positive]),
                rng=rng,
            )
            for name, rule in rules.items():
                at = rule(view)
                if at is not None:
                    chosen[name] += 1
                    hidden[name] += int(groups_N[eligible[at]] in judged)
        done(len(positives))
    return {name: Audited(pairs=offered, chosen=chosen[name], hidden=hidden[name]) for name in rules}


def several_positives(pairs: Pairs, groups_N: Int64) -> dict[int, list[int]]:
    """Return the positives of the queries that have at least two of different text."""
    several = {}
    for query, docs in pairs.positives_of().items():
        of_group = {int(groups_N[doc]): doc for doc in reversed(docs)}
        if len(of_group) > 1:
            several[query] = sorted(of_group.values())
    return several


def table(results: Mapping[str, Audited]) -> str:
    """Return the printed table."""
    width = max(len(name) for name in results)
    lines = [f"{'rule':<{width}}  hidden positives   yield"]
    for name, result in results.items():
        lines.append(f"{name:<{width}}  {result.hidden_rate:>16.1%}  {result.yield_rate:>6.1%}")
    return "\n".join(lines)


def verdict(results: Mapping[str, Audited]) -> str:
    """Say in one sentence what the measured rate of the two conditions means for this domain."""
    result = results["two conditions"]
    rate = result.hidden_rate
    if not result.chosen:
        return "The two conditions choose nothing here: the positives are nearest already."
    if rate <= 0.03:
        risk = "safe here: mine as it is"
    elif rate <= 0.10:
        risk = "usable with anchors (the default); look at some triplets by eye"
    else:
        risk = "dangerous here: several documents are right for a query and few are judged; use guards, or another rule"
    return f"{rate:.0%} of the two conditions' first negatives are right answers that were hidden: {risk}."
