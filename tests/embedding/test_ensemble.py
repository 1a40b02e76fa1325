"""The ensemble's space against numpy in one piece, and the memory it takes."""

from __future__ import annotations

import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from hnmine.config.load import load
from hnmine.config.models import EncoderConfig
from hnmine.config.root import Config
from hnmine.corpus.text_keys import keys_of
from hnmine.embedding.encode import Embedded
from hnmine.embedding.ensemble import Ensemble, cosines, encode
from hnmine.embedding.store import VectorStore
from hnmine.errors import DataError, ModelError
from hnmine.mining.fuse import Fused
from hnmine.mining.pca import fit, project
from hnmine.models.fingerprint import Fingerprint
from hnmine.ranking.first_stage import NO_ROW
from hnmine.ranking.task import Task
from hnmine.runs.device import Choice
from hnmine.runs.folder import open_run
from hnmine.types import Texts
from tests.builders.models import tiny_word_encoder
from tests.builders.texts import as_texts
from tests.builders.vectors import write_vectors

DOCUMENTS, QUERIES = 300, 40
TEXTS = {
    "document": Texts(ids=tuple(map(str, range(DOCUMENTS))), texts=tuple(f"text {i}" for i in range(DOCUMENTS))),
    "query": Texts(ids=tuple(f"q{i}" for i in range(QUERIES)), texts=tuple(f"query {i}" for i in range(QUERIES))),
}


def given_vectors(folder: Path, width: int) -> dict[str, np.ndarray]:
    """Write random vectors of every text as a precomputed encoder."""
    rng = np.random.default_rng(width)
    vectors = {role: rng.normal(size=(len(texts), width)).astype(np.float32) for role, texts in TEXTS.items()}
    folder.mkdir()
    for role, name in (("document", "documents.parquet"), ("query", "queries.parquet")):
        write_vectors(folder / name, dict(zip(TEXTS[role].ids, vectors[role].tolist(), strict=True)))
    return vectors


def ensemble(folder: Path, widths: tuple[int, ...], weights: tuple[float, ...], **reduce: object) -> Ensemble:
    encoders = [
        EncoderConfig(name=f"e{width}", precomputed=folder / f"e{width}", weight=weight)
        for width, weight in zip(widths, weights, strict=True)
    ]
    config = Config.model_validate({"encoders": encoders, "reduce": {"device": "cpu"} | reduce})
    with open_run(folder / "out", config) as run:
        return encode(TEXTS, config, run)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)


@pytest.mark.parametrize("variance", [0.8, None])
def test_the_space_is_the_reduced_concatenation_of_weighted_unit_vectors(variance, tmp_path):
    vectors = [given_vectors(tmp_path / f"e{width}", width) for width in (6, 9)]
    found = ensemble(tmp_path, (6, 9), (1.0, 0.5), variance=variance)
    expected = {role: np.hstack([unit(vectors[0][role]), 0.5 * unit(vectors[1][role])]) for role in TEXTS}
    if variance is not None:
        mean = expected["document"].mean(axis=0)
        _, sizes, axes = np.linalg.svd(expected["document"] - mean, full_matrices=False)
        width = int(np.flatnonzero(np.cumsum(sizes**2) / (sizes**2).sum() >= variance)[0]) + 1
        expected = {role: (rows - mean) @ axes[:width].T for role, rows in expected.items()}
    docs, queries = unit(expected["document"]), unit(expected["query"])
    assert found.space.width == docs.shape[1]
    assert found.space.queries_QR @ found.space.docs_NR.T == pytest.approx(queries @ docs.T, abs=1e-4)


def test_the_single_spaces_are_the_encoders_own_unit_vectors(tmp_path):
    vectors = [given_vectors(tmp_path / f"e{width}", width) for width in (6, 9)]
    spaces = ensemble(tmp_path, (6, 9), (1.0, 0.5)).single_spaces()
    for own, space in zip(vectors, spaces, strict=True):
        assert space.docs_NR == pytest.approx(unit(own["document"]), abs=1e-6)
        assert space.queries_QR == pytest.approx(unit(own["query"]), abs=1e-6)


