"""A TREC run by any model: what stands in it, and that its bytes depend on the command alone."""

from __future__ import annotations

import gzip
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import CrossEncoder

from hnmine.config.load import load
from hnmine.config.root import Config
from hnmine.corpus.layouts import read_collection
from hnmine.errors import ConfigError, DataError, HnmineError, ModelError
from hnmine.pipeline import rank
from hnmine.ranking import rank as rank_module
from hnmine.ranking.first_stage import bm25_or_run_file
from hnmine.ranking.rank import kind_of
from tests.builders.collections import append_lines, write_collection
from tests.builders.commands import REPOSITORY
from tests.builders.models import load_sentence_transformer, spoil_weights, tiny_cross_encoder, tiny_letter_encoder

QUICK = ("device=cpu", "engine=torch", "ray=false")
Line = tuple[str, str, int, float]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_collection(tmp_path_factory.mktemp("data") / "data")
    append_lines(folder / "queries.jsonl", json.dumps({"_id": "nobody-asked", "text": "caring for a jacket in spring"}))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_cross_encoder(tmp_path_factory.mktemp("model") / "ranker")


def quick(*overrides: str) -> Config:
    return load(overrides=[*QUICK, *overrides])


def lines_of(path: Path) -> list[Line]:
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    rows = [line.split(" ") for line in text.splitlines()]
    assert all(row[1] == "Q0" and len(row) == 6 for row in rows)
    return [(query, doc, int(place), float(score)) for query, _, doc, place, score, _ in rows]


def by_hand(data: Path, config: Config, scores_of_pairs) -> dict[str, list[tuple[str, float]]]:
    """Score what the first stage finds for each query, and sort: higher first, then what the first stage has first."""
    collection = read_collection(data, config.sources)
    queries, documents = collection.queries, collection.documents
    first = bm25_or_run_file(config.evaluate, documents, queries)
    ranked = {}
    for row, query in enumerate(queries.ids):
        found = [doc for doc in first(np.array([row]), config.evaluate.depth)[0][0].tolist() if doc >= 0]
        scores = scores_of_pairs([(queries.texts[row], documents.texts[doc]) for doc in found])
        placed = sorted(zip(-np.asarray(scores), range(len(found)), found, strict=True))
        ranked[query] = [(documents.ids[doc], -score) for score, _, doc in placed]
    return ranked


def assert_ranked_as(lines: list[Line], expected: dict[str, list[tuple[str, float]]]) -> None:
    """Compare with a run made by hand; documents whose scores differ by rounding may stand either way."""
    for query, documents in expected.items():
        mine = [line for line in lines if line[0] == query]
        assert [place for _, _, place, _ in mine] == list(range(1, len(documents) + 1))
        assert {doc for _, doc, _, _ in mine} == {doc for doc, _ in documents}
        np.testing.assert_allclose([score for *_, score in mine], [score for _, score in documents], atol=1e-4)
        scores = [score for *_, score in mine]
        assert scores == sorted(scores, reverse=True)
    assert len(lines) == sum(map(len, expected.values()))


@pytest.mark.parametrize("name", ["run.trec", "run.trec.gz"])
def test_a_cross_encoder_ranks_as_the_library_scores(name: str, data: Path, model: Path, tmp_path: Path) -> None:
    facts = rank(data, tmp_path / name, quick("evaluate.depth=7"), model=str(model), dtype="float32")
    library = CrossEncoder(str(model), device="cpu", max_length=128, local_files_only=True)

    lines = lines_of(tmp_path / name)
    assert_ranked_as(lines, by_hand(data, quick("evaluate.depth=7"), library.predict))
    assert {"nobody-asked", "apple-care", "jacket-lost"} < {query for query, *_ in lines}, "all queries of the folder"
    assert facts == {
        "run": str(tmp_path / name),
        "model": "ranker",
        "kind": "cross-encoder",
        "queries": 21,
        "documents": len(lines),
    }


def test_a_bi_encoder_ranks_by_its_cosines(data: Path, tmp_path: Path) -> None:
    folder = tiny_letter_encoder(tmp_path / "encoder")
    rank(data, tmp_path / "run.trec", quick(), model=str(folder), dtype="float32")
    library = load_sentence_transformer(folder)

    def cosines(pairs: list[tuple[str, str]]) -> np.ndarray:
        queries, documents = (
            library.encode(list(texts), normalize_embeddings=True) for texts in zip(*pairs, strict=True)
        )
        return (queries * documents).sum(1)

    assert_ranked_as(lines_of(tmp_path / "run.trec"), by_hand(data, quick(), cosines))


