"""Each format holds what was mined, neither more nor less, as the tool it is for reads it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments, losses

from hnmine.config.steps import SourcesConfig
from hnmine.corpus.layouts import read_collection
from hnmine.errors import DataError
from hnmine.ranking.run_files import read_run
from hnmine.report.exports import export
from hnmine.types import Texts
from tests.builders.collections import append_lines, write_collection
from tests.builders.judged import collection_of
from tests.builders.mined import Rows, mined_run, write_run_of
from tests.builders.models import tiny_cross_encoder

SEEDS = range(2)
Grouped = dict[str, tuple[dict[str, float], dict[str, float]]]


def grouped(rows: Rows) -> Grouped:
    """Of every query the positives and the negatives with their cosines, by the obvious loop."""
    found: Grouped = defaultdict(lambda: ({}, {}))
    for row in rows:
        positives, negatives = found[str(row["query_id"])]
        positives[str(row["positive_id"])] = 1 - float(str(row["d_query_positive"]))
        negatives[str(row["negative_id"])] = 1 - float(str(row["d_query_negative"]))
    return dict(found)


def texts_of(rows: Rows) -> dict[str, str]:
    """Of every query and document the text, by id."""
    return {str(row[f"{name}_id"]): str(row[name]) for row in rows for name in ("query", "positive", "negative")}


def read_lines(path: Path) -> list[dict]:
    """Read as tools do that divide a text wherever Unicode ends a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def loaded(folder: Path) -> tuple[list[dict], list[dict]]:
    """Texts and ids of an export for sentence-transformers, as `datasets` loads the folder."""
    cache = str(folder.parent / "cache")
    parts = [datasets.load_dataset(str(folder), name, split="train", cache_dir=cache) for name in ("default", "ids")]
    return [dict(row) for row in parts[0]], [dict(row) for row in parts[1]]


@pytest.mark.parametrize("seed", SEEDS)
def test_triplets_are_the_rows_that_were_mined(seed: int, tmp_path: Path) -> None:
    rows = mined_run(tmp_path / "out", seed)
    export(tmp_path / "out", "triplet", tmp_path / "to")
    texts, ids = loaded(tmp_path / "to")
    assert [list(row) for row in texts[:1]] == [["query", "positive", "negative"]], "a column more would be trained on"
    key = lambda row: tuple(row.values())  # noqa: E731
    names = ("query_id", "positive_id", "negative_id")
    assert sorted(ids, key=key) == sorted(({name: row[name] for name in names} for row in rows), key=key)
    known = texts_of(rows)
    assert texts == [{name.removesuffix("_id"): known[each] for name, each in row.items()} for row in ids]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("width", [None, 1, 3])
def test_tuples_have_one_number_of_negatives_and_what_is_left_out_is_counted(
    seed: int, width: int | None, tmp_path: Path
) -> None:
    rows = mined_run(tmp_path / "out", seed)
    counts = export(tmp_path / "out", "n-tuple", tmp_path / "to", negatives=width)["counts"]
    _, ids = loaded(tmp_path / "to")
    pairs: dict[tuple, list] = defaultdict(list)
    for row in rows:
        pairs[row["query_id"], row["positive_id"]].append(row["negative_id"])
    each = counts["negatives_a_row"]
    found = {(row["query_id"], row["positive_id"]): [row[f"negative_{at + 1}_id"] for at in range(each)] for row in ids}
    assert found == {pair: names[:each] for pair, names in pairs.items() if len(names) >= each}
    assert counts["pairs_left_out"] == len(pairs) - len(found)
    kept = {n: n * sum(len(names) >= n for names in pairs.values()) for n in range(1, 5)}
    assert each == (width or max(n for n in kept if kept[n] == max(kept.values())))
    lost = sum(len(names) for pair, names in pairs.items() if pair not in found) + counts["farther_negatives_left_out"]
    assert lost + each * len(found) == len(rows)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scores", [False, True])
