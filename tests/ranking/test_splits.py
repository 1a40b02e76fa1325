"""Which pairs serve which purpose, and what is held out where a split is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from hnmine.config.load import load
from hnmine.config.root import Config
from hnmine.corpus.layouts import read_collection
from hnmine.errors import DataError
from hnmine.project import open_project
from hnmine.ranking.first_stage import Bm25, FirstStage, bm25_or_run_file
from hnmine.ranking.measures import Task
from hnmine.ranking.splits import Splits
from hnmine.types import NO_ROW, Pairs
from tests.builders.collections import append_lines, write_collection
from tests.builders.field_cases import arguments, write_plain


def splits_of(folder: Path, *overrides: str) -> Splits:
    config = load(overrides=overrides)
    collection = read_collection(folder, config.sources)
    first_stage = partial(bm25_or_run_file, config.evaluate, collection.documents, collection.queries)
    return Splits(collection, config, first_stage)


def names_of(splits: Splits, pairs: Pairs) -> set[str]:
    """The ids of the queries."""
    return {splits.collection.queries.ids[row] for row in pairs.query_rows_P}


def ids_found(task: Task, query: int) -> list[str]:
    """The ids of the first stage's documents, best first."""
    return [task.document_ids[row] for row in task.doc_rows_QK[query].tolist() if row != NO_ROW]


def as_set(pairs: Pairs) -> set[tuple[int, int]]:
    return set(zip(pairs.query_rows_P.tolist(), pairs.doc_rows_P.tolist(), strict=True))


def test_each_split_is_what_its_file_says(tmp_path: Path) -> None:
    splits = splits_of(write_collection(tmp_path / "data"))
    assert [len(pairs) for pairs in (splits.train, splits.dev, splits.test)] == [12, 4, 4]
    assert (splits.dev_name, splits.test_name) == ("dev", "test")
    assert splits.collection.queries.ids[splits.dev.query_rows_P[0]] == "garden-care"


@pytest.mark.parametrize("seed", range(5))
def test_without_a_dev_split_whole_queries_are_held_out_by_seed(
    tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_collection(tmp_path / "data", ["train", "test"])
    with (folder / "qrels" / "train.tsv").open("a") as qrels:
        qrels.writelines(f"{topic}-care\t{topic}-price\t1\n" for topic in ("apple", "bread", "candle", "desk"))
    overrides = ("sources.dev_share=0.25", f"seed={seed}")
    splits, again = splits_of(folder, *overrides), splits_of(folder, *overrides)
    everything = as_set(splits.collection.pairs("train"))
    assert as_set(splits.dev) | as_set(splits.train) == everything
    assert len(everything) == len(splits.dev) + len(splits.train) == 16
    assert not set(splits.dev.query_rows_P) & set(splits.train.query_rows_P)
    assert 1 <= len(np.unique(splits.dev.query_rows_P)) < 12
    assert as_set(splits.dev) == as_set(again.dev)
    assert as_set(splits.dev) != as_set(splits_of(folder, overrides[0], f"seed={seed + 10}").dev)
    assert "no dev split: 25% of train queries are held out for early stopping" in capsys.readouterr().err


def test_what_is_held_out_today_was_not_trained_on_yesterday(tmp_path: Path) -> None:
    folder = write_collection(tmp_path / "data", ["train", "test"])
    before = splits_of(folder, "sources.dev_share=0.4")
    rows = [json.loads(line) for line in (folder / "queries.jsonl").read_text().splitlines()]
    more = [{"_id": f"new-{number}", "text": f"what is new in {number}"} for number in range(200)]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*more, *rows[::-1]]))
    with (folder / "qrels" / "train.tsv").open("a") as qrels:
        qrels.writelines(f"{row['_id']}\tapple-story\t1\n" for row in more)
    after = splits_of(folder, "sources.dev_share=0.4")

    def texts(splits: Splits) -> tuple[set[str], set[str]]:
        named = splits.collection.queries.texts
        return {named[row] for row in splits.dev.query_rows_P}, {named[row] for row in splits.train.query_rows_P}

    (dev, train), (later_dev, later_train) = texts(before), texts(after)
    assert dev <= later_dev
    assert train <= later_train
    assert 0.25 < len(later_dev) / len(later_dev | later_train) < 0.55


