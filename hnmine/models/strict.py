"""The one door through which models of transformers, sentence-transformers and peft are loaded.

No code of a model folder runs and nothing asks on standard input, see `unsafe`. A tensor that is missing, left over or
of another shape is an error, where the libraries draw weights at random and log a line.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any, TypeVar

import torch

from hnmine.errors import ModelError
from hnmine.models.folder import adapter_base, max_positions, read_settings, refuse_without_safetensors
from hnmine.models.layout import arranged, linked
from hnmine.models.templates import limit_template
from hnmine.models.unsafe import refuse_code

Loaded = TypeVar("Loaded")

_NAMED = 5  # tensors in a message
_POOLER = re.compile(r"(^|\.)pooler\.")
# Heads of other tasks that a checkpoint has beside the body, by the names that transformers gives them.
_HEADS = re.compile(
    r"(cls|lm_head|lm_predictions|mask_predictions|predictions|discriminator_predictions|generator_predictions|"
    r"generator_lm_head|lm_loss|pred_layer|sop_classifier|vocab_transform|vocab_layer_norm|vocab_projector|decoder|"
    r"head|pre_classifier|classifier|score|seq_relationship|qa_outputs|entity_predictions|embed_out|final_logits_bias)"
    r"(\.|$)"
)
_VOCABULARY = re.compile(r"tokenizer.*\.json|vocab.*|merges.*|tekken.*|.*\.(model|vocab|codes|tiktoken)")
# What sentence-transformers logs where it leaves out what makes the model another one.
_DOUBT = re.compile(r"^Ignoring un|^Unknown keys|is not trusted|silently ignored")
_LOCK = RLock()  # the libraries' reports are heard by one load at a time


def load(loader: Callable[..., Loaded], folder: Path, *, new_head: bool = False, **settings: Any) -> Loaded:
    """Return `loader(folder, **settings)`: SentenceTransformer, CrossEncoder, or an Auto class's `from_pretrained`.

    With `new_head` a sequence classifier may draw the head that the folder lacks; its body has to be whole. A pooler
    that the folder lacks and nothing reads is filled with zeros. An adapter is loaded onto its base model.

    Raises:
        ModelError: the folder names code, is of another kind than the loader, cannot be read, or has tensors missing,
            left over or of another shape; the message lists some and says how many.
    """
    from sentence_transformers.base.model import BaseModel

    # Refuse what is not safe, or not what is asked for.
    refuse_without_safetensors(folder)
    safe: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    weights = {"use_safetensors": True, "ignore_mismatched_sizes": False}
    with arranged(folder) as plain, _on_base(plain) as read:
        try:
            refuse_code(read)
            if isinstance(loader, type) and issubclass(loader, BaseModel):
                _refuse_other_kind(read, folder, loader.__name__, new_head)
                safe["model_kwargs"] = settings.pop("model_kwargs", {}) | weights
            elif hasattr(getattr(loader, "__self__", None), "_model_mapping"):  # an Auto class of models
                safe |= weights

            # Load it, and compare it with its files.
            with checked(folder, new_head=new_head) as unread:
                loaded = loader(str(read), **settings, **safe)
            if isinstance(loaded, BaseModel):
                limit_template(loaded, folder)
            if isinstance(loaded, BaseModel) and loaded.transformers_model is not None:
                _refuse_without_vocabulary(loaded.tokenizer, read, folder)
                _complete(loaded, folder)
        except ModelError as error:
            raise ModelError(str(error).replace(str(read), str(folder))) from None
        except Exception as error:  # the loaders raise a family of errors that differ by cause
            kind = f"{type(error).__name__}: " if isinstance(error, LookupError | TypeError | AttributeError) else ""
            reason = f"{kind}{error}".replace(str(read), str(folder))
            raise ModelError(f"{folder} cannot be loaded: {reason}") from None
        if unread and _reads_pooler(loaded):
            raise ModelError(f"{folder} lacks {len(unread)} tensors of the pooler that it reads, first {unread[0]}")
        return loaded


def readable_tokens(model: Any) -> int | None:
    """Return how many tokens a loaded model of sentence-transformers has positions for; None: any number."""
    network = model.transformers_model
    if network is None:
        return None
    positions = getattr(network.config, "max_position_embeddings", None)  # some call it otherwise in config.json
    return max_positions(network.config.to_dict() | {"max_position_embeddings": positions})


def _refuse_without_vocabulary(tokenizer: Any, read: Path, folder: Path) -> None:
    """Raise ModelError if there is no tokenizer, or one that transformers made up: to it all words are unknown."""
    if tokenizer is None:
        raise ModelError(f"{folder} has no tokenizer; give a model that reads texts")
    names = {path.name for path in read.rglob("*") if path.is_file()} - {"tokenizer_config.json"}
    if getattr(tokenizer, "vocab_files_names", None) and not any(map(_VOCABULARY.fullmatch, names)):
        raise ModelError(f"{folder} has no tokenizer.json nor another file of a vocabulary: get the folder anew")


def _complete(model: Any, folder: Path) -> None:
    """Refuse a tokenizer of another model; pad with the end token if there is no other; read no more than positions."""
    # Compare the tokenizer with the embedding, some of whose rows would spoil few texts, late.
    tokenizer, network = model.tokenizer, model.transformers_model
    weight = network.get_input_embeddings().weight
    large_alone = weight.dtype == torch.float16  # infinite here may be a number in the file: see `finite`
    finite = (~weight.detach().isnan() if large_alone else weight.detach().isfinite()).all(dim=1)
    if finite.any() and not finite.all():
        raise ModelError(
            f"{folder}: {int((~finite).sum())} rows of the embedding hold NaN or infinity; the file is damaged: get "
            "the folder anew"
        )
    rows = len(weight)
    token, number = max(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    if number >= rows:
        raise ModelError(
            f"{folder}: the tokenizer knows {token!r} as token {number}, and the embedding has {rows} rows; they are "
            "of different models: get the folder anew, or call resize_token_embeddings and train"
        )

    # Pad as makers of decoders do.
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None and isinstance(network.config.eos_token_id, int):
            tokenizer.eos_token = tokenizer.convert_ids_to_tokens(network.config.eos_token_id)
        if tokenizer.eos_token is None:
            raise ModelError(
                f"{folder}: the tokenizer has no token to pad with; set pad_token in tokenizer_config.json"
            )
        tokenizer.pad_token = tokenizer.eos_token
    if network.config.pad_token_id is None:
        network.config.pad_token_id = tokenizer.pad_token_id

    # Cut what no position is there for.
    limit = readable_tokens(model)
    if limit is not None:
        model.max_seq_length = min(limit, model.max_seq_length or limit)


@contextmanager
def checked(folder: Path, *, new_head: bool = False, adapter: str | None = None) -> Iterator[list[str]]:
    """Compare what is loaded in the block with its files: every tensor must be found and used, see `load`.

    Yields a list that has in the end the names of what nothing reads and was filled with zeros. With `adapter` only its
    tensors may not be missing: transformers names those of the others, which lie in other files.
    """
    from transformers import dynamic_module_utils, modeling_utils
    from transformers.integrations import peft

    reports: list[tuple[Any, Any]] = []
    filled: list[str] = []

    def hear(model: Any, *_arguments: Any, loading_info: Any, **_settings: Any) -> None:
        broken = [*loading_info.error_msgs, *loading_info.conversion_errors]
        shapes = [f"{name} ({list(found)} for {list(want)})" for name, found, want in loading_info.mismatched_keys]
        _refuse_found(folder, model, {"unreadable": broken, "of another shape": shapes})
        reports.append((model, loading_info))

    # Hear what the libraries would log, and let nothing ask.
    library, said = logging.getLogger("sentence_transformers"), _Said()
    with _LOCK:
        log, seconds = modeling_utils.log_state_dict_report, dynamic_module_utils.TIME_OUT_REMOTE_CODE
        library.addHandler(said)
        library.propagate = False
        modeling_utils.log_state_dict_report = peft.log_state_dict_report = hear
        dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0
        try:
            yield filled
        finally:
            modeling_utils.log_state_dict_report = peft.log_state_dict_report = log
            dynamic_module_utils.TIME_OUT_REMOTE_CODE = seconds
            library.removeHandler(said)
            library.propagate = True

    # Judge it when adapters have brought what is theirs.
    if doubts := [message for message in said.messages if _DOUBT.search(message)]:
        raise ModelError(f"{folder} would be computed otherwise than it was made: {doubts[0]}")
    for model, info in reports:
        missing = [name for name in info.missing_keys if not _is_brought(model, name, adapter)]
        unread = [name for name in missing if _POOLER.search(name) and _is_body(model)]
        lacking = [name for name in missing if name not in unread and not (new_head and _is_head(model, name))]
        left = [name for name in info.unexpected_keys if not _is_of_another_task(model, name, new_head)]
        _refuse_found(folder, model, {"missing": lacking, "left over": left})
        with torch.no_grad():
            for name in unread:
                model.get_parameter(name).zero_()
        filled += unread


class _Said(logging.Handler):
    """What a library logs."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message."""
        self.messages.append(record.getMessage())