def test_labelled_pairs_and_lists_have_each_document_of_a_query_once(seed: int, scores: bool, tmp_path: Path) -> None:
    rows = mined_run(tmp_path / "out", seed)
    expected, known = grouped(rows), texts_of(rows)
    export(tmp_path / "out", "labeled-list", tmp_path / "lists", scores=scores)
    export(tmp_path / "out", "labeled-pair", tmp_path / "pairs", scores=scores)
    texts, ids = loaded(tmp_path / "lists")
    flat = []
    for row, names in zip(texts, ids, strict=True):
        positives, negatives = expected.pop(names["query_id"])
        assert names["document_ids"][: len(positives)] == list(positives)
        assert set(names["document_ids"][len(positives) :]) == set(negatives)
        assert row["documents"] == [known[name] for name in names["document_ids"]]
        wanted = [(positives | negatives)[name] if scores else int(name in positives) for name in names["document_ids"]]
        assert list(row) == ["query", "documents", "scores" if scores else "labels"]
        assert row["scores" if scores else "labels"] == pytest.approx(wanted)
        flat += list(zip([row["query"]] * len(wanted), row["documents"], wanted, strict=True))
    assert not expected
    assert [tuple(row.values()) for row in loaded(tmp_path / "pairs")[0]] == flat


@pytest.mark.parametrize("seed", SEEDS)
def test_lines_of_other_tools_hold_ids_texts_and_scores_of_each_query(seed: int, tmp_path: Path) -> None:
    rows = mined_run(tmp_path / "out", seed)
    expected, known = grouped(rows), texts_of(rows)
    files = {to: tmp_path / f"{to}.jsonl" for to in ("flagembedding", "tevatron", "ms-swift")}
    for to, path in files.items():
        export(tmp_path / "out", to, path)
    flag, tevatron, swift = map(read_lines, files.values())
    assert [row["query_id"] for row in flag] == list(expected), "in the order of the first pair"
    for one, two, three in zip(flag, tevatron, swift, strict=True):
        assert one["query_id"] == two["query_id"] == three["query_id"]
        assert one["query"] == two["query"] == three["messages"][0]["content"] == known[one["query_id"]]
        for short, long, cosines in zip(
            ("pos", "neg"), ("positive", "negative"), expected[one["query_id"]], strict=True
        ):
            ids, texts = one[f"{short}_id"], [known[name] for name in one[f"{short}_id"]]
            assert dict(zip(ids, one[f"{short}_scores"], strict=True)) == pytest.approx(cosines)
            assert one[short] == texts
            passages = [
                {"docid": name, "title": "", "text": text, "score": score}
                for name, text, score in zip(ids, texts, one[f"{short}_scores"], strict=True)
            ]
            assert two[f"{long}_passages"] == passages
            assert three[f"{long}_ids"] == ids
            assert three[f"{long}_messages"] == [[{"role": "assistant", "content": text}] for text in texts]
        assert one["neg_scores"] == sorted(one["neg_scores"], reverse=True), "the nearest first"


@pytest.mark.parametrize("to", ["triplet", "labeled-list", "flagembedding", "tevatron"])
def test_hnmine_reads_its_exports_as_the_same_judgements(to: str, tmp_path: Path) -> None:
    rows = mined_run(tmp_path / "out", blanks=True)
    export(tmp_path / "out", to, tmp_path / "to")
    at = {"flagembedding": "train.jsonl", "tevatron": "train.jsonl"}.get(to, "data/train.parquet")
    collection = read_collection(tmp_path / "to" / at, SourcesConfig())
    pairs = collection.pairs("train")
    found = {
        (collection.queries.texts[query], collection.documents.texts[doc])
        for query, doc in zip(pairs.query_rows_P.tolist(), pairs.doc_rows_P.tolist(), strict=True)
    }
    assert found == {(row["query"], row["positive"]) for row in rows}


def test_nemo_finds_every_document_in_its_corpus(tmp_path: Path) -> None:
    rows = mined_run(tmp_path / "out")
    export(tmp_path / "out", "nemo", tmp_path / "to")
    train = json.loads((tmp_path / "to" / "train.json").read_text())
    corpus = tmp_path / "to" / train["corpus"][0]["path"]
    metadata = json.loads((corpus / "merlin_metadata.json").read_text())
    table = datasets.load_dataset(str(corpus), cache_dir=str(tmp_path / "cache"))["train"]
    known, expected = dict(zip(table["id"], table["text"], strict=True)), grouped(rows)
    assert metadata == {"class": "TextQADataset", "corpus_id": train["data"][0]["corpus_id"]}
    assert known == {name: text for name, text in texts_of(rows).items() if not name.startswith("q")}
    assert {row["question_id"]: row["question"] for row in train["data"]} == {
        name: text for name, text in texts_of(rows).items() if name.startswith("q")
    }
    for row in train["data"]:
        docs = tuple({each["id"]: each["score"] for each in row[name]} for name in ("pos_doc", "neg_doc"))
        assert docs[0] == pytest.approx(expected[row["question_id"]][0])
        assert docs[1] == pytest.approx(expected[row["question_id"]][1])


