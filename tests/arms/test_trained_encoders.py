"""Encoders tuned for a comparison: kept, not made twice, and each space that of its method."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from hnmine.arms.tuned_encoders import Tuned, start_of
from hnmine.config.load import load
from hnmine.config.root import Config
from hnmine.mining.legacy_ensemble import embed_all
from hnmine.runs.folder import open_run
from hnmine.types import unit_rows
from tests.builders.encoder_training import letter_training_set
from tests.builders.models import tiny_letter_encoder


def config_of(folder: Path) -> Config:
    encoder = f"{{name: letters, model: {folder}, dtype: float32, engine: torch}}"
    more = ["ray=false", "train.max_tokens=32", "train.dtype=float32"]
    return load(overrides=[f"encoders=[{{name: words, lexical: {{width: 4}}}}, {encoder}]", *more])


def test_what_is_tuned_is_the_first_model_that_is_loaded_as_it_lies():
    laid_out = "{name: s, model: s, architecture: gte}, {name: h, model: h, dense_head: 64}"
    adapted = "{name: a, model: x, query_adapter: q}"
    coded = "{name: c, model: y, trust_remote_code: true}"
    assert start_of(load(overrides=[f"encoders=[{adapted}, {coded}, {laid_out}, {{name: z, model: z}}]"])).name == "z"
    assert start_of(load(overrides=["encoders=[{name: words, lexical: {}}]"])) is None


def test_each_space_is_that_of_its_method_and_is_not_made_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, given = config_of(tiny_letter_encoder(tmp_path / "start")), letter_training_set()
    with open_run(tmp_path / "out", config) as run:
        alone = config.model_copy(update={"encoders": config.encoders[1:]})
        ensemble = embed_all({"document": given.documents, "query": given.queries}, alone, run)[0][0]
        capsys.readouterr()
        tuned = Tuned(given, config, run)
        start = tuned._of_start()
        assert capsys.readouterr().err.count(", 0 encoded, width") == 2, "the store has them"
        rows = np.arange(len(given.documents))
        np.testing.assert_allclose(start.docs_NR, unit_rows(ensemble.take("document", rows)), atol=1e-5)
        spaces = {method: tuned.space(method, 3) for method in ("ADORE + STAR", "STAR", "ANCE")}
        assert tuned.space("STAR", 3) is spaces["STAR"]
        for space in spaces.values():
            assert space.docs_NR.shape == start.docs_NR.shape
            np.testing.assert_allclose(np.linalg.norm(space.queries_QR, axis=1), 1, atol=1e-5)
            assert not np.allclose(space.queries_QR, start.queries_QR, atol=1e-4), "something was learned"
        assert np.array_equal(spaces["ADORE + STAR"].docs_NR, spaces["STAR"].docs_NR), "documents stay"
        assert not np.allclose(spaces["ADORE + STAR"].queries_QR, spaces["STAR"].queries_QR, atol=1e-4)
        assert not np.allclose(spaces["ANCE"].docs_NR, spaces["STAR"].docs_NR, atol=1e-4)
        folders = sorted(path.name for path in (run.out / "encoders").iterdir() if path.is_dir())
        assert folders == ["adore-star-3", "ance-3", "star-3"]

        capsys.readouterr()
        again = Tuned(given, config, run)
        for method, space in spaces.items():
            kept = again.space(method, 3)
            assert np.array_equal(kept.docs_NR, space.docs_NR)
            assert np.array_equal(kept.queries_QR, space.queries_QR)
        said = capsys.readouterr().err
        assert said.count("reused") == 3
        assert said.count("encoded, width") == said.count(", 0 encoded, width") == 5
        assert " queries in " not in said, "nothing is tuned again"
        (run.out / "encoders" / "star-3.json").write_text("{}")
        assert np.array_equal(Tuned(given, config, run).space("STAR", 3).docs_NR, spaces["STAR"].docs_NR)


def test_it_is_tuned_with_the_prompts_and_as_many_tokens_as_it_is_asked_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, start = letter_training_set(), tiny_letter_encoder(tmp_path / "start")
    config = load(overrides=[f"encoders=[{{name: a, model: {start}, query_prompt: 'a b c ', engine: torch}}]"])
    config = config.model_copy(
        update={"train": config.train.model_copy(update={"max_tokens": 8192, "dtype": "float32"})}
    )
    seen: set[str] = set()
    preprocess = SentenceTransformer.preprocess

    def heard(self: SentenceTransformer, texts: list[str], prompt: str | None = None, **more: object) -> object:
        seen.update(f"{prompt or ''}{text}" for text in texts)
        return preprocess(self, texts, prompt=prompt, **more)

    monkeypatch.setattr(SentenceTransformer, "preprocess", heard)
    with open_run(tmp_path / "out", config) as run:
        Tuned(given, config, run, "-4").space("ADORE + STAR", 3)
        assert sorted(path.name for path in (run.out / "encoders").glob("*.json")) == [
            "adore-star-3-4.json",
            "star-3-4.json",
        ]
    queries = set(given.queries.texts)
    assert {f"a b c {text}" for text in queries} <= seen
    assert not queries & seen


def test_nothing_stale_is_reused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given, config = letter_training_set(), config_of(tiny_letter_encoder(tmp_path / "start"))
    prompted = config.model_copy(
        update={"encoders": tuple(each.model_copy(update={"query_prompt": "a b c "}) for each in config.encoders[1:])}
    )
    with open_run(tmp_path / "out", config) as run:
        made = Tuned(given, config, run).space("ADORE + STAR", 3)
        Tuned(given, prompted, run).space("STAR", 3)
        assert "reused" not in capsys.readouterr().err, "the prompt decides what is hard"
        kept = Tuned(given, config, run).space("ADORE + STAR", 3)
        assert np.array_equal(kept.docs_NR, made.docs_NR), "STAR's folder had other settings meanwhile"
