"""One training of an arm: its learning rate, and how often its negatives are hidden right answers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import hnmine
from hnmine.arms.arm import known_arms
from hnmine.comparison.audit import hide_positives, rule_risks
from hnmine.comparison.cells import Cells
from hnmine.project import open_project
from hnmine.training.gradient import Recipe
from hnmine.training.lists import Lists, TrainingData
from hnmine.training.trainer import Trainer, Training
from hnmine.types import NO_ROW
from tests.builders.collections import write_collection
from tests.builders.models import load_cross_encoder, tiny_cross_encoder
from tests.builders.settings import quick_config

KINDS = "guide", "price", "story"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_collection(tmp_path / "data")


def judge_all_kinds(data: Path) -> None:
    """Let every train query have three right documents."""
    path = data / "qrels" / "train.tsv"
    pairs = [line.rsplit("\t", 1)[0] for line in path.read_text().splitlines()[1:]]
    more = [f"{pair.split()[0]}\t{pair.split('-')[0]}-{kind}" for pair in pairs for kind in KINDS]
    rows = "".join(f"{row}\t1\n" for row in dict.fromkeys([*pairs, *more]))
    path.write_text(f"query-id\tcorpus-id\tscore\n{rows}")


def test_how_often_arms_take_hidden_right_answers_against_a_plain_loop(data: Path, tmp_path: Path):
    judge_all_kinds(data)
    config = quick_config(tiny_cross_encoder(tmp_path / "start"))
    known = known_arms(config)
    with open_project(data, tmp_path / "out", config) as project:
        training_data = TrainingData.of(project.splits, config.train, config.seed)
        cells = Cells(project, training_data, config.train.model, {})
        maker, rates = cells.maker, cells.hidden_rates(known)
        # Rules, as the audit counts them.
        trials = hide_positives(maker.pairs, project.collection.never_negative, maker.query_rows)
        space = maker.space(known["random"], 0, maker.pairs)
        risks = rule_risks(space, trials, seed=0, first_QK=maker.first_QK)
        # The start's mistakes, one query at a time.
        collection, hidden, model = project.collection, [], load_cross_encoder(cells.start, 64)
        texts = collection.documents.texts
        for query, right in training_data.pairs.positives_of().items():
            scores = model.scores([collection.queries.texts[query]] * len(texts), list(texts))
            first = project.splits.first_stage(np.array([query]))[0][0, :50].tolist()
            for positive in right:
                others = [row for row in first if row not in (NO_ROW, positive)]
                below = [row for row in others if scores[row] <= scores[positive]]
                hidden += [max(below, key=lambda row: scores[row]) in right] if below else []
    assert {name: rates[name] for name in risks} == {name: risk["hidden"] for name, risk in risks.items()}
    assert sum(risk["hidden"] > 0 for risk in risks.values()) > 5
    assert not {"positives", "in-batch", "STAR", "distillation alone", "distilled"} & set(rates)
    assert rates["mistakes of the start"] == np.mean(hidden)
    assert 0 < np.mean(hidden) < 1


def test_where_the_largest_learning_rate_is_the_best_twice_as_much_is_tried(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    peak = 4e-4
    fit = Trainer.fit

    def with_a_peak(self: Trainer, name: str, start: Path, lists: Lists, recipe: Recipe) -> Training:
        training = fit(self, name, start, lists, recipe)
        return training.model_copy(update={"dev": 1 / (1 + abs(math.log2(recipe.learning_rate / peak)))})

    monkeypatch.setattr(Trainer, "fit", with_a_peak)
    start, tried = tiny_cross_encoder(tmp_path / "start"), []
    for rates in ([1e-4], [1e-4, 5e-5], [1e-4, 8e-4], [3e-3, 1e-3]):
        more = ["compare.arms=[random]", "compare.seeds=1", f"compare.learning_rates={rates}"]
        out = tmp_path / f"out{len(tried)}"
        found = hnmine.compare(data, out, quick_config(start, *more))
        (cell,) = found["blocks"][0]["arms"]["random"]
        tried.append((sorted(map(float, cell["dev_by_rate"])), cell["learning_rate"]))
        assert not list((out / "rerankers").iterdir())
    assert tried == [
        ([1e-4], 1e-4),
        ([5e-5, 1e-4, 2e-4, 4e-4, 8e-4], 4e-4),
        ([1e-4, 8e-4, 1.6e-3], 8e-4),
        ([1e-3, 3e-3], 1e-3),
    ]
