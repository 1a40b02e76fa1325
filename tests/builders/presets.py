"""What the tests of presets start from: divided queries, and a run with two mined negatives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from hnmine.arms.list_maker import ListMaker, read_mined
from hnmine.arms.tune import train_presets
from hnmine.config.load import load
from hnmine.config.root import Config
from hnmine.corpus.layouts import read_collection
from hnmine.embedding.ensemble import Ensemble
from hnmine.ranking.first_stage import bm25_or_run_file
from hnmine.ranking.splits import Splits
from hnmine.runs.folder import Run, open_run
from hnmine.training.lists import TrainingData
from hnmine.training.trainer import Trainer

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
    config = load(overrides=["device=cpu", *overrides])
    collection = read_collection(data, config.sources)
    first_stage = partial(bm25_or_run_file, config.evaluate, collection.documents, collection.queries)
    return Splits(collection, config, first_stage), config


def trainer_of(splits: Splits, config: Config, run: Run) -> Trainer:
    """Return the trainer that a configuration asks for."""
    data = TrainingData.of(splits, config.train, config.seed)
    return Trainer(data, config, run)


def ensemble_of(splits: Splits, config: Config, run: Run) -> Ensemble:
    """Return the encoders that a configuration asks for."""
    return Ensemble(config, splits.collection.documents, run.out / "store")


def maker_of(
    splits: Splits, config: Config, run: Run, start: Path = NO_START, *, with_mined: bool = False
) -> ListMaker:
    """Return what makes lists of arms; `with_mined` takes the negatives of the run."""
    trainer = trainer_of(splits, config, run)
    mined = read_mined(run, trainer.data) if with_mined else {}
    return ListMaker(trainer, start, splits, ensemble_of(splits, config, run), mined)


def train_presets_of(splits: Splits, config: Config, run: Run) -> tuple[dict[str, Any], dict[str, str]]:
    """Train the presets that a configuration names."""
    return train_presets(trainer_of(splits, config, run), splits, ensemble_of(splits, config, run))


def useless_first_stage(data: Path, file: Path) -> str:
    """Write a run file of documents that are right for hardly any query; return the setting that names it."""
    collection = read_collection(data, load().sources)
    wrong = [doc for doc in collection.documents.ids if doc.startswith("jacket")]
    ranked = list(enumerate(wrong, 1))
    lines = [f"{query} Q0 {doc} {rank} {9 - rank} x" for query in collection.queries.ids for rank, doc in ranked]
    file.write_text("\n".join(lines) + "\n")
    return f"evaluate.first_stage={file}"
