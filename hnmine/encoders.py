"""The encoders of the ensemble behind one interface: texts in, one float32 row a text out.

An encoder is planned first and built later. The plan is small, travels to the actors, knows its fingerprint, and
needs no model library; only `build` imports one. Three kinds:

    model        anything SentenceTransformer loads (safetensors only)
    lexical      TF-IDF and a truncated SVD, see `lexical`
    precomputed  vectors made elsewhere: no encoder at all, see `precomputed`
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from hnmine import device as devices
from hnmine import lexical, weights
from hnmine.config import EncoderConfig
from hnmine.errors import ModelError
from hnmine.store import Fingerprint
from hnmine.types import Float32, Role, Texts


class Encoder(Protocol):
    """A loaded encoder. Loading is heavy and done once; `encode` is light."""

    def encode(self, texts: Sequence[str], prompt: str) -> Float32:
        """Return one row a text; the rows need not be unit vectors."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What an actor needs to build an encoder, and what decides its output."""

    name: str
    fingerprint: Fingerprint
    folder: Path | None = None
    """Of a model; a lexical encoder has its fit instead."""
    fit: lexical.Fit | None = None
    document_prompt: str = ""
    query_prompt: str = ""
    max_tokens: int | None = None
    device: str = "cpu"
    dtype: str = "float32"
    tokens_per_batch: int = 8192

    @property
    def kind(self) -> Literal["model", "lexical"]:
        """What `build` makes."""
        return "model" if self.fit is None else "lexical"

    def prompt(self, role: Role) -> str:
        """Return what is put before a text of this role."""
        return self.document_prompt if role == "document" else self.query_prompt

    def build(self) -> Encoder:
        """Load the encoder; heavy."""
        return ModelEncoder(self) if self.fit is None else lexical.LexicalEncoder(self.fit)


def plan(
    config: EncoderConfig, corpus: Texts, store: str | Path, device: devices.Choice, tokens_per_batch: int
) -> Plan:
    """Plan a `model` or `lexical` encoder; the lexical one is fitted on `corpus` here, and the fit kept in `store`.

    Raises:
        ModelError: the model is missing or unsafe.
        DataError: the corpus has no terms, or the store cannot be used.
    """
    if config.lexical is not None:
        fingerprint, fit = lexical.fitted(config.lexical, corpus, store)
        return Plan(name=config.name, fingerprint=fingerprint, fit=fit)
    assert config.model is not None
    folder = weights.resolve(config.model, config.revision)
    _refuse_too_many_tokens(config, folder)
    dtype = devices.choose_dtype(config.dtype, device.kind)
    prompts = _own_prompts(folder)
    return Plan(
        name=config.name,
        folder=folder,
        fingerprint=Fingerprint.of(
            kind="model",
            files=weights.folder_sha256(folder),
            max_tokens=config.max_tokens,
            dtype=dtype,
            sentence_transformers=version("sentence-transformers").split(".")[0],
        ),
        document_prompt=prompts["document"] if config.document_prompt is None else config.document_prompt,
        query_prompt=prompts["query"] if config.query_prompt is None else config.query_prompt,
        max_tokens=config.max_tokens,
        device=device.torch_name,
        dtype=dtype,
        tokens_per_batch=tokens_per_batch,
    )


def _own_prompts(folder: Path) -> dict[Role, str]:
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
    try:
        settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None
    return settings if isinstance(settings, dict) else {}


class ModelEncoder:
    """A SentenceTransformer model. Batches hold texts of like length, up to a budget of tokens."""

    _CHARACTERS_PER_TOKEN = 4  # decides batch sizes only, never what is read

    def __init__(self, plan: Plan) -> None:
        import torch
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()
        try:
            self._model = SentenceTransformer(
                str(plan.folder),
                device=plan.device,
                model_kwargs={"dtype": getattr(torch, plan.dtype)},
                local_files_only=True,
            )
        except Exception as error:  # what is raised depends on the library that meets the broken file
            raise ModelError(f"encoder {plan.name}: {plan.folder} cannot be loaded: {error}") from None
        if plan.max_tokens is not None:
            self._model.max_seq_length = plan.max_tokens
        self._tokens_per_batch = plan.tokens_per_batch

    def encode(self, texts: Sequence[str], prompt: str) -> Float32:
        """Return one row a text."""
        longest = self._model.max_seq_length or 512
        lengths = np.array([len(prompt) + len(text) for text in texts]) // self._CHARACTERS_PER_TOKEN + 2
        parts: dict[int, Float32] = {}
        for batch in batches_by_length(np.minimum(lengths, longest), self._tokens_per_batch):
            rows = self._model.encode(
                [texts[i] for i in batch],
                prompt=prompt,  # an empty one too: None would mean the model's default
                batch_size=len(batch),
                show_progress_bar=False,
                convert_to_numpy=True,
            )
            parts.update(zip(batch, np.asarray(rows, dtype=np.float32), strict=True))
        return np.stack([parts[i] for i in range(len(texts))])


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
