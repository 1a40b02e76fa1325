"""One table of several runs of `hnmine compare`: one start, the same train pairs and test queries, other arms or seeds.

    python benchmarks/tables.py OUT OUT2 … [--seed 0]

Each OUT has one table (no `compare.sizes`, no `compare.models`). Of an arm and a seed that stand in several the first
counts. Reads `compare.json` and the metrics of every test query; nothing is trained.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from hnmine.comparison.cells import FIRST_STAGE, NO_TRAINING, Cell, arms_table
from hnmine.config.base import slug
from hnmine.ranking.evaluate import TESTED, table_of
from hnmine.ranking.task import METRICS, PerQuery


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the runs, refuse those that cannot stand side by side, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outs", nargs="+", type=Path, metavar="OUT", help="run folder of `hnmine compare`")
    parser.add_argument("--seed", type=int, help="take the trainings of this seed alone")
    options = parser.parse_args(arguments)
    found: dict[str, dict[int, tuple[Cell, PerQuery]]] = {}
    hidden: dict[str, float] = {}
    shared: list[dict[str, Any]] = []
    for out in options.outs:
        record = json.loads((out / "compare.json").read_text(encoding="utf-8"))
        if len(record["blocks"]) != 1:
            parser.error(f"{out} has {len(record['blocks'])} tables; one each is wanted")
        block = record["blocks"][0]
        queries, start = per_query(out, "compare: start")
        same = {key: block[key] for key in ("model", "pairs", FIRST_STAGE, NO_TRAINING)} | {"test queries": queries}
        shared.append(same)
        if other := [key for key, value in same.items() if value != shared[0][key]]:
            parser.error(f"{out} and {options.outs[0]} do not have the same: {', '.join(other)}")
        hidden = block["hidden_positives"] | hidden
        for name, cells in block["arms"].items():
            for cell in map(Cell.model_validate, cells):
                if options.seed in (None, cell.seed) and cell.seed not in found.setdefault(name, {}):
                    found[name][cell.seed] = cell, per_query(out, f"compare: {slug(name)}-{cell.seed}")[1]
    seeds = max(map(len, found.values()))
    fewer = {name: "" if len(of) == seeds else f" ({len(of)} seed)" for name, of in found.items() if of}
    first_stage = {metric: np.array([value]) for metric, value in block[FIRST_STAGE]["metrics"].items()}
    references = {
        FIRST_STAGE: (first_stage, block[FIRST_STAGE]["blended"]),
        NO_TRAINING: (start, block[NO_TRAINING]["blended"]),
    }
    print(f"{len(queries):,} test queries, {seeds} seed(s); spread: highest less lowest {TESTED} of an arm")
    print("blended: beside first stage and encoders, by weights that dev chooses\n")
    arms = {f"{name}{note}": [found[name][seed] for seed in sorted(found[name])] for name, note in fewer.items()}
    print(
        arms_table(arms, references, {f"{name}{note}": hidden[name] for name, note in fewer.items() if name in hidden})
    )


def per_query(out: Path, name: str) -> tuple[list[str], PerQuery]:
    """Return the test queries, and the metrics of each."""
    rows = pq.read_table(out / table_of(name), columns=["query_id", *METRICS])
    return rows.column("query_id").to_pylist(), {metric: rows.column(metric).to_numpy() for metric in METRICS}


if __name__ == "__main__":
    main()
