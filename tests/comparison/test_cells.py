"""Arms side by side: what each is trained on, that what is done is kept, and the table that comes of it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

import hnmine
from hnmine.arms.arm import known_arms
from hnmine.comparison import audit as auditing
from hnmine.comparison import cells as comparison
from hnmine.comparison.cells import Cell, _Cells, _chosen_arms, _Pace, arms_table
from hnmine.config.load import load
from hnmine.corpus.beir import read_beir
from hnmine.errors import ConfigError, DataError
from hnmine.pipeline import splits_of
from hnmine.ranking.first_stage import NO_ROW
from hnmine.runs.folder import open_run
from hnmine.training.lists import Lists
from hnmine.training.trainer import Bench, Record
from hnmine.training.worker import Recipe
from tests.builders.collections import write_collection
from tests.builders.folders import result_hashes
from tests.builders.models import load_cross_encoder, tiny_cross_encoder
from tests.builders.settings import quick_config


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_collection(tmp_path / "data")


NONE = "no fine-tuning"
KINDS = "guide", "price", "story"


def test_how_often_arms_take_hidden_right_answers_against_a_plain_loop(data: Path, tmp_path: Path):
    pairs = (data / "qrels" / "train.tsv").read_text().splitlines()[1:]
    topics = [pair.split("-")[0] for pair in pairs]
    more = [f"{pair.split()[0]}\t{topic}-{of}" for pair, topic in zip(pairs, topics, strict=True) for of in KINDS]
    rows = dict.fromkeys([*(pair.rsplit("\t", 1)[0] for pair in pairs), *more])
    (data / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(f"{row}\t1\n" for row in rows))
    config = quick_config(tiny_cross_encoder(tmp_path / "start"))
    with open_run(tmp_path / "out", config) as run:
        splits = splits_of(read_beir(data, config.sources), config, run)
        cells = _Cells(splits, config, run)
        ground, known = cells._ground, known_arms(config)
        rates = cells.hidden_rates(known)
    trials = auditing.hide(ground.pairs, ground.groups_N)
    audited = auditing.audit(ground.space(known["random"], 0, ground.pairs), trials, seed=0, first_QK=ground.first_QK)
    for name, of in audited.items():
        assert rates[name] == of.hidden_rate, name
    assert sum(of.hidden_rate > 0 for of in audited.values()) > 5
    assert not {"positives only", "in-batch", "STAR", "distillation alone"} & set(rates)
    texts, queries = splits.collection.documents.texts, splits.collection.queries.texts
    bench, model, hidden = cells._bench, load_cross_encoder(cells._start, 64), []
    for query, right in bench.pairs.positives_of().items():
        scores = model.scores([queries[query]] * len(texts), list(texts))
        first = [row for row in splits.first_stage(np.array([query]))[query][0][:50].tolist() if row != NO_ROW]
        for own in right:
            below = [row for row in first if row != own and scores[row] <= scores[own]]
            hidden += [max(below, key=lambda row: scores[row]) in right] if below else []
    assert rates["mistakes of the start"] == np.mean(hidden)
    assert 0 < np.mean(hidden) < 1


def test_arms_are_asked_for_by_name_and_an_unknown_one_names_the_known():
    config = load(overrides=["compare.arms=[bm25, Two Conditions]"])
    assert list(_chosen_arms(config)) == ["BM25", "two conditions"]
    with pytest.raises(
        ConfigError,
        match=r"bm52 is not known; did you mean bm25\?; known are: positives-only, in-batch, .*two-conditions",
    ):
        comparison.refuse_unknown(load(overrides=["compare.arms=[bm52]"]))


def test_a_comparison_is_kept_cell_by_cell_and_goes_on_where_it_was_stopped(data: Path, tmp_path: Path, capsys):
    more = ["compare.arms=[random]", "compare.seeds=2", "compare.learning_rates=[1e-5, 1e-3]"]
    config = quick_config(tiny_cross_encoder(tmp_path / "start"), *more)
    out = tmp_path / "out"
    found = hnmine.compare(data, out, config)
    assert f"1 of 2 trainings are in {out / 'compare.md'}; about " in capsys.readouterr().err
    cells = {path.name: json.loads(path.read_text()) for path in (out / "compare").glob("*.json")}
    assert sorted(cells) == ["random-0.json", "random-1.json"]
    first, second = cells["random-0.json"], cells["random-1.json"]
    assert {"0.001", "1e-05"} <= set(first["dev_by_rate"])
    assert list(second["dev_by_rate"]) == [f"{first['learning_rate']:g}"], "chosen with the first seed"
    assert first["dev_by_rate"][f"{first['learning_rate']:g}"] == max(first["dev_by_rate"].values())
    assert not list((out / "rerankers").iterdir()), "no model is kept"
    assert {other for one in (first, second) for other in one["blend"]} <= {"re-ranker", "BM25", "lexical"}
    row = next(line for line in found["table"].splitlines() if line.startswith("random  ")).split()
    assert row[5] == f"{(first['blended']['MRR@10'] + second['blended']['MRR@10']) / 2:.3f}"
    (block,) = found["blocks"]
    assert (block["pairs"], block["arms"]) == (first["lists"], {"random": [first, second]})
    assert (out / "compare.md").read_text() == f"```\n{found['table']}\n```\n"
    assert json.loads((out / "compare.json").read_text())["table"] == found["table"]
    assert found["table"].splitlines()[6].split("  ")[0] == NONE

    (out / "rerankers" / "random-0-0.001").mkdir()  # of a job that was killed while it removed models
    scores = out / "evaluation"
    (scores / "compare-random-1.parquet").write_bytes((scores / "compare-start.parquet").read_bytes())  # of another
    capsys.readouterr()
    again = hnmine.compare(data, out, config)
    assert capsys.readouterr().err.count("kept step") == 1, "only the one that was lost is trained again"
    for a, b in zip(again["blocks"][0]["arms"]["random"], block["arms"]["random"], strict=True):
        assert a | {"seconds": 0} == b | {"seconds": 0}
    assert again["table"] == found["table"]
    assert not list((out / "rerankers").iterdir())


def test_what_is_judged_or_encoded_otherwise_is_measured_again_and_trained_again_only_for_dev(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    more = ["compare.arms=[bm25]", "compare.seeds=1", "compare.learning_rates=[1e-3]"]
    start, out = tiny_cross_encoder(tmp_path / "start"), tmp_path / "out"
    other = "encoders=[{name: lexical, lexical: {width: 3}}]"

    def found(folder: Path, *also: str) -> tuple[dict, str]:
        config = quick_config(start, *more, *also)
        (block,) = hnmine.compare(data, folder, config)["blocks"]
        scores = result_hashes(folder / "evaluation")
        cell = block["arms"]["BM25"][0] | {"seconds": 0}
        return {"start": block[NONE], "cell": cell, "scores": scores}, capsys.readouterr().err

    def judge(split: str, *kinds: str) -> None:
        path = data / "qrels" / f"{split}.tsv"
        head, *rows = path.read_text().splitlines()
        queries = dict.fromkeys(row.split()[0] for row in rows)
        more = [f"{query}\t{query.split('-')[0]}-{kind}\t1" for query in queries for kind in kinds]
        path.write_text("\n".join([head, *more]) + "\n")

    judge("dev", "story")
    first, _ = found(out)
    judge("test", "guide", "price")
    later, said = found(out)
    assert "kept step" not in said
    assert later == found(tmp_path / "fresh test")[0]
    assert later["cell"]["metrics"] != first["cell"]["metrics"]
    encoded, said = found(out, other)
    assert "kept step" not in said, "BM25's negatives ask no encoder"
    assert encoded == found(tmp_path / "fresh encoder", other)[0]
    assert encoded["cell"]["blend"] != later["cell"]["blend"]
    judge("dev", "price")
    judged, said = found(out)
    assert said.count("kept step") == 1, "dev chooses the step"
    found(out, "evaluate.blend=none")
    hnmine.run(data, out, quick_config(start, "train.presets=positives"))
    capsys.readouterr()
    back, said = found(out)
    assert "kept step" not in said, "neither an evaluation nor a blend of nothing takes the scores on dev away"
    assert {name: back[name] for name in ("start", "cell")} == {name: judged[name] for name in ("start", "cell")}
    assert judged == found(tmp_path / "fresh dev")[0]


def test_where_nothing_can_be_trained_on_nothing_is_told_as_a_result(data: Path, tmp_path: Path):
    config = quick_config(
        tiny_cross_encoder(tmp_path / "start"), "compare.arms=[distillation-alone]", "evaluate.depth=1"
    )
    with pytest.raises(DataError, match="none of distillation alone has anything to train on"):
        hnmine.compare(data, tmp_path / "out", config)


def test_a_batch_that_is_too_small_for_an_arm_is_refused():
    few = ["compare.negatives=8", "train.pairs_per_batch=8"]
    comparison.refuse_unknown(load(overrides=["compare.arms=[bm25-and-in-batch]", *few]))
    with pytest.raises(ConfigError, match=r"in-batch takes 8 negatives from the other pairs .* leaves 7"):
        comparison.refuse_unknown(load(overrides=["compare.arms=[in-batch]", *few]))
    every, unasked = _chosen_arms(load()), _chosen_arms(load(overrides=few))
    assert every.keys() - unasked.keys() == {"in-batch"}, "nobody named it"


def test_where_the_largest_learning_rate_is_the_best_twice_as_much_is_tried(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    peak = 4e-4
    fit = Bench.fit

    def with_a_peak(self: Bench, name: str, start: Path, lists: Lists, recipe: Recipe) -> Record:
        record = fit(self, name, start, lists, recipe)
        return record.model_copy(update={"dev": 1 / (1 + abs(math.log2(recipe.learning_rate / peak)))})

    monkeypatch.setattr(Bench, "fit", with_a_peak)
    start, tried = tiny_cross_encoder(tmp_path / "start"), {}
    for rates in ([1e-4], [1e-4, 5e-5], [1e-4, 8e-4], [3e-3, 1e-3]):
        more = ["compare.arms=[random]", "compare.seeds=1", f"compare.learning_rates={rates}"]
        out = tmp_path / f"out{len(tried)}"
        found = hnmine.compare(data, out, quick_config(start, *more))
        (cell,) = found["blocks"][0]["arms"]["random"]
        tried[str(rates)] = sorted(map(float, cell["dev_by_rate"])), cell["learning_rate"]
        assert not list((out / "rerankers").iterdir())
    assert list(tried.values()) == [
        ([1e-4], 1e-4),
        ([5e-5, 1e-4, 2e-4, 4e-4, 8e-4], 4e-4),
        ([1e-4, 8e-4, 1.6e-3], 8e-4),
        ([1e-3, 3e-3], 1e-3),
    ]


def test_lessons_are_an_arm_and_stand_beside_the_pairs_of_others(data: Path, tmp_path: Path, capsys):
    arms = "distillation-alone, distillation-random-of-bm25-s-first-50, random-of-bm25-s-first-50"
    more = [f"compare.arms=[{arms}]", "compare.seeds=2", "compare.learning_rates=[1e-5, 1e-3]"]
    more += ["train.distill.lessons=30"]
    out = tmp_path / "out"
    found = hnmine.compare(data, out, quick_config(tiny_cross_encoder(tmp_path / "start"), *more))
    assert capsys.readouterr().err.count("30 lessons on ") == 1
    alone, beside, without = found["blocks"][0]["arms"].values()
    assert all({"1e-05", "0.001"} <= set(cells[0]["dev_by_rate"]) for cells in (alone, beside, without))
    assert (alone[0]["negatives"], alone[0]["lists"]) == (0, 30)
    assert (beside[0]["negatives"], beside[0]["lists"]) == (without[0]["negatives"], 30 + without[0]["lists"])
    assert not list((out / "rerankers").iterdir())


def test_an_arm_that_nobody_can_teach_is_left_out_and_the_others_are_compared(data: Path, tmp_path: Path, capsys):
    arms = "distillation-random-of-bm25-s-first-50, distillation-alone, random"
    more = [f"compare.arms=[{arms}]", "compare.seeds=1", "evaluate.depth=1", "compare.learning_rates=[1e-3]"]
    found = hnmine.compare(data, tmp_path / "out", quick_config(tiny_cross_encoder(tmp_path / "start"), *more))
    said = capsys.readouterr().err
    assert said.count("no lessons: beside dev and test there is no query") == 1
    assert said.count("or nobody a lesson; left out") == 2
    assert list(found["blocks"][0]["arms"]) == ["random"]


def test_a_comparison_leaves_what_was_trained_before_as_it_is(data: Path, tmp_path: Path):
    body, out = tiny_cross_encoder(tmp_path / "body", head=False, spread=1), tmp_path / "out"
    hnmine.run(data, out, quick_config(body, "train.distill.lessons=16"))
    before = result_hashes(out / "rerankers")
    assert {path.partition("/")[0] for path in before} == {"start", "distilled"}
    hnmine.compare(data, out, quick_config(body, "compare.arms=[random]", "compare.seeds=1", "train.max_pairs=6"))
    after = result_hashes(out / "rerankers")
    assert after.items() > before.items(), "the comparison begins with fewer pairs, so with a start of its own"


def test_sizes_and_models_have_a_table_each_and_one_of_all(data: Path, tmp_path: Path):
    one, two = tiny_cross_encoder(tmp_path / "one"), tiny_cross_encoder(tmp_path / "two", seed=1)
    more = ["compare.arms=[random, bm25]", "compare.seeds=1", "compare.learning_rates=[1e-4]"]
    more += ["compare.sizes=[2, 4]", f"compare.models=[{one}, {two}]", "train.evaluations_per_epoch=1"]
    out = tmp_path / "out"
    found = hnmine.compare(data, out, quick_config(one, *more))
    blocks = {(Path(block["model"]).name, block["pairs"]): block for block in found["blocks"]}
    assert list(blocks) == [("one", 2), ("one", 4), ("two", 2), ("two", 4)]
    for (_, pairs), block in blocks.items():
        assert [cell["lists"] for cells in block["arms"].values() for cell in cells] == [pairs, pairs]
    assert blocks["one", 2][NONE] == blocks["one", 4][NONE] != blocks["two", 2][NONE]
    names = sorted(path.name for path in (out / "compare").glob("random*"))
    assert names == [f"random-0-{pairs}-{model}.json" for pairs in (2, 4) for model in ("one", "two")]
    text = found["table"].splitlines()
    side = next(at for at, line in enumerate(text) if "2 pairs, one  4 pairs, one  2 pairs, two  4 pairs, two" in line)
    shown = {" ".join(fields[:-4]): [*map(float, fields[-4:])] for fields in map(str.split, text[side + 1 : side + 5])}
    of_random = [block["arms"]["random"][0]["metrics"]["MRR@10"] for block in found["blocks"]]
    assert shown["random"] == pytest.approx(of_random, abs=5e-4)
    assert shown["no fine-tuning"] == pytest.approx(
        [block[NONE]["metrics"]["MRR@10"] for block in found["blocks"]], abs=5e-4
    )
    with pytest.raises(DataError, match=r"compare.sizes asks for 5,000 train pairs, there are \d+"):
        hnmine.compare(data, out, quick_config(one, *more, "compare.sizes=[5000]"))
    with pytest.raises(ConfigError, match="letters and digits of the names' last parts must differ"):
        load(overrides=["compare.models=[a/reranker, b/reranker]"])


def cell(arm: str, seed: int, values: np.ndarray) -> tuple[Cell, dict[str, np.ndarray]]:
    of = dict.fromkeys(("MRR@3", "MRR@10", "nDCG@10", "Recall@10"), values)
    made = Cell(
        identity="", arm=arm, seed=seed, learning_rate=1e-5, dev_by_rate={}, best_step=1, lists=1, negatives=1,
        pairs_with_negatives=0.5, scores={}, blend={},
        metrics={metric: float(value.mean()) for metric, value in of.items()}, seconds=1.0,
        blended={metric: float(value.mean()) for metric, value in of.items()},
    )  # fmt: skip
    return made, of


def test_the_table_has_means_over_seeds_and_tests_over_queries():
    start = np.zeros(50)
    good, better = np.full(50, 0.5), np.full(50, 0.7)
    found = {"good": [cell("good", 0, good), cell("good", 1, good + 0.1)], "better": [cell("better", 0, better)]}
    references = {name: (cell("", 0, start)[1], {"MRR@10": 0.9}) for name in ("first stage", "no fine-tuning")}
    lines = ["", "", *arms_table(found, references, {"good": 0.25}).splitlines()]
    assert lines[4].split() == ["no", "fine-tuning", "0.000", "0.000", "0.000", "0.000", "0.900"]
    assert lines[5].split()[:8] == ["better", "0.700", "0.700", "0.700", "0.700", "0.700", "0.000", "50%"]
    assert lines[6].split()[:9] == ["good", "0.550", "0.550", "0.550", "0.550", "0.550", "0.100", "50%", "25.0%"]
    assert [line.split()[10 - number] for number, line in enumerate(lines[6:4:-1])] == ["+0.550", "+0.700"]
    assert float(lines[6].split()[-1]) < 0.001, "fifty queries of fifty are worse than with the first"


def test_the_time_that_is_left_follows_lists_and_the_learning_rates_of_first_seeds():
    pace, made = _Pace(), cell("good", 0, np.zeros(1))[0]
    pace.add(made.model_copy(update={"lists": 100, "dev_by_rate": {"a": 0.1, "b": 0.2}, "seconds": 40.0}), first=True)
    assert pace.seconds(500, first=True) == pytest.approx(200)
    assert pace.seconds(500, first=False) == pytest.approx(100)
    pace.add(made.model_copy(update={"lists": 200, "dev_by_rate": {"a": 0.1}, "seconds": 20.0}), first=False)
    assert pace.seconds(400, first=True) == pytest.approx(60 / 400 * 400 * 2), (
        "others say nothing of how many are tried"
    )
