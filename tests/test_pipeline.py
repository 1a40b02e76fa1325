"""The steps end to end, through the command line and through `import hnmine`, on a collection one can judge by eye."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sentence_transformers import CrossEncoder

import hnmine
from hnmine import cli, pipeline
from hnmine.arms.rules import RULES
from hnmine.errors import DataError
from hnmine.ranking.rows import read_rows
from tests.builders.collections import TOPICS, write_collection
from tests.builders.commands import run_hnmine
from tests.builders.folders import result_hashes
from tests.builders.models import tiny_cross_encoder
from tests.builders.settings import LEXICAL_ENCODER, quick_options
from tests.builders.vectors import write_vectors


def half_written(folder: Path) -> list[str]:
    """Hidden files, and folders of work, that only a run in progress has; checkpoints are there to go on from."""
    found = [path.relative_to(folder) for path in (*folder.rglob(".*"), *folder.rglob("*.tmp")) if path.name != ".lock"]
    return [path.as_posix() for path in found if not any(part.startswith(".train-") for part in path.parts)]


Whole = tuple[Path, Path, list[str], subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """`hnmine run` from a model without a head, with both presets."""
    folder = tmp_path_factory.mktemp("whole")
    body = tiny_cross_encoder(folder / "body", head=False, spread=1)
    data, out = write_collection(folder / "data"), folder / "out"
    options = quick_options(body, "train.learning_rate=0.003")
    done = run_hnmine("run", "--data", data, "--out", out, *options, "--preset", "paper", "--preset", "anchored")
    assert done.returncode == 0, done.stderr
    return data, out, options, done


def test_a_run_mines_what_one_can_see_to_be_hard(whole: Whole) -> None:
    _, out, _, done = whole
    rows = pq.read_table(out / "negatives.parquet").to_pylist()
    negatives = {row["query_id"]: row["negative_id"] for row in rows}
    prices = {f"{topic}-care": f"{topic}-price" for topic in TOPICS[:6]}
    assert prices.items() <= negatives.items(), "`in winter costs to keep` has the words of the price"
    for row in rows:
        assert row["d_query_negative"] < min(row["d_query_positive"], row["d_positive_negative"])
    triplets = pq.read_table(out / "triplets.parquet").to_pylist()
    assert [row["negative_id"] for row in triplets] == [row["negative_id"] for row in rows]
    assert triplets[0]["positive"] == (
        "Caring for the apple\nWash it gently, keep it dry, and look after the apple and the bread in winter."
    )
    assert f"of {len(rows)} mined triplets" in done.stdout


def test_the_manifest_accounts_for_every_row_and_pair(whole: Whole) -> None:
    _, out, _, _ = whole
    manifest = json.loads((out / "manifest.json").read_text())
    counts = manifest["mining"]["counts"]
    assert (counts["documents"], counts["queries"], counts["pairs"]) == (30, 12, 12)
    assert counts["selected_pairs"] + sum(counts["dropped"].values()) == 12
    assert sum(counts["certificates"].values()) == counts["negatives"] > 0
    assert counts["rows_read"] == counts["rows_kept"]
    for name, sha256 in manifest["files"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == sha256
    assert manifest["training"]["config"]["train"]["presets"] == ["paper", "anchored"]
    assert half_written(out) == []


def test_the_link_leads_to_the_best_on_dev_and_none_is_worse_there_than_the_start(whole: Whole) -> None:
    _, out, _, _ = whole
    training = json.loads((out / "manifest.json").read_text())["training"]
    start, presets = training["start"], training["presets"]
    assert start["warmed_up"]
    assert sorted(presets) == ["anchored", "paper"]
    for record in presets.values():
        assert record["dev_by_step"]["0"] == start["dev"] <= record["dev"]
        assert record["dev"] == max(record["dev_by_step"].values())
    assert presets["paper"]["recipe"]["loss"] == "margin"
    assert presets["anchored"]["recipe"]["loss"] == "infonce"
    assert (presets["paper"]["lists"], presets["anchored"]["lists"]) == (
        json.loads((out / "manifest.json").read_text())["mining"]["counts"]["selected_pairs"],
        12,
    )
    best = max(presets, key=lambda name: presets[name]["dev"])
    assert training["best"] == best
    assert os.readlink(out / "reranker") == f"rerankers/{best}"
    assert np.isfinite(CrossEncoder(str(out / "reranker"), device="cpu").predict([("price of apple", "apple")])).all()


def test_the_table_is_what_the_stored_scores_say(whole: Whole) -> None:
    _, out, _, done = whole
    evaluation = json.loads((out / "manifest.json").read_text())["evaluation"]
    assert evaluation["split"] == "test"
    names = ["first stage: BM25", "before: warm-started", "after: paper", "after: anchored"]
    weights = evaluation["blend"]
    assert list(weights) == names
    blends = [f"{names[0]}, blended"] if weights[names[0]].keys() - {"BM25"} else []
    blends += [f"{name}, blended" for name in names[1:] if weights[name].keys() > {"re-ranker"}]
    assert {other for weights in evaluation["blend"].values() for other in weights} <= {"re-ranker", "BM25", "lexical"}
    assert list(evaluation["metrics"]) == [*names, *blends]
    assert list(evaluation["against_start"]) == [name for name in [*names, *blends] if name.startswith("after")]
    assert evaluation["table"] in done.stdout
    assert evaluation["answer"] in done.stdout
    assert "Best on dev" not in done.stdout
    assert done.stdout.count("Before training:\n\n4 test queries") == 1
    page, following = done.stdout.splitlines()[-2:]
    assert page == f"All of it, as a page: {out / 'report.html'}"
    assert following.startswith("Next: hnmine ")
    assert all(blend in evaluation["table"] for blend in blends)
    rows = read_rows(out)
    assert [row.name for row in rows] == [*names, *blends]
    for row in rows:
        for stored, figures in ((row.test_table(), evaluation["metrics"][row.name]), (row.dev_table(), row.dev)):
            assert len(stored) == evaluation["queries"] == 4
            for metric, value in figures.items():
                assert np.mean(stored.column(metric).to_pylist()) == pytest.approx(value)
        assert row.milliseconds_per_query
        assert row.milliseconds_per_query > 0


def test_a_second_run_from_python_reuses_everything_and_leaves_the_same_bytes(
    whole: Whole, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out, options, _ = whole
    before = result_hashes(out)
    overrides = [*options[1::2], "train.presets=[paper, anchored]"]
    manifest = hnmine.run(data, out, hnmine.load_config(overrides=overrides))
    assert result_hashes(out) == before
    assert manifest["mining"]["counts"]["texts_encoded"] == 0
    assert manifest["mining"]["counts"]["texts_reused"] == 42
    said = capsys.readouterr().err
    for name in ("start", "paper", "anchored"):
        assert f"{name}: reused {out / 'rerankers' / name} (same pairs, settings, versions)" in said
    assert said.count("evaluate │") == 6, "three re-rankers on test and dev queries"
    assert said.count(f": reused {out / 'evaluation'}") == 6


def test_mining_again_elsewhere_gives_the_same_bytes(whole: Whole, tmp_path: Path) -> None:
    data, out, options, _ = whole
    manifest = hnmine.mine(str(data), str(tmp_path / "out"), hnmine.load_config(overrides=options[1::2]))
    for name in ("negatives.parquet", "triplets.parquet"):
        assert (tmp_path / "out" / name).read_bytes() == (out / name).read_bytes()
        assert manifest["files"][name] == json.loads((out / "manifest.json").read_text())["files"][name]


def again(whole: Whole, folder: Path, *more: str) -> tuple[Path, Path, hnmine.Config]:
    """The data, a copy of the run to change, and its settings with these changes."""
    data, out, options, _ = whole
    shutil.copytree(out, folder / "out", symlinks=True)
    return (
        data,
        folder / "out",
        hnmine.load_config(overrides=[*options[1::2], "train.presets=[paper, anchored]", *more]),
    )


def test_the_manifest_names_every_file_with_its_hash_and_each_step_with_its_own_settings(
    whole: Whole, tmp_path: Path
) -> None:
    data, out, config = again(whole, tmp_path, "evaluate.depth=7")
    before = json.loads((out / "manifest.json").read_text())
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file() and not path.is_symlink()}
    apart = ("store/", "tensorboard/", "cache/")  # what is only gone on from
    files -= {name for name in files if name.startswith(apart) or name.endswith((".lock", "README.md", "report.html"))}
    assert set(before["files"]) == files - {"manifest.json"} - {f for f in files if f.startswith("reranker/")}
    assert {"basis.safetensors", "rerankers/start/model.safetensors", "rerankers/paper/config.json"} < files
    after = hnmine.evaluate(data, out, config)
    assert (after["mining"], after["training"]) == (before["mining"], before["training"])
    depths = [
        section["config"]["evaluate"]["depth"]
        for section in (before["evaluation"], after["training"], after["evaluation"])
    ]
    assert depths == [20, 20, 7]
    assert set(after["mining"]["config"]) >= {"encoders", "select"}
    assert {"train", "evaluate"}.isdisjoint(after["mining"]["config"])


def test_other_negatives_take_the_training_and_the_evaluation_out_of_the_manifest(whole: Whole, tmp_path: Path) -> None:
    data, out, config = again(whole, tmp_path)
    assert list(hnmine.mine(data, out, config)) == ["mining", "training", "evaluation", "ranker", "files"]
    more = hnmine.load_config(overrides=[*whole[2][1::2], "select.negatives=3"])
    assert list(hnmine.mine(data, out, more)) == ["mining", "files"]
    shutil.rmtree(out / "ranker")  # which would be compared
    rows = hnmine.evaluate(data, out, more)["evaluation"]["metrics"]
    assert {name.partition(",")[0] for name in rows} == {"first stage: BM25"}, "train.model has no head"


def test_evaluation_reads_as_many_tokens_as_the_training_did(
    whole: Whole, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out, config = again(whole, tmp_path, "train.max_tokens=16")
    before = json.loads((out / "manifest.json").read_text())["evaluation"]
    evaluation = hnmine.evaluate(data, out, config)["evaluation"]
    assert evaluation["metrics"] == before["metrics"]
    said = capsys.readouterr().err
    assert "train.max_tokens=16 is not used: these were trained with 64" in said
    assert said.count(": reused") == 6


def test_without_blends_dev_chooses_among_what_stands_alone(whole: Whole, tmp_path: Path) -> None:
    data, out, config = again(whole, tmp_path, "evaluate.blend=none")
    shutil.rmtree(out / "ranker")  # a blend, perhaps
    evaluation = hnmine.evaluate(data, out, config)["evaluation"]
    assert evaluation["blend"] == {}
    assert "blended" not in evaluation["table"]
    assert {row.kind for row in read_rows(out)} == {"first-stage", "re-ranker"}
    assert all(row.dev for row in read_rows(out))
    assert not list((out / "evaluation").glob("*blended*")), "they are of no use any more"


def test_vectors_made_elsewhere_that_lack_the_test_queries_are_told_with_what_to_do(
    whole: Whole, tmp_path: Path
) -> None:
    given = tmp_path / "given"
    given.mkdir()
    documents = [json.loads(line)["_id"] for line in (whole[0] / "corpus.jsonl").read_text().splitlines()]
    write_vectors(given / "documents.parquet", {name: [1.0, float(at)] for at, name in enumerate(documents)})
    write_vectors(given / "queries.parquet", {"of a train query": [1.0, 0.0]})
    data, out, config = again(whole, tmp_path, f"encoders=[{{name: given, precomputed: {given}}}]")
    with pytest.raises(DataError, match=r"or set evaluate\.blend=first_stage, which asks no encoder"):
        hnmine.evaluate(data, out, config)


def test_stored_scores_that_cannot_be_read_are_computed_again_and_those_of_no_model_go(
    whole: Whole, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out, config = again(whole, tmp_path)
    stored = sorted((out / "evaluation").glob("*.parquet"))
    of_test = sorted(row.slug for row in read_rows(out))
    texts = ["documents", "queries"]
    assert [path.stem for path in stored] == sorted([*of_test, *(f"dev-{name}" for name in of_test), *texts])
    before = result_hashes(out)
    stored[0].write_bytes(stored[0].read_bytes()[:-9])
    table = pq.read_table(stored[1])
    pq.write_table(table.drop_columns("scores"), stored[1])
    pq.write_table(pa.table({"scores": ["x"] * len(table)}), stored[2])
    (out / "evaluation" / "before-as-given.parquet").write_text("of an earlier start")
    (out / "evaluation" / "mine.txt").write_text("not hnmine's")
    hnmine.evaluate(data, out, config)
    assert result_hashes(out) == before
    said = capsys.readouterr().err
    for path in stored[:3]:
        assert f"{path} is not as evaluation/{path.name} left it, so the work is done again" in said
    assert (out / "evaluation" / "mine.txt").exists()


def test_models_that_are_not_as_training_left_them_are_trained_again(
    whole: Whole, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out, config = again(whole, tmp_path)
    before = result_hashes(out)
    (out / "cache" / "rerankers" / "paper.json").write_text('{"identity": 5}')
    weights = out / "rerankers" / "anchored" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    manifest = hnmine.train(data, out, config)
    assert result_hashes(out) == before
    assert list(manifest) == ["mining", "training", "evaluation", "ranker", "files"], (
        "the same models: they were evaluated"
    )
    said = capsys.readouterr().err
    assert f"start: reused {out / 'rerankers' / 'start'}" in said
    assert "paper: reused" not in said
    assert f"{weights} is not as rerankers/anchored left it, so the work is done again" in said


@pytest.mark.ray
def test_models_that_the_manifest_does_not_name_are_not_evaluated(whole: Whole, tmp_path: Path) -> None:
    data, out, config = again(whole, tmp_path)
    card = out / "rerankers" / "start" / "config.json"  # as a training that was stopped leaves another start
    card.write_text(card.read_text() + " ")
    with pytest.raises(hnmine.HnmineError, match=r"rerankers/start is not as .*manifest\.json says.* train` again"):
        hnmine.evaluate(data, out, config)


def test_a_run_that_cannot_be_trained_is_refused_before_it_mines(tmp_path: Path) -> None:
    data = write_collection(tmp_path / "data", ["train"])
    (data / "qrels" / "train.tsv").write_text("apple-care\tapple-guide\t1\n")
    with pytest.raises(hnmine.HnmineError, match="train has one query only"):
        hnmine.run(data, tmp_path / "out", hnmine.load_config(overrides=[LEXICAL_ENCODER]))
    assert not (tmp_path / "out" / "negatives.parquet").exists()


def test_a_first_stage_that_is_not_there_is_refused_before_anything_is_encoded(tmp_path: Path) -> None:
    config = hnmine.load_config(overrides=[LEXICAL_ENCODER, f"evaluate.first_stage={tmp_path / 'bm52'}"])
    with pytest.raises(hnmine.HnmineError, match=r"^evaluate\.first_stage: .*bm52: .*; bm25 and dense need no file$"):
        hnmine.run(write_collection(tmp_path / "data"), tmp_path / "out", config)
    assert not (tmp_path / "out" / "store").exists()


def test_data_and_settings_of_another_type_are_told_what_is_expected(tmp_path: Path) -> None:
    table: Any = pa.table({"id": ["d1"], "text": ["one"]})
    with pytest.raises(hnmine.HnmineError, match=r"hnmine\.Collection\.of\(corpus, queries, qrels\), got a Table$"):
        hnmine.mine(table, tmp_path / "out")
    settings: Any = "train.epochs=2"
    with pytest.raises(hnmine.HnmineError, match=r"as hnmine\.load_config gives them, got 'train\.epochs=2'$"):
        hnmine.mine(tmp_path, tmp_path / "out", settings)


@pytest.mark.parametrize("step", ["embed", "mine", "train", "evaluate", "run", "compare", "audit", "rank", "nightly"])
def test_no_step_fills_the_folder_that_it_reads(step: str, tmp_path: Path) -> None:
    data = write_collection(tmp_path / "data")
    before = result_hashes(data)
    how = {"model": "potion-base-4M"} if step == "rank" else {}
    for out in (data / "out", *([] if step == "rank" else [data])):
        with pytest.raises(hnmine.HnmineError, match=r"(is|lies in) the folder of --data"):
            getattr(hnmine, step)(data, out, hnmine.load_config(overrides=[LEXICAL_ENCODER]), **how)
    assert result_hashes(data) == before


def test_data_that_changed_after_mining_is_refused_by_train(whole: Whole, tmp_path: Path) -> None:
    data, out, options, _ = whole
    shutil.copytree(out, tmp_path / "out", symlinks=True)
    changed = shutil.copytree(data, tmp_path / "data")
    corpus = (data / "corpus.jsonl").read_text().replace("apple-price", "apple-cost")
    (changed / "corpus.jsonl").write_text(corpus)
    done = run_hnmine("train", "--data", changed, "--out", tmp_path / "out", *options)
    assert done.returncode == 2
    assert "negatives.parquet names 'apple-price', which --data does not have; mine again from this data" in done.stderr
    assert "Traceback" not in done.stderr


def test_train_without_mine_says_what_to_run_and_evaluate_without_train_measures_what_there_is(tmp_path: Path) -> None:
    data, ranker = write_collection(tmp_path / "data"), tiny_cross_encoder(tmp_path / "ranker")
    config = hnmine.load_config(overrides=quick_options(ranker)[1::2])
    with pytest.raises(hnmine.HnmineError, match=r"negatives\.parquet does not exist; run `hnmine mine` with the same"):
        hnmine.train(data, tmp_path / "out", config)
    evaluation = hnmine.evaluate(data, tmp_path / "out", config)["evaluation"]
    assert {"first stage: BM25", "before: as given"} <= evaluation["metrics"].keys()
    assert evaluation["against_start"] == {}
    assert evaluation["answer"].startswith("Deploy it or not? ")
    gone = hnmine.load_config(overrides=quick_options(tmp_path / "gone")[1::2])
    with pytest.raises(hnmine.HnmineError, match=r"so train\.model is scored as it is: .*gone does not exist"):
        hnmine.evaluate(data, tmp_path / "other", gone)
    assert not (tmp_path / "other" / "store").exists(), "said before anything is encoded"


def test_nothing_to_train_on_is_said_with_its_remedy(tmp_path: Path) -> None:
    data, ranker = write_collection(tmp_path / "data"), tiny_cross_encoder(tmp_path / "ranker")
    for file in (data / "qrels").iterdir():  # the guide's and the story's own words: nothing is nearer
        file.write_text("")
    rows = [json.loads(line) for line in (data / "corpus.jsonl").read_text().splitlines()]
    texts = [f"{row['title']} {row['text']}" for row in rows[:6]]
    queries = "".join(json.dumps({"_id": f"q{i}", "text": text}) + "\n" for i, text in enumerate(texts))
    (data / "queries.jsonl").write_text(queries)
    for split, chosen in (("train", range(4)), ("dev", range(4, 6))):
        qrels = "".join(f"q{i}\t{rows[i]['_id']}\t1\n" for i in chosen)
        (data / "qrels" / f"{split}.tsv").write_text(qrels)
    (data / "qrels" / "test.tsv").unlink()
    config = hnmine.load_config(overrides=[*quick_options(ranker)[1::2], "train.presets=[paper]"])
    manifest = hnmine.mine(data, tmp_path / "out", config)
    assert manifest["mining"]["counts"]["dropped"] == {"positive_is_nearest": 4, "nearer_ones_resemble_positive": 0}
    with pytest.raises(hnmine.HnmineError, match=r"preset paper: none of 4 train pairs has a negative.*anchored"):
        hnmine.train(data, tmp_path / "out", config)


def test_what_audit_measures_can_be_mined_with(tmp_path: Path) -> None:
    data = write_collection(tmp_path / "data")
    how = [LEXICAL_ENCODER, "ray=false", "select.negatives=2"]
    by_name = hnmine.load_config(overrides=[*how, "select.rule=BM25"])
    manifest = hnmine.mine(data, tmp_path / "named", by_name)
    assert manifest["mining"]["config"]["select"]["rule"] == "bm25"
    hnmine.mine(data, tmp_path / "given", hnmine.load_config(overrides=how), rule=RULES["BM25"])
    ids = ["query_id", "positive_id", "negative_id"]
    named, given = (hnmine.negatives(tmp_path / name).select(ids) for name in ("named", "given"))
    assert named == given
    assert len(named) == 24
    guarded = hnmine.load_config(overrides=[*how, "select.rule=bm25", "guards.margin=0.1"])
    with pytest.raises(hnmine.HnmineError, match=r"guards would have no effect on select\.rule=bm25; remove one"):
        hnmine.mine(data, tmp_path / "other", guarded)


def test_two_rows_of_a_run_are_tested_by_name(whole: Whole) -> None:
    _, out, _, _ = whole
    done = run_hnmine("paired", "--out", out, "after: paper", "first-stage")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "after: paper against first stage: BM25, 4 queries"
    done = run_hnmine("paired", "--out", out, "after: best", "first-stage")
    assert done.returncode == 2
    assert "has no row 'after: best'; it has 'first-stage', 'before-warm-started', " in done.stderr


def test_what_a_later_training_leaves_behind_is_said_and_not_compared(
    whole: Whole, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, _, options, _ = whole
    out = shutil.copytree(whole[1], tmp_path / "out", symlinks=True)
    said = f"{out / 'ranker'} is still of the models before; evaluate chooses it anew.\nNext: "
    train = ["train", "--data", str(data), "--out", str(out), *options, "--preset", "paper"]
    assert cli.main(train) == 0
    assert said not in capsys.readouterr().out, "the same models"
    assert cli.main([*train, "--set", "train.learning_rate=0.01"]) == 0
    assert said in capsys.readouterr().out
    for command in (["paired", "after: paper", "first-stage"], ["export", "--to", "trec-run", str(tmp_path / "to")]):
        assert cli.main([*command, "--out", str(out)]) == 2
        assert "run `hnmine evaluate` again" in capsys.readouterr().err


def test_where_dev_is_reported_the_answer_says_so(tmp_path: Path) -> None:
    data = write_collection(tmp_path / "data")
    (data / "qrels" / "test.tsv").unlink()
    config = hnmine.load_config(overrides=quick_options(tiny_cross_encoder(tmp_path / "ranker"))[1::2])
    answer = hnmine.evaluate(data, tmp_path / "out", config)["evaluation"]["answer"]
    assert "There is no test split: these are the dev queries, which chose, and the figures flatter." in answer
    found = hnmine.run(data, tmp_path / "out", config)
    assert list(found) == ["mining", "training", "evaluation", "ranker", "files"]
    assert any(row.startswith("after: ") for row in found["evaluation"]["metrics"])
    assert found["evaluation"]["test_is_dev"]
    for card in (tmp_path / "out" / "ranker" / "README.md", *(tmp_path / "out" / "rerankers").glob("*/README.md")):
        text = card.read_text()
        assert "There is no test split: these are the dev queries, which chose" in text, card
        assert "split: dev" in text, card
        assert not re.search(r"\bon test|test quer|split: test|had no say", text), card


def test_embed_fills_the_store_and_does_nothing_else(tmp_path: Path) -> None:
    data, out = write_collection(tmp_path / "data"), tmp_path / "out"
    config = hnmine.load_config(overrides=[LEXICAL_ENCODER, "ray=false"])
    assert pipeline.embed(data, out, config) == {"encoded": 50, "reused": 0}
    assert sorted(path.name for path in out.iterdir()) == [".lock", "quarantine.jsonl", "store"]
    assert pipeline.embed(data, out, config) == {"encoded": 0, "reused": 50}
    counts = hnmine.mine(data, out, config)["mining"]["counts"]
    assert (counts["texts_encoded"], counts["texts_reused"]) == (0, 42), "what mining needs is all there"


def test_every_line_of_a_json_log_is_an_object_that_tells_what_the_manifest_does(tmp_path: Path) -> None:
    data, out = write_collection(tmp_path / "data"), tmp_path / "out"
    done = run_hnmine("mine", "--data", data, "--out", out, "--set", LEXICAL_ENCODER, "--log", "json")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    counts = json.loads((out / "manifest.json").read_text())["mining"]["counts"]
    (read,) = [line for line in lines if "documents" in line]
    assert (read["step"], read["documents"], read["queries"], read["quarantined"]) == ("read", 30, 20, 0)
    (mined,) = [line for line in lines if "negatives" in line]
    assert mined["step"] == "select"
    assert {name: mined[name] for name in ("pairs", "selected_pairs", "negatives", "dropped")} == {
        name: counts[name] for name in ("pairs", "selected_pairs", "negatives", "dropped")
    }
    (result,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert result["step"] == "mine"
    assert "positive" in result["message"]

    done = run_hnmine("mine", "--data", tmp_path / "nowhere", "--out", out, "--log", "json")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    mistake = json.loads(line)
    assert (mistake["level"], mistake["step"], mistake["exit_code"]) == ("error", "mine", 2)
    assert mistake["message"].startswith(f"{tmp_path / 'nowhere'} does not exist")


@pytest.mark.parametrize(
    ("sent", "code", "word"),
    [
        (signal.SIGINT, 130, "interrupted"),
        pytest.param(signal.SIGTERM, 143, "terminated", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_stopped_says_so_and_leaves_no_half_of_anything(
    tmp_path: Path, sent: signal.Signals, code: int, word: str
) -> None:
    data, ranker = write_collection(tmp_path / "data"), tiny_cross_encoder(tmp_path / "ranker")
    options = quick_options(ranker, "train.epochs=5000")
    command = [sys.executable, "-m", "hnmine.cli", "run", "--data", str(data), "--out", str(tmp_path / "out"), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if "step 0:" in line:
                break
        refused = run_hnmine("mine", "--data", data, "--out", tmp_path / "out", *options)
        process.send_signal(sent)
        rest = process.stderr.read()
        assert process.wait(60) == code, said + rest
    assert rest.splitlines()[-1] == f"{word}; the same command goes on from what is kept"
    assert "Traceback" not in rest
    assert refused.returncode == 2
    assert refused.stderr == (
        f"error: another hnmine is working on {tmp_path / 'out'}; wait for it or choose another --out\n"
    )
    assert half_written(tmp_path / "out") == []
    assert [path.name[:7] for path in (tmp_path / "out" / "rerankers").iterdir()] in ([], [".train-"])
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["mining"]["counts"]["negatives"] > 0


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "moment", "again", "never"),
    [
        (["embed"], "lexical: 50 texts in", "50 vectors from the store, 0 encoded", "in this process"),
        (["mine"], "42 encoded", "42 vectors from the store, 0 encoded", "in this process"),
        (["train"], "step 4:", "anchored: goes on from the checkpoint of step ", "Traceback"),
        (
            ["compare", "--arms", "two-conditions,random", "--seeds", "1"],
            "two conditions, seed 0: ",
            "two conditions, seed 0: ",
            "train │ two-conditions-0",  # a line of its training
        ),
    ],
)
def test_sigterm_ends_every_step_and_the_next_start_goes_on_from_there(
    command: list[str], moment: str, again: str, never: str, tmp_path: Path
) -> None:
    data, out = write_collection(tmp_path / "data"), tmp_path / "out"
    long = ["train.presets=anchored", "train.epochs=20"] if command == ["train"] else ["compare.learning_rates=[0.001]"]
    options = quick_options(tiny_cross_encoder(tmp_path / "ranker"), *long)
    if command == ["train"]:
        assert run_hnmine("mine", "--data", data, "--out", out, *options).returncode == 0
    line = [*command, "--data", str(data), "--out", str(out), *options]
    with subprocess.Popen([sys.executable, "-m", "hnmine.cli", *line], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = ""
        for printed in process.stderr:
            said += printed
            if moment in printed:
                process.send_signal(signal.SIGTERM)
                process.send_signal(signal.SIGTERM)  # at once, as to a process and its group: one request
                break
        said += process.stderr.read()
        assert process.wait(60) == 143, said
    assert said.splitlines()[-1] == "terminated; the same command goes on from what is kept"
    assert "Traceback" not in said
    assert half_written(out) == []
    done = run_hnmine(*line)
    assert done.returncode == 0, done.stderr
    assert again in done.stderr
    assert never not in done.stderr


def several_answers(folder: Path) -> Path:
    """The collection with guide and price both right for every query."""
    write_collection(folder, splits=("train",))
    rows = [json.loads(line)["_id"] for line in (folder / "queries.jsonl").read_text().splitlines()]
    judged = "".join(f"{row}\t{row.split('-')[0]}-{kind}\t1\n" for row in rows for kind in ("guide", "price"))
    (folder / "qrels" / "train.tsv").write_text(judged)
    return folder


def test_the_audit_measures_the_rules_some_guards_and_what_is_configured(tmp_path: Path) -> None:
    data = several_answers(tmp_path / "data")
    plain = hnmine.audit(data, tmp_path / "out", hnmine.load_config(overrides=[LEXICAL_ENCODER, "ray=false"]))
    assert "two conditions, guarded" not in plain["rules"]
    guards = [LEXICAL_ENCODER, "ray=false", "guards.margin=0.05", "select.negatives=3"]
    guarded = hnmine.audit(data, tmp_path / "out", hnmine.load_config(overrides=guards))
    name = "two conditions, guarded, 3 a pair"
    assert {key: value for key, value in guarded["rules"].items() if key != name} == plain["rules"]
    assert guarded["rules"][name]["yield"] == plain["rules"]["two conditions, margin 0.05"]["yield"]
    assert guarded["rules"][name]["negatives"] > plain["rules"]["two conditions, margin 0.05"]["negatives"] > 0
    for rule in guarded["rules"].values():
        low, high = rule["interval"]
        assert 0 <= low <= rule["hidden"] <= high <= 1
    assert f"As configured ({name}), " in guarded["verdict"]
    assert name in guarded["table"]
    stored = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert stored["rules"] == json.loads(json.dumps(guarded["rules"]))


def test_guards_that_remove_nothing_are_audited_as_the_rule_itself(tmp_path: Path) -> None:
    data = several_answers(tmp_path / "data")
    rules = hnmine.audit(
        data, tmp_path / "out", hnmine.load_config(overrides=[LEXICAL_ENCODER, "ray=false", "guards.margin=2"])
    )["rules"]
    assert rules["two conditions, guarded"] == rules["two conditions"]
    assert rules["two conditions"]["negatives"] > 0


@pytest.mark.parametrize("options", [[], ["guards.margin=0.05", "select.negatives=2"], ["select.rule=bm25"]])
def test_an_audit_without_a_second_answer_says_so_first_and_measures_yields(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_collection(tmp_path / "data")
    how = ["audit", "--data", str(data), "--out", str(tmp_path / "out")]
    settings = [LEXICAL_ENCODER, "ray=false", *options]
    assert cli.main(how + [part for each in settings for part in ("--set", each)]) == 0
    said = capsys.readouterr()
    before = said.err.partition("embed │")[0]
    assert "no query of train has two judged positives, so none can be hidden: which rules choose" in before
    assert "was not measured: no query of train has two judged positives" in said.out
    assert "judge a second right document for some 50 queries" in said.out
    assert re.search(r"two conditions +\d+\.\d%", said.out)
    assert "hidden positives" not in said.out
    # The yields are those of mining.
    record = json.loads((tmp_path / "out" / "audit.json").read_text())
    configured = "two conditions, guarded, 2 a pair" if "select.negatives=2" in options else "two conditions"
    mined = hnmine.mine(data, tmp_path / "out", hnmine.load_config(overrides=settings))["mining"]["counts"]
    if "select.rule=bm25" not in options:
        assert record["yields"][configured]["negatives"] == mined["negatives"]
        assert record["yields"][configured]["yield"] == mined["selected_pairs"] / mined["pairs"]
    assert not record["rules"]
