"""From a collection to the two files, on a corpus small enough to check by eye."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hnmine import pipeline
from hnmine.config.load import load
from hnmine.config.root import Config
from hnmine.config.steps import ReduceConfig, SearchConfig
from hnmine.errors import DataError, ModelError
from hnmine.mining.conditions import Known
from hnmine.mining.mine import SPACE_SAMPLE, Judged, choose_basis, dense_first_stage, mined_tables
from hnmine.models.reranker import CrossEncoder
from hnmine.types import Negatives, Pairs, Texts
from tests.builders.field_cases import arguments, copied, judged_elsewhere, write_plain
from tests.builders.judged import collection_of
from tests.builders.models import tiny_cross_encoder, tiny_word_encoder
from tests.builders.texts import random_text_pairs
from tests.builders.vectors import awkward_space, basis_of, random_fused

# three directions of meaning: the product, the place, the deed
DOCUMENTS = {
    "mysql-cloud": ("Deploy MySQL in the cloud", [1.0, 1.0, 0.2]),
    "mysql-premises": ("Deploy MySQL on premises", [1.0, -1.0, 0.2]),
    "postgres-cloud": ("Deploy Postgres in the cloud", [-1.0, 1.0, 0.2]),
    "postgres-premises": ("Deploy Postgres on premises", [-1.0, -1.0, 0.2]),
    "mysql-cloud-again": ("Deploy MySQL in the cloud", [1.0, 1.0, 0.2]),
    "mysql-cloud-reworded": ("MySQL, deployed in the cloud", [1.0, 1.02, 0.2]),
    "lunch": ("Lunch is at noon", [0.0, 0.0, -1.0]),
}
QUERIES = {
    # nearer to MySQL on premises and to Postgres in the cloud than to the page that was judged right
    "where": ("where do I run MySQL?", [1.0, 0.1, 0.2]),
    # its positive is the nearest of all
    "lunch-when": ("when is lunch?", [0.1, 0.0, -1.0]),
    # only copies and rewordings of the positive are nearer
    "cloud": ("MySQL in the cloud", [1.0, 1.03, 0.2]),
}
TRAIN = {"where": ["mysql-cloud"], "lunch-when": ["lunch"], "cloud": ["mysql-cloud"]}
SETTINGS = ["reduce.variance=null", "ray=false", "device=cpu"]


def write_collection(folder: Path, documents: dict, queries: dict, train: dict) -> Path:
    (folder / "qrels").mkdir(parents=True)
    for name, rows in (("corpus", documents), ("queries", queries)):
        lines = [json.dumps({"_id": key, "title": "", "text": text}) for key, (text, _) in rows.items()]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
        name = {"corpus": "documents", "queries": "queries"}[name]
        vectors = pa.array([vector for _, vector in rows.values()], pa.list_(pa.float32()))
        pq.write_table(pa.table({"id": list(rows), "vector": vectors}), folder / f"{name}.parquet")
    lines = [f"{query}\t{doc}\t1" for query, docs in train.items() for doc in docs]
    (folder / "qrels" / "train.tsv").write_text("\n".join(lines), encoding="utf-8")
    return folder


def precomputed(folder: Path, *overrides: str) -> Config:
    return load(overrides=[f"encoders=[{{name: mine, precomputed: '{folder}'}}]", *SETTINGS, *overrides])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_collection(tmp_path / "data", DOCUMENTS, QUERIES, TRAIN)


def cosine(a: list[float], b: list[float]) -> float:
    return 1 - float(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))


def by_eye(query: str, positive: str) -> list[str]:
    """The two conditions as the paper writes them, over the vectors of this page."""
    q, pd = QUERIES[query][1], DOCUMENTS[positive][1]
    passed = []
    for row, (name, (text, d)) in enumerate(DOCUMENTS.items()):
        other = name != positive and text != DOCUMENTS[positive][0]
        if other and cosine(q, d) < cosine(q, pd) and cosine(q, d) < cosine(pd, d):
            passed.append((cosine(q, d), row, name))
    return [name for _, _, name in sorted(passed)]


def test_the_mined_negatives_are_those_one_sees(folder, tmp_path):
    queries = {"premises": ("MySQL on our own machines", [1.0, -0.2, 0.2])}
    folder = write_collection(tmp_path / "seen", DOCUMENTS, queries, {"premises": ["mysql-cloud"]})
    pipeline.mine(folder, tmp_path / "out", precomputed(folder))
    assert pq.read_table(tmp_path / "out" / "negatives.parquet").to_pylist() == [
        {
            "query_id": "premises",
            "positive_id": "mysql-cloud",
            "negative_id": "mysql-premises",
            "rank": 1,
            "d_query_positive": pytest.approx(cosine([1.0, -0.2, 0.2], [1.0, 1.0, 0.2]), abs=1e-6),
            "d_query_negative": pytest.approx(cosine([1.0, -0.2, 0.2], [1.0, -1.0, 0.2]), abs=1e-6),
            "d_positive_negative": pytest.approx(cosine([1.0, 1.0, 0.2], [1.0, -1.0, 0.2]), abs=1e-6),
            "certificate": "found",
        }
    ]
    assert pq.read_table(tmp_path / "out" / "triplets.parquet").to_pylist() == [
        {
            "query": "MySQL on our own machines",
            "positive": "Deploy MySQL in the cloud",
            "negative": "Deploy MySQL on premises",
            "query_id": "premises",
            "positive_id": "mysql-cloud",
            "negative_id": "mysql-premises",
        }
    ]


@pytest.mark.parametrize("wanted", [1, 3])
def test_files_and_manifest_agree_with_the_rule_and_with_each_other(wanted, folder, tmp_path):
    out = tmp_path / "out"
    manifest = pipeline.mine(folder, out, precomputed(folder, f"select.negatives={wanted}"))
    negatives, triplets = pq.read_table(out / "negatives.parquet"), pq.read_table(out / "triplets.parquet")
    expected = [(q, p[0], n) for q, p in TRAIN.items() for n in by_eye(q, p[0])[:wanted]]
    ids = ["query_id", "positive_id", "negative_id"]
    assert sorted(tuple(row[name] for name in ids) for row in negatives.to_pylist()) == sorted(expected)
    assert negatives.select(ids) == triplets.select(ids)
    for row in triplets.to_pylist():
        assert row["query"] == QUERIES[row["query_id"]][0]
        assert row["positive"] == DOCUMENTS[row["positive_id"]][0]
        assert row["negative"] == DOCUMENTS[row["negative_id"]][0]
    counts = manifest["mining"]["counts"]
    assert (counts["documents"], counts["queries"], counts["pairs"]) == (7, 3, 3)
    assert counts["selected_pairs"] == len({query for query, _, _ in expected})
    assert counts["selected_pairs"] + sum(counts["dropped"].values()) == counts["pairs"]
    assert counts["negatives"] == len(expected) == sum(counts["certificates"].values())
    assert counts["distinct_documents"] == len({negative for _, _, negative in expected})
    assert (counts["texts_encoded"], counts["texts_reused"]) == (0, 0)
    assert manifest["mining"]["space"]["fused_width"] == manifest["mining"]["space"]["width"] == 3
    assert json.loads((out / "manifest.json").read_text(encoding="utf-8")) == json.loads(json.dumps(manifest))
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
    assert {"negatives.parquet", "triplets.parquet", "quarantine.jsonl", SPACE_SAMPLE} <= set(manifest["files"])


def test_a_sample_of_the_space_has_documents_and_first_negatives_where_their_vectors_are(folder, tmp_path):
    out = tmp_path / "out"
    pipeline.mine(folder, out, precomputed(folder, "select.negatives=3"))
    rows = pq.read_table(out / SPACE_SAMPLE).to_pylist()
    vectors = {name: vector for name, (_, vector) in (DOCUMENTS | QUERIES).items()}
    for row in rows:
        x, y, _ = np.array(vectors[row["id"]]) / np.linalg.norm(vectors[row["id"]])
        assert (row["x"], row["y"]) == pytest.approx((x, y), abs=1e-6)
    assert [row["id"] for row in rows if row["kind"] == "document"] == [*DOCUMENTS]
    triplets = {}
    for row in rows:
        if row["triplet"] is not None:
            triplets.setdefault(row["triplet"], []).append(row["id"])
    first = [(q, p[0], found[0]) for q, p in TRAIN.items() if (found := by_eye(q, p[0]))]
    assert sorted(map(tuple, triplets.values())) == sorted(first)


def test_pairs_without_negatives_are_counted_by_reason(tmp_path):
    folder = write_collection(tmp_path / "data", DOCUMENTS, QUERIES, {"lunch-when": ["lunch"]})
    manifest = pipeline.mine(folder, tmp_path / "out", precomputed(folder))
    assert manifest["mining"]["counts"]["dropped"] == {"positive_is_nearest": 1, "nearer_ones_resemble_positive": 0}
    assert not len(pq.read_table(tmp_path / "out" / "negatives.parquet"))


def test_judged_pairs_stand_on_the_queries_that_they_have_and_know_the_positives_of_all_splits() -> None:
    documents = Texts(ids=("a", "b", "c", "d"), texts=("one", "two", "one", "three"))
    queries = Texts(ids=("p", "q", "r"), texts=("first", "second", "third"))
    pairs = Pairs(query_rows_P=np.array([2, 0, 2]), doc_rows_P=np.array([1, 3, 0]))
    collection = collection_of(documents, queries, {"train": [(2, 1), (0, 3), (2, 0)], "dev": [(1, 2), (2, 3)]})
    judged = Judged.of(pairs, collection)
    assert judged.queries.ids == ("p", "r")
    assert judged.pairs.query_rows_P.tolist() == [1, 0, 1]
    assert judged.pairs.doc_rows_P.tolist() == [1, 3, 0]
    pair, doc = (indices.ravel() for indices in np.indices((3, 4)))
    assert judged.known.mask(pair, doc).reshape(3, 4).tolist() == [
        [True, True, True, True],  # the third has the text of the first
        [False, False, False, True],
        [True, True, True, True],
    ]


def test_the_same_text_under_another_id_is_never_a_negative(tmp_path):
    documents = {name: DOCUMENTS[name] for name in ("mysql-cloud", "lunch")}
    documents["copy"] = (DOCUMENTS["mysql-cloud"][0], [1.0, 0.0, 0.0])  # a copy whose vector would pass
    documents["other"] = ("Another page", [1.0, 0.01, 0.0])
    queries = {"q": ("query", [1.0, 0.0, 0.1])}
    folder = write_collection(tmp_path / "data", documents, queries, {"q": ["mysql-cloud"]})
    pipeline.mine(folder, tmp_path / "out", precomputed(folder, "select.negatives=5"))
    assert pq.read_table(tmp_path / "out" / "negatives.parquet")["negative_id"].to_pylist() == ["other"]


def test_positives_of_another_split_are_never_negatives(tmp_path):
    documents = {"p": ("p", [1.0, 1.0]), "hidden": ("hidden", [1.0, 0.0]), "n": ("n", [1.0, -0.1])}
    folder = write_collection(tmp_path / "data", documents, {"q": ("q", [1.0, 0.01])}, {"q": ["p"]})
    (folder / "qrels" / "test.tsv").write_text("q\thidden\t1", encoding="utf-8")
    pipeline.mine(folder, tmp_path / "out", precomputed(folder, "select.negatives=5"))
    assert pq.read_table(tmp_path / "out" / "negatives.parquet")["negative_id"].to_pylist() == ["n"]


def test_positives_of_a_query_of_equal_text_are_never_negatives(tmp_path, capsys):
    documents = {"p": ("p", [1.0, 1.0]), "hidden": ("hidden", [1.0, 0.0]), "n": ("n", [1.0, -0.1])}
    queries = {name: ("the same question", [1.0, 0.01]) for name in ("q", "again")} | {"other": ("other", [1.0, 0.01])}
    folder = write_collection(tmp_path / "data", documents, queries, {"q": ["p"], "again": ["hidden"], "other": ["p"]})
    manifest = pipeline.mine(folder, tmp_path / "out", precomputed(folder, "select.negatives=5"))
    rows = pq.read_table(tmp_path / "out" / "negatives.parquet").to_pylist()
    assert [(row["query_id"], row["negative_id"]) for row in rows] == [("q", "n"), ("other", "hidden"), ("other", "n")]
    assert manifest["mining"]["counts"]["queries_of_equal_text"] == 2
    assert "2 queries have the text of another: their positives are shared" in capsys.readouterr().err


def test_the_basis_of_an_earlier_run_does_not_stay(folder, tmp_path):
    out = tmp_path / "out"
    names = [
        list(pipeline.mine(folder, out, precomputed(folder, f"reduce.variance={v}"))["files"]) for v in ("0.9", "null")
    ]
    assert names[0] == ["basis.safetensors", *names[1]]
    assert not (out / "basis.safetensors").exists()


def test_one_document_is_a_clear_error(tmp_path):
    documents = {"lunch": DOCUMENTS["lunch"]}
    folder = write_collection(tmp_path / "data", documents, QUERIES, {"lunch-when": ["lunch"]})
    with pytest.raises(DataError, match=r"corpus has 1 usable document.*at least 2 are needed"):
        pipeline.mine(folder, tmp_path / "out", precomputed(folder))
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.fixture
def noisy(tmp_path: Path) -> Path:
    """Random texts and vectors: forty documents, some of them copies, twelve queries with two positives each."""
    rng = np.random.default_rng(7)
    queries, documents = random_text_pairs(40, seed=7, letters=40)
    documents[30:] = documents[20:30]
    vectors = rng.normal(loc=[1.0, 0.0, 0.0, 0.0], size=(52, 4))
    corpus = {f"d{row}": (f"d {text}", vectors[row].tolist()) for row, text in enumerate(documents)}
    asked = {f"q{row}": (f"q {text}", vectors[40 + row].tolist()) for row, text in enumerate(queries[:12])}
    judged = {f"q{row}": [f"d{doc}" for doc in rng.choice(40, 2, replace=False)] for row in range(12)}
    return write_collection(tmp_path / "noisy", corpus, asked, judged)


def mined_by(folder: Path, out: Path, *overrides: str) -> tuple[list[tuple[str, str, str]], dict]:
    """The (query, positive, negative) ids, and the counts."""
    manifest = pipeline.mine(folder, out, precomputed(folder, *overrides))
    rows = pq.read_table(out / "negatives.parquet").to_pylist()
    return [(row["query_id"], row["positive_id"], row["negative_id"]) for row in rows], manifest["mining"]["counts"]


@pytest.mark.parametrize("wanted", [1, 3])
def test_denoising_leaves_what_the_cross_encoder_finds_less_relevant(
    wanted: int,
    noisy: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hnmine.runs.device.cpu_multiplies_bfloat16", lambda: False)
    model = tiny_cross_encoder(tmp_path / "cross-encoder")
    denoise = [f"guards.denoise.model={model}", "guards.denoise.margin=0.02"]
    found, counts = mined_by(noisy, tmp_path / "out", *denoise, f"select.negatives={wanted}")
    every, _ = mined_by(noisy, tmp_path / "every", "select.negatives=40")
    texts = {
        row["_id"]: row["text"]
        for name in ("corpus", "queries")
        for row in map(json.loads, (noisy / f"{name}.jsonl").read_text(encoding="utf-8").splitlines())
    }
    reranker = CrossEncoder(model, max_tokens=256, device="cpu", dtype="float32")

    def p(query: str, document: str) -> float:
        return float(1 / (1 + np.exp(-reranker.scores([texts[query]], [texts[document]])[0])))

    kept: dict[tuple[str, str], list[str]] = {}
    for query, positive, negative in every:
        if p(query, negative) <= p(query, positive) - 0.02:
            kept.setdefault((query, positive), []).append(negative)
    assert found == [(*pair, negative) for pair, negatives in kept.items() for negative in negatives[:wanted]]
    assert counts["guarded"]["denoise"] > 0
    assert counts["dropped"]["guards_leave_none"] == len({row[:2] for row in every}) - len(kept) > 0
    said = capsys.readouterr().err
    assert f"denoising by {model} on cpu (" in said
    assert " scored)" in said
    assert f"denoise {counts['guarded']['denoise']}" in said
    again = mined_by(noisy, tmp_path / "out", *denoise, f"select.negatives={wanted}")
    assert again == (found, counts)
    assert "denoising by" not in capsys.readouterr().err, "every score is known, so the model is not loaded"


def test_a_cross_encoder_without_a_head_is_refused_before_anything_is_encoded(noisy: Path, tmp_path: Path) -> None:
    body = tiny_cross_encoder(tmp_path / "body", head=False)
    for step in (pipeline.mine, pipeline.audit):
        with pytest.raises(ModelError, match=r"body has no ranking head, so its scores would be .* OUT/reranker"):
            step(noisy, tmp_path / "out", precomputed(noisy, f"guards.denoise.model={body}"))
        with pytest.raises(ModelError, match="nowhere does not exist"):
            step(noisy, tmp_path / "out", precomputed(noisy, "guards.denoise.model=/nowhere"))
    assert not (tmp_path / "out" / "store").exists()


def test_of_copies_one_is_mined(tmp_path: Path) -> None:
    documents = {
        "p": ("the positive", [1.0, 1.0, 0.0]),
        "b": ("a copy", [1.0, -0.3, 0.1]),
        "a": ("a copy", [1.0, -0.2, 0.1]),
        "c": ("a copy", [1.0, -0.2, 0.1]),
        "other": ("another", [1.0, -0.4, 0.1]),
    }
    folder = write_collection(tmp_path / "data", documents, {"q": ("query", [1.0, 0.1, 0.0])}, {"q": ["p"]})
    assert mined_by(folder, tmp_path / "out", "select.negatives=9")[0] == [("q", "p", "a"), ("q", "p", "other")]


def test_an_ensemble_with_a_lexical_encoder_and_a_pca_is_mined_and_reused(folder, tmp_path):
    encoders = f"[{{name: mine, precomputed: '{folder}', weight: 2}}, {{name: words, lexical: {{width: 4}}}}]"
    config = load(overrides=[f"encoders={encoders}", *SETTINGS, "reduce.variance=0.9"])
    first = pipeline.mine(folder, tmp_path / "out", config)
    mined = (tmp_path / "out" / "negatives.parquet").read_bytes()
    assert first["mining"]["space"]["fused_width"] == 7
    assert first["mining"]["space"]["width"] < 7
    assert first["mining"]["space"]["variance_kept"] >= 0.9
    assert (first["mining"]["counts"]["texts_encoded"], first["mining"]["counts"]["texts_reused"]) == (
        9,
        0,
    )  # ten, two of them equal
    again = pipeline.mine(folder, tmp_path / "out", config)
    assert (again["mining"]["counts"]["texts_encoded"], again["mining"]["counts"]["texts_reused"]) == (0, 9)
    assert (tmp_path / "out" / "negatives.parquet").read_bytes() == mined


def test_sentence_transformers_trains_on_the_triplets_as_they_stand(folder, tmp_path):
    datasets = pytest.importorskip("datasets", reason="pip install 'sentence-transformers[train]'")
    import torch
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import TripletLoss

    pipeline.mine(folder, tmp_path / "out", precomputed(folder, "select.negatives=3"))
    columns = ["query", "positive", "negative"]
    triplets = datasets.Dataset.from_parquet(
        str(tmp_path / "out" / "triplets.parquet"), columns=columns, cache_dir=str(tmp_path / "cache")
    )
    assert triplets.column_names == columns
    assert len(triplets) > 0
    model = SentenceTransformer(str(tiny_word_encoder(tmp_path / "model")), device="cpu", local_files_only=True)
    before = {name: value.clone() for name, value in model.named_parameters()}
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path / "training"),
        max_steps=1,
        learning_rate=1e-2,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
    )
    SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=triplets, loss=TripletLoss(model, triplet_margin=5)
    ).train()
    moved = [name for name, value in model.named_parameters() if not torch.equal(value, before[name])]
    assert len(moved) > len(before) / 2


@pytest.mark.parametrize("shards", [1, pytest.param(2, marks=pytest.mark.ray)])
def test_an_approximate_index_says_so_in_every_row_and_what_it_finds_in_the_log(shards, tmp_path, capsys):
    rng = np.random.default_rng(0)
    documents = {f"d{i}": (f"document {i}", rng.normal(size=8).tolist()) for i in range(400)}
    queries = {f"q{i}": (f"query {i}", rng.normal(size=8).tolist()) for i in range(30)}
    folder = write_collection(tmp_path / "data", documents, queries, {f"q{i}": [f"d{i}"] for i in range(30)})
    exact = pipeline.mine(folder, tmp_path / "exact", precomputed(folder))
    assert exact["mining"]["search"] == {"index": "flat", "device": "cpu", "shards": 1}
    sets = ["search.index=ivf", f"search.shards={shards}"]
    few = pipeline.mine(folder, tmp_path / "few", precomputed(folder, *sets, "search.ivf_probes=1"))
    share = few["mining"]["search"].pop("recall")
    assert 0 < share < 1
    made = {"index": "ivf", "device": "cpu", "shards": shards}
    assert few["mining"]["search"] == made | {"lists": 10 // shards, "probes": 1, "recall_queries": 30}
    assert set(few["mining"]["counts"]["certificates"]) == {"approximate"}
    said = f"recall of the approximate lists, 64 long, on 30 queries: {share:.1%}"
    assert said in capsys.readouterr().err
    every = pipeline.mine(folder, tmp_path / "every", precomputed(folder, *sets))
    assert every["mining"]["search"]["recall"] == 1
    tables = [pq.read_table(tmp_path / name / "negatives.parquet") for name in ("exact", "every", "few")]
    ours, theirs, fewer = (table.drop_columns("certificate") for table in tables)
    assert ours == theirs != fewer


def test_the_space_is_a_first_stage() -> None:
    space, _, _ = awkward_space(3, docs=70, queries=9, pairs=5, width=4)
    asked = np.array([4, 0, 8])
    found, scores = dense_first_stage(space, SearchConfig(), device="cpu", seed=0)(asked, 70)
    for query, rows, given in zip(asked, found, scores, strict=True):
        similarity = space.docs_NR @ space.queries_QR[query]
        assert similarity[rows] == pytest.approx(np.sort(similarity)[::-1], abs=1e-5)
        assert given == pytest.approx(similarity[rows], abs=1e-5)


THREE_TEXTS = Texts(ids=("d0", "d1", "d2"), texts=("a guide", "a price", "a story"))
JUDGED = Judged(
    pairs=Pairs(query_rows_P=np.array([1, 0]), doc_rows_P=np.array([0, 2])),
    queries=Texts(ids=("q0", "q1"), texts=("which story?", "which guide?")),
    known=Known([{0}, {2}], np.arange(3)),
)


def negatives(pair_M: list[int], doc_rows_M: list[int]) -> Negatives:
    count = len(pair_M)
    return Negatives(
        pair_M=np.array(pair_M, dtype=np.int64),
        doc_rows_M=np.array(doc_rows_M, dtype=np.int64),
        rank_M=np.arange(1, count + 1),
        d_query_positive_M=np.full(count, 0.5),
        d_query_negative_M=np.full(count, 0.25),
        d_positive_negative_M=np.full(count, 0.75),
        certificate_M=np.full(count, "found", dtype=object),
        pairs=2,
        dropped={"positive_is_nearest": 2 - len(set(pair_M))},
        guarded={},
    )


FOUND, NOTHING = negatives([0, 0], [2, 1]), negatives([], [])
IDS = {"query_id": pa.string(), "positive_id": pa.string(), "negative_id": pa.string()}
DISTANCES = {name: pa.float64() for name in ("d_query_positive", "d_query_negative", "d_positive_negative")}
COLUMNS = (
    IDS | {"rank": pa.int32()} | DISTANCES | {"certificate": pa.string()},
    {name: pa.large_string() for name in ("query", "positive", "negative")} | IDS,
)


@pytest.mark.parametrize(("found", "rows"), [(FOUND, 2), (NOTHING, 0)], ids=["some", "none"])
def test_columns_and_types_are_the_same_whether_or_not_anything_is_found(found: Negatives, rows: int) -> None:
    for table, columns in zip(mined_tables(found, JUDGED, THREE_TEXTS), COLUMNS, strict=True):
        assert {field.name: field.type for field in table.schema} == columns
        assert table.column_names == list(columns)
        assert len(table) == rows


def test_every_negative_stands_with_its_ids_its_proof_and_its_texts() -> None:
    ids = {"query_id": "q1", "positive_id": "d0"}
    proof = {
        "d_query_positive": 0.5,
        "d_query_negative": 0.25,
        "d_positive_negative": 0.75,
        "certificate": "found",
    }
    negatives, triplets = mined_tables(FOUND, JUDGED, THREE_TEXTS)
    assert negatives.to_pylist() == [
        ids | {"negative_id": "d2", "rank": 1} | proof,
        ids | {"negative_id": "d1", "rank": 2} | proof,
    ]
    texts = {"query": "which guide?", "positive": "a guide"}
    assert triplets.to_pylist() == [
        texts | ids | {"negative": "a story", "negative_id": "d2"},
        texts | ids | {"negative": "a price", "negative_id": "d1"},
    ]


def test_without_a_share_of_the_variance_nothing_is_reduced() -> None:
    assert choose_basis(random_fused(), ReduceConfig(variance=None), device="cpu", seed=0) is None


def test_what_the_basis_keeps_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    basis = basis_of(random_fused(), variance=0.8, fit_rows=100)
    said = capsys.readouterr().err
    assert f"width 15 → {basis.width}, keeps {basis.kept:.1%} of the variance of 100 documents" in said
    assert f"{basis.kept_held_out:.1%} of others" in said


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 1.0)])
def test_a_basis_of_other_weights_or_encoders_is_refused(weights: tuple[float, float], tmp_path: Path) -> None:
    path = tmp_path / "basis.safetensors"
    fitted = basis_of(random_fused())
    fitted.save(path)
    again = basis_of(random_fused(), basis=path)
    assert np.array_equal(again.components_RC, fitted.components_RC)
    message = r"was fitted on vectors of e6 \(6 wide\) x 1; e9 \(9 wide\) x 0\.5, this run has e6 .* x .*; e9 .* x 1"
    with pytest.raises(DataError, match=message):
        basis_of(random_fused(weights=weights), basis=path)
    with pytest.raises(DataError, match=r"this run has e9 .* x 0\.5; e6 .* x 1"):
        basis_of(random_fused((9, 6), (0.5, 1.0)), basis=path)


# What public bug reports were about


def negatives_of(folder: Path, out: Path, *settings: str) -> dict[str, set[str]]:
    """Mine three a pair by a narrow lexical encoder; return the negatives' ids by query id."""
    config = load(
        overrides=[
            "encoders=[{name: narrow, lexical: {width: 4}}]",
            "ray=false",
            "device=cpu",
            "select.negatives=3",
            *settings,
        ]
    )
    pipeline.mine(folder, out, config)
    mined: dict[str, set[str]] = {}
    for row in pq.read_table(out / "negatives.parquet").to_pylist():
        mined.setdefault(row["query_id"], set()).add(row["negative_id"])
    return mined