@pytest.mark.parametrize("seed", range(5))
def test_queries_of_one_text_are_held_out_together(
    tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_collection(tmp_path / "data", ["train", "test"])
    rows = [json.loads(line) for line in (folder / "queries.jsonl").read_text().splitlines()]
    with (folder / "queries.jsonl").open("a") as queries, (folder / "qrels" / "train.tsv").open("a") as qrels:
        for row in rows[:8]:
            queries.write(json.dumps(row | {"_id": f"again-{row['_id']}"}) + "\n")
            qrels.write(f"again-{row['_id']}\t{row['_id'].split('-')[0]}-price\t1\n")
    splits = splits_of(folder, "sources.dev_share=0.25", f"seed={seed}")
    texts = splits.collection.queries.texts
    dev, train = ({texts[row] for row in pairs.query_rows_P} for pairs in (splits.dev, splits.train))
    assert not dev & train
    assert len(dev | train) == 12
    assert dev
    assert "are train queries too" not in capsys.readouterr().err


def test_without_a_test_split_the_dev_queries_are_reported_and_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    splits = splits_of(write_collection(tmp_path / "data", ["train", "dev"]))
    assert as_set(splits.test) == as_set(splits.dev)
    assert splits.test_name == "dev"
    said = capsys.readouterr().err
    assert "no test split: dev is reported, which also chose the step" in said
    assert "warning: sources." not in said

    splits_of(tmp_path / "data", "sources.test_split=holdout")
    assert "warning: sources.test_split=holdout is no split of these data, which have " in capsys.readouterr().err


def test_of_a_single_train_query_nothing_can_be_held_out(tmp_path: Path) -> None:
    folder = write_collection(tmp_path / "data", ["train"])
    (folder / "qrels" / "train.tsv").write_text("apple-care\tapple-guide\t1\napple-care\tapple-price\t1\n")
    with pytest.raises(DataError, match=r"train has one query only, so none can be held out .* add more queries"):
        splits_of(folder)


def test_a_large_share_leaves_a_query_to_train_on(tmp_path: Path) -> None:
    splits = splits_of(write_collection(tmp_path / "data", ["train"]), "sources.dev_share=0.99")
    assert len(splits.train) == 1
    assert len(splits.dev) == 11


@pytest.mark.parametrize(("reranked", "depth"), [(70, 70), (7, 50)])
def test_the_first_stage_is_that_of_each_query_alone_and_deep_enough_for_all_its_uses(
    tmp_path: Path, reranked: int, depth: int
) -> None:
    splits = splits_of(write_collection(tmp_path / "data"), f"evaluate.depth={reranked}")
    splits.first_stage(np.array([3, 1]))
    rows = np.array([1, 5, 3])
    settings = Config().evaluate
    for row, docs, scores in zip(rows.tolist(), *splits.first_stage(rows), strict=True):
        query = splits.collection.queries.take([row])
        expected = Bm25(splits.collection.documents, k1=settings.k1, b=settings.b).first(query, depth)
        assert docs.tolist() == expected[0][0].tolist()
        assert scores.tolist() == expected[1][0].tolist()


def test_a_task_has_the_queries_of_the_pairs_or_a_seeded_sample_of_them(tmp_path: Path) -> None:
    splits = splits_of(write_collection(tmp_path / "data"), "evaluate.depth=5")
    whole, one, same = (splits.task(splits.train, limit, 3) for limit in (None, 4, 4))
    assert whole.doc_rows_QK.shape == (12, 5)
    assert len(whole) == len(splits.task(splits.train, 12, 3)) == 12
    assert len(one) == 4
    assert one.queries.ids == same.queries.ids
    assert set(one.queries.ids) < set(whole.queries.ids)
    assert any(splits.task(splits.train, 4, seed).queries.ids != one.queries.ids for seed in range(5))
    assert (whole.doc_rows_QK[:, 0] != NO_ROW).all()


def test_queries_of_another_split_that_ask_the_same_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_collection(tmp_path / "data")
    splits_of(folder)
    assert "warning" not in capsys.readouterr().err
    rows = [json.loads(line) for line in (folder / "queries.jsonl").read_text().splitlines()]
    rows[17]["text"] = rows[18]["text"] = rows[0]["text"]  # two of test, one of train
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    splits_of(folder)
    assert "warning: 2 queries of test are train queries too; its figures flatter" in capsys.readouterr().err


def test_a_run_file_is_the_first_stage_for_every_split(tmp_path: Path) -> None:
    data = write_collection(tmp_path / "data")
    queries = splits_of(data).collection.queries.ids
    lines = [
        f"{query} Q0 {query.split('-')[0]}-{kind} {rank} {-rank} x"
        for query in queries
        for rank, kind in enumerate(("price", "guide"), 1)
    ]
    (tmp_path / "run").write_text("\n".join(lines))
    splits = splits_of(data, f"evaluate.first_stage={tmp_path / 'run'}")
    task = splits.task(splits.test, None, 0)
    documents = splits.collection.documents.ids
    for query, rows in zip(task.queries.ids, task.doc_rows_QK.tolist(), strict=True):
        found = [documents[row] for row in rows if row != NO_ROW]
        assert found == [f"{query.split('-')[0]}-price", f"{query.split('-')[0]}-guide"]


def test_the_first_stage_is_opened_once_and_only_when_it_is_asked(tmp_path: Path) -> None:
    config = load()
    collection = read_collection(write_collection(tmp_path / "data"), config.sources)
    opened: list[bool] = []

    def open_first_stage() -> FirstStage:
        opened.append(True)
        return lambda query_rows, depth: (
            np.zeros((len(query_rows), depth), dtype=np.int64),
            np.ones((len(query_rows), depth), dtype=np.float32),
        )

    splits = Splits(collection, config, open_first_stage)
    assert not opened
    assert splits.task(splits.test, None, 0).doc_rows_QK.tolist() == [[0] * config.evaluate.depth] * 4
    splits.task(splits.dev, None, 0)
    assert len(opened) == 1


def test_queries_without_a_document_are_counted_and_one_is_shown(tmp_path: Path, capsys) -> None:
    folder = write_collection(tmp_path / "data")
    rows = [json.loads(line) for line in (folder / "queries.jsonl").read_text().splitlines()]
    rows = [row | {"text": "?!"} if row["_id"] == "garden-care" else row for row in rows]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    splits = splits_of(folder)
    splits.task(splits.dev, None, 0)
    splits.task(splits.dev, None, 0)
    said = "the first stage has nothing for 1 of 4 queries, first 'garden-care': '?!'"
    assert capsys.readouterr().err.count(said) == 1


def test_a_task_without_any_document_is_refused_and_not_measured(tmp_path: Path) -> None:
    folder = write_collection(tmp_path / "data")
    rows = [json.loads(line) | {"text": "𐌰"} for line in (folder / "queries.jsonl").read_text().splitlines()]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    splits = splits_of(folder)
    with pytest.raises(DataError, match=r"no document for any of 4 queries of test, first .*first_stage=dense"):
        splits.task(splits.test, None, 0)


# Where there is no train split


def test_of_test_judgements_alone_most_are_trained_on_and_a_share_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_collection(tmp_path / "data", ["train"])
    (folder / "qrels" / "train.tsv").rename(folder / "qrels" / "test.tsv")
    splits = splits_of(folder, "sources.dev_share=0.25", "seed=2")
    parts = [as_set(splits.train), as_set(splits.dev), as_set(splits.test)]
    assert set.union(*parts) == as_set(splits.collection.pairs("test"))
    assert sum(map(len, parts)) == 12
    assert all(parts)
    assert (splits.test_name, splits.train_name) == ("25% of test", "75% of test")
    assert splits.dev_name == "25% of 75% of test"
    said = capsys.readouterr().err
    assert "no train split: 75% of test queries are trained on" in said
    assert "no dev split: 25% of 75% of test queries are held out for early stopping" in said
    assert "no test split" not in said


def test_dev_judgements_are_trained_on_rather_than_those_of_test(tmp_path: Path) -> None:
    folder = write_collection(tmp_path / "data", ["train", "test"])
    (folder / "qrels" / "train.tsv").rename(folder / "qrels" / "dev.tsv")
    splits = splits_of(folder)
    assert (splits.train_name, splits.dev_name, splits.test_name) == ("85% of dev", "15% of dev", "test")
    assert as_set(splits.test) == as_set(splits.collection.pairs("test"))
    assert as_set(splits.train) | as_set(splits.dev) == as_set(splits.collection.pairs("dev"))
    assert not as_set(splits.train) & as_set(splits.dev)


def test_without_any_of_the_three_the_splits_there_are_are_named(tmp_path: Path) -> None:
    folder = write_collection(tmp_path / "data", ["train"])
    (folder / "qrels" / "train.tsv").rename(folder / "qrels" / "judged.tsv")
    with pytest.raises(DataError, match=r"no split 'train' was read; expected one of judged \(12 pairs\)"):
        splits_of(folder)


@pytest.mark.parametrize("change", [str.upper, lambda text: text.replace(" ", "\u00a0 ")])
def test_queries_of_one_text_in_another_spelling_are_one_question(
    tmp_path: Path, change: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_collection(tmp_path / "data", ["train"])
    rows = [json.loads(line) for line in (folder / "queries.jsonl").read_text().splitlines()]
    again = [{"_id": f"again-{row['_id']}", "text": change(row["text"])} for row in rows]
    append_lines(folder / "queries.jsonl", *map(json.dumps, again))
    append_lines(folder / "qrels" / "train.tsv", *(f"{row['_id']}\tapple-price\t1" for row in again[:12]))
    splits = splits_of(folder, "sources.dev_share=0.4")
    dev, train = (names_of(splits, pairs) for pairs in (splits.dev, splits.train))
    assert {name.removeprefix("again-") for name in dev} & {name.removeprefix("again-") for name in train} == set()
    assert len(dev | train) == 24
    assert "train queries too" not in capsys.readouterr().err
    (folder / "qrels" / "test.tsv").write_text("again-apple-care\tapple-price\t1\n")
    splits_of(folder)
    assert "1 queries of test are train queries too" in capsys.readouterr().err


def test_a_query_that_is_a_document_is_found_by_the_first_stage_unless_it_is_excluded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_plain(tmp_path / "data", arguments())
    tasks = []
    for exclude in ("false", "true"):
        with open_project(folder, tmp_path / exclude, load(overrides=[f"evaluate.exclude_self={exclude}"])) as project:
            tasks.append(project.splits.task(project.splits.test, None, 0))
        warned = "3 queries of test are documents of the corpus and find themselves; evaluate.exclude_self=true"
        assert (warned in capsys.readouterr().err) == (exclude == "false")
    found, without = tasks
    assert [ids_found(found, at)[0] for at in range(len(found))] == list(found.queries.ids)
    for at, query in enumerate(found.queries.ids):
        expected = [name for name in ids_found(found, at) if name != query]
        assert ids_found(without, at)[: len(expected)] == expected
        assert query not in ids_found(without, at)
