"""Random re-rankers, tiny and always the same, in every layout that sentence-transformers' CrossEncoder loads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from sentence_transformers.sentence_transformer.modules import LayerNorm, Pooling
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from tests.builders.texts import LETTERS

POSITIONS = 96
"""Tokens that the models read."""
_FAR = 15
"""How many times as large an encoder's matrices are as new ones: its scores differ."""
_ENCODER = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
_DECODER = _ENCODER | {"num_key_value_heads": 1, "head_dim": 16, "tie_word_embeddings": False}
_SPECIALS = ["<pad>", "<s>", "</s>", "<unk>", "<mask>", "<|im_start|>", "<|im_end|>"]
_WORDS = ["yes", "no", "system", "user", "query", "document", "assistant", ":", ".", "?", "'", "<", ">"]
_VOCABULARY = [*_SPECIALS, *_WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
_CHAT = (
    "{% for m in messages %}{% if m.role == 'system' %}<|im_start|>system {{ m.content }}<|im_end|>{% endif %}"
    "{% endfor %}<|im_start|>user query: {{ (messages | selectattr('role', 'eq', 'query') | first).content }} "
    "document: {{ (messages | selectattr('role', 'eq', 'document') | first).content }}<|im_end|>"
    "<|im_start|>assistant "
)


@dataclass(frozen=True)
class Layout:
    """One layout: how it is built, and what is known of it."""

    name: str
    build: Callable[[Path], Path]
    passages: bool = True
    """Whether a pair is tokens of query and document, which can be cut into passages."""
    batches: bool = True
    """Whether the library itself scores a batch as it scores pairs one by one."""
    bare_adapter: bool = False
    """Whether it is an adapter as peft saves it, which the library does not load without modules.json."""


def _tokenizer(pair: str | None, *, pad: bool = True, chat: str | None = None, **settings: Any) -> Any:
    """Return a tokenizer of letters and a few words; `pair` is the template of query and document."""
    ids = {token: number for number, token in enumerate(_VOCABULARY)}
    inner = Tokenizer(models.WordPiece(ids, unk_token="<unk>", max_input_chars_per_word=100))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if pair is not None:
        used = [(token, ids[token]) for token in ("<s>", "</s>") if token in pair]
        inner.post_processor = processors.TemplateProcessing(pair.split(" $B")[0], pair, used)
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    encoder = {"cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"} if pair and "<s>" in pair else {}
    padding = {"pad_token": "<pad>"} if pad else {}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        **({"model_max_length": POSITIONS} | special | encoder | padding | settings),
    )
    tokenizer.chat_template = chat
    return tokenizer


_BERT = "<s>:0 $A:0 </s>:0 $B:1 </s>:1"
_ROBERTA = "<s> $A </s> </s> $B </s>"


