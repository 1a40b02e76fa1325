"""The encoders of the ensemble behind one interface: texts in, one float32 row a text out.

An encoder is planned first and built later. The plan is small, travels to the actors, knows its fingerprint, and
needs no model library; only `build` imports one. Three kinds:

    model        anything SentenceTransformer loads (safetensors only), with an adapter a role if it has any
    lexical      TF-IDF and a truncated SVD, see `lexical`
    precomputed  vectors made elsewhere: no encoder at all, see `precomputed`
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from hnmine import device as devices
from hnmine import lexical, passages, weights
from hnmine.config import EncoderConfig
from hnmine.errors import ConfigError, ModelError
from hnmine.presets import LICENCES
from hnmine.progress import say
from hnmine.store import PLAIN, Fingerprint, Reading
from hnmine.types import Float32, Role, Texts

_COMMIT = re.compile("[0-9a-f]{40}")

# On a CPU the activations of a batch should stay in its caches; a GPU wants to be filled.
_TOKENS_PER_BATCH = {"cpu": 2048, "gpu": 65_536}


class Encoder(Protocol):
    """A loaded encoder. Loading is heavy and done once; `encode` is light."""

    def encode(self, texts: Sequence[str], reading: Reading = PLAIN) -> Float32:
        """Return one row a text; the rows need not be unit vectors."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What an actor needs to build an encoder, and what decides its output."""

    name: str
    fingerprint: Fingerprint
    folder: Path | None = None
    """Of a model; a lexical encoder has its fit instead."""
    fit: lexical.Fit | None = None
    document: Reading = PLAIN
    query: Reading = PLAIN
    max_tokens: int | None = None
    long_documents: Literal["truncate"] | passages.Pooling = "truncate"
    max_passages: int = 16
    device: str = "cpu"
    dtype: str = "float32"
    tokens_per_batch: int = 2048
    gpus: float = 1.0
    architecture: str | None = None
    dense_head: int | None = None
    trust_remote_code: bool = False

    @property
    def kind(self) -> Literal["model", "lexical"]:
        """What `build` makes."""
        return "model" if self.fit is None else "lexical"

    def reading(self, role: Role) -> Reading:
        """Return how a text of this role is read."""
        return self.document if role == "document" else self.query

    @property
    def adapters(self) -> tuple[str, ...]:
        """The adapters that some role reads with."""
        return tuple(sorted({reading.adapter for reading in (self.document, self.query) if reading.adapter}))

    def arranged(self) -> AbstractContextManager[Path]:
        """Lay out the model's folder as it is to be loaded; see `weights.arranged`."""
        assert self.folder is not None
        return weights.arranged(
            self.folder, architecture=self.architecture, dense_head=self.dense_head, adapters=self.adapters
        )

    def build(self) -> Encoder:
        """Load the encoder; heavy."""
        if self.fit is not None:
            return lexical.LexicalEncoder(self.fit)
        encoder = ModelEncoder(self)
        if self.long_documents == "truncate":
            return encoder
        return passages.PassageEncoder(
            encoder.encode,
            encoder.tokenizer,
            name=self.name,
            max_tokens=encoder.max_tokens,
            pooling=self.long_documents,
            max_passages=self.max_passages,
        )


def plan(
    config: EncoderConfig, corpus: Texts, store: str | Path, device: devices.Choice, tokens_per_batch: int | None
) -> Plan:
    """Plan a `model` or `lexical` encoder; the lexical one is fitted on `corpus` here, and the fit kept in `store`.

    Raises:
        ConfigError: the code of a model that is not pinned is to be trusted.
        ModelError: the model, its head or an adapter is missing, or it is unsafe.
        DataError: the corpus has no terms, or the store cannot be used.
    """
    if config.lexical is not None:
        fingerprint, fit = lexical.fitted(config.lexical, corpus, store)
        return Plan(name=config.name, fingerprint=fingerprint, fit=fit)
    folder = _folder(config)
    _refuse_too_many_tokens(config, folder)
    prompts = own_prompts(folder)
    unnamed = Plan(
        name=config.name,
        folder=folder,
        fingerprint=Fingerprint(()),
        document=_reading(config.document_prompt, prompts["document"], config.document_adapter),
        query=_reading(config.query_prompt, prompts["query"], config.query_adapter),
        max_tokens=config.max_tokens,
        long_documents=config.long_documents,
        max_passages=config.max_passages,
        device=device.torch_name,
        dtype=devices.choose_dtype(config.dtype, device.kind),
        tokens_per_batch=config.tokens_per_batch or tokens_per_batch or _TOKENS_PER_BATCH[device.kind],
        gpus=config.gpus,
        architecture=config.architecture,
        dense_head=config.dense_head,
        trust_remote_code=config.trust_remote_code,
    )
    if unnamed.long_documents != "truncate":
        most = f"{config.max_passages} passages of a document are read, what is behind them is not"
        say("embed", f"{config.name}: at most {most}; its vector is their {config.long_documents}")
    return replace(unnamed, fingerprint=_fingerprint(unnamed))