def _refuse_found(folder: Path, model: Any, found: dict[str, list[str]]) -> None:
    """Raise ModelError if there are tensors that are not as they should be; name some."""
    parts = [
        f"{len(names)} tensors are {fault}: {', '.join(sorted(names)[:_NAMED])}{', …' if len(names) > _NAMED else ''}"
        for fault, names in found.items()
        if names
    ]
    if parts:
        raise ModelError(
            f"{folder} does not hold exactly the tensors of {type(model).__name__}: {'; '.join(parts)}; they are of "
            "another model, or the file is damaged: get the folder anew"
        )


def _is_body(model: Any) -> bool:
    return model.base_model is model


def _is_head(model: Any, name: str) -> bool:
    """Whether a classifier's tensor is none of its body's layers."""
    inside = name.startswith(f"{model.base_model_prefix}.")
    return not _is_body(model) and (not inside or _POOLER.search(name) is not None)


def _is_of_another_task(model: Any, name: str, new_head: bool) -> bool:
    """Whether a tensor of the file belongs to a head that this model has not."""
    if _POOLER.search(name):
        return True
    return (new_head or _is_body(model)) and _HEADS.match(name) is not None


def _is_brought(model: Any, name: str, adapter: str | None) -> bool:
    """Whether a tensor that one file lacks stands in that of an adapter, or is another adapter's."""
    if adapter is not None:
        return adapter not in name.split(".")
    configs = getattr(model, "peft_config", {}).values()
    saved = [part for config in configs for part in getattr(config, "modules_to_save", None) or ()]
    return any(part in name.split(".") for part in saved) and "modules_to_save" not in name


