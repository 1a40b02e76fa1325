"""Arms side by side: what is done is kept, and tables and the winner's command come of it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

import hnmine
from hnmine import cli
from hnmine.arms.arm import compared_arms
from hnmine.comparison.cells import FIRST_STAGE, NO_TRAINING, Arrived, Cell
from hnmine.comparison.compare import Block, arms_table, comparison_text
from hnmine.config.load import load
from hnmine.corpus.layouts import read_collection
from hnmine.errors import ConfigError, DataError
from tests.builders.collections import write_collection
from tests.builders.folders import result_hashes
from tests.builders.models import tiny_cross_encoder
from tests.builders.ranking import measured_of, task_of_rows
from tests.builders.settings import quick_config


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_collection(tmp_path / "data")


def test_a_comparison_is_kept_cell_by_cell_and_goes_on_where_it_was_stopped(data: Path, tmp_path: Path, capsys):
    more = ["compare.arms=[random]", "compare.seeds=2", "compare.learning_rates=[1e-5, 1e-3]"]
    config = quick_config(tiny_cross_encoder(tmp_path / "start"), *more)
    out = tmp_path / "out"
    found = hnmine.compare(data, out, config)
    assert f"1 of 2 trainings are in {out / 'compare.md'}; about " in capsys.readouterr().err
    (block,) = found["blocks"]
    first, second = block["arms"]["random"]
    assert (first["seed"], second["seed"], block["pairs"]) == (0, 1, first["lists"])
    assert {"0.001", "1e-05"} <= set(first["dev_by_rate"])
    assert list(second["dev_by_rate"]) == [f"{first['learning_rate']:g}"], "chosen with the first seed"
    assert first["dev_by_rate"][f"{first['learning_rate']:g}"] == max(first["dev_by_rate"].values())
    assert not list((out / "rerankers").iterdir()), "no model is kept"
    assert {other for one in (first, second) for other in one["blend"]} <= {"re-ranker", "BM25", "lexical"}
    row = next(line for line in found["table"].splitlines() if line.startswith("random  ")).split()
    assert row[5] == f"{(first['blended']['MRR@10'] + second['blended']['MRR@10']) / 2:.3f}"
    assert (out / "compare.md").read_text() == f"```\n{found['table']}\n```\n"
    assert json.loads((out / "compare.json").read_text())["table"] == found["table"]
    assert found["table"].splitlines()[7].split("  ")[0] == NO_TRAINING

    (out / "rerankers" / "random-0-0.001").mkdir()  # of a job that was killed while it removed models
    (out / "evaluation" / "compare-random-1.parquet").write_bytes(b"damaged")
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
        return {"start": block[NO_TRAINING], "cell": cell, "scores": scores}, capsys.readouterr().err

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


def test_lessons_are_an_arm_and_stand_beside_the_pairs_of_others(data: Path, tmp_path: Path, capsys):
    arms = "distillation-alone, distillation-random-of-bm25-s-first-50, random-of-bm25-s-first-50"
    more = [f"compare.arms=[{arms}]", "compare.seeds=1", "compare.learning_rates=[1e-3]", "train.lessons=30"]
    out = tmp_path / "out"
    found = hnmine.compare(data, out, quick_config(tiny_cross_encoder(tmp_path / "start"), *more))
    assert capsys.readouterr().err.count("30 lessons on ") == 1
    alone, beside, without = found["blocks"][0]["arms"].values()
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
    hnmine.run(data, out, quick_config(body, "train.lessons=16"))
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
    assert blocks["one", 2][NO_TRAINING] == blocks["one", 4][NO_TRAINING] != blocks["two", 2][NO_TRAINING]
    names = sorted(path.name for path in (out / "evaluation").glob("compare-random*"))
    assert names == [f"compare-random-0-{pairs}-{model}.parquet" for pairs in (2, 4) for model in ("one", "two")]
    text = found["table"].splitlines()
    labels = "MRR@10 2 pairs, one 4 pairs, one 2 pairs, two 4 pairs, two"
    side = next(at for at, line in enumerate(text) if " ".join(line.split()) == labels)
    shown = {" ".join(fields[:-4]): [*map(float, fields[-4:])] for fields in map(str.split, text[side + 1 : side + 5])}
    of_random = [block["arms"]["random"][0]["metrics"]["MRR@10"] for block in found["blocks"]]
    assert shown["random"] == pytest.approx(of_random, abs=5e-4)
    assert shown["no fine-tuning"] == pytest.approx(
        [block[NO_TRAINING]["metrics"]["MRR@10"] for block in found["blocks"]], abs=5e-4
    )
    with pytest.raises(DataError, match=r"compare.sizes asks for 5,000 train pairs, there are \d+"):
        hnmine.compare(data, out, quick_config(one, *more, "compare.sizes=[5000]"))
    with pytest.raises(ConfigError, match="letters and digits of the names' last parts must differ"):
        load(overrides=["compare.models=[a/reranker, b/reranker]"])


def right_ones_last(data: Path, file: Path) -> Path:
    """Write a run file that a re-ranker beats: the right document of each query behind nine others."""
    documents, lines = read_collection(data, load().sources).documents.ids, []
    for qrels in (data / "qrels").iterdir():
        for line in qrels.read_text().splitlines()[1:]:
            query, right, _ = line.split("\t")
            ranked = [*[doc for doc in documents if doc != right][:9], right]
            lines += [f"{query} Q0 {doc} {rank} {-rank} x\n" for rank, doc in enumerate(ranked, 1)]
    file.write_text("".join(lines))
    return file


def test_the_last_line_trains_the_winner_as_it_was_trained(data: Path, tmp_path: Path, capsys):
    """The command is run as it is printed, in the folder of the comparison; the same model is the best on dev."""
    model, out = tiny_cross_encoder(tmp_path / "a start"), tmp_path / "out"
    more = ["compare.arms=[random, bm25]", "compare.seeds=1", "compare.learning_rates=[1e-3]", "train.max_pairs=8"]
    more += [f"evaluate.first_stage={right_ones_last(data, tmp_path / 'run.trec')}", "evaluate.blend=none"]
    found = hnmine.compare(data, out, quick_config(model, *more))
    line = found["winner"].splitlines()[-1]
    words = shlex.split(line)
    assert words[:6] == ["hnmine", "train", "--data", str(data), "--out", str(out)]
    cells = {name: arm[0] for name, arm in found["blocks"][0]["arms"].items()}
    best = max(cells.values(), key=lambda each: max(each["dev_by_rate"].values()))
    assert max(best["dev_by_rate"].values()) > best["dev_of_start"]
    assert words[6:8] == ["--preset", best["arm"].lower()]
    assert {f"train.learning_rate={best['learning_rate']}", "train.max_pairs=8", f"train.model={model}"} <= set(words)
    assert not any(word.startswith("compare.") for word in words)
    assert found["winner"].startswith(f"Deploy it or not? Best on dev of all is {best['arm']}")
    assert "MRR@10 on dev " in found["winner"]
    assert " against first stage" in found["winner"]
    capsys.readouterr()
    assert cli.main(words[1:]) == 0
    training = json.loads((out / "manifest.json").read_text())["training"]
    (trained,) = training["presets"].values()
    assert trained["lists"] == best["lists"] == 8
    assert trained["dev"] == max(best["dev_by_rate"].values())


def test_nothing_is_to_be_trained_where_no_arm_beats_the_start(data: Path, tmp_path: Path):
    more = ["compare.arms=[random]", "compare.seeds=1", "compare.learning_rates=[1e-12]"]
    found = hnmine.compare(data, tmp_path / "out", quick_config(tiny_cross_encoder(tmp_path / "start"), *more))
    assert found["winner"].startswith("Deploy it or not? No arm: ")
    line = shlex.split(found["winner"].splitlines()[-1])
    assert line[:2] == ["hnmine", "evaluate"]
    assert cli.main(line[1:]) == 0
    assert (tmp_path / "out" / "ranker" / "ranker.json").is_file()


def test_arms_are_asked_for_by_name_and_an_unknown_one_names_the_known(data: Path, tmp_path: Path):
    assert list(compared_arms(load(overrides=["compare.arms=[bm25, Two Conditions]"]))) == ["BM25", "two conditions"]
    with pytest.raises(
        ConfigError, match=r"bm52 is not known; did you mean bm25\?; known are: .*positives, in-batch, .*two-conditions"
    ):
        hnmine.compare(data, tmp_path / "out", load(overrides=["compare.arms=[bm52]"]))
    assert not (tmp_path / "out").exists()


def test_a_batch_that_is_too_small_for_an_arm_is_refused():
    few = ["train.pairs_per_batch=4"]
    assert compared_arms(load(overrides=["compare.arms=[bm25-and-in-batch]", *few]))
    with pytest.raises(ConfigError, match=r"in-batch takes 4 negatives from the other pairs .* leaves 3"):
        compared_arms(load(overrides=["compare.arms=[in-batch]", *few]))
    every, unasked = compared_arms(load()), compared_arms(load(overrides=few))
    assert every.keys() - unasked.keys() == {"in-batch"}, "nobody named it"


def arm(*means: float) -> list[Arrived]:
    """Return an arm with so many seeds, each with the same value for all of fifty queries."""
    values = [measured_of("re-ranker", [mean] * 50).alone.values for mean in means]
    cells = [
        Cell(
            arm="",
            seed=seed,
            learning_rate=1e-5,
            dev_by_rate={"1e-05": 0.5},
            dev_of_start=0.5,
            best_step=1,
            lists=50,
            negatives=50,
            pairs_with_negatives=0.5,
            blended={"MRR@10": mean},
        )
        for seed, mean in enumerate(means)
    ]
    return [Arrived(cell, each, each) for cell, each in zip(cells, values, strict=True)]


def block(label: str = "", hidden: Mapping[str, float] | None = None, **arms: list[Arrived]) -> Block:
    zero = measured_of("zero", [0.0] * 50, [0.9] * 50)
    return Block(label=label, references={FIRST_STAGE: zero, NO_TRAINING: zero}, hidden=hidden or {}, arms=arms)


def test_the_table_has_means_over_seeds_and_tests_over_queries():
    lines = arms_table(block(hidden={"good": 0.25}, good=arm(0.5, 0.6), better=arm(0.7))).splitlines()
    assert lines[2].split() == ["no", "fine-tuning", "0.000", "0.000", "0.000", "0.000", "0.900"]
    assert lines[3].split()[:8] == ["better", "0.700", "0.700", "0.700", "0.700", "0.700", "0.000", "50%"]
    assert lines[4].split()[:9] == ["good", "0.550", "0.550", "0.550", "0.550", "0.550", "0.100", "50%", "25.0%"]
    assert "  1e-05  +0.700 (+0.700 to +0.700)" in lines[3]
    assert "  1e-05  +0.550 (+0.550 to +0.550)" in lines[4]
    assert float(lines[4].split()[-1]) < 0.001, "fifty queries of fifty are worse than with the first"


def test_several_blocks_have_a_table_of_all_before_their_own():
    blocks = [block("2 pairs", good=arm(0.5), other=arm(0.2)), block("4 pairs", good=arm(0.6))]
    text = comparison_text(blocks, task_of_rows([[1]] * 50, [{1}] * 50), "run.trec").splitlines()
    assert text[0] == "50 test queries, 1 seed(s)"
    assert "BM25, in a name, is the first stage, here run.trec" in text
    at = next(at for at, line in enumerate(text) if line.split() == ["MRR@10", "2", "pairs", "4", "pairs"])
    assert [line.split()[-2:] for line in text[at + 3 : at + 5]] == [["0.500", "0.600"], ["other", "0.200"]]
    assert at < text.index("2 pairs") < text.index("4 pairs")
    alone = comparison_text([block(good=arm(0.5))], task_of_rows([[1]] * 50, [{1}] * 50), "bm25")
    assert "BM25, in a name" not in alone
    assert alone.count("good") == 1
    assert "M has no ranking head" not in alone
    bare = replace(block(good=arm(0.5)), start="M has no ranking head: warmed up first.")
    assert bare.start in comparison_text([bare], task_of_rows([[1]] * 50, [{1}] * 50), "bm25").splitlines()