def _fingerprint(plan: Plan) -> Fingerprint:
    """Name what decides the vectors; architecture, head and adapters are in the files as they are laid out."""
    if plan.adapters and find_spec("peft") is None:
        raise ModelError(f"encoder {plan.name}: adapters need peft, which is missing; pip install 'hnmine[adapters]'")
    with plan.arranged() as folder:
        files = weights.folder_sha256(folder)
    own_code = {"own_code": True} if plan.trust_remote_code else {}
    pooled: dict[str, Any] = {}  # stays empty where texts are truncated: their vectors keep their names
    if plan.long_documents != "truncate":
        pooled = {"pooling": plan.long_documents, "max_passages": plan.max_passages, "overlap": passages.OVERLAP}
    return Fingerprint.of(
        kind="model",
        files=files,
        max_tokens=plan.max_tokens,
        dtype=plan.dtype,
        sentence_transformers=version("sentence-transformers").split(".")[0],
        **own_code,
        **pooled,
    )


def _folder(config: EncoderConfig) -> Path:
    """Find the model, and say what its licence forbids."""
    assert config.model is not None
    pinned = weights.as_folder(config.model).is_dir() or _COMMIT.fullmatch(config.revision or "")
    if config.trust_remote_code and not pinned:
        raise ConfigError(
            f"encoder {config.name}: trust_remote_code runs the code of {config.model}, so revision must be a commit "
            f"(40 hexadecimal digits), got {config.revision!r}; read the code, then pin its commit"
        )
    if config.model in LICENCES:
        say("embed", f"{config.name}: {config.model} is under {LICENCES[config.model]}")
    folder = weights.resolve(config.model, config.revision, dense_head=config.dense_head, code=config.trust_remote_code)
    if config.trust_remote_code:
        weights.refuse_code_elsewhere(folder)
    return folder


def _reading(configured: str | None, own: str, adapter: str | None) -> Reading:
    return Reading(prompt=own if configured is None else configured, adapter=adapter)


def own_prompts(folder: Path) -> dict[Role, str]:
    """Read the prompts a model declares, as SentenceTransformer's encode_query and encode_document mean them.

    Like these, leave `default_prompt_name` aside. Unlike version 6 of encode_document, do see passage and corpus.
    """
    prompts = _read_settings(folder / "config_sentence_transformers.json").get("prompts") or {}
    document = next((prompts[name] for name in ("document", "passage", "corpus") if prompts.get(name)), "")
    return {"query": prompts.get("query") or "", "document": document}


def _refuse_too_many_tokens(config: EncoderConfig, folder: Path) -> None:
    positions = _read_settings(folder / "config.json").get("max_position_embeddings")
    if config.max_tokens is not None and isinstance(positions, int) and 0 < positions < config.max_tokens:
        raise ModelError(
            f"encoder {config.name}: max_tokens is {config.max_tokens}, but {folder} has {positions} positions; "
            f"set max_tokens to {positions} or less"
        )


def _read_settings(path: Path) -> dict[str, Any]:
    settings = weights.read_json(path)
    return settings if isinstance(settings, dict) else {}


