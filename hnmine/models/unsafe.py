"""What the settings of a model folder would import or run, refused by name before any loader sees the folder.

transformers, sentence-transformers and peft take the names of classes, files and other models from JSON files. A name
is let through if it stands for something of these libraries (or of `torch.nn`) that computes what the maker meant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from hnmine.errors import ModelError
from hnmine.models.folder import OTHER_RUNTIMES, read_json

_NAME_NOTHING = ("tokenizer.json", "vocab.json", "added_tokens.json", "special_tokens_map.json")  # large, or lists
_ACTIVATIONS = ("activation_function", "activation_fn", "sbert_ce_default_activation_function")
_LOADER_ARGUMENTS = ("model_args", "model_kwargs", "tokenizer_args", "processor_kwargs", "config_args", "config_kwargs")
_ELSEWHERE = ("gguf_file", "tokenizer_name_or_path", "state_dict", "weights_only", "use_kernels", "kernel_config")
_TASKS = ("feature-extraction", "sequence-classification", "text-generation", "fill-mask")
_ADAPTERS = ("LORA", "IA3", "LOHA", "LOKR")  # whose tensors all stand in the file, and are read by transformers


def refuse_code(folder: Path) -> None:
    """Raise ModelError if a settings file in the folder names code that is no library's; the message names the door.

    A folder may name code (`auto_map`) and yet need none: its `model_type` is one of transformers' own, and that class
    loads it without a tensor missing or left over. Of a decoder this proves nothing, since code that lets attention
    look both ways has the same tensors; it is refused unless the code is the library's own file.
    """
    if (folder / "custom_generate").is_dir():
        _refuse(folder / "custom_generate", "code that generates", "remove it; scores and vectors do not need it")
    for path in sorted(folder.rglob("*.json")):
        parts = path.relative_to(folder).parts
        if path.name in _NAME_NOTHING or parts[0] in OTHER_RUNTIMES:
            continue
        settings = read_json(path)
        if path.name.endswith(".index.json"):
            _check_index(path, settings)
        elif path.name == "modules.json":
            _check_modules(path, settings)
        elif isinstance(settings, dict):
            _check_auto_map(path, settings)
            _check_names(path, settings)
            if path.name == "adapter_config.json":
                _check_adapter(path, settings)


def _refuse(path: Path, code: str, remedy: str) -> NoReturn:
    raise ModelError(f"{path} names {code}; code of a model's folder is never run: {remedy}")


def _check_index(path: Path, index: Any) -> None:
    """Refuse shards outside of the folder, whose changes nothing would notice."""
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict):
        raise ModelError(f"{path} is expected to have a weight_map of tensors and files: get the folder anew")
    if bad := [str(place) for place in places.values() if Path(str(place)).name != str(place)]:
        raise ModelError(f"{path}: the shard {bad[0]!r} leads out of the folder; the model is refused")


def _check_modules(path: Path, modules: Any) -> None:
    """Refuse modules that are not of sentence-transformers, or lie outside of the folder."""
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise ModelError(
            f"{path} is expected to be a list of modules; give the folder as sentence-transformers saved it"
        )
    for module in modules:
        _check_module_class(path, "type", module.get("type"))
        if (place := Path(str(module.get("path")))).is_absolute() or ".." in place.parts:
            raise ModelError(f"{path}: the path {str(place)!r} leads out of the folder; the model is refused")


def _check_module_class(path: Path, key: str, name: Any) -> None:
    """Refuse what is no module (or tokenizer of one) of sentence-transformers."""
    from sentence_transformers.base.modules import Module
    from sentence_transformers.sentence_transformer.modules.tokenizer import WordTokenizer
    from sentence_transformers.util import import_from_string

    remedy = "only modules of sentence_transformers are; use a model that is made of these"
    if not isinstance(name, str) or not name.startswith("sentence_transformers."):
        _refuse(path, f"code in {key!r}: {name!r}", remedy)
    try:
        found = import_from_string(name)
    except ImportError as error:
        raise ModelError(
            f"{path}: {key!r} is {name!r}, which this sentence-transformers does not have: {error}"
        ) from None
    if not isinstance(found, type) or not issubclass(found, (Module, WordTokenizer)):
        _refuse(path, f"something else than a module in {key!r}: {name!r}", remedy)


def _check_auto_map(path: Path, settings: Mapping[str, Any]) -> None:
    """Refuse code for which transformers has nothing of its own, and decoders computed by code."""
    references = settings.get("auto_map")
    if "custom_generate" in settings:
        _refuse(path, "code in 'custom_generate'", "remove the entry; scores and vectors do not need it")
    if not references:
        return
    if path.name == "config.json":
        _check_model_code(path, settings, references)
        return
    if path.name == "tokenizer_config.json" and set(references) <= {"AutoTokenizer"}:
        from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

        name = str(settings.get("tokenizer_class")).removesuffix("Fast")
        if any(tokenizer_class_from_name(candidate) for candidate in (name, f"{name}Fast")):
            return
    remedy = "if the model's page says that it needs no code, remove 'auto_map' from a copy of the folder"
    _refuse(path, f"code in 'auto_map': {references}", remedy)


def _check_model_code(path: Path, settings: Mapping[str, Any], references: Any) -> None:
    from transformers import CONFIG_MAPPING
    from transformers.models.auto import modeling_auto

    # Refuse an architecture that only the folder's code computes.
    model_type = settings.get("model_type")
    if model_type not in CONFIG_MAPPING or not isinstance(references, dict):
        why = f"code in 'auto_map' for model_type {model_type!r}, which transformers does not have"
        _refuse(path, why, "use a model whose architecture is part of transformers")

    # Refuse a decoder that the folder's code may compute otherwise.
    decoder = modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type)
    if decoder is None or model_type in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return
    known = f"modeling_{model_type}."
    models = {key: str(name).split("--")[-1] for key, name in references.items() if key.startswith("AutoModel")}
    if other := {key: name for key, name in models.items() if not name.startswith(known)}:
        why = f"code in 'auto_map' ({other}) that may compute otherwise than transformers' {model_type}"
        remedy = "where it does not, remove 'auto_map' from a copy of the folder (attention that looks both ways: "
        _refuse(path, why, f'{remedy}write "is_causal": false in its place)')


def _check_names(path: Path, settings: Mapping[str, Any]) -> None:
    """Refuse names of classes, kernels and other places in any settings file."""
    for key, value in _entries(settings):
        if key == "types" and isinstance(value, dict):
            for name in value.values():
                _check_module_class(path, key, name)
        elif key == "tokenizer_class" and isinstance(value, str) and "." in value:
            _check_module_class(path, key, value)
        elif key in _ACTIVATIONS and isinstance(value, str) and "." in value:
            _check_activation(path, key, value)
        elif key.endswith("_implementation") and "/" in str(value):
            _refuse(path, f"a kernel of the hub in {key!r}: {value!r}", "remove the entry")
        elif key == "transformer_task" and value not in _TASKS:
            raise ModelError(f"{path}: {key!r} is {value!r}; hnmine reads texts, by one of {', '.join(_TASKS)}")
    for place in (settings, *(settings.get(name) for name in _LOADER_ARGUMENTS)):
        if path.name.startswith("sentence_") and isinstance(place, dict) and (bad := set(_ELSEWHERE) & set(place)):
            _refuse(path, f"what is loaded otherwise or from elsewhere in {sorted(bad)[0]!r}", "remove the entry")


def _entries(settings: Any) -> Iterator[tuple[str, Any]]:
    """Yield every entry, and those within."""
    if isinstance(settings, dict):
        yield from settings.items()
    for value in settings.values() if isinstance(settings, dict) else settings if isinstance(settings, list) else ():
        yield from _entries(value)


def _check_activation(path: Path, key: str, name: str) -> None:
    """Refuse what is no module of torch.nn: the library would run it, or take another function in its place."""
    from sentence_transformers.util import import_from_string
    from torch import nn

    found = None
    if name.startswith("torch.nn."):
        try:
            found = import_from_string(name)
        except ImportError:
            found = None
    if not isinstance(found, type) or not issubclass(found, nn.Module):
        _refuse(path, f"code in {key!r}: {name!r}", "an activation is a class of torch.nn, such as torch.nn.Identity")


def _check_adapter(path: Path, settings: Mapping[str, Any]) -> None:
    library = str((settings.get("auto_mapping") or {}).get("parent_library") or "transformers.")
    if library.split(".")[0] not in ("transformers", "sentence_transformers"):
        _refuse(path, f"code in 'auto_mapping': {library!r}", "use an adapter of a model of transformers")
    if settings.get("megatron_config"):
        _refuse(path, f"code in 'megatron_core': {settings.get('megatron_core')!r}", "save the adapter without it")
    if (kind := settings.get("peft_type")) not in _ADAPTERS:
        raise ModelError(f"{path}: peft_type is {kind!r}; of adapters {', '.join(_ADAPTERS)} are loaded")
    changed = ("use_dora", "magnitudes, which transformers does not read") if settings.get("use_dora") else None
    if str(settings.get("init_lora_weights")).startswith("pissa_niter"):
        changed = "init_lora_weights", "a part of its base that is drawn anew each time"
    if changed:
        raise ModelError(f"{path}: by {changed[0]!r} it needs {changed[1]}; merge it by peft's merge_and_unload")