def test_a_query_that_is_a_document_is_not_its_own_negative(tmp_path: Path) -> None:
    mined = negatives_of(write_plain(tmp_path / "data", arguments()), tmp_path / "out")
    assert len(mined) == 9
    assert not any(query in negatives for query, negatives in mined.items())


def test_a_copy_in_another_spelling_is_no_negative_of_its_twin(tmp_path: Path) -> None:
    plain = copied()
    mined = negatives_of(write_plain(tmp_path / "data", plain), tmp_path / "out")
    assert mined
    for (query, right), _ in plain.judgements["train"].items():
        negatives = [name.removeprefix("copy-") for name in mined.get(query, ())]
        assert right not in negatives
        assert len(set(negatives)) == len(negatives), "of copies one stands"


@pytest.mark.parametrize("split", ["dev", "validation", "valid", "val", "challenge"])
def test_what_any_file_of_the_folder_judges_right_is_no_negative(tmp_path: Path, split: str) -> None:
    plain = judged_elsewhere(split)
    mined = negatives_of(write_plain(tmp_path / "data", plain), tmp_path / "out")
    assert mined
    (name,) = plain.judgements.keys() - {"train"}
    assert not plain.judgements[name].keys() & {(query, doc) for query, docs in mined.items() for doc in docs}


def test_lower_grades_are_neither_mined_for_nor_negatives_unless_asked(tmp_path: Path) -> None:
    plain = copied()
    mined = negatives_of(write_plain(tmp_path / "data", plain), tmp_path / "before")
    lower = {(query, doc): 1 for query, docs in mined.items() for doc in docs}
    train = dict.fromkeys(plain.judgements["train"], 3) | lower
    folder = write_plain(tmp_path / "graded", replace(plain, judgements=plain.judgements | {"train": train}))
    answers = negatives_of(folder, tmp_path / "answers", "sources.min_score=2")
    assert not {(query, doc) for query, docs in answers.items() for doc in docs} & lower.keys()
    asked = negatives_of(folder, tmp_path / "asked", "sources.min_score=2", "sources.lower_grades=negatives")
    assert asked == mined
    positives = pq.read_table(tmp_path / "asked" / "negatives.parquet").column("positive_id").to_pylist()
    assert {*positives} <= {doc for (_, doc), grade in train.items() if grade == 3}
