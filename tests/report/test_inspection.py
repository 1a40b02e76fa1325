"""What `hnmine inspect` says of collections, happy and unhappy."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from hnmine.config.load import load
from hnmine.errors import DataError
from hnmine.report.inspection import inspect, inspection_text, scripts
from tests.builders.collections import append_lines, write_collection
from tests.builders.models import tiny_word_encoder

LEXICAL = "encoders=[{name: words, lexical: {}}]"


def inspected(folder: Path | str, *overrides: str, options: str = "", few: bool = False) -> tuple[dict[str, Any], str]:
    """Return what was found, by way of JSON, and the text for people; without warnings of few queries but for `few`."""
    found = json.loads(json.dumps(inspect(folder, load(overrides=[LEXICAL, *overrides]), options)))
    found["next"] = [line for line in found["next"] if few or "below 30" not in line]
    return found, inspection_text(found)


def put(folder: Path, documents: list[str], queries: list[str], **qrels: list[tuple[int, int, float]]) -> Path:
    """Write a BEIR folder of documents d0, d1 … and queries q0, q1 …"""
    (folder / "qrels").mkdir(parents=True)
    for name, texts, letter in (("corpus", documents, "d"), ("queries", queries, "q")):
        rows = [json.dumps({"_id": f"{letter}{i}", "text": text}) for i, text in enumerate(texts)]
        (folder / f"{name}.jsonl").write_text("".join(f"{row}\n" for row in rows))
    for split, judged in qrels.items():
        lines = ["query-id\tcorpus-id\tscore", *(f"q{query}\td{doc}\t{grade:g}" for query, doc, grade in judged)]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder


def test_a_collection_in_order_is_counted_and_the_next_command_is_named(tmp_path: Path) -> None:
    folder = write_collection(tmp_path / "my data")
    (folder / "notes.md").write_text("mine")
    found, text = inspected(folder)
    assert found["problem"] is None
    assert found["layout"] == "BEIR folder"
    assert (found["documents"]["count"], found["queries"]["count"]) == (30, 20)
    assert {name: each["right"] for name, each in found["splits"].items()} == {"train": 12, "dev": 4, "test": 4}
    assert found["use"] == {"train": "train", "dev": "dev", "test": "test"}
    assert found["files"]["corpus.jsonl"] == {"rows": 30, "kept": 30}
    assert found["documents"]["scripts"] == {"Latin": 1.0}
    assert found["next"] == [f"hnmine run --data '{folder}' --out out/run"]
    assert "not read: notes.md (" in text
    assert text.endswith(f"next:\n  hnmine run --data '{folder}' --out out/run")


def test_what_flatters_is_unused_or_was_set_aside_is_advised_of(tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(8)]
    judged = [(query, query, 2 - query % 2) for query in range(8)]
    queries = [f"what is {text}" for text in texts]
    folder = put(tmp_path / "x", texts, queries, train=judged)
    mixed, twice, *commands = inspected(folder)[0]["next"]
    assert mixed.endswith("add --set sources.min_score=2")
    assert twice == "15% of train both stops the training and is reported, which flatters; judge a test split"
    assert "grades differ" not in " ".join(inspected(folder, "sources.min_score=2")[0]["next"])
    assert all(command.startswith("hnmine ") for command in commands)

    (folder / "qrels" / "train.tsv").rename(folder / "qrels" / "holdout.tsv")
    put(tmp_path / "y", texts, queries, train=judged)
    append_lines(tmp_path / "y" / "qrels" / "train.tsv", "q0\td0\t0,9", "q1\td1\t0,9")
    (folder / "qrels" / "holdout.tsv").rename(tmp_path / "y" / "qrels" / "holdout.tsv")
    advice = inspected(tmp_path / "y")[0]["next"]
    assert "holdout: judged, and not used; to report one, add --set sources.test_split=holdout" in advice
    assert "2 of 10 rows of qrels/train.tsv are set aside; mend them first" in advice


def test_files_of_other_names_are_told_theirs_by_their_columns(tmp_path: Path) -> None:
    (tmp_path / "produkte.csv").write_text("Nummer,title,text\n7,Kühlschrank,kühlt\n")
    (tmp_path / "fragen.csv").write_text("id,query\nq1,was kühlt?\n")
    (tmp_path / "klicks.csv").write_text("query_id,doc_id,relevance\nq1,7,1\n")
    assert inspected(tmp_path)[0]["next"][:-1] == [
        "fragen.csv looks like queries: call it queries.csv",
        "klicks.csv looks like judgements: call it qrels/train.csv",
        "produkte.csv looks like documents: call it corpus.csv, and the column of ids id",
    ]
    for old, new in (("fragen", "queries"), ("klicks", "qrels"), ("produkte", "corpus")):
        (tmp_path / f"{old}.csv").rename(tmp_path / f"{new}.csv")
    assert len(inspected(tmp_path)[0]["next"]) == 1
    text = (tmp_path / "corpus.csv").read_text().replace("Nummer", "id")
    (tmp_path / "corpus.csv").write_text(text)
    assert inspected(tmp_path)[0]["documents"]["count"] == 1


@pytest.mark.parametrize(
    ("name", "header", "said"),
    [
        (
            "judgements",
            "query_id,article_id,relevance",
            "call it qrels/train.csv, and the column article_id docid (or document_id, ",
        ),
        ("ratings", "Search-Id,doc_id,grade", "call it qrels/train.csv, and the column Search-Id query_id (or qid, "),
        ("qrels", "qid,article,score", "call the column article docid (or document_id, "),
    ],
)
def test_judgements_of_an_unknown_column_are_told_its_name(name: str, header: str, said: str, tmp_path: Path) -> None:
    folder = put(tmp_path, ["plums", "pears"], ["plum", "pear"])
    (folder / f"{name}.csv").write_text(f"{header}\nq0,d0,1\nq1,d1,1\n")
    advice = inspected(folder)[0]["next"]
    assert [line for line in advice if line.startswith(f"{name}.csv looks like judgements: {said}")], advice
    # What is advised is right.
    old, new = re.findall(r"column (\S+) (\S+) \(", advice[0])[0]
    (folder / f"{name}.csv").rename(folder / "qrels" / "train.csv")
    (folder / "qrels" / "train.csv").write_text((folder / "qrels" / "train.csv").read_text().replace(old, new))
    assert inspected(folder)[0]["splits"]["train"]["right"] == 2


def test_how_many_queries_are_asked_is_said_and_too_few_are_warned_of(tmp_path: Path) -> None:
    judged = [(i, i, 1.0) for i in range(63)]
    texts, queries = [f"plum {i}" for i in range(63)], [f"which plum is {i}" for i in range(63)]
    found, text = inspected(put(tmp_path / "one", texts, queries, train=judged), few=True)
    dev = found["asked"]["dev"]
    assert 1 <= dev < 30
    assert f"dev: 15% of train: {dev} of 63 queries; test: 15% of train: {dev} of 63 queries" in text
    warned = f"dev has {dev} of 63 queries: below 30, chance decides what looks best; judge more queries"
    assert [line for line in found["next"] if "below 30" in line] == [warned]
    found, text = inspected(
        put(tmp_path / "two", texts, queries, train=judged[:5], dev=judged[5:35], test=judged[35:]), few=True
    )
    assert found["asked"] == {"train": 5, "dev": 30, "test": 28}
    assert [line for line in found["next"] if "below 30" in line] == [
        "test has 28 queries: below 30, chance decides what looks best; judge more queries"
    ]
    found, text = inspected(put(tmp_path / "three", texts, queries, test=judged))
    assert f"dev: 15% of 85% of test: {found['asked']['dev']} of 63 queries" in text


def test_copies_twins_and_queries_of_all_kinds_are_counted_with_an_example(tmp_path: Path) -> None:
    documents = ["The sea is blue", "the  SEA is\u00a0blue", "bread and butter", "the ﬁre", "The FIRE"]
    queries = ["sea?", "BREAD and butter", "nothing known", "??", "sea?", "fire"]
    folder = put(tmp_path / "x", documents, queries, train=[(0, 0, 1), (1, 3, 1), (2, 2, 1)], test=[(3, 2, 1)])
    found, text = inspected(folder)
    assert found["documents"]["copies"] == {"count": 2, "example": ["d0", "d1"]}
    assert found["queries"]["copies"] == {"count": 1, "example": ["q0", "q4"]}
    assert found["queries"]["without_answer"] == {"count": 2, "example": ["q4", "sea?"]}
    assert found["queries"]["that_are_documents"] == {"count": 1, "example": ["q1", "BREAD and butter"]}
    assert found["queries"]["without_a_word_of_a_document"]["count"] == 2
    assert found["queries"]["without_a_word_of_a_document"]["example"] == ["q2", "nothing known"]
    assert any("evaluate.exclude_self=true" in line for line in found["next"])
    assert "2  queries without a word that a document has  q2: nothing known" in text


def test_grades_and_what_is_judged_of_a_query_are_shown_and_settings_stay_in_the_next_command(tmp_path: Path) -> None:
    judged = [(0, 0, 3), (0, 1, 1), (0, 2, 0), (1, 0, 3), (1, 3, 3), (2, 1, 1)]
    folder = put(tmp_path / "x", ["one a", "two a", "three", "four"], ["a", "one", "two"], train=judged)
    found, _ = inspected(folder, "sources.min_score=2", options=" --set sources.min_score=2")
    train = found["splits"]["train"]
    assert train["grades"] == {"3": 3, "1": 2, "0": 1}
    assert (train["judgements"], train["right"], train["queries"], train["queries_with_answer"]) == (6, 3, 3, 2)
    assert (train["right_per_query"], train["most_of_a_query"], train["judged_per_query"]) == (1.5, 2, 2.0)
    assert found["next"][-2:] == [
        f"hnmine {step} --data {folder} --out out/{step} --set sources.min_score=2" for step in ("audit", "run")
    ]


def test_scripts_are_shares_of_letters_whatever_their_form() -> None:
    assert scripts(["abc \uff21\uff22\uff23", "データ", "ひら", "数据库", "дом 12 !?"]) == {
        "Latin": 0.3529,
        "Katakana": 0.1765,
        "Han": 0.1765,
        "Cyrillic": 0.1765,
        "Hiragana": 0.1176,
    }
    assert scripts(["12 !?", ""]) == {}


def test_another_script_is_said_to_need_other_models_and_another_first_stage(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("hnmine.models.folder.resolve", lambda *_, **__: tmp_path)
    documents, right = ["数据库", "缓存", "对象"], [(0, 1, 1), (1, 0, 1), (2, 2, 1)]
    found = inspect(put(tmp_path / "x", documents, ["cache", "base", "thing"], train=right), load())
    assert found["documents"]["scripts"] == {"Han": 1.0}
    assert "BM25 finds nothing for 3 queries" in " ".join(found["next"])
    assert [line.count("multilingual") for line in found["next"] if "below 30" not in line] == [1, 0, 0, 1]
    proposed = re.findall(r"--set (\S+)", found["next"][-1])
    assert [each.partition("=")[0] for each in proposed] == ["encoders", "train.model", "evaluate.first_stage"]
    assert load(overrides=proposed).evaluate.first_stage == "dense"
    found, _ = inspected(tmp_path / "x")
    assert not any("multilingual" in line for line in found["next"]), "these encoders were chosen"


def test_lengths_are_in_tokens_of_the_encoder_and_what_it_truncates_is_a_share(tmp_path: Path) -> None:
    model = tiny_word_encoder(tmp_path / "model")
    documents = ["w1 w2 w3", "w1 " * 20, "w2", "w3 w4"]
    folder = put(tmp_path / "x", documents, ["w1", "w2 w3"], train=[(0, 0, 1), (1, 1, 1)])
    found, text = inspected(
        folder, f"encoders=[{{name: tiny, model: {model}, max_tokens: 8}}, {{name: w, lexical: {{}}}}]"
    )
    tiny, lexical = found["tokens"]
    assert tiny["limit"] == 8
    assert tiny["documents"] == {"texts": 4, "median": 4, "95_percent": 19, "longest": 22, "truncated": 0.25}
    assert tiny["queries"]["longest"] == 4
    assert lexical == {"encoder": "w", "reason": "it has no tokens"}
    assert "25.0% over 8" in text


def test_a_damaged_tokenizer_is_no_reason_to_stop(tmp_path: Path) -> None:
    model = tiny_word_encoder(tmp_path / "model")
    (model / "tokenizer.json").write_text("{")
    found, _ = inspected(write_collection(tmp_path / "x"), f"encoders=[{{name: tiny, model: {model}}}]")
    assert found["tokens"][0].keys() == {"encoder", "reason"}


def test_an_address_is_inspected_as_a_folder(tmp_path: Path) -> None:
    folder = write_collection(tmp_path / "x")
    there, here = (
        inspected(Path(folder))[0],
        inspected(f"file://{folder}")[0],
    )
    assert {key for key in here if here[key] != there[key]} == {"data", "next"}
    assert here["next"] == [f"hnmine run --data file://{folder} --out out/run"]


def test_a_model_that_is_not_there_is_no_reason_to_stop(tmp_path: Path) -> None:
    found, text = inspected(write_collection(tmp_path / "x"), "encoders=[{name: far, model: ./nowhere}]")
    assert found["tokens"] == [{"encoder": "far", "reason": "model folder ./nowhere does not exist"}]
    assert "./nowhere does not exist" in text


def test_quarantine_has_a_count_and_an_example_of_each_reason(tmp_path: Path) -> None:
    folder = write_collection(tmp_path / "x")
    append_lines(folder / "corpus.jsonl", "{broken", "{broken too", json.dumps({"_id": "e", "text": " \u200b"}))
    found, text = inspected(folder)
    assert {reason: each["rows"] for reason, each in found["quarantine"].items()} == {"broken_json": 2, "empty_text": 1}
    assert found["quarantine"]["empty_text"]["example"]["line"] == 33
    assert "broken_json     2  corpus.jsonl:31" in text


def test_only_a_test_split_is_divided_and_said(tmp_path: Path) -> None:
    found, text = inspected(write_collection(tmp_path / "x", ["test"]))
    assert found["problem"] is None
    assert found["use"]["train"] == "85% of test"
    assert re.search(
        r"taken from other splits: train: 85% of test: \d of 4 queries; dev: 15% of 85% of test: 1 of 4", text
    )


@pytest.mark.parametrize(
    ("documents", "queries", "qrels", "problem"),
    [
        (["one"], ["one"], {"train": [(0, 0, 1)]}, "one query only"),
        (["one", "two"], ["a", "b"], {"mine": [(0, 0, 1), (1, 1, 1)]}, "no split 'train'"),
    ],
)
def test_a_collection_that_commands_refuse_is_shown_with_the_reason(
    documents: list[str], queries: list[str], qrels: dict, problem: str, tmp_path: Path
) -> None:
    found, text = inspected(put(tmp_path / "x", documents, queries, **qrels))
    assert problem in found["problem"]
    assert found["documents"]["count"] == len(documents)
    assert f"PROBLEM: {found['problem']}" in text
    assert found["next"][0].startswith("mend this, then: hnmine inspect --data ")
    assert ("--set sources.train_split=mine" in found["next"][0]) == ("mine" in qrels)


def test_a_folder_that_is_no_collection_is_shown_file_by_file(tmp_path: Path) -> None:
    folder = put(tmp_path / "x", ["eins", "zwei"], ["a\nb\x1b[31m"])
    (folder / "page.txt").write_text("<html><body>404")
    found, text = inspected(folder)
    assert "no qrels" in found["problem"]
    assert found["files"]["corpus.jsonl"] == {
        "rows": 2,
        "first_row": {"_id": "d0", "text": "eins"},
        "scripts": {"Latin": 1.0},
    }
    assert "HTML" in found["files"]["page.txt"]["problem"]
    assert "\x1b" not in text, "a text cannot colour the terminal"
    assert "queries.jsonl     1" in text


def test_judgements_of_nothing_known_are_shown_with_their_reason(tmp_path: Path) -> None:
    found, text = inspected(put(tmp_path / "x", ["one"], ["a"], train=[(0, 7, 1)]))
    assert "no query with a right document" in found["problem"]
    assert found["quarantine"]["unknown_document"]["rows"] == 1
    assert "train.tsv:2" in text


def test_an_empty_folder_is_shown_and_one_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    found, text = inspected(tmp_path / "empty")
    assert found["files"] == {}
    assert "it holds no file" in text
    with pytest.raises(DataError, match="does not exist"):
        inspected(tmp_path / "nowhere")
