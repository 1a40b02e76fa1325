"""Plans of encoders: prompts, adapters, heads, and what names their vectors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from hnmine.config.encoders import PRESETS
from hnmine.corpus.text_keys import Reading
from hnmine.errors import ModelError
from hnmine.models.plan import plan
from tests.builders.devices import CPU
from tests.builders.gte import tiny_stella_encoder
from tests.builders.models import (
    WORD_POSITIONS,
    encoder_plan,
    load_sentence_transformer,
    tiny_jina_encoder,
    tiny_word_encoder,
)
from tests.builders.texts import SENTENCES, as_texts


def declare(folder: Path, prompts: dict[str, str], default: str | None = None) -> None:
    path = folder / "config_sentence_transformers.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(settings | {"prompts": prompts, "default_prompt_name": default}), encoding="utf-8")


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return tiny_word_encoder(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def tiny(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "model"))


@pytest.mark.parametrize(
    ("prompts", "default"),
    [
        ({"query": "query : ", "document": "doc : "}, None),
        ({"query": "query : "}, None),
        ({}, None),
        ({"q": "query : "}, "q"),
        ({"query": "query : "}, "query"),
        ({"query": "query : ", "document": ""}, "query"),
    ],
)
def test_a_models_own_prompts_are_those_of_encode_query_and_encode_document(prompts, default, tiny):
    declare(tiny, prompts, default)
    planned, model = encoder_plan(tiny), load_sentence_transformer(tiny)
    encoder = planned.build()
    for role, expected in (("query", model.encode_query(SENTENCES)), ("document", model.encode_document(SENTENCES))):
        assert np.abs(encoder.encode(SENTENCES, planned.reading(role)) - expected).max() < 1e-5, role


def test_a_prompt_for_passages_is_taken_for_documents(tiny):
    declare(tiny, {"query": "query : ", "passage": "passage : "})
    planned = encoder_plan(tiny)
    assert planned.reading("document") == Reading("passage : ")
    expected = load_sentence_transformer(tiny).encode(SENTENCES, prompt_name="passage")
    assert np.abs(planned.build().encode(SENTENCES, planned.reading("document")) - expected).max() < 1e-5


def test_configured_prompts_win_and_the_empty_one_means_none(tiny):
    declare(tiny, {"query": "query : ", "document": "doc : "}, default="query")
    planned = encoder_plan(tiny, query_prompt="", document_prompt="passage : ")
    encoder, model = planned.build(), load_sentence_transformer(tiny)
    plain, passage = model.encode(SENTENCES, prompt=""), model.encode([f"passage : {text}" for text in SENTENCES])
    assert np.abs(encoder.encode(SENTENCES, planned.reading("query")) - plain).max() < 1e-5
    assert np.abs(model.encode(SENTENCES) - plain).max() > 1e-3  # the default prompt would show
    declare(tiny, {})
    passage = load_sentence_transformer(tiny).encode([f"passage : {text}" for text in SENTENCES])
    assert np.abs(encoder.encode(SENTENCES, planned.reading("document")) - passage).max() < 1e-5


def test_of_more_tokens_than_the_model_has_positions_as_many_are_read_and_it_is_said(tiny, capfd):
    folder, long = tiny, "a b c " * 50
    planned = encoder_plan(folder, max_tokens=WORD_POSITIONS + 1)
    assert (
        f"max_tokens is 65, but the model has {WORD_POSITIONS} positions; texts are cut there" in capfd.readouterr().err
    )
    found = planned.build().encode([long])
    assert (found == encoder_plan(folder, max_tokens=WORD_POSITIONS).build().encode([long])).all()


def test_the_fingerprint_follows_the_weights_and_settings_and_not_the_name(tiny, tmp_path):
    first = encoder_plan(tiny).fingerprint
    moved = shutil.copytree(tiny, tmp_path / "elsewhere")
    (moved / "README.md").write_text("about the model", encoding="utf-8")
    assert encoder_plan(moved).fingerprint == first
    assert encoder_plan(moved, query_prompt="query : ").fingerprint == first  # prompts are in the texts' keys
    others = [encoder_plan(tiny, dtype="bfloat16"), encoder_plan(tiny, max_tokens=16)]
    raw = bytearray((tiny / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (tiny / "model.safetensors").write_bytes(raw)
    others.append(encoder_plan(tiny))
    assert len({first.digest, *(other.fingerprint.digest for other in others)}) == 4


@pytest.fixture(scope="module")
def jina(tmp_path_factory) -> Path:
    return tiny_jina_encoder(tmp_path_factory.mktemp("jina") / "model")


@pytest.fixture(scope="module")
def stella(tmp_path_factory) -> Path:
    return tiny_stella_encoder(tmp_path_factory.mktemp("gte") / "stella")


def test_what_is_missing_is_told_when_planning(stella, jina):
    with pytest.raises(ModelError, match=r"has no head 2_Dense_32 .* it has 2_Dense_16, 2_Dense_80"):
        encoder_plan(stella, dense_head=32)
    with pytest.raises(ModelError, match=r"has no adapter retrieval .* it has retrieval_passage, retrieval_query, sep"):
        encoder_plan(jina, document_adapter="retrieval")


def test_the_fingerprint_follows_head_and_adapters(stella, jina):
    plans = [
        encoder_plan(stella),
        encoder_plan(stella, dense_head=16),
        encoder_plan(stella, dense_head=80),
        encoder_plan(jina),
        encoder_plan(jina, query_adapter="retrieval_query"),
        encoder_plan(jina, query_adapter="separation"),
        encoder_plan(jina, query_adapter="retrieval_query", document_adapter="retrieval_passage"),
    ]
    assert len({each.fingerprint.digest for each in plans}) == len(plans)
    swapped = encoder_plan(jina, query_adapter="retrieval_passage", document_adapter="retrieval_query")
    assert swapped.fingerprint == plans[-1].fingerprint  # which role reads with which is in the texts' keys
    assert swapped.query == plans[-1].document


def test_batch_size_and_share_of_a_gpu_change_no_vector(tiny):
    usual, small = encoder_plan(tiny, 4096), encoder_plan(tiny, 64, gpus=0.5)
    assert (usual.tokens_per_batch, usual.config.gpus) == (4096, 1.0)
    assert (small.tokens_per_batch, small.config.gpus) == (64, 0.5)
    assert usual.fingerprint == small.fingerprint
    assert np.abs(usual.build().encode(SENTENCES) - small.build().encode(SENTENCES)).max() < 1e-5


def test_a_licence_that_forbids_is_said(capfd):
    with pytest.raises(ModelError, match="as a hub name it is not in the cache"):
        plan(PRESETS["paper"][1], as_texts([]), Path(), CPU, 8192)
    assert "jinaai/jina-embeddings-v3-hf is under CC BY-NC 4.0" in capfd.readouterr().err


def test_planning_imports_no_model_library():
    import subprocess
    import sys

    code = (
        "import sys, hnmine.models.plan; sys.exit(bool({'torch', 'transformers', 'ray', 'sklearn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