def _config(name: str, **settings: Any) -> Any:
    shared = {"vocab_size": len(_VOCABULARY), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return getattr(transformers, f"{name}Config")(**(shared | settings))


def _save(folder: Path, model: Any, tokenizer: Any, spread: float) -> Path:
    """Save a model whose matrices are `spread` times as large, so that its scores differ."""
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.data *= spread
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _classifier(
    folder: Path, name: str, tokenizer: Any, *, spread: float = 4, auto: Any = None, **settings: Any
) -> Path:
    torch.manual_seed(0)
    config = _config(name, **({"num_labels": 1} | settings))
    return _save(folder, (auto or AutoModelForSequenceClassification).from_config(config), tokenizer, spread)


def _encoder(name: str, pair: str = _BERT, **settings: Any) -> Layout:
    """Return the layout of an encoder with a classifier of one label."""
    room = 1 if pair == _ROBERTA else 0  # positions are counted from behind the padding token's number
    shape = _ENCODER | {"max_position_embeddings": POSITIONS + room} | settings
    return Layout(name, lambda folder: _classifier(folder, name, _tokenizer(pair), spread=_FAR, **shape))


def _decoder(label: str, name: str, *, pad: bool = True, chat: str | None = None, side: str = "right", **settings: Any):
    def build(folder: Path) -> Path:
        shape = _DECODER | {"max_position_embeddings": POSITIONS} | settings
        if not pad:
            shape |= {"pad_token_id": None}
        return _classifier(folder, name, _tokenizer("$A $B", pad=pad, chat=chat, padding_side=side), **shape)

    return Layout(label, build, passages=chat is None)


def plain_bert(folder: Path, labels: int = 1) -> Path:
    """Save a sequence classifier with so many labels."""
    shape = _ENCODER | {"max_position_embeddings": POSITIONS, "num_labels": labels}
    return _classifier(folder, "Bert", _tokenizer(_BERT), spread=_FAR, **shape)


def _bert_body(folder: Path) -> Path:
    shape = _ENCODER | {"max_position_embeddings": POSITIONS}
    return _classifier(folder, "Bert", _tokenizer(_BERT), auto=AutoModel, spread=_FAR, **shape)


def _modular(label: str, after: Callable[[], list[Any]], body: Callable[[Path], Path] = _bert_body) -> Layout:
    """Return the layout of a modular re-ranker: a transformer and what stands after it."""

    def build(folder: Path) -> Path:
        body(folder / "body")
        torch.manual_seed(1)
        saved = CrossEncoder(modules=[Transformer(str(folder / "body")), *after()], device="cpu")
        saved.save_pretrained(str(folder), create_model_card=False)
        shutil.rmtree(folder / "body")
        return folder

    return Layout(label, build)


def _score(width: int) -> Any:
    return Dense(width, 1, activation_function=torch.nn.Identity(), module_output_name="scores")


def _logits(label: str, *, chat: bool = True, prompts: dict[str, str] | None = None, yes_only: bool = False) -> Layout:
    """Return the layout of a decoder that answers yes or no."""

    def build(folder: Path) -> Path:
        shape = _DECODER | {"max_position_embeddings": POSITIONS}
        tokenizer = _tokenizer("$A $B", chat=_CHAT if chat else None)
        _classifier(folder / "body", "Qwen3", tokenizer, auto=AutoModelForCausalLM, **shape)
        ids = tokenizer.convert_tokens_to_ids(["yes", "no"])
        decoder = Transformer(str(folder / "body"), transformer_task="text-generation")
        score = LogitScore(ids[0], None if yes_only else ids[1])
        first = next(iter(prompts), None) if prompts else None
        saved = CrossEncoder(modules=[decoder, score], device="cpu", prompts=prompts, default_prompt_name=first)
        saved.save_pretrained(str(folder), create_model_card=False)
        shutil.rmtree(folder / "body")
        return folder

    return Layout(label, build, passages=not chat)


def _absolute(label: str) -> Layout:
    """Return the layout of a decoder with learned positions; the library shifts them in a batch."""

    def build(folder: Path) -> Path:
        tokenizer = _tokenizer("$A $B")
        shape = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": POSITIONS}
        _classifier(folder / "body", "GPT2", tokenizer, auto=AutoModelForCausalLM, **shape)
        decoder = Transformer(str(folder / "body"), transformer_task="text-generation")
        score = LogitScore(*tokenizer.convert_tokens_to_ids(["yes", "no"]))
        CrossEncoder(modules=[decoder, score], device="cpu").save_pretrained(str(folder), create_model_card=False)
        shutil.rmtree(folder / "body")
        return folder

    return Layout(label, build, batches=False)


def _causal(label: str, name: str, **settings: Any) -> Layout:
    """Return the layout of a decoder without modules.json."""
    shape = _DECODER | {"max_position_embeddings": POSITIONS} | settings
    return Layout(
        label,
        lambda folder: _classifier(folder, name, _tokenizer("$A $B"), auto=AutoModelForCausalLM, **shape),
    )


def _adapter(label: str, base: Layout, task: str, targets: list[str], *, body: Any = None) -> Layout:
    """Return the layout of a LoRA adapter; its base stands beside it."""

    def build(folder: Path) -> Path:
        from peft import LoraConfig, get_peft_model

        below = base.build(folder.with_name(f"{folder.name}-base"))
        auto = {"SEQ_CLS": AutoModelForSequenceClassification, "CAUSAL_LM": AutoModelForCausalLM}[task]
        extra = {"num_labels": 1} if task == "SEQ_CLS" else {}
        torch.manual_seed(2)
        lora = LoraConfig(task_type=task, r=2, lora_alpha=4, target_modules=targets, init_lora_weights=False)
        get_peft_model(auto.from_pretrained(below, **extra), lora).save_pretrained(folder)
        transformers.AutoTokenizer.from_pretrained(below).save_pretrained(folder)
        return folder

    return Layout(label, build, bare_adapter=True)


def _saved_adapter(label: str, base: Layout) -> Layout:
    """Return the layout of a LoRA adapter that the library saved; its base stands beside it."""

    def build(folder: Path) -> Path:
        from peft import LoraConfig

        saved = CrossEncoder(str(base.build(folder.with_name(f"{folder.name}-base"))), device="cpu")
        targets = ["q_proj", "v_proj"]
        torch.manual_seed(2)
        saved.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules=targets, init_lora_weights=False))
        saved.save_pretrained(str(folder), create_model_card=False)
        return folder

    return Layout(label, build, passages=base.passages)


def _resaved(label: str, layout: Layout) -> Layout:
    """Return the layout that the library writes of another."""

    def build(folder: Path) -> Path:
        below = layout.build(folder.with_name(f"{folder.name}-before"))
        CrossEncoder(str(below), device="cpu").save_pretrained(str(folder), create_model_card=False)
        return folder

    return Layout(label, build)


def _in_subfolder(label: str, layout: Layout) -> Layout:
    """Return a modular layout whose transformer lies in a folder of its own, as before version 5."""

    def build(folder: Path) -> Path:
        layout.build(folder)
        kept = ("modules.json", "config_sentence_transformers.json")
        inside = folder / "0_Transformer"
        inside.mkdir()
        for path in folder.iterdir():
            if path.is_file() and path.name not in kept:
                path.rename(inside / path.name)
        modules = json.loads((folder / "modules.json").read_text())
        modules[0]["path"] = inside.name
        (folder / "modules.json").write_text(json.dumps(modules))
        return folder

    return Layout(label, build)


