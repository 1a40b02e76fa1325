"""Arms side by side: what each is trained on, that what is done is kept, and the table that comes of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import hnmine
from hnmine import comparison
from hnmine.comparison import Cell, _chosen_arms, _Ground, _table, known_arms, slug
from hnmine.config import Config
from hnmine.errors import ConfigError
from hnmine.runs import open_run
from hnmine.settings import load
from hnmine.sources import read_beir
from hnmine.splits import Splits
from tests.test_pipeline import LEXICAL, write_collection
from tests.test_reranker import tiny_model


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_collection(tmp_path / "data")


def config_of(model: Path, *more: str) -> Config:
    settings = [f"train.model={model}", "train.max_tokens=64", "train.dtype=float32", "train.engine=torch"]
    return load(overrides=[LEXICAL, *settings, *more])


def test_every_arm_has_a_name_of_its_own_on_a_command_line_and_a_description():
    arms = known_arms(Config())
    assert len({slug(name) for name in arms}) == len(arms)
    assert all(arm.about for arm in arms.values())
    assert {"positives-only", "in-batch", "two-conditions", "percpos-0.95", "bm25", "random"} <= set(map(slug, arms))
    assert {"two conditions, minilm", "two conditions, lexical"} <= set(arms)
    assert not [name for name in known_arms(load(overrides=[LEXICAL])) if "lexical" in name]


def test_arms_are_asked_for_by_name_and_an_unknown_one_names_the_known():
    config = load(overrides=["compare.arms=[bm25, Two Conditions]"])
    assert list(_chosen_arms(config)) == ["BM25", "two conditions"]
    with pytest.raises(ConfigError, match=r"bm52 is not known; known are: positives-only, in-batch, .*two-conditions"):
        comparison.refuse_unknown(load(overrides=["compare.arms=[bm52]"]))


@pytest.mark.ray
def test_what_each_arm_is_trained_on(data: Path, tmp_path: Path):
    config = config_of(tiny_model(tmp_path / "start"), "compare.negatives=4")
    with open_run(tmp_path / "out", config) as run:
        splits = Splits(read_beir(data, config.sources), config, run)
        ground = _Ground(splits, config, run)
        of = {name: ground._lists(arm, 3) for name, arm in known_arms(config).items()}
    texts, positives = splits.collection.documents.texts, splits.collection.positives()
    judged = {splits.collection.queries.texts[query]: {texts[doc] for doc in docs} for query, docs in positives.items()}
    pairs = len(splits.train)
    for name, (lists, recipe, facts) in of.items():
        assert recipe.seed == 3
        assert facts["negatives"] == sum(len(documents) - 1 for documents in lists.documents), name
        for query, documents in zip(lists.queries, lists.documents, strict=True):
            assert documents[0] in judged[query]
            assert not judged[query] & set(documents[1:]), name
            assert len(set(documents)) == len(documents) <= 5
    sizes = {name: [len(documents) for documents in lists.documents] for name, (lists, _, _) in of.items()}
    assert sizes["positives only"] == [1] * pairs
    assert of["positives only"][1].loss == "bce"
    assert sizes["in-batch"] == [1] * pairs
    assert of["in-batch"][1].in_batch_negatives == 4
    assert sizes["random"] == [5] * pairs
    assert of["random"][2]["pairs_with_negatives"] == 1
    assert max(sizes["BM25 and in-batch"]) == 3
    assert of["BM25 and in-batch"][1].in_batch_negatives == 2
    assert of["two conditions"][2]["pairs_with_negatives"] == len(sizes["two conditions"]) / pairs


@pytest.mark.ray
def test_a_comparison_is_kept_cell_by_cell_and_goes_on_where_it_was_stopped(data: Path, tmp_path: Path, capsys):
    more = ["compare.arms=[random]", "compare.seeds=2", "compare.learning_rates=[1e-5, 1e-3]"]
    config = config_of(tiny_model(tmp_path / "start"), *more)
    out = tmp_path / "out"
    found = hnmine.compare(data, out, config)
    cells = {path.name: json.loads(path.read_text()) for path in (out / "compare").glob("*.json")}
    assert sorted(cells) == ["random-0.json", "random-1.json"]
    first, second = cells["random-0.json"], cells["random-1.json"]
    assert sorted(first["dev_by_rate"]) == ["0.001", "1e-05"]
    assert list(second["dev_by_rate"]) == [f"{first['learning_rate']:g}"], "chosen with the first seed"
    assert first["dev_by_rate"][f"{first['learning_rate']:g}"] == max(first["dev_by_rate"].values())
    assert not [path.name for path in (out / "rerankers").iterdir() if path.name != "start"], "no model is kept"
    assert found["arms"]["random"] == [first, second]
    assert (out / "compare.md").read_text() == f"```\n{found['table']}\n```\n"
    assert json.loads((out / "compare.json").read_text())["table"] == found["table"]
    assert found["table"].splitlines()[4].split("  ")[0] == "no fine-tuning"

    (out / "evaluation" / "compare-random-1.parquet").unlink()
    capsys.readouterr()
    again = hnmine.compare(data, out, config)
    assert capsys.readouterr().err.count("kept step") == 1, "only the one that was lost is trained again"
    for a, b in zip(again["arms"]["random"], found["arms"]["random"], strict=True):
        assert a | {"seconds": 0} == b | {"seconds": 0}


def cell(arm: str, seed: int, values: np.ndarray) -> tuple[Cell, dict[str, np.ndarray]]:
    of = dict.fromkeys(("MRR@3", "MRR@10", "nDCG@10", "Recall@10"), values)
    made = Cell(
        identity="", arm=arm, seed=seed, learning_rate=1e-5, dev_by_rate={}, best_step=1, lists=1, negatives=1,
        pairs_with_negatives=0.5, metrics={metric: float(value.mean()) for metric, value in of.items()}, seconds=1.0,
    )  # fmt: skip
    return made, of


def test_the_table_has_means_over_seeds_and_tests_over_queries():
    start = np.zeros(50)
    good, better = np.full(50, 0.5), np.full(50, 0.7)
    found = {"good": [cell("good", 0, good), cell("good", 1, good + 0.1)], "better": [cell("better", 0, better)]}
    lines = _table(found, cell("", 0, start)[1], {"good": 0.25}).splitlines()
    assert lines[0].startswith("50 test queries, 2 seed(s)")
    assert lines[4].split() == ["no", "fine-tuning", "0.000", "0.000", "0.000", "0.000"]
    assert lines[5].split()[:8] == ["better", "0.700", "0.700", "0.700", "0.700", "0.000", "50%", "+0.700"]
    assert lines[6].split()[:9] == ["good", "0.550", "0.550", "0.550", "0.550", "0.100", "50%", "25.0%", "+0.550"]
    assert float(lines[6].split()[-1]) < 0.001, "fifty queries of fifty are worse than with the first"