def test_the_queries_of_a_split_are_measured_beside_the_first_stage(data: Path, model: Path, tmp_path: Path) -> None:
    facts = rank(data, tmp_path / "run.trec", quick(), model=str(model), split="test")
    lines = lines_of(tmp_path / "run.trec")
    qrels = dict(row.split("\t")[:2] for row in (data / "qrels" / "test.tsv").read_text().splitlines()[1:])
    assert {query for query, *_ in lines} == set(qrels)
    places = [next((place for query, doc, place, _ in lines if (query, doc) == pair), 99) for pair in qrels.items()]
    reciprocal = np.mean([1 / place if place <= 10 else 0 for place in places])
    assert facts["metrics"]["ranker"]["MRR@10"] == pytest.approx(reciprocal)
    assert list(facts["metrics"]) == ["first stage: bm25", "ranker"]
    assert facts["table"].splitlines()[0].split() == ["4", "queries", "MRR@3", "MRR@10", "nDCG@10", "Recall@10"]


def test_the_candidates_of_a_run_file_are_ranked_and_what_has_none_is_said(
    data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    candidates = tmp_path / "candidates.trec"
    candidates.write_text("apple-care Q0 apple-story 1 9 x\napple-care Q0 desk-price 2 8 x\n")
    shallow = quick(f"evaluate.first_stage={candidates}", "evaluate.depth=1")
    rank(data, tmp_path / "run.trec", shallow, model=str(model), split="train")
    assert [line[:2] for line in lines_of(tmp_path / "run.trec")] == [("apple-care", "apple-story")]
    assert "1 queries have more than 1 candidates, which are left out: see --depth" in capsys.readouterr().err
    rank(data, tmp_path / "run.trec", quick(f"evaluate.first_stage={candidates}"), model=str(model), split="train")
    assert {line[:2] for line in lines_of(tmp_path / "run.trec")} == {
        ("apple-care", "apple-story"),
        ("apple-care", "desk-price"),
    }
    assert (
        "the first stage has nothing for 11 of 12 queries, first 'apple-lost': 'price of apple"
        in capsys.readouterr().err
    )


def test_a_dense_first_stage_serves_queries_that_nobody_judged(data: Path, model: Path, tmp_path: Path) -> None:
    dense = quick("evaluate.first_stage=dense", "encoders=[{name: lexical, lexical: {width: 8}}]", "evaluate.depth=3")
    rank(data, tmp_path / "run.trec", dense, model=str(model))
    assert sum(query == "nobody-asked" for query, *_ in lines_of(tmp_path / "run.trec")) == 3


def test_copies_have_one_score_and_keep_the_order_of_the_first_stage(model: Path, tmp_path: Path) -> None:
    data = write_collection(tmp_path / "data")
    copies = [json.dumps({"_id": f"copy-{at}", "title": "", "text": "what the apple costs"}) for at in (2, 3, 1)]
    append_lines(data / "corpus.jsonl", *copies)
    candidates = tmp_path / "candidates.trec"
    ids = ["copy-1", "bread-guide", "copy-3", "apple-guide", "copy-2"]
    candidates.write_text("".join(f"apple-care Q0 {name} {place} {-place} x\n" for place, name in enumerate(ids)))
    rank(data, tmp_path / "run.trec", quick(f"evaluate.first_stage={candidates}"), model=str(model), split="train")
    lines = [line for line in lines_of(tmp_path / "run.trec") if line[1].startswith("copy")]
    assert [doc for _, doc, _, _ in lines] == ["copy-1", "copy-3", "copy-2"]
    assert lines[0][3] - lines[2][3] < 1e-6, "one score, written so that no program that reads it reorders them"


# The bytes depend on the command alone.

KILLED = """
import os, signal, sys
from hnmine.cli import main
from hnmine.ranking import rank
from hnmine.runs.cache import Cache

rank.PART_PAIRS, put = 32, Cache.put

def put_then_die(self, name, *rest):
    put(self, name, *rest)
    if name == "scores/000003.parquet":
        os.kill(os.getpid(), signal.SIGKILL)

Cache.put = put_then_die
main(sys.argv[1:])
"""


def test_a_killed_job_goes_on_and_ends_in_the_bytes_of_one_that_was_not(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "run.trec.gz"
    out, whole = tmp_path / "killed" / name, tmp_path / "whole" / name
    options = [part for override in QUICK for part in ("--set", override)]
    command = ["rank", "--model", str(model), "--data", str(data), "--out", str(out), *options]
    done = subprocess.run([sys.executable, "-c", KILLED, *command], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not out.exists(), "whole or not at all"
    parts = sorted((tmp_path / "killed" / f"{name}.work" / "scores").glob("*.parquet"))
    assert [path.stem for path in parts] == ["000000", "000001", "000002", "000003"]

    parts[1].write_bytes(parts[1].read_bytes()[:-7] + b"damaged")
    monkeypatch.setattr(rank_module, "PART_PAIRS", 32)
    rank(data, out, quick(), model=str(model))
    said = capsys.readouterr().err
    assert "goes on; 3 parts of 32 pairs are kept" in said
    assert "000001.parquet is not as scores/000001.parquet left it" in said
    rank(data, whole, quick(), model=str(model))
    assert out.read_bytes() == whole.read_bytes()


def test_the_same_command_writes_the_same_bytes_and_leaves_the_run_file_alone(
    data: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out" / "run.trec.gz"
    rank(data, out, quick(), model=str(model))
    first = out.read_bytes()
    assert [path.name for path in out.parent.iterdir()] == [out.name], "work in progress is removed"
    (work := out.with_name(f"{out.name}.work")).mkdir()
    (work / "notes.txt").write_text("of others")
    bad = shutil.copytree(data, tmp_path / "bad")
    append_lines(bad / "qrels" / "train.tsv", "apple-care\tnowhere\t1")
    rank(bad, out, quick(), model=str(model))
    assert out.read_bytes() == first
    assert {path.name for path in work.iterdir()} - {".lock"} == {"notes.txt", "quarantine.jsonl"}


def test_scores_of_another_model_or_reading_are_not_taken(data: Path, model: Path, tmp_path: Path) -> None:
    out, runs = tmp_path / "run.trec", []
    other = tiny_cross_encoder(tmp_path / "other", seed=1)
    for how in ({"model": str(model)}, {"model": str(other)}, {"model": str(model), "max_tokens": 16}):
        rank(data, out, quick(), **how)
        runs.append(out.read_bytes())
        rank(data, tmp_path / "alone" / str(len(runs)) / "run.trec", quick(), **how)
        assert (tmp_path / "alone" / str(len(runs)) / "run.trec").read_bytes() == runs[-1]
    assert len(set(runs)) == 3


@pytest.mark.ray
def test_actors_of_ray_write_the_bytes_of_one_process(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rank_module, "PART_PAIRS", 32)
    rank(data, tmp_path / "one.trec", quick(), model=str(model))
    by_actors = quick("ray=true", "embed.actors=2")
    rank(data, tmp_path / "actors.trec", by_actors, model=str(model))
    assert (tmp_path / "actors.trec").read_bytes() == (tmp_path / "one.trec").read_bytes()
    assert "2 actor(s) on cpu, " in capsys.readouterr().err
    broken = spoil_weights(tiny_cross_encoder(tmp_path / "broken"))
    with pytest.raises(ModelError, match="NaN or infinity"):
        rank(data, tmp_path / "broken.trec", by_actors, model=str(broken))
    assert not (tmp_path / "broken.trec").exists()


# What a folder is.


def test_a_folder_is_what_it_can_do(model: Path, tmp_path: Path) -> None:
    assert kind_of("m", model) == "cross-encoder"
    encoder = tiny_letter_encoder(tmp_path / "encoder")
    assert kind_of("e", encoder) == "bi-encoder"
    config = json.loads((encoder / "config.json").read_text())
    (encoder / "config.json").write_text(json.dumps(config | {"architectures": ["Qwen3ForCausalLM"]}))
    assert kind_of("an encoder made of a decoder", encoder) == "bi-encoder"
    (encoder / "config.json").unlink()
    assert kind_of("a static encoder", encoder) == "bi-encoder"
    with pytest.raises(ModelError, match=r"no head that scores a query beside a document, and no modules\.json"):
        kind_of("body", tiny_cross_encoder(tmp_path / "body", head=False))


def test_mistakes_are_said_before_anything_is_written(data: Path, model: Path, tmp_path: Path) -> None:
    (foreign := tmp_path / "foreign.trec").write_text("q1 Q0 d1 1 9 x\n")
    broken = spoil_weights(tiny_cross_encoder(tmp_path / "broken"))
    wrong: list[tuple[dict, type[HnmineError], str]] = [
        ({"out": tmp_path}, DataError, "is a folder; give the name of the run file, such as"),
        ({"model": str(tmp_path / "nowhere")}, ModelError, "does not exist"),
        ({"model": str(broken), "config": quick("evaluate.first_stage=nowhere.trec")}, ModelError, "NaN or infinity"),
        ({"max_tokens": 3}, ConfigError, "expected a number from 16 to 32768, got 3"),
        ({"split": "validation"}, DataError, "'?validation'?"),
        ({"config": quick("evaluate.first_stage=nowhere.trec")}, DataError, "nowhere.trec"),
        ({"config": quick(f"evaluate.first_stage={foreign}")}, DataError, "nothing for 21 of 21 .* nothing to rank"),
    ]
    for how, kind, message in wrong:
        given = {"out": tmp_path / "run.trec", "model": str(model), "config": quick()} | how
        with pytest.raises(kind, match=message):
            rank(data, **given)
    assert not (tmp_path / "run.trec").exists()
