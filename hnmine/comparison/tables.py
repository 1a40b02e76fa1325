"""Tables of a comparison: one of the arms of each block, and before several of these one of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np

from hnmine.comparison.cells import NO_TRAINING, Cell
from hnmine.ranking.evaluate import Ranking
from hnmine.ranking.measures import MAIN_METRIC, METRICS, PerQuery, means, paired
from hnmine.ranking.task import Task
from hnmine.report.rankings import length_table
from hnmine.runs.tables import text_table
from hnmine.types import Float64


@dataclass(frozen=True, kw_only=True)
class Block:
    """One table: the arms that began with the same start and had the same number of pairs."""

    label: str
    """Empty if there is no other block."""
    references: Mapping[str, Ranking]
    hidden: Mapping[str, float]
    """Share of an arm's first negatives that are right answers nobody had labelled, where it can be measured."""
    arms: dict[str, list[tuple[Cell, PerQuery]]] = field(default_factory=dict)
    """Of each arm the cells, one a seed, and their metrics query by query."""

    def per_query(self, name: str, metric: str = MAIN_METRIC) -> Float64:
        """Return every query's value (Q,) of a reference, or its mean over the seeds of an arm."""
        if name in self.references:
            return self.references[name].values[metric]
        mean_Q: Float64 = np.mean([values[metric] for _, values in self.arms[name]], axis=0)
        return mean_Q

    def names(self) -> list[str]:
        """Return the references, then the arms, the best first."""
        return [*self.references, *sorted(self.arms, key=lambda name: -self.per_query(name).mean())]


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
        parts += [block.label, arms_table(block), length_table(task, rows)]
    return "\n\n".join(filter(None, parts))


def arms_table(block: Block) -> str:
    """Return one line an arm, the best first: means over seeds, tested against the start and against the first arm."""
    # Show what no arm was trained for.
    headers = ["", *METRICS, "blended", "spread", "yield", "hidden", "rate", "against start", "p", "p to first"]
    rows = [
        [name, *(f"{value:.3f}" for value in (*means(each.values).values(), means(each.blended)[MAIN_METRIC]))]
        for name, each in block.references.items()
    ]
    # Show the arms, and test them.
    names = block.names()[len(block.references) :]
    for name in names:
        mean_Q, cells = block.per_query(name), [cell for cell, _ in block.arms[name]]
        to_start = paired(mean_Q, block.per_query(NO_TRAINING))
        rows.append(
            [
                name,
                *(f"{block.per_query(name, metric).mean():.3f}" for metric in METRICS),
                f"{fmean(cell.blended[MAIN_METRIC] for cell in cells):.3f}",
                f"{np.ptp([values[MAIN_METRIC].mean() for _, values in block.arms[name]]):.3f}",
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
