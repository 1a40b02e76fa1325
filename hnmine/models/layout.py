"""A model's folder arranged as it is to be read: links to its files, and a few settings rewritten.

Three layouts need it: GTE's (`model_type: new`, or `gte` with `auto_map`; made for Python code in the model's
repository, which is never run), one with several dense heads, and one with several adapters.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hnmine.errors import ModelError
from hnmine.models.folder import read_json, read_settings

_HEAD = re.compile(r"(\d+_Dense)(?:_\d+)?")
_HEAD_FILES = ("config.json", "model.safetensors")
_MODULES = ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json")
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
_GTE_SETTINGS = {
    "position_embedding_type": "rope",
    "layer_norm_type": "layer_norm",
    "logn_attention_scale": False,
    "pack_qkv": True,
}  # what transformers' GteModel computes; where config.json has no such key, it means this


@contextmanager
def arranged(folder: Path, *, dense_head: int | None = None, adapters: Collection[str] = ()) -> Iterator[Path]:
    """Yield the folder as it is to be read: itself, or for the time of the block a hidden one of links to its files.

    There `config.json` names transformers' GteModel instead of `new`, `modules.json` names the head of width
    `dense_head` (None: as it does), and of several heads and LoRA adapters only the chosen are present.
    """
    # Rewrite the settings that name the architecture and the head.
    rewritten: dict[str, Any] = {}
    unread = {path.parent.name for path in folder.glob("*/adapter_config.json")} - set(adapters)
    config = read_settings(folder / "config.json")
    model_type = config.get("model_type")
    if model_type == "new" or (model_type == "gte" and "auto_map" in config):
        rewritten["config.json"] = _native_gte(folder, config)
    if dense_head is not None:
        head, rewritten["modules.json"] = _with_head(folder, dense_head)
        unread |= {path.name for path in folder.glob(f"{head.rpartition('_')[0]}*") if path.name != head}
    for adapter in adapters:
        _refuse_missing(folder, "adapter", adapter, _ADAPTER_FILES, "*")
    if not rewritten and not adapters:
        yield folder
        return

    with linked(folder, rewritten, unread) as links:
        yield links


@contextmanager
def linked(
    folder: Path, rewritten: Mapping[str, Any], unread: Collection[str] = (), *, base: Path | None = None
) -> Iterator[Path]:
    """Yield for the time of the block a hidden folder of links to the files of another, some written anew.

    `rewritten` gives the settings of these by name, folders in `unread` are left out, and of `base` the transformer's
    files stand where the folder has none.
    """
    paths = {path.name: path for path in base.iterdir() if path.name not in _MODULES and path.is_file()} if base else {}
    paths |= {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    with tempfile.TemporaryDirectory(prefix="hnmine-") as name:
        for relative, path in paths.items():
            if Path(relative).parts[0] not in unread and relative not in rewritten:
                link = Path(name, relative)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(path.resolve())
        for file, settings in rewritten.items():
            Path(name, file).write_text(json.dumps(settings, indent=1, sort_keys=True), encoding="utf-8")
        yield Path(name)


def _with_head(folder: Path, width: int) -> tuple[str, list[dict[str, Any]]]:
    """Return the folder of the head of this width, and modules.json with it in place of the one named there."""
    modules = read_json(folder / "modules.json")
    paths = [str(module.get("path")) if isinstance(module, dict) else "" for module in modules]
    heads = [head for head in map(_HEAD.fullmatch, paths) if head]
    if len(heads) != 1:
        raise ModelError(f"{folder}: dense_head wants one <n>_Dense in modules.json, there are {len(heads)}; remove it")
    head = f"{heads[0][1]}_{width}"
    _refuse_missing(folder, "head", head, _HEAD_FILES, f"{heads[0][1]}*")
    return head, [module | {"path": head} if module["path"] == heads[0][0] else module for module in modules]


def _refuse_missing(folder: Path, kind: str, name: str, files: tuple[str, str], pattern: str) -> None:
    """Raise ModelError if a folder in the model's lacks one of its files; `pattern` finds those there are."""
    if not all((folder / name / file).is_file() for file in files):
        there = ", ".join(sorted(path.parent.name for path in folder.glob(f"{pattern}/{files[1]}"))) or "none"
        raise ModelError(f"{folder} has no {kind} {name} ({' and '.join(files)}); it has {there}")


def _native_gte(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of GTE's own code (model_type `new`) as those of transformers' GteModel.

    The `ntk` scaling there by s, with heads of width d, turns a rotary frequency theta^(-2i/d) into
    (s theta)^(-2i/d) / s^(2/d), for texts of any length. GteModel knows no ntk, but its `linear` divides all
    frequencies by one factor: a base of s theta and a factor of s^(2/d) are the same.
    """
    for key, expected in _GTE_SETTINGS.items():
        if config.get(key, expected) != expected:
            raise ModelError(
                f"{folder}: config.json has {key} {config[key]!r}, but a model of model_type 'new' is computed as a "
                f"GTE, which has {expected!r}; the model cannot be used here"
            )
    theta, scaling = config.get("rope_theta", 10_000.0), config.get("rope_scaling")
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    if scaling is not None:
        factor = scaling.get("factor", 0)
        if scaling.get("type") != "ntk" or scaling.get("mixed_b") is not None or factor <= 1:
            raise ModelError(
                f"{folder}: a GTE's rope_scaling is expected to be ntk by more than 1, got {scaling}; "
                "the model cannot be used here"
            )
        width = config.get("hidden_size", 768) // config.get("num_attention_heads", 12)
        rope = {"rope_type": "linear", "rope_theta": theta * factor, "factor": factor ** (2 / width)}
    dropped = ("auto_map", "rope_theta", "rope_scaling")
    kept = {key: value for key, value in config.items() if key not in dropped}
    names = [str(name).replace("New", "Gte", 1) for name in config.get("architectures") or []]
    return kept | {"model_type": "gte", "rope_parameters": rope, "architectures": names}