def test_memory_does_not_grow_with_documents_times_the_width_of_the_encoders(tmp_path):
    documents, width, block = 120_000, 256, 4000
    store, rng = VectorStore(tmp_path, Fingerprint.of(kind="wide")), np.random.default_rng(0)
    keys = keys_of([str(i) for i in range(documents)])
    for start in range(0, documents, block):
        store.write(keys[start : start + block], rng.normal(size=(block, width)).astype(np.float32))
    stored = Embedded(
        name="wide", store=store, keys={"document": keys, "query": keys[:9]}, width=width, encoded=0, reused=0
    )
    fused = Fused(encoders=(stored,), weights=(1.0,))
    tracemalloc.start()
    rows_of = partial(fused.take, "document")
    basis = fit(rows_of, documents, variance=0.02, fit_rows=600, seed=0, device=Choice(kind="cpu", reason="test"))
    space = project(basis, fused.pieces("document"), documents, width)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert space.shape == (documents, basis.width)
    assert space[:9] == pytest.approx(project(basis, fused.pieces("query"), 9, width), abs=0)
    assert peak < documents * width * 4 * 0.75, f"{peak / 2**20:.0f} MiB"


def test_every_encoder_is_planned_before_the_first_encodes(tmp_path):
    model = tiny_word_encoder(tmp_path / "model")
    second = f"{{name: b, model: {model}, dtype: float32, query_adapter: none}}"
    encoders = f"encoders=[{{name: a, model: {model}, dtype: float32}}, {second}]"
    config = load(overrides=[encoders, "embed.ray=false", "embed.device=cpu"])
    texts = {"document": as_texts(["cloud", "mysql"]), "query": as_texts(["deploy"])}
    with open_run(tmp_path / "out", config) as run, pytest.raises(ModelError, match="has no adapter none"):
        encode(texts, config, run)
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 1.0)])
def test_a_basis_of_other_weights_or_encoders_is_refused(weights, tmp_path):
    for width in (6, 9):
        given_vectors(tmp_path / f"e{width}", width)
    path = tmp_path / "basis.safetensors"
    fitted = ensemble(tmp_path, (6, 9), (1.0, 0.5)).basis
    assert fitted is not None
    fitted.save(path)
    again = ensemble(tmp_path, (6, 9), (1.0, 0.5), basis=path)
    assert again.basis is not None
    assert np.array_equal(again.basis.components_RC, fitted.components_RC)
    message = r"was fitted on vectors of e6 \(6 wide\) x 1; e9 \(9 wide\) x 0\.5, this run has e6 .* x .*; e9 .* x 1"
    with pytest.raises(DataError, match=message):
        ensemble(tmp_path, (6, 9), weights, basis=path)
    with pytest.raises(DataError, match=r"this run has e9 .* x 0\.5; e6 .* x 1"):
        ensemble(tmp_path, (9, 6), (0.5, 1.0), basis=path)


def test_cosines_of_tasks_that_share_queries_against_a_plain_loop(tmp_path: Path):
    vectors = {name: given_vectors(tmp_path / name, width) for name, width in (("one", 3), ("two", 5))}
    encoders = ", ".join(f"{{name: {name}, precomputed: {tmp_path / name}}}" for name in vectors)
    config = load(overrides=[f"encoders=[{encoders}]"])
    rng = np.random.default_rng(0)
    tasks = []
    for rows in ([3, 0, 7], [7, 5]):
        doc_rows = rng.integers(-1, DOCUMENTS, (len(rows), 4))
        assert (doc_rows >= 0).any()
        doc_rows[0, 3] = NO_ROW
        tasks.append(
            Task(
                queries=TEXTS["query"].take(rows),
                doc_rows_QK=doc_rows,
                first_scores_QK=np.zeros(doc_rows.shape, dtype=np.float32),
                document_texts={},
                relevant=(frozenset(),) * len(rows),
            )
        )
    with open_run(tmp_path / "out", config) as run:
        found = cosines(TEXTS["document"], tasks, config, run)
    assert [list(of) for of in found] == [["one", "two"]] * 2
    for task, of in zip(tasks, found, strict=True):
        for name, both in vectors.items():
            for at, query in enumerate(task.queries.ids):
                q = both["query"][TEXTS["query"].row_of[query]]
                for place, row in enumerate(task.doc_rows_QK[at].tolist()):
                    d = both["document"][row]
                    expected = -np.inf if row == NO_ROW else q @ d / np.linalg.norm(q) / np.linalg.norm(d)
                    assert of[name][at, place] == pytest.approx(expected, abs=1e-6)
