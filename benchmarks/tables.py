"""One table of several runs of `hnmine compare`: one start, the same train pairs and test queries, other arms or seeds.

    python benchmarks/tables.py OUT OUT2 … [--seed 0]

Each OUT has one table (no `compare.sizes`, no `compare.models`). Of an arm and a seed that stand in several the first
counts. Reads `compare.json` and the metrics of every test query; nothing is trained.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hnmine.comparison.cells import FIRST_STAGE, NO_TRAINING, Arrived, Cell
from hnmine.comparison.compare import Block, arms_table
from hnmine.config.base import slug
from hnmine.ranking.evaluate import Measured, Ranking
from hnmine.ranking.measures import MAIN_METRIC, PerQuery
from hnmine.ranking.rows import read_metrics, scores_file


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the runs, refuse those that cannot stand side by side, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outs", nargs="+", type=Path, metavar="OUT", help="run folder of `hnmine compare`")
    parser.add_argument("--seed", type=int, help="take the trainings of this seed alone")
    options = parser.parse_args(arguments)
    # Collect the cells by arm and seed.
    cells: dict[str, dict[int, Arrived]] = {}
    hidden: dict[str, float] = {}
    shared: list[dict[str, Any]] = []
    for out in options.outs:
        record = json.loads((out / "compare.json").read_text(encoding="utf-8"))
        if len(record["blocks"]) != 1:
            parser.error(f"{out} has {len(record['blocks'])} tables; one each is wanted")
        block = record["blocks"][0]
        queries, start = read_metrics(out / scores_file("compare: start"))
        shared.append(
            {key: block[key] for key in ("model", "pairs", FIRST_STAGE, NO_TRAINING)} | {"test queries": queries}
        )
        if other := [key for key, value in shared[-1].items() if value != shared[0][key]]:
            parser.error(f"{out} and {options.outs[0]} do not have the same: {', '.join(other)}")
        hidden = block["hidden_positives"] | hidden
        for name, found in block["arms"].items():
            for cell in map(Cell.model_validate, found):
                if options.seed in (None, cell.seed) and cell.seed not in cells.setdefault(name, {}):
                    _, values = read_metrics(out / scores_file(f"compare: {slug(name)}-{cell.seed}"))
                    cells[name][cell.seed] = Arrived(cell, values, values)
    # Print them as one comparison.
    seeds = max(map(len, cells.values()))
    first_stage = {metric: np.array([value]) for metric, value in block[FIRST_STAGE]["metrics"].items()}
    references = {
        name: ranking(values, block[name]["blended"])
        for name, values in ((FIRST_STAGE, first_stage), (NO_TRAINING, start))
    }
    shown = {
        name: name if len(by_seed) == seeds else f"{name} ({len(by_seed)} seed)"
        for name, by_seed in cells.items()
        if by_seed
    }
    arms = {label: [cells[name][seed] for seed in sorted(cells[name])] for name, label in shown.items()}
    rates = {label: hidden[name] for name, label in shown.items() if name in hidden}
    print(f"{len(queries):,} test queries, {seeds} seed(s); spread: highest less lowest {MAIN_METRIC} of an arm")
    print("blended: beside first stage and encoders, by weights that dev chooses\n")
    print(arms_table(Block(label="", references=references, hidden=rates, arms=arms)))


def ranking(values: PerQuery, blended: Mapping[str, float]) -> Measured:
    """Return a ranking of which the metrics are known, those of its blend as means."""
    how: dict[str, Any] = {"name": "", "slug": "", "weights": {}, "scores_QK": np.empty((0, 0), np.float32)}
    means = {metric: np.array([value]) for metric, value in blended.items()}
    alone, blend = Ranking(kind="re-ranker", values=values, **how), Ranking(kind="blend", values=means, **how)
    return Measured(alone=alone, blend=blend, weights={})


if __name__ == "__main__":
    main()
