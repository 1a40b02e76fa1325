"""Tables of a comparison: one of the arms of each block, and before several of these one of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hnmine.ranking.evaluate import Ranking
from hnmine.ranking.measures import MAIN_METRIC, METRICS, means
from hnmine.ranking.significance import paired
from hnmine.ranking.task import Task
from hnmine.report.rankings import length_table
from hnmine.runs.tables import text_table
from hnmine.types import Float64

FIRST_STAGE, NO_TRAINING = "first stage", "no fine-tuning"
"""The rankings that no arm was trained for; the arms are tested against the second."""


@dataclass(frozen=True, kw_only=True)
class ArmRow:
    """What an arm is worth."""

    rankings: Sequence[Ranking]
    """One a seed."""
    yield_rate: float
    """Mean share of the pairs that got a negative."""
    learning_rate: float
    hidden: float | None = None
    """Share of first negatives that are right answers nobody had labelled; None: not measured."""

    def per_query(self, metric: str = MAIN_METRIC) -> Float64:
        """Return every query's mean over the seeds (Q,)."""
        mean_Q: Float64 = np.mean([ranking.values[metric] for ranking in self.rankings], axis=0)
        return mean_Q


@dataclass(frozen=True, kw_only=True)
class Block:
    """One table: the arms that began with the same start and had the same number of pairs."""

    label: str
    """Empty if there is no other block."""
    references: Mapping[str, Ranking]
    arms: Mapping[str, ArmRow]

    def ranked_arms(self) -> list[tuple[str, ArmRow]]:
        """Return the arms by name, the best first."""
        return sorted(self.arms.items(), key=lambda item: -float(item[1].per_query().mean()))


def comparison_text(blocks: Sequence[Block], task: Task, first_stage: str) -> str:
    """Return what has to be known to read the tables, the table of all blocks if there are several, and each block's.

    Every block has an arm; `first_stage` is the one that is configured, where arms are named after BM25.
    """
    seeds = max(len(arm.rankings) for block in blocks for arm in block.arms.values())
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
        rows = {name: reference.values for name, reference in block.references.items()}
        rows |= {name: {MAIN_METRIC: arm.per_query()} for name, arm in block.ranked_arms()}
        parts += [block.label, arms_table(block), length_table(task, rows)]
    return "\n\n".join(filter(None, parts))


def arms_table(block: Block) -> str:
    """Return one line an arm, the best first: means over seeds, and paired tests over the queries.

    Tested are each query's means over the seeds, against the start and against the arm with the highest mean.
    """
    # Show what no arm was trained for.
    headers = ["", *METRICS, "blended", "spread", "yield", "hidden", "rate", "against start", "p", "p to first"]
    rows = [
        [name, *(f"{value:.3f}" for value in means(reference.values).values()), f"{_blended(reference):.3f}"]
        for name, reference in block.references.items()
    ]
    # Show the arms, and test them.
    arms = block.ranked_arms()
    start_Q = block.references[NO_TRAINING].values[MAIN_METRIC]
    for name, arm in arms:
        by_seed = [float(ranking.values[MAIN_METRIC].mean()) for ranking in arm.rankings]
        to_start = paired(arm.per_query(), start_Q)
        first = "" if name == arms[0][0] else f"{paired(arms[0][1].per_query(), arm.per_query()).p:.2g}"
        rows.append(
            [
                name,
                *(f"{arm.per_query(metric).mean():.3f}" for metric in METRICS),
                f"{np.mean([_blended(ranking) for ranking in arm.rankings]):.3f}",
                f"{np.ptp(by_seed):.3f}",
                f"{arm.yield_rate:.0%}",
                "" if arm.hidden is None else f"{arm.hidden:.1%}",
                f"{arm.learning_rate:.0e}",
                f"{to_start.difference:+.3f} ({to_start.low:+.3f} to {to_start.high:+.3f})",
                f"{to_start.p:.2g}",
                first,
            ]
        )
    return text_table(rows, headers)


def all_blocks_table(blocks: Sequence[Block]) -> str:
    """Return the main metric of every arm, a column a block."""
    columns = []
    for block in blocks:
        column = {name: reference.values[MAIN_METRIC] for name, reference in block.references.items()}
        columns.append(column | {name: arm.per_query() for name, arm in block.ranked_arms()})
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [[name, *(f"{column[name].mean():.3f}" if name in column else "" for column in columns)] for name in names]
    return text_table(rows, [MAIN_METRIC, *(block.label for block in blocks)])


def _blended(ranking: Ranking) -> float:
    return means(ranking.blended)[MAIN_METRIC]