def test_a_datasets_folder_has_the_proof_beside_the_texts(tmp_path: Path) -> None:
    rows = mined_run(tmp_path / "out")
    export(tmp_path / "out", "datasets", tmp_path / "to")
    found = datasets.load_dataset(str(tmp_path / "to"), split="train", cache_dir=str(tmp_path / "cache"))
    assert [dict(sorted(row.items())) for row in found] == [dict(sorted(row.items())) for row in rows]


def test_triplets_of_a_run_load_as_they_are(tmp_path: Path) -> None:
    rows = mined_run(tmp_path / "out")
    path = str(tmp_path / "out" / "triplets.parquet")
    found = datasets.load_dataset("parquet", data_files=path, split="train", cache_dir=str(tmp_path / "cache"))
    assert found["negative"][:] == [row["negative"] for row in rows]


LOSSES: dict[str, Callable] = {
    "triplet": losses.MultipleNegativesRankingLoss,
    "n-tuple": losses.MultipleNegativesRankingLoss,
    "labeled-pair": losses.BinaryCrossEntropyLoss,
    "labeled-list": losses.LambdaLoss,
}


@pytest.mark.parametrize("to", LOSSES)
def test_sentence_transformers_trains_on_them_as_they_are(
    to: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mined_run(tmp_path / "out")
    export(tmp_path / "out", to, tmp_path / "to")
    data = datasets.load_dataset(str(tmp_path / "to"), split="train", cache_dir=str(tmp_path / "cache"))
    model = CrossEncoder(str(tiny_cross_encoder(tmp_path / "model")), device="cpu")
    how = {"max_steps": 1, "report_to": "none", "save_strategy": "no", "per_device_train_batch_size": 4}
    args = CrossEncoderTrainingArguments(output_dir=str(tmp_path / "work"), use_cpu=True, disable_tqdm=True, **how)
    trained = CrossEncoderTrainer(model=model, args=args, train_dataset=data, loss=LOSSES[to](model)).train()
    assert np.isfinite(trained.training_loss)
    assert "look like ID columns" not in caplog.text


def test_mined_negatives_are_a_run_in_the_order_of_their_distance(tmp_path: Path) -> None:
    rows = mined_run(tmp_path / "out", blanks=True)
    export(tmp_path / "out", "trec-run", tmp_path / "to")
    queries = {name: text for name, text in texts_of(rows).items() if name.startswith("q")}
    documents = {name: text for name, text in texts_of(rows).items() if not name.startswith("q")}
    docs = Texts(ids=tuple(documents), texts=tuple(documents.values()))
    asked = Texts(ids=tuple(queries), texts=tuple(queries.values()))
    rows_QK, scores_QK = read_run(tmp_path / "to" / "hard-negatives.trec", docs, asked)(np.arange(len(asked)), 30)
    for query, found, scores in zip(asked.ids, rows_QK.tolist(), scores_QK.tolist(), strict=True):
        expected = sorted(grouped(rows)[query][1].items(), key=lambda each: -each[1])
        assert [docs.ids[row] for row in found if row >= 0] == [name for name, _ in expected]
        assert scores[: len(expected)] == pytest.approx([score for _, score in expected])


def test_a_collection_goes_through_beir_unchanged(tmp_path: Path) -> None:
    data = write_collection(tmp_path / "data")
    append_lines(data / "corpus.jsonl", json.dumps({"_id": "a b", "title": "", "text": "odd \u2028 \x85 signs"}))
    append_lines(data / "qrels" / "train.tsv", "apple-care\ta b\t3", "apple-care\tbread-story\t0")
    mined_run(tmp_path / "out")
    export(tmp_path / "out", "beir", tmp_path / "to", data=data)
    before, after = (read_collection(each, SourcesConfig()) for each in (data, tmp_path / "to"))
    export(tmp_path / "out", "beir", tmp_path / "again", data=before)
    assert (tmp_path / "again" / "corpus.jsonl").read_bytes() == (tmp_path / "to" / "corpus.jsonl").read_bytes()
    assert after.documents == before.documents
    assert after.queries == before.queries
    assert after.splits.keys() == before.splits.keys()
    for name, judged in before.splits.items():
        for one, two in zip(vars(judged).values(), vars(after.splits[name]).values(), strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("to", "line"), [("beir", 'load(split="{split}")'), ("trec-qrels", "trec_eval {folder}/{split}.qrels RUN")]
)
def test_the_line_that_reads_judgements_names_a_split_that_there_is(to: str, line: str, tmp_path: Path) -> None:
    mined_run(tmp_path / "out")
    for splits in (("train",), ("train", "dev", "test")):
        data = write_collection(tmp_path / splits[-1], splits=splits)
        folder = tmp_path / f"to-{splits[-1]}"
        found = export(tmp_path / "out", to, folder, data=data)
        assert found["load"].endswith(line.format(split=splits[-1], folder=folder))
        assert (
            line.format(split=splits[-1], folder=".").removeprefix("trec_eval ./") in (folder / "README.md").read_text()
        )


def test_qrels_have_every_grade_and_tabs_where_an_id_has_a_blank(tmp_path: Path) -> None:
    data = write_collection(tmp_path / "data")
    append_lines(data / "corpus.jsonl", json.dumps({"_id": "a b", "title": "", "text": "odd"}))
    append_lines(data / "qrels" / "train.tsv", "apple-care\ta b\t3", "apple-care\tbread-story\t0")
    mined_run(tmp_path / "out")
    export(tmp_path / "out", "trec-qrels", tmp_path / "to", data=data)
    for name, blank in (("train", "\t"), ("test", " ")):
        lines = (data / "qrels" / f"{name}.tsv").read_text().splitlines()[1:]
        expected = {tuple(line.split("\t")) for line in lines}
        found = [line.split(blank) for line in (tmp_path / "to" / f"{name}.qrels").read_text().splitlines()]
        assert {(query, document, grade) for query, _, document, grade in found} == expected
        assert {zero for _, zero, _, _ in found} == {"0"}


@pytest.mark.parametrize("to", ["beir", "trec-qrels"])
def test_grades_that_are_no_whole_numbers_are_refused(to: str, tmp_path: Path) -> None:
    data = write_collection(tmp_path / "data")
    append_lines(data / "qrels" / "test.tsv", "jacket-care\tapple-story\t0.5")
    mined_run(tmp_path / "out")
    with pytest.raises(DataError, match=r"test: a grade of query jacket-care is 0.5; qrels hold whole numbers"):
        export(tmp_path / "out", to, tmp_path / "to", data=data)
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("split", ["../../elsewhere", ".hidden", "a/b", ""])
def test_a_split_that_would_lead_elsewhere_is_refused(split: str, tmp_path: Path) -> None:
    mined_run(tmp_path / "out")
    texts = Texts(ids=("a", "b"), texts=("one", "two"))
    collection = collection_of(texts, texts, {split: [(0, 1)]})
    for to in ("beir", "trec-qrels"):
        with pytest.raises(DataError, match="cannot name a file"):
            export(tmp_path / "out", to, tmp_path / "deep" / "er" / "to", data=collection)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "out"]


def test_more_negatives_than_any_pair_has_are_refused(tmp_path: Path) -> None:
    mined_run(tmp_path / "out")
    with pytest.raises(DataError, match="no pair has 9 negatives; ask for 4 at most"):
        export(tmp_path / "out", "n-tuple", tmp_path / "to", negatives=9)


def test_a_run_without_a_negative_has_nothing_to_export(tmp_path: Path) -> None:
    write_run_of(tmp_path / "none", [])
    with pytest.raises(DataError, match=r"has no hard negative; `dropped` in its manifest\.json says why"):
        export(tmp_path / "none", "triplet", tmp_path / "to")
