"""`hnmine explain` as people call it."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hnmine
from hnmine.cli import main
from hnmine.errors import DataError
from tests.builders.collections import append_lines, write_collection
from tests.builders.rankers import trained_run
from tests.builders.settings import LEXICAL_ENCODER

QUICK = [LEXICAL_ENCODER, "ray=false", "device=cpu"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(tmp_path_factory.mktemp("explain") / "data")


@pytest.fixture(scope="module")
def out(data: Path) -> Path:
    """Return a folder that was mined into."""
    hnmine.mine(data, data.parent / "out", hnmine.load_config(overrides=[*QUICK, "select.negatives=2"]))
    return data.parent / "out"


def said(*arguments: object, capsys: pytest.CaptureFixture[str], code: int = 0) -> str:
    """Call the command line; return what it prints."""
    assert main(["explain", *map(str, arguments)]) == code
    captured = capsys.readouterr()
    return captured.out if code == 0 else captured.err


def test_a_newcomer_reads_why(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said("--out", out, "apple-care", capsys=capsys)
    lines = text.splitlines()
    assert lines[0] == "query apple-care: what the apple in winter costs to keep"
    assert "NEGATIVE 1: nearer to the query than PD" in text
    assert "certificate found: the pair has all negatives it asks for (2)" in text
    assert "\x1b" not in text
    assert lines[-1] == f"Next: hnmine explain --out {out} --sample 20 > review.md"
    first = next(line for line in lines if line.lstrip().startswith("1 "))
    assert re.match(r" +1 +apple-price +0\.\d{4} +[01]\.\d{4}  NEGATIVE 1", first)


def test_a_document_far_away_is_told_where_it_stands(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said("--out", out, "apple-care", "--document", "candle-story", capsys=capsys)
    assert re.search(r"\n +\d+ +candle-story .* is not below d\(Q,PD\) = \d\.\d+: .*\(condition 1\)\n", text)
    assert "NEGATIVE" not in text
    found = json.loads(said("--out", out, "apple-care", "--document", "candle-story", "--json", capsys=capsys))
    fact = found["pairs"][0]["documents"][-1]
    assert (fact["id"], fact["verdict"]) == ("candle-story", "condition_1")
    assert fact["d_query"] >= found["pairs"][0]["d_query_positive"]


def test_json_is_what_python_returns(data: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = hnmine.explain(data, out, "apple-care", top=3)
    printed = said("--out", out, "--data", data, "apple-care", "--top", 3, "--json", capsys=capsys)
    assert json.loads(printed) == found
    assert str(found) in said("--out", out, "apple-care", "--top", 3, capsys=capsys)
    assert len(found["pairs"][0]["documents"]) == 4


def test_a_terminal_shows_the_words_of_the_query_in_bold(out: Path) -> None:
    main_end, process_end = pty.openpty()
    command = [sys.executable, "-m", "hnmine.cli", "explain", "--out", str(out), "apple-care", "--top", "2"]
    subprocess.run(
        command, stdout=process_end, stderr=subprocess.DEVNULL, env=os.environ | {"NO_COLOR": ""}, check=True
    )
    os.close(process_end)
    text = os.read(main_end, 100_000).decode()
    os.close(main_end)
    assert "Price of the \x1b[1mapple\x1b[22m" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["aple-care"], "no query has the id 'aple-care'; did you mean 'apple-care'"),
        (["APPLE-CARE "], "did you mean 'apple-care'?"),
        (["apple-guide"], "it is that of a document: give it as --document"),
        (["zzzz"], "ids are like '"),
        (["apple-care", "--document", "aple-guide"], "no document has the id 'aple-guide'; did you mean 'apple-guide'"),
        (
            ["apple-care", "--positive", "apple-price"],
            "not judged right for the query 'apple-care'; right are apple-guide",
        ),
        ([], "expected the id of a query, or --sample N"),
        (["apple-care", "--sample", "3"], "expected the id of a query, or --sample N"),
        (["--sample", "0"], "expected 1 or more"),
        (["apple-care", "--data", "/nowhere"], "/nowhere does not exist"),
    ],
)
def test_mistakes_say_what_to_do(
    out: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in said("--out", out, *arguments, capsys=capsys, code=2)


def test_a_folder_that_was_not_mined_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "run `hnmine mine`" in said("--out", tmp_path, "apple-care", capsys=capsys, code=2)


def test_nothing_is_encoded_but_what_is_missing(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["explain", "--out", str(out), "apple-care"])
    assert "31 vectors from the store, 0 encoded" in capsys.readouterr().err
    main(["explain", "--out", str(out), "island-care"])  # of test, which nobody has encoded
    captured = capsys.readouterr()
    assert "30 vectors from the store, 1 encoded" in captured.err
    assert "this is no train query" in captured.out


def test_another_collection_than_was_mined_is_said(tmp_path: Path) -> None:
    data = write_collection(tmp_path / "data")
    config = hnmine.load_config(overrides=[*QUICK, "select.negatives=2"])
    hnmine.mine(data, tmp_path / "out", config)
    assert hnmine.explain(None, tmp_path / "out", "apple-care")["notes"] == []
    append_lines(data / "qrels" / "train.tsv", "apple-care\tapple-price\t1")
    found = hnmine.explain(None, tmp_path / "out", "apple-care")
    assert found["notes"][0] == "the collection is not the one that was mined: mine again"
    assert "OUT has other negatives for apple-guide" in found["notes"][1]
    append_lines(data / "corpus.jsonl", '{"_id": "new", "title": "", "text": "what the apple in winter costs to keep"}')
    with pytest.raises(DataError, match="mine again"):
        hnmine.explain(None, tmp_path / "out", "apple-care")
    data.rename(tmp_path / "moved")
    with pytest.raises(DataError, match="name its place with --data"):
        hnmine.explain(None, tmp_path / "out", "apple-care")


def test_collections_of_objects_are_given_again(tmp_path: Path) -> None:
    made = hnmine.Collection.of({"a": "one two", "b": "one", "c": "three"}, {"q": "one"}, {"q": {"a": 1}})
    hnmine.mine(made, tmp_path / "out", hnmine.load_config(overrides=QUICK))
    with pytest.raises(DataError, match="give the collection as data"):
        hnmine.explain(None, tmp_path / "out", "q")
    assert hnmine.explain(made, tmp_path / "out", "q")["pairs"][0]["positive"] == "a"


def test_what_a_rule_or_an_approximate_index_chose_is_believed(data: Path, tmp_path: Path) -> None:
    config = hnmine.load_config(overrides=QUICK)
    hnmine.mine(data, tmp_path / "rule", config, rule=lambda view, _count: np.array([len(view.d_query_n) - 1]))
    pair = hnmine.explain(data, tmp_path / "rule", "apple-care")["pairs"][0]
    assert pair["certificate"] == "own rule"
    verdicts = {each["id"]: each["verdict"] for each in pair["documents"]}
    assert [name for name, verdict in verdicts.items() if verdict == "negative"] == pair["negatives"]
    assert verdicts["apple-price"] == "missed"
    assert "not by the two conditions" in hnmine.explain(data, tmp_path / "rule", "apple-care")["notes"][0]
    chosen = next(each for each in pair["documents"] if each["verdict"] == "negative")
    assert chosen["because"].startswith("NEGATIVE 1: chosen by the rule ")
    ivf = hnmine.load_config(overrides=[*QUICK, "search.index=ivf", "search.ivf_probes=1"])
    hnmine.mine(data, tmp_path / "ivf", ivf)
    table = hnmine.negatives(tmp_path / "ivf").to_pylist()
    for query in {row["query_id"] for row in table}:
        found = hnmine.explain(data, tmp_path / "ivf", query)
        assert found["notes"] == []
        assert found["pairs"][0]["certificate"] == "approximate"
        assert found["pairs"][0]["negatives"] == [row["negative_id"] for row in table if row["query_id"] == query]


def test_bm25_and_the_ranker_have_their_say(data: Path, tmp_path: Path) -> None:
    config = trained_run(tmp_path / "out", tmp_path / "encoder")
    hnmine.mine(data, tmp_path / "out", config)
    hnmine.evaluate(data, tmp_path / "out", config)
    found = hnmine.explain(data, tmp_path / "out", "apple-care")
    documents = found["pairs"][0]["documents"]
    ranker = hnmine.Ranker.load(tmp_path / "out" / "ranker")
    scores = ranker.score([found["query"]["text"]], [[each["text"] for each in documents]])[0]
    assert [each["scores"]["ranker"] for each in documents] == pytest.approx(scores.tolist())
    if any(part.kind == "bm25" for part in ranker.spec.parts.values()):
        assert all(each["scores"]["BM25"] > 0 for each in documents if "apple" in each["text"])
    assert "ranker" in str(found)
