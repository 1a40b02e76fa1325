"""Random models, small enough for seconds: re-rankers and encoders that read letters, encoders that read words."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding, Transformer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BertTokenizerFast,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
)

from hnmine.config.root import EncoderConfig
from hnmine.models.plan import Plan, plan
from hnmine.models.reranker import CrossEncoder
from tests.builders.devices import CPU
from tests.builders.texts import LETTERS, as_texts

LETTER_VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
WORD_VOCABULARY = [
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
WORD_POSITIONS = 64
"""How many tokens the word-reading models have positions for."""
ADAPTERS = ("retrieval_query", "retrieval_passage", "separation")
"""Folders of the adapters of `tiny_jina_encoder`."""


def tiny_cross_encoder(folder: Path, *, head: bool = True, labels: int = 1, seed: int = 0, spread: float = 4) -> Path:
    """Save a random BERT of two layers that reads letters: a re-ranker, or a body without a head.

    With `spread` its weights are larger: far from linear, its scores differ more, and it learns less well.
    """
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(LETTER_VOCABULARY))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(LETTER_VOCABULARY),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        num_labels=labels,
        sentence_transformers={"activation_fn": "torch.nn.modules.linear.Identity"},
    )
    torch.manual_seed(seed)
    model = BertForSequenceClassification(config) if head else BertModel(config)
    for weight in model.parameters():
        weight.data *= spread
    model.save_pretrained(folder)
    return folder


def tiny_letter_encoder(folder: Path) -> Path:
    """Save a random bi-encoder of two layers that reads letters."""
    body = tiny_cross_encoder(folder.with_name(f"{folder.name}-body"), head=False, spread=1)
    SentenceTransformer(modules=[Transformer(str(body)), Pooling(32, "mean")], device="cpu").save(str(folder))
    return folder


def tiny_static_encoder(folder: Path) -> Path:
    """Save a bi-encoder of random vectors of words: what a text is worth does not depend on those beside it."""
    tokenizer = Tokenizer(WordLevel({word: row for row, word in enumerate(WORD_VOCABULARY)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    torch.manual_seed(0)
    module = StaticEmbedding(tokenizer, embedding_dim=16)
    SentenceTransformer(modules=[module], device="cpu").save(str(folder))
    return folder


def tiny_word_encoder(folder: Path, seed: int = 0) -> Path:
    """Save a random bi-encoder of two layers that reads words."""
    base = folder.with_name(f"{folder.name}-base")
    base.mkdir(parents=True)
    (base / "vocab.txt").write_text("\n".join(WORD_VOCABULARY), encoding="utf-8")
    torch.manual_seed(seed)
    shape = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(
        BertConfig(vocab_size=len(WORD_VOCABULARY), max_position_embeddings=WORD_POSITIONS, **shape)
    ).save_pretrained(base)
    BertTokenizerFast(str(base / "vocab.txt")).save_pretrained(base)
    modules = [Transformer(str(base), max_seq_length=32), Pooling(32, "mean")]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder))
    shutil.rmtree(base)
    return folder


def tiny_decoder(folder: Path, *, pad: str | None = None, end: str | None = "b") -> Path:
    """Save a random decoder's body that reads words, whose tokenizer adds no special token."""
    torch.manual_seed(0)
    shape = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    config = LlamaConfig(vocab_size=len(WORD_VOCABULARY), max_position_embeddings=WORD_POSITIONS, **shape)
    config.eos_token_id = None
    LlamaModel(config).save_pretrained(folder)
    words = WordLevel({word: row for row, word in enumerate(WORD_VOCABULARY)}, unk_token="[UNK]")
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = Whitespace()
    names = {"unk_token": "[UNK]", "pad_token": pad, "eos_token": end}
    given = {name: token for name, token in names.items() if token}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **given).save_pretrained(folder)
    return folder


def tiny_jina_encoder(folder: Path) -> Path:
    """Save a random model with the layout of jina-embeddings-v3-hf: no modules.json, a LoRA adapter a folder."""
    pytest.importorskip("peft", reason="pip install 'hnmine[adapters]'")
    from peft import LoraConfig, get_peft_model
    from transformers import JinaEmbeddingsV3Config, JinaEmbeddingsV3Model

    shape = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    config = JinaEmbeddingsV3Config(
        vocab_size=len(WORD_VOCABULARY), max_position_embeddings=WORD_POSITIONS, pad_token_id=0, **shape
    )
    JinaEmbeddingsV3Model(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORD_VOCABULARY), encoding="utf-8")
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    targets = [
        "word_embeddings",
        "token_type_embeddings",
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "fc1",
        "fc2",
        "dense",
    ]
    lora = LoraConfig(r=2, lora_alpha=3, target_modules=targets, init_lora_weights=False)
    for name in ADAPTERS:
        get_peft_model(JinaEmbeddingsV3Model.from_pretrained(folder), lora).save_pretrained(folder / name)
    return folder


def spoil_weights(folder: Path) -> Path:
    """Make every weight of a model NaN."""
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name: torch.full_like(tensor, float("nan")) for name, tensor in tensors.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    return folder


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a saved model by their names."""
    return load_file(folder / "model.safetensors")


def same_weights(first: Path, second: Path) -> bool:
    """Say whether two saved models have the same weights, bit for bit."""
    return all(torch.equal(value, weights_in(second)[name]) for name, value in weights_in(first).items())


def load_cross_encoder(folder: Path, max_tokens: int = 128, seed: int = 0) -> CrossEncoder:
    """Load a re-ranker on the CPU in float32."""
    return CrossEncoder(folder, max_tokens=max_tokens, device="cpu", dtype="float32", seed=seed)


def load_sentence_transformer(folder: Path) -> SentenceTransformer:
    """Load an encoder by the library we compare with."""
    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def encoder_plan(folder: Path, budget: int = 8192, engine: str = "auto", **settings) -> Plan:
    """Plan an encoder of the model in `folder`, on the CPU in float32."""
    config = EncoderConfig(name="tiny", model=str(folder), **({"dtype": "float32"} | settings))
    return plan(config, as_texts([]), folder, CPU, budget, engine=engine)