def _in_bfloat16(label: str, layout: Layout) -> Layout:
    """Return a layout whose weights are stored in bfloat16."""

    def build(folder: Path) -> Path:
        layout.build(folder)
        tensors = load_file(folder / "model.safetensors")
        half = {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
        save_file(half, folder / "model.safetensors", {"format": "pt"})
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"dtype": "bfloat16"}))
        return folder

    return Layout(label, build, layout.passages)


def declare(layout: Layout, label: str, file: str, **settings: Any) -> Layout:
    """Return a layout whose `file` has these settings beside its others."""

    def build(folder: Path) -> Path:
        path = layout.build(folder) / file
        known = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps(known | settings))
        return folder

    return Layout(label, build, layout.passages, layout.batches, layout.bare_adapter)


_BERT_LAYOUT = _encoder("Bert")
_QWEN3 = _decoder("Qwen3", "Qwen3")
BODY = Layout("a body without a head", _bert_body)

_MODULES = _modular("modules: mean, dense", lambda: [Pooling(32, "mean"), _score(32)])
_ANSWERS = _logits("Qwen3 of yes and no, with a chat template")
LAYOUTS = {
    layout.name: layout
    for layout in (
        _BERT_LAYOUT,
        _encoder("Roberta", _ROBERTA),
        _encoder("XLMRoberta", _ROBERTA, type_vocab_size=1),
        _encoder("Camembert", _ROBERTA),
        _encoder("MPNet", _ROBERTA),
        _encoder("DebertaV2", relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=8),
        _encoder("Electra", embedding_size=32),
        _encoder("Albert", embedding_size=32),
        _encoder("DistilBert", "<s> $A </s> $B </s>", dim=32, n_layers=2, n_heads=2, hidden_dim=64),
        _encoder("ModernBert", "<s> $A </s> $B </s>", cls_token_id=1, sep_token_id=2, global_attn_every_n_layers=2),
        _decoder("Qwen2", "Qwen2"),
        _QWEN3,
        _decoder("Gemma", "Gemma"),
        _decoder("Gemma2", "Gemma2", sliding_window=16),
        _decoder("Llama", "Llama"),
        _decoder("Mistral", "Mistral"),
        _decoder("Llama without a padding token", "Llama", pad=False),
        _decoder("Qwen3 with a chat template", "Qwen3", chat=_CHAT),
        _decoder("Qwen2, padded on the left", "Qwen2", side="left"),
        _resaved("Bert, saved by the library", _BERT_LAYOUT),
        declare(_resaved("ConvBert", _encoder("ConvBert", embedding_size=32)), "ConvBert, padded to all it reads",
                "sentence_bert_config.json", processing_kwargs={"text": {"padding": "max_length"}}),
        declare(_BERT_LAYOUT, "Bert, which reads the end of a long pair", "tokenizer_config.json",
                truncation_side="left"),
        declare(_BERT_LAYOUT, "Bert, activation in config.json", "config.json",
                sentence_transformers={"activation_fn": "torch.nn.modules.linear.Identity"}),
        declare(_BERT_LAYOUT, "Bert, activation as before version 4", "config.json",
                sbert_ce_default_activation_function="torch.nn.modules.linear.Identity"),
        _in_bfloat16("Qwen3, weights in bfloat16", _QWEN3),
        _MODULES,
        _in_subfolder("modules: mean, dense, the transformer in a folder", _MODULES),
        _modular("modules: first token, dense, norm, dense",
                 lambda: [Pooling(32, "cls"), Dense(32, 16), LayerNorm(16), _score(16)]),
        _ANSWERS,
        _logits("Qwen3 of yes and no, with an instruction", prompts={"web": "judge whether the document answers"}),
        declare(_ANSWERS, "Qwen3 of yes and no, with settings of its template", "sentence_bert_config.json",
                processing_kwargs={"chat_template": {"add_generation_prompt": True}, "text": {"max_length": 70}}),
        declare(_ANSWERS, "Qwen3 of yes and no, with an activation", "config_sentence_transformers.json",
                activation_fn="torch.nn.modules.linear.Identity"),
        _logits("Qwen3 of yes alone, without a template", chat=False, yes_only=True),
        _logits("Qwen3 of yes and no, with a prompt, without a template", chat=False, prompts={"web": "judge :"}),
        _causal("Llama that generates", "Llama"),
        _absolute("GPT2 of yes and no"),
        _saved_adapter("LoRA of Qwen3 of yes and no, saved by the library", _ANSWERS),
        _adapter("LoRA of a Bert re-ranker", _BERT_LAYOUT, "SEQ_CLS", ["query", "value"]),
        _adapter("LoRA of a Bert body", BODY, "SEQ_CLS", ["query", "value"]),
        _adapter("LoRA of Llama that generates", _causal("Llama", "Llama"), "CAUSAL_LM", ["q_proj", "v_proj"]),
    )
}  # fmt: skip