class ModelEncoder:
    """A SentenceTransformer model. Batches hold texts of like length, up to a budget of tokens.

    This is the library's `encode` with the texts sorted by their tokens instead of their characters: next to nothing is
    padded, and where nothing is, attention runs without a mask.
    """

    _TOKENIZED_CHARACTERS = 2**20  # at a time: the tokenizer reads long texts to their end, whatever is used of them

    def __init__(self, plan: Plan) -> None:
        import torch
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()
        try:
            with plan.arranged() as folder:
                self._model = SentenceTransformer(
                    str(folder),
                    device=plan.device,
                    model_kwargs={"dtype": getattr(torch, plan.dtype)},
                    local_files_only=True,
                    trust_remote_code=plan.trust_remote_code,
                )
                for name in plan.adapters:
                    _load_adapter(self._model.transformers_model, folder, name)
        except ModelError:
            raise
        except Exception as error:  # what is raised depends on the library that meets the broken file
            raise ModelError(f"encoder {plan.name}: {plan.folder} cannot be loaded: {error}") from None
        if plan.max_tokens is not None:
            if self._model.max_seq_length == math.inf:
                raise ModelError(f"encoder {plan.name}: a static model reads texts to their end; remove max_tokens")
            self._model.max_seq_length = plan.max_tokens
        self._model.eval()
        self._tokens_per_batch, self._adapters = plan.tokens_per_batch, plan.adapters

    @property
    def tokenizer(self) -> Any:
        """Of the model, as transformers has it; of a static model as tokenizers has."""
        return self._model.tokenizer

    @property
    def max_tokens(self) -> float | None:
        """Tokens that are read of a text, special ones included; without limit infinite, vast or None."""
        limit: float | None = self._model.max_seq_length
        return limit

    def _switch(self, adapter: str | None) -> None:
        if self._adapters and adapter is None:
            self._model.disable_adapters()
        elif self._adapters:
            self._model.enable_adapters()
            self._model.set_adapter(adapter)

    def encode(self, texts: Sequence[str], reading: Reading = PLAIN) -> Float32:
        """Return one row a text."""
        import torch

        self._switch(reading.adapter)
        characters = np.array([len(text) for text in texts])
        parts: dict[int, Float32] = {}
        with torch.inference_mode():
            for chunk in batches_by_length(characters, self._TOKENIZED_CHARACTERS):
                features = self._model.preprocess([texts[i] for i in chunk], prompt=reading.prompt or None)
                for rows, batch in self._batches(features, len(chunk)):
                    vectors = self._model(batch)["sentence_embedding"][:, : self._model.truncate_dim]
                    parts.update(zip([chunk[row] for row in rows], vectors.float().cpu().numpy(), strict=True))
        return np.stack([parts[i] for i in range(len(texts))])

    def _batches(self, features: dict[str, Any], count: int) -> Iterator[tuple[list[int], dict[str, Any]]]:
        """Cut tokenised texts into batches of like length, without the columns that are padding in all of a batch.

        What has no mask (a static model) is one batch.
        """
        mask = features.get("attention_mask")
        if mask is None or mask.ndim != 2 or len(mask) != count:
            yield list(range(count)), self._on_device(features)
            return
        for rows in batches_by_length(mask.sum(dim=1).numpy(), self._tokens_per_batch):
            used = mask[rows].any(dim=0)
            cut = {
                name: value[rows][:, used] if getattr(value, "shape", None) == mask.shape else value
                for name, value in features.items()
            }
            yield rows, self._on_device(cut)

    def _on_device(self, features: dict[str, Any]) -> dict[str, Any]:
        device = self._model.device
        return {name: value.to(device) if hasattr(value, "to") else value for name, value in features.items()}


def _load_adapter(network: Any, folder: Path, name: str) -> None:
    """Add an adapter to a transformers model; one whose tensors are not the model's is a ValueError."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it reports the tensors of the adapters loaded before as missing
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config`")
        where = {"subfolder": name, "local_files_only": True}
        loaded = network.load_adapter(str(folder), adapter_name=name, adapter_kwargs=where)
    logging.set_verbosity(verbosity)
    missing = [key for key in loaded.missing_keys if name in key.split(".")]
    if unmatched := sorted([*missing, *loaded.unexpected_keys]):  # these would stay random, or without effect
        raise ValueError(f"adapter {name} is of another model: {len(unmatched)} tensors, first {unmatched[0]}")


def batches_by_length(lengths: np.typing.NDArray[np.int64], tokens_per_batch: int) -> list[list[int]]:
    """Group positions of like length, longest first, so that rows x longest stays within the budget."""
    batches: list[list[int]] = []
    current: list[int] = []
    for position in np.argsort(-lengths, kind="stable").tolist():
        if current and (len(current) + 1) * int(lengths[current[0]]) > tokens_per_batch:
            batches.append(current)
            current = []
        current.append(position)
    if current:
        batches.append(current)
    return batches