def _reads_pooler(loaded: Any) -> bool:
    outputs = [getattr(module, "modality_config", {}) for module in loaded.modules()]
    return any("pooler_output" in str(output) for output in outputs)


@contextmanager
def _on_base(folder: Path) -> Iterator[Path]:
    """Yield the folder; an adapter's for the time of the block with the files of its base model, which are checked."""
    base = adapter_base(folder)
    if base is None:
        yield folder
        return
    refuse_code(base)
    settings = read_settings(folder / "adapter_config.json") | {"base_model_name_or_path": str(base.resolve())}
    with linked(folder, {"adapter_config.json": settings}, base=base) as links:
        yield links


def _refuse_other_kind(read: Path, folder: Path, wanted: str, new_head: bool) -> None:
    """Refuse a folder of another kind: the library would take its body and put something new on it."""
    config, has_modules = read_settings(read / "config.json"), (read / "modules.json").is_file()
    kind = read_settings(read / "config_sentence_transformers.json").get("model_type", "SentenceTransformer")
    if not has_modules:
        names = config.get("architectures") or []
        ranks = any(str(name).endswith("ForSequenceClassification") for name in names)
        kind = "CrossEncoder" if ranks else wanted
    if kind != wanted and not new_head:
        roles = {"SentenceTransformer": "an encoder", "CrossEncoder": "a re-ranker"}
        raise ModelError(f"{folder} is {roles.get(kind, f'a {kind}')}, and {roles[wanted]} is expected; give one")
