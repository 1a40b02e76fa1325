"""A random model in the layout of GTE's own code (model_type `new`), with two dense heads, as stella_en_400M_v5."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import BertTokenizerFast

from tests.builders.models import WORD_POSITIONS, WORD_VOCABULARY

WIDTH, HEADS, LAYERS, THETA, SCALE = 32, 2, 2, 1000.0, 2.0
"""Of the model: hidden size, attention heads, layers, base and `ntk` scaling of the rotary positions."""


def random_tensors(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
    """Return small random tensors of these shapes, by name."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) * 0.2 for name, shape in shapes.items()}


def tiny_stella_encoder(folder: Path) -> Path:
    """Save a random model with the layout, settings and tensor names of stella_en_400M_v5."""
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
