"""A notebook from DataFrames to a ranked run: the code of docs/python.md, block by block, and what it leaves."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import hnmine
from hnmine.arms import arm
from hnmine.config.root import Config
from hnmine.corpus import layouts
from hnmine.errors import DataError
from tests.builders.commands import REPOSITORY
from tests.builders.models import tiny_cross_encoder

PAGE = REPOSITORY / "docs" / "python.md"
MODEL = "train.model=ms-marco-minilm-l6-v2"
Notebook = dict[str, Any]


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Notebook:
    """Run the blocks of the page in an empty folder, with a tiny model for the one that it names."""
    folder = tmp_path_factory.mktemp("notebook")
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    code = "\n".join(blocks)
    assert code.count(MODEL) == 1
    quick = [f"train.model={tiny_cross_encoder(folder / 'tiny', spread=1)}", "train.dtype=float32", "engine=torch"]
    code = code.replace(f'"{MODEL}"', ", ".join(map(repr, [*quick, "device=cpu"])))
    names: Notebook = {"__name__": "notebook"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(compile(code, str(PAGE), "exec"), names)
    return names | {"folder": folder}


def test_the_collection_holds_what_the_tables_hold(notebook: Notebook) -> None:
    collection, corpus = notebook["collection"], notebook["corpus"]
    assert list(collection.documents.ids) == corpus["id"].tolist()
    assert repr(collection).startswith("<Collection: 30 documents, 20 queries, judged: train 12, dev 4, test 4; 0 ")
    assert collection.documents.texts[0] == "Caring for the apple\nWash the apple gently, keep it dry in winter."
    assert dict(zip(collection.queries.ids, collection.queries.texts, strict=True)) == dict(
        notebook["queries"].itertuples(index=False)
    )
    assert {name: len(collection.pairs(name)) for name in collection.splits} == {"train": 12, "dev": 4, "test": 4}


def test_negatives_are_an_arrow_table_with_ids_and_texts(notebook: Notebook) -> None:
    negatives, texts = (
        notebook["negatives"],
        dict(zip(notebook["corpus"]["id"], notebook["corpus"]["text"], strict=True)),
    )
    assert isinstance(negatives, pa.Table)
    frame = negatives.to_pandas()
    assert len(frame) > 0
    judged = set(notebook["judged"][["query_id", "doc_id"]].itertuples(index=False, name=None))
    for row in frame.itertuples():
        assert (row.query_id, row.positive_id) in judged
        assert (row.query_id, row.negative_id) not in judged
        assert row.negative.endswith(texts[row.negative_id])
        assert row.d_query_negative < min(row.d_query_positive, row.d_positive_negative)
    assert hnmine.negatives(notebook["folder"] / "out").column_names == [
        name for name in negatives.column_names if name not in ("query", "positive", "negative")
    ]


def test_what_was_trained_ranks_the_test_queries(notebook: Notebook) -> None:
    ranked = notebook["ranked"]
    assert set(ranked["query_id"]) == set(notebook["qrels"]["test"]["query_id"])
    assert notebook["facts"]["queries"] == 4
    assert list(notebook["training"]["presets"]) == ["anchored"]
    manifest = json.loads((notebook["folder"] / "out" / "manifest.json").read_text())
    assert {"mining", "training", "evaluation"} <= manifest.keys()
    assert manifest["mining"]["data"].startswith("(Python objects, "), "a digest says which"


def test_vectors_and_rules_of_the_users_are_mined_with(notebook: Notebook) -> None:
    collection, encode = notebook["collection"], notebook["encode"]
    mined = hnmine.negatives(notebook["folder"] / "out-vectors").to_pandas()
    assert (notebook["folder"] / "out-vectors" / "vectors" / "mine" / "documents.parquet").is_file()
    assert len(mined) > 0
    chosen = hnmine.negatives(notebook["folder"] / "out-rule").to_pandas()
    assert set(chosen["certificate"]) == {"own rule"}
    assert chosen.groupby(["query_id", "positive_id"]).size().tolist() == [2] * 12
    assert np.isfinite(encode(collection.documents.texts)).all()


def test_steps_on_objects_find_what_they_find_in_files(notebook: Notebook, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "qrels").mkdir(parents=True)
    notebook["corpus"].rename(columns={"id": "_id"}).to_json(data / "corpus.jsonl", orient="records", lines=True)
    notebook["queries"].rename(columns={"id": "_id"}).to_json(data / "queries.jsonl", orient="records", lines=True)
    for name, rows in notebook["qrels"].items():
        rows.columns = ["query-id", "corpus-id", "score"]
        rows.to_csv(data / "qrels" / f"{name}.tsv", sep="\t", index=False)
    hnmine.mine(data, tmp_path / "out", notebook["config"])
    assert hnmine.negatives(tmp_path / "out", texts=True).equals(notebook["negatives"])


def test_nothing_mined_is_said(tmp_path: Path) -> None:
    with pytest.raises(hnmine.HnmineError, match=r"negatives\.parquet does not exist; run `hnmine mine`"):
        hnmine.negatives(tmp_path)


def test_guards_that_a_rule_would_not_ask_are_refused(notebook: Notebook, tmp_path: Path) -> None:
    guarded = hnmine.load_config(overrides=["encoders=[{name: words, lexical: {}}]", "guards.first_rank=2"])
    with pytest.raises(hnmine.HnmineError, match="guards would have no effect on a rule"):
        hnmine.mine(notebook["collection"], tmp_path / "out", guarded, rule=notebook["far_from_positive"])


def test_settings_of_reading_that_a_collection_was_made_without_are_refused(notebook: Notebook, tmp_path: Path) -> None:
    tables = (
        notebook["corpus"],
        notebook["queries"],
        {"train": {"apple-care": {"apple-guide": 2}, "bread-care": {"x": 1}}},
    )
    for setting, message in (
        ("min_score=2", "min_score is 2.0, .*made with None"),
        ("lower_grades=negatives", "made with ignore"),
        ("template='{text}'", "sources.template is {text}, .*made with {title}"),
    ):
        config = hnmine.load_config(overrides=[f"sources.{setting}"])
        with pytest.raises(hnmine.HnmineError, match=message):
            hnmine.embed(notebook["collection"], tmp_path / "out", config)
        hnmine.Collection.of(*tables, sources=config.sources)


# docs/extending.md

EXTENDING = REPOSITORY / "docs" / "extending.md"


@pytest.fixture(scope="module")
def extended() -> Iterator[Notebook]:
    """Run the blocks of the page in one go; what it registers is gone afterwards."""
    blocks = re.findall(r"^```python\n(.*?)^```", EXTENDING.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    names: Notebook = {"__name__": "extended"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arm, "ARMS", dict(arm.ARMS))
        exec(compile("\n".join(blocks), str(EXTENDING), "exec"), names)
        yield names


def test_a_rule_of_the_page_mines_and_its_arm_is_known(extended: Notebook, tmp_path: Path) -> None:
    config = hnmine.load_config(overrides=["encoders=[{name: words, lexical: {width: 8}}]", "device=cpu"])
    hnmine.mine(extended["collection"], tmp_path, config, rule=extended["just_beyond_the_positive"])
    found = hnmine.negatives(tmp_path).to_pylist()
    assert found
    assert all(row["d_query_negative"] > row["d_query_positive"] for row in found)
    named = config.model_copy(
        update={"train": config.train.model_copy(update={"presets": ("just-beyond-the-positive-alone",)})}
    )
    assert [each.loss for each in arm.preset_arms(named).values()] == ["bce"]


def test_a_layout_of_the_page_is_read_counted_and_told_from_others(
    extended: Notebook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = SimpleNamespace(EXPECTED=extended["EXPECTED"], recognise=extended["recognise"])
    monkeypatch.setattr(layouts, "LAYOUTS", (*layouts.LAYOUTS, module))
    write = lambda name, rows: (tmp_path / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))  # noqa: E731
    write("articles.jsonl", [{"id": f"a{at}", "title": "Printer", "body": f"Mend printer {at}."} for at in range(4)])
    write("tickets.jsonl", [{"id": f"t{at}", "question": f"printer {at} is broken"} for at in range(3)])
    with pytest.raises(DataError, match=r"no solved\.jsonl"):
        layouts.read_collection(tmp_path, Config().sources)
    write(
        "solved.jsonl",
        [{"ticket": "t0", "article": "a0"}, {"ticket": "t1", "article": "a1"}, {"ticket": "t9", "article": "a1"}],
    )
    (tmp_path / "notes.txt").write_text("hello")
    collection = layouts.read_collection(tmp_path, Config().sources)
    assert (collection.layout, len(collection.documents), len(collection.queries)) == ("help desk", 4, 3)
    assert collection.unread == ("notes.txt (not of this layout)",)
    assert [bad.reason for bad in collection.quarantined] == ["unknown_query"]
