"""Whether a folder holds a re-ranker, and its loading by sentence-transformers' CrossEncoder.

A head is what turns a pair into one score: a classifier with one label, the last module of a modular re-ranker, or a
decoder's logits of yes and no. A body without one gets a fresh head, to be trained before it ranks.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.utils import logging

from hnmine.errors import ModelError
from hnmine.models.folder import adapter_base, read_json, read_settings, resolve
from hnmine.models.strict import load

_RANKS = ("ForSequenceClassification", "ForCausalLM")  # an encoder may be a decoder by origin
_HEAD = re.compile(r"(classifier|score|logits_proj|classification_head)\.(.*\.)?weight")


def has_ranking_head(folder: Path) -> bool:
    """Whether the model in this folder has a trained head that scores, in any layout that is loaded.

    Raises:
        ModelError: there is no model, or it is an adapter whose base is not there.
    """
    base = adapter_base(folder)
    if is_modular(folder):
        return True
    if base is not None:
        tensors = _tensor_names(folder, "adapter_model*.safetensors")
        return any(_HEAD.search(name) for name in tensors) or has_ranking_head(base)
    config = read_settings(folder / "config.json")
    if not config:
        inner = folder / "reranker"
        give = inner if inner.is_dir() else "a Hugging Face model folder"
        raise ModelError(f"{folder} has no config.json with settings; give {give}")
    names = [str(name) for name in config.get("architectures") or []]
    ranks = "ForSequenceClassification" if (folder / "modules.json").is_file() else _RANKS
    if any(name.endswith(ranks) for name in names):
        return True
    return all(name.endswith("Model") for name in names) and any(
        _HEAD.fullmatch(name) for name in _tensor_names(folder, "model*.safetensors")
    )


def resolve_cross_encoder(setting: str, model: str) -> Path:
    """Return the folder of a model that is to score; refuse one without a ranking head, by the `setting`'s name."""
    folder = resolve(model)
    if not has_ranking_head(folder):
        raise ModelError(
            f"{setting}: {model} has no ranking head, so its scores would be drawn at random; give a cross-encoder, "
            "for instance one that `hnmine train` left in OUT/reranker"
        )
    return folder


def is_modular(folder: Path) -> bool:
    """Whether the folder names the modules of a CrossEncoder; those of an encoder are no re-ranker."""
    settings = read_settings(folder / "config_sentence_transformers.json")
    return bool(read_json(folder / "modules.json")) and settings.get("model_type") == "CrossEncoder"


def is_plain(folder: Path) -> bool:
    """Whether transformers alone can load the folder, without modules.json, and what is saved is to be so too."""
    return not is_modular(folder) and adapter_base(folder) is None


def load_library(folder: Path, *, device: str, seed: int) -> Any:
    """Load a re-ranker by sentence-transformers, its weights as float32; a head that it lacks is drawn with the seed.

    Of an adapter only what the adapter brings is trained.

    Raises:
        ModelError: it cannot be loaded, or does not give one score.
    """
    from sentence_transformers import CrossEncoder

    # Load it, see `strict`.
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    has_head, is_adapter = has_ranking_head(folder), adapter_base(folder) is not None
    if is_adapter and not has_head:
        raise ModelError(f"{folder} is an adapter, and neither it nor its base model has a ranking head")
    torch.manual_seed(seed)
    loader = CrossEncoder if is_modular(folder) or not is_adapter else _load_adapter
    try:
        library: Any = load(loader, folder, new_head=not has_head, device=device, model_kwargs={"dtype": torch.float32})
    except ModelError as error:
        raise ModelError(f"re-ranker {error}") from None

    # Refuse what does not give one score.
    if library.num_labels != 1:  # config.json leaves out a 2
        raise ModelError(f"{folder} is a classifier with {library.num_labels} labels; a re-ranker has one")
    if not has_head:
        library.activation_fn = torch.nn.Identity()
    _refuse_flat_activation(library, folder)
    if getattr(library.transformers_model, "peft_config", None):
        _complete_adapter(library, folder)
    _refuse_unknown_answers(library, folder)
    return library.float().eval()


def _load_adapter(folder: str, *, device: str, model_kwargs: dict[str, Any], **safe: Any) -> Any:
    """Load an adapter as peft saves it, without modules.json."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.cross_encoder.modules import LogitScore

    generates = read_settings(Path(folder) / "adapter_config.json").get("task_type") == "CAUSAL_LM"
    transformer = Transformer(
        folder,
        transformer_task="text-generation" if generates else "sequence-classification",
        model_kwargs=model_kwargs | safe,
        processor_kwargs=dict(safe),
        config_kwargs=dict(safe),
    )
    modules: list[Any] = [transformer]
    if generates:
        modules.append(LogitScore(*transformer.tokenizer.convert_tokens_to_ids(["yes", "no"])))
    return CrossEncoder(modules=modules, device=device)


def _complete_adapter(library: Any, folder: Path) -> None:
    """Let only what the adapter brings be trained, and name its base as before where that is a name of the hub."""
    for name, weight in library.named_parameters():
        weight.requires_grad_("lora_" in name or "modules_to_save" in name)
    base = read_settings(folder / "adapter_config.json").get("base_model_name_or_path")
    if base is not None and not Path(base).is_dir() and not (folder / base).is_dir():
        for config in library.transformers_model.peft_config.values():
            config.base_model_name_or_path = base


def _refuse_flat_activation(library: Any, folder: Path) -> None:
    """Raise ModelError if the activation makes all scores the same, as one over several labels does, or fails."""
    try:
        scores = library.activation_fn(torch.tensor([[-1.0], [0.0], [1.0]]))
    except Exception:  # what is raised depends on the class
        scores = torch.zeros(3, 1)
    if len(scores.unique()) == 1:
        raise ModelError(
            f"{folder} declares the activation {type(library.activation_fn).__name__}, which makes no order of "
            "single scores; declare torch.nn.modules.linear.Identity or torch.nn.modules.activation.Sigmoid"
        )


def _refuse_unknown_answers(library: Any, folder: Path) -> None:
    """Raise ModelError if a decoder that answers yes or no has no tokens of its own for them."""
    from sentence_transformers.cross_encoder.modules import LogitScore

    for module in library.children():
        if isinstance(module, LogitScore):
            unknown = getattr(library.tokenizer, "unk_token_id", None)
            if module.true_token_id in (None, unknown, module.false_token_id) or module.false_token_id == unknown:
                raise ModelError(
                    f"{folder} is a decoder whose tokenizer has no tokens 'yes' and 'no'; save it with a LogitScore of "
                    "its own answers (sentence_transformers.cross_encoder.modules)"
                )


def _tensor_names(folder: Path, pattern: str) -> list[str]:
    names: list[str] = []
    for path in folder.glob(pattern):
        try:
            with safe_open(path, "pt") as file:
                names += file.keys()
        except (OSError, SafetensorError):  # is reported where it is loaded
            continue
    return names
