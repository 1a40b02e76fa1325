"""LoRA: instead of a large model's weights, narrow matrices beside them are trained (Hu et al., arXiv 2106.09685).

All linear layers of the body get them. The head, which is small, is trained itself; so is what comes after the body in
a re-ranker of several modules. A decoder's vocabulary is not.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from hnmine.errors import ModelError
from hnmine.models.folder import read_json
from hnmine.models.reranker import CrossEncoder, Reranker

_NAME = "default"
_WEIGHT_FILES = ("config.json", "model*.safetensors", "model.safetensors.index.json")
_SNAPSHOT = re.compile(r"/models--([^/]+)/snapshots/([0-9a-f]{40})$")


def add_lora(network: Any, *, rank: int, alpha: float, seed: int, frozen_dtype: str) -> None:
    """Freeze the bodies in a network in this number type, and put trained matrices of this rank beside their layers.

    What is added is `alpha` / `rank` times the product of the two, which begins as 0: the scores are as before.

    Raises:
        ModelError: peft is missing, or there is no body of transformers with linear layers.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ModelError("train.lora needs peft: pip install 'hnmine[adapters]'") from None
    frozen: list[Tensor] = []
    heads: list[Tensor] = []
    torch.manual_seed(seed)
    for model in _transformers(network):
        if getattr(model, "peft_config", None):
            raise ModelError("train.lora: the start is an adapter, which is trained as it is; set train.lora=null")
        # Find the linear layers, and which weights are of the body.
        body, vocabulary = model.base_model, model.get_output_embeddings()
        inside = {id(weight) for part in (body, vocabulary) if part is not None for weight in part.parameters()}
        parts = {id(module) for module in body.modules()} - {id(vocabulary)}
        layers = [name for name, each in model.named_modules() if id(each) in parts and _is_linear(each)]
        frozen += [weight for weight in model.parameters() if id(weight) in inside]
        heads += [weight for weight in model.parameters() if id(weight) not in inside]
        # Add the matrices.
        if not layers:
            raise ModelError("train.lora: the model has no linear layers; set train.lora=null")
        config = LoraConfig(
            r=rank,
            lora_alpha=alpha,  # type: ignore[arg-type]  # which may be a fraction
            lora_dropout=0.0,
            target_modules=layers,
            use_rslora=False,
        )
        inject_adapter_in_model(config, model, _NAME)
    if not frozen:
        raise ModelError("train.lora: the model is no transformer; set train.lora=null")
    # The matrices and the head are trained, in float32: a step is less than bfloat16 resolves.
    for weight in heads:
        weight.requires_grad_(True)
    for weight in frozen:
        weight.data = weight.data.to(getattr(torch, frozen_dtype))
    for name, weight in trained_weights(network).items():
        if ".lora_" in name:
            weight.data = weight.data.float()


def trained_weights(network: Any) -> dict[str, Tensor]:
    """Return the weights that are trained, by name."""
    return {name: weight for name, weight in network.named_parameters() if weight.requires_grad}


@contextmanager
def merged(network: Any) -> Iterator[None]:
    """For the time of the block, the network is one of plain layers in float32 that computes the same."""
    layers = [(name, each) for name, each in network.named_modules() if hasattr(each, "lora_A")]
    frozen = [(weight, weight.data) for weight in network.parameters() if not weight.requires_grad and layers]
    for weight, data in frozen:
        weight.data = data.float()
    for name, layer in layers:
        plain = copy.copy(layer.get_base_layer())
        plain._parameters = dict(plain._parameters)
        plain.weight = torch.nn.Parameter(plain.weight.data + layer.get_delta_weight(_NAME).data, requires_grad=False)
        network.set_submodule(name, plain)
    try:
        yield
    finally:
        for name, layer in layers:
            network.set_submodule(name, layer)
        for weight, data in frozen:
            weight.data = data


def save_adapter(model: Reranker, folder: Path, base: Path) -> None:
    """Write what was trained beside the model in the folder `base`, in the layout of peft, and what else it needs.

    `sentence_transformers.CrossEncoder(folder)` reads `base` as well; where that is a hub's snapshot, its name and
    commit are written instead of the path.
    """
    # Write all that stands beside the weights of the transformer, in modules: an adapter alone says too little.
    if isinstance(model, CrossEncoder):
        model.model.attend(None)
        model.library.save_pretrained(str(folder), create_model_card=False, safe_serialization=True)
    else:
        model.save(folder)
    home = _home(folder)
    for path in [path for pattern in _WEIGHT_FILES for path in home.glob(pattern)]:
        path.unlink()
    # Write what was trained in it, by the names that peft gives.
    (network,) = _transformers(model.model)
    trained = trained_weights(network)
    tensors = {f"base_model.model.{name.replace(f'.{_NAME}.', '.')}": weight for name, weight in trained.items()}
    save_file(
        {name: weight.detach().contiguous() for name, weight in tensors.items()}, home / "adapter_model.safetensors"
    )
    config = copy.copy(network.peft_config[_NAME])
    config.base_model_name_or_path, config.revision = _address(_home(base))
    heads = {name.split(".")[0] for name in trained if ".lora_" not in name}
    config.modules_to_save = sorted(heads) or None
    config.task_type = "SEQ_CLS" if heads else None
    config.inference_mode = True
    config.save_pretrained(str(home))


def _transformers(network: Any) -> list[Any]:
    """Return the models of transformers in a network, none that is part of another."""
    from transformers import PreTrainedModel

    found = [each for each in network.modules() if isinstance(each, PreTrainedModel)]
    inner = {id(part) for each in found for part in each.modules() if part is not each}
    return [each for each in found if id(each) not in inner]


def _is_linear(module: Any) -> bool:
    """Whether peft puts matrices beside this layer."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, torch.nn.Linear | Conv1D)


def _home(folder: Path) -> Path:
    """Return where in a model's folder the transformer lies."""
    modules = read_json(folder / "modules.json")
    return folder / str(modules[0].get("path", "")) if modules else folder


def _address(folder: Path) -> tuple[str, str | None]:
    """Return the name and commit of a hub's snapshot, else the folder's path."""
    found = _SNAPSHOT.search(folder.as_posix())
    return (found[1].replace("--", "/"), found[2]) if found else (str(folder), None)
