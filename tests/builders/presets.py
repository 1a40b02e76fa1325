"""What the tests of presets start from: divided queries, and a run with two mined negatives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pyarrow as pa

from hnmine.arms.tune import _Presets
from hnmine.config.load import load
from hnmine.config.root import Config
from hnmine.corpus.beir import read_beir
from hnmine.ranking.first_stage import bm25_or_run_file
from hnmine.ranking.splits import Splits
from hnmine.runs.folder import Run, open_run
from hnmine.training.trainer import Bench

MINED = [("apple-care", "apple-guide", "apple-price"), ("bread-care", "bread-guide", "bread-price")]
"""Query, positive and negative."""
NO_START = Path("not asked")


@contextmanager
def run_with_negatives(folder: Path) -> Iterator[Run]:
    """Open a run folder that holds the two mined negatives."""
    names = ("query_id", "positive_id", "negative_id")
    columns = {name: list(column) for name, column in zip(names, zip(*MINED, strict=True), strict=True)}
    with open_run(folder, Config()) as run:
        run.write_table("negatives.parquet", pa.table(columns | {"rank": [1, 1]}))
        yield run


def splits_and_config(data: Path, *overrides: str) -> tuple[Splits, Config]:
    """Divide the queries of a collection."""
    config = load(overrides=["train.device=cpu", *overrides])
    collection = read_beir(data, config.sources)
    first_stage = partial(bm25_or_run_file, config.evaluate, collection.documents, collection.queries)
    return Splits(collection, config.sources, config.evaluate, config.sources.seed, first_stage), config


def presets_of(splits: Splits, config: Config, run: Run) -> _Presets:
    """Return what makes the lists of a preset."""
    return _Presets(Bench(splits, config.train, run), splits, config, run)
