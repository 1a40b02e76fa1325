"""Encoders trained for a comparison: kept, not made twice, and each space that of its method."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer

from hnmine.arms.trained_encoders import TrainedEncoders
from hnmine.config.load import load
from hnmine.config.root import Config
from hnmine.runs.folder import Run, open_run
from hnmine.training.gradient import Recipe
from hnmine.types import Space
from tests.builders.devices import CPU
from tests.builders.encoder_training import letter_training_set
from tests.builders.models import tiny_letter_encoder


def config_of(folder: Path, *more: str) -> Config:
    encoder = f"{{name: letters, model: {folder}, dtype: float32}}"
    encoders = f"encoders=[{{name: words, lexical: {{width: 4}}}}, {encoder}]"
    return load(
        overrides=[
            encoders,
            "device=cpu",
            "engine=torch",
            "ray=false",
            "train.max_tokens=32",
            "train.dtype=float32",
            *more,
        ]
    )


def encoders_of(config: Config, run: Run, suffix: str = "") -> TrainedEncoders:
    recipe = Recipe.of(config.train, CPU, learning_rate=1e-4, seed=0, engine="torch")
    return TrainedEncoders(letter_training_set(), recipe, config, run, suffix)


def test_each_space_is_that_of_its_method_and_is_not_made_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, given = config_of(tiny_letter_encoder(tmp_path / "start")), letter_training_set()
    with open_run(tmp_path / "out", config) as run:
        encoders, encoder = encoders_of(config, run), config.encoders[1]
        start = Space(
            docs_NR=encoders.encode(encoder, given.documents, "document"),
            queries_QR=encoders.encode(encoder, given.queries, "query"),
        )
        capsys.readouterr()
        spaces = {method: encoders.space(method, 3) for method in ("ADORE + STAR", "STAR", "ANCE")}
        lines = [line for line in capsys.readouterr().err.splitlines() if "│ letters: " in line]
        assert lines
        assert all(", 0 encoded, width" in line for line in lines), "the store has the start's vectors"
        for space in spaces.values():
            assert space.docs_NR.shape == start.docs_NR.shape
            np.testing.assert_allclose(np.linalg.norm(space.queries_QR, axis=1), 1, atol=1e-5)
            assert not np.allclose(space.queries_QR, start.queries_QR, atol=1e-4), "something was learned"
        assert np.array_equal(spaces["ADORE + STAR"].docs_NR, spaces["STAR"].docs_NR), "documents stay"
        assert not np.allclose(spaces["ADORE + STAR"].queries_QR, spaces["STAR"].queries_QR, atol=1e-4)
        assert not np.allclose(spaces["ANCE"].docs_NR, spaces["STAR"].docs_NR, atol=1e-4)
        folders = sorted(path.name for path in (run.out / "encoders").iterdir())
        assert folders == ["adore-star-3", "ance-3", "star-3"]

        again = encoders_of(config, run)
        for method, space in spaces.items():
            kept = again.space(method, 3)
            assert np.array_equal(kept.docs_NR, space.docs_NR)
            assert np.array_equal(kept.queries_QR, space.queries_QR)
        said = capsys.readouterr().err
        assert said.count("reused") == 4, "ADORE asks for the documents of STAR"
        assert said.count("encoded, width") == said.count(", 0 encoded, width") == 7
        assert " queries in " not in said, "nothing is trained again"
        weights = run.out / "encoders" / "star-3" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"x")
        assert np.array_equal(encoders_of(config, run).space("STAR", 3).docs_NR, spaces["STAR"].docs_NR)
        said = capsys.readouterr().err
        assert "model.safetensors is not as encoders/star-3 left it" in said
        assert " queries in " in said


def test_it_is_trained_with_the_prompts_and_as_many_tokens_as_it_is_asked_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, start = letter_training_set(), tiny_letter_encoder(tmp_path / "start")
    prompted = f"encoders=[{{name: a, model: {start}, dtype: float32, query_prompt: 'a b c '}}]"
    config = config_of(start, prompted, "train.max_tokens=8192")
    seen: set[str] = set()
    preprocess = SentenceTransformer.preprocess

    def heard(self: SentenceTransformer, texts: list[str], prompt: str | None = None, **more: object) -> object:
        seen.update(f"{prompt or ''}{text}" for text in texts)
        return preprocess(self, texts, prompt=prompt, **more)

    monkeypatch.setattr(SentenceTransformer, "preprocess", heard)
    with open_run(tmp_path / "out", config) as run:
        encoders_of(config, run, "-4").space("ADORE + STAR", 3)
        assert sorted(path.name for path in (run.out / "encoders").iterdir()) == ["adore-star-3-4", "star-3-4"]
    queries = set(given.queries.texts)
    assert {f"a b c {text}" for text in queries} <= seen
    assert not queries & seen


LORA = "train.lora={rank: 2, keep: adapter}"


def test_lora_is_a_setting_of_the_encoder_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("peft", reason="pip install 'hnmine[adapters]'")
    start = tiny_letter_encoder(tmp_path / "start")
    config, whole = config_of(start, LORA), config_of(start)
    with open_run(tmp_path / "out", config) as run:
        narrow = encoders_of(config, run).space("ADORE + STAR", 3)
        old, new = (load_file(folder / "model.safetensors") for folder in (start, run.out / "encoders" / "star-3"))
        changed = {name for name, weight in old.items() if not torch.equal(weight, new[name])}
        linear = {name for name, weight in old.items() if "encoder.layer" in name and weight.ndim == 2}
        assert changed == linear != set()
        assert not list(run.out.rglob("adapter_*")), "encoders are whole: the store encodes by them"
        assert not np.array_equal(encoders_of(whole, run).space("STAR", 3).docs_NR, narrow.docs_NR)
    assert "reused" not in capsys.readouterr().err.replace("reused from the store", "")


def test_nothing_stale_is_reused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = tiny_letter_encoder(tmp_path / "start")
    config = config_of(start)
    prompted = config_of(start, f"encoders=[{{name: a, model: {start}, dtype: float32, query_prompt: 'a b c '}}]")
    with open_run(tmp_path / "out", config) as run:
        made = encoders_of(config, run).space("ADORE + STAR", 3)
        encoders_of(prompted, run).space("STAR", 3)
        assert "reused" not in capsys.readouterr().err, "the prompt decides what is hard"
        kept = encoders_of(config, run).space("ADORE + STAR", 3)
        assert np.array_equal(kept.docs_NR, made.docs_NR), "STAR's folder had other settings meanwhile"
