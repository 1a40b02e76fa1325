"""OUT/ranker holds what dev chose, and ranks as the table says, in another process and elsewhere."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hnmine
from hnmine.config.root import Config
from hnmine.corpus.layouts import read_collection
from hnmine.errors import ConfigError, ModelError
from hnmine.models.reranker import CrossEncoder
from hnmine.ranking.first_stage import bm25_or_run_file
from hnmine.ranking.rows import read_rows
from tests.builders.collections import write_collection
from tests.builders.commands import REPOSITORY, run_hnmine
from tests.builders.rankers import judge_by_a_sum, trained_run

KINDS = ("first-stage", "blend", "re-ranker", "blend-with-re-ranker")
Made = tuple[Path, Path, dict[str, dict]]

RANK_ALL = """
import json, sys
import hnmine
asked, folders = json.loads(open(sys.argv[1]).read()), sys.argv[2:]
found = {}
for folder in folders:
    ranker = hnmine.Ranker.load(folder, device="cpu")
    found[folder] = [[each.key for each in ranker.rank(query, dict(docs))] for query, docs in asked]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A folder of rankers, one a kind, whose run is gone; the data; what the manifest said of each."""
    folder = tmp_path_factory.mktemp("rankers")
    data, out = write_collection(folder / "data"), folder / "out"
    config, said = trained_run(out, folder / "encoder"), {}
    judge_by_a_sum(data, folder / "judging", config, out / "rerankers" / "paper")
    shutil.rmtree(folder / "judging")
    for kind in (*KINDS, "auto"):
        chosen = config.model_copy(update={"ranker": config.ranker.model_copy(update={"choose": kind})})
        said[kind] = hnmine.evaluate(data, out, chosen)
        shutil.copytree(out / "ranker", folder / "moved" / kind)
    shutil.rmtree(out)
    shutil.rmtree(folder / "encoder")
    return folder / "moved", data, said


def asked_of(data: Path) -> tuple[list[tuple[str, list[tuple[str, str]]]], list[str]]:
    """The test queries with what BM25 finds of each, as a user would ask; and the right document of each."""
    collection = read_collection(data, Config().sources)
    first = bm25_or_run_file(Config().evaluate, collection.documents, collection.queries)
    asked, right = [], []
    for line in (data / "qrels" / "test.tsv").read_text().splitlines()[1:]:
        query, document, _ = line.split("\t")
        row = collection.queries.row_of[query]
        found = [doc for doc in first(np.array([row]), 9)[0][0].tolist() if doc >= 0]
        documents = collection.documents.take(found)
        asked.append((collection.queries.texts[row], list(zip(documents.ids, documents.texts, strict=True))))
        right.append(document)
    return asked, right


def test_a_fresh_process_ranks_the_test_queries_as_the_table_says(made: Made, tmp_path: Path) -> None:
    folder, data, said = made
    asked, right = asked_of(data)
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    command = [sys.executable, "-c", RANK_ALL, str(tmp_path / "asked.json"), *(str(folder / kind) for kind in said)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    figures = {}
    for kind, orders in zip(said, json.loads(done.stdout).values(), strict=True):
        places = [ids.index(doc) + 1 if doc in ids else np.inf for ids, doc in zip(orders, right, strict=True)]
        figures[kind] = float(np.mean([1 / place if place <= 10 else 0 for place in places]))
    expected = {}
    for kind, manifest in said.items():
        ranker = manifest["ranker"]
        expected[kind] = ranker["figures"][ranker["chosen"]]["test"]["MRR@10"]
        table = manifest["evaluation"]["metrics"]
        assert {name: each["test"] for name, each in ranker["figures"].items()} == table
    assert figures == pytest.approx(expected)
    assert {kind: said[kind]["ranker"]["kind"] for kind in KINDS} == dict(zip(KINDS, KINDS, strict=True))
    assert {"words", "lexical"} & set(said["blend"]["ranker"]["weights"]), "encoders are parts"


def test_the_best_on_dev_is_taken_and_the_line_says_so(made: Made) -> None:
    _, _, said = made
    ranker = said["auto"]["ranker"]
    best = max(each["dev"]["MRR@10"] for each in ranker["figures"].values())
    chosen = ranker["figures"][ranker["chosen"]]
    assert chosen["dev"]["MRR@10"] == best >= ranker["figures"]["before: warm-started"]["dev"]["MRR@10"]
    dev, test = chosen["dev"]["MRR@10"], chosen["test"]["MRR@10"]
    question, _, shown, *_ = said["auto"]["evaluation"]["answer"].splitlines()
    assert question.startswith(f"Deploy it or not? Not proven: {ranker['chosen']} is the best on dev")
    assert shown.split()[-3:] == [f"{test:.3f}", f"{dev:.3f}", f"{chosen['ms_per_query']:.3g}"]
    assert chosen["ms_per_query"] == pytest.approx(sum(ranker["ms_per_part"][part] for part in ranker["weights"]))
    assert all(cost > 0 for cost in ranker["ms_per_part"].values())


def test_the_folder_holds_no_pickle_no_place_of_this_machine_and_only_what_it_needs(made: Made) -> None:
    folder, _, said = made
    for kind in said:
        files = [path for path in (folder / kind).rglob("*") if path.is_file()]
        assert {path.suffix for path in files} <= {".json", ".md", ".safetensors", ".txt"}
        text = "".join((folder / kind / name).read_text() for name in ("ranker.json", "README.md"))
        assert str(folder.parent) not in text
        assert (folder / kind / "re-ranker").is_dir() == ("re-ranker" in said[kind]["ranker"]["weights"])
    assert {path.name for path in (folder / "first-stage").iterdir()} == {
        "ranker.json",
        "README.md",
        "bm25.safetensors",
    }


def test_the_re_ranker_is_a_model_that_serves_alone(made: Made) -> None:
    folder, data, _ = made
    query, documents = asked_of(data)[0][0]
    model = CrossEncoder(folder / "re-ranker" / "re-ranker", max_tokens=64, device="cpu", dtype="float32")
    alone = model.raw_scores([query] * len(documents), [text for _, text in documents])
    mine = hnmine.Ranker.load(folder / "re-ranker").score([query], [[text for _, text in documents]])[0]
    np.testing.assert_allclose(mine, alone, rtol=1e-5)


def test_the_readme_has_the_numbers_of_this_ranker(made: Made) -> None:
    folder, _, said = made
    text = (folder / "blend-with-re-ranker" / "README.md").read_text()
    ranker = said["blend-with-re-ranker"]["ranker"]
    for name, figures in ranker["figures"].items():
        shown = f"**{name}**" if name == ranker["chosen"] else name
        assert f"| {shown} | {figures['dev']['MRR@10']:.3f} | {figures['test']['MRR@10']:.3f} |" in text
    for part, weight in ranker["weights"].items():
        assert f"| {part} | {weight:.2f} |" in text
    assert "text-embeddings-router --model-id re-ranker" in text
    for block in re.findall(r"^```\n(\{.*?)^```$", (folder / "blend" / "README.md").read_text(), re.M | re.S):
        json.loads(block)


def test_the_command_ranks_with_it(made: Made, tmp_path: Path) -> None:
    folder, data, said = made
    model, out = folder / "blend-with-re-ranker", tmp_path / "run.trec"
    options = ["--split", "test", "--set", "device=cpu"]
    done = run_hnmine("rank", "--model", model, "--data", data, "--out", out, *options)
    assert done.returncode == 0, done.stderr
    assert "the first 9 documents of each query, for which the ranker was chosen" in done.stderr, "its own depth"
    figure = said["blend-with-re-ranker"]["ranker"]
    assert f"{figure['figures'][figure['chosen']]['test']['MRR@10']:.3f}" in done.stdout
    orders: dict[str, list[str]] = {}
    for line in out.read_text().splitlines():
        orders.setdefault(line.split()[0], []).append(line.split()[2])
    ranker = hnmine.Ranker.load(model, device="cpu")
    asked, _ = asked_of(data)
    assert list(orders.values()) == [[each.key for each in ranker.rank(query, dict(docs))] for query, docs in asked]
    shallow = run_hnmine("rank", "--model", model, "--data", data, "--out", out, *options, "--depth", "3")
    assert "the first 3 documents of each query, as evaluate.depth says; chosen for 9" in shallow.stderr
    assert all(int(line.split()[3]) <= 3 for line in out.read_text().splitlines())
    with pytest.raises(ConfigError, match="is a ranker and reads as it was evaluated"):
        hnmine.rank(data, out, model=str(model), max_tokens=32)


@pytest.mark.parametrize("name", ["bm25.safetensors", "re-ranker/model.safetensors", "re-ranker/config.json"])
def test_another_file_is_refused_by_name(made: Made, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(made[0] / "blend-with-re-ranker", tmp_path / "ranker")
    (folder / "README.md").write_text("my notes")
    hnmine.Ranker.load(folder)
    raw = (folder / name).read_bytes()
    (folder / name).write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    with pytest.raises(ModelError, match=rf"{Path(name).name} has sha256 .*copy the folder again"):
        hnmine.Ranker.load(folder)
    (folder / name).unlink()
    with pytest.raises(ModelError, match=rf"{Path(name).name} is missing"):
        hnmine.Ranker.load(folder)
    (folder / name).write_bytes(raw)
    (folder / "re-ranker" / "modeling.py").write_text("")
    with pytest.raises(ModelError, match=r"modeling\.py should not be there"):
        hnmine.Ranker.load(folder)


def test_models_may_be_named_by_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = trained_run(Path("out"), Path("encoder"))
    assert "ranker" in hnmine.evaluate(write_collection(tmp_path / "data"), "out", config)


def test_what_was_deployed_before_stays_where_it_is_better_on_dev_and_it_is_said(tmp_path: Path) -> None:
    data, out, encoder = write_collection(tmp_path / "data"), tmp_path / "out", tmp_path / "encoder"
    config = trained_run(out, encoder)
    judge_by_a_sum(data, tmp_path / "judging", config, out / "rerankers" / "paper")
    deployed = hnmine.evaluate(data, out, config)["ranker"]
    chosen = deployed["chosen"]
    best = deployed["figures"][chosen]["dev"]["MRR@10"]
    before, card = ((out / "ranker" / name).read_text() for name in ("ranker.json", "README.md"))

    # Worse models in its place, then in another run that begins with it.
    for name in ("start", "paper"):
        shutil.rmtree(out / "rerankers" / name)
    trained_run(out, tmp_path / "other", seed=7)
    other = config.model_copy(update={"train": config.train.model_copy(update={"model": str(out / "ranker")})})
    for folder, settings in ((out, config), (tmp_path / "second", other)):
        found = hnmine.evaluate(data, folder, settings)
        if folder == out:
            stays = f"Deploy it or not? Not what is new: {out / 'ranker'} stays what was deployed before ({chosen}, "
            assert found["evaluation"]["answer"].startswith(stays)
            assert (out / "ranker" / "ranker.json").read_text() == before
            assert (out / "ranker" / "README.md").read_text() == card, "its figures are of its own evaluation"
            assert read_rows(folder)[-1].slug == "deployed-before"
        assert (folder / "ranker" / "README.md").read_text().count("library_name: hnmine") == 1
        assert max(each.dev["MRR@10"] for each in read_rows(folder)) == best
        assert found["ranker"]["figures"]["first stage: BM25"]["dev"]["MRR@10"] < best

    # Insisted on something else.
    insisted = config.model_copy(update={"ranker": config.ranker.model_copy(update={"choose": "first-stage"})})
    answer = hnmine.evaluate(data, out, insisted)["evaluation"]["answer"]
    assert "As you say: ranker.choose insists on first stage: BM25 (deployed before: " in answer
    assert json.loads((out / "ranker" / "ranker.json").read_text())["kind"] == "first-stage"


def test_costs_are_measured_once_and_are_sums_of_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write_collection(tmp_path / "data"), tmp_path / "out"
    config = trained_run(out, tmp_path / "encoder")
    rows = {}
    for at in range(2):
        hnmine.evaluate(data, out, config)
        rows[at] = (out / "evaluation" / "rows.json").read_text()
    assert rows[0] == rows[1], "what is kept is the same to the last digit"
    blends = [row for row in read_rows(out) if len(row.weights) > 1]
    alone = {next(iter(row.weights)): row.milliseconds_per_query for row in read_rows(out) if len(row.weights) == 1}
    for row in blends:
        assert row.milliseconds_per_query is not None
        assert row.milliseconds_per_query >= sum(alone.get(part) or 0 for part in row.weights) - 0.01
