"""The encoders of the ensemble behind one interface: texts in, one float32 row a text out.

An encoder is planned first and built later. The plan is small, travels to the actors, knows its fingerprint, and
needs no model library; only `build` imports one. Three kinds:

    model        anything SentenceTransformer loads (safetensors only), with an adapter a role if it has any
    lexical      TF-IDF and a truncated SVD, see `lexical`
    precomputed  vectors made elsewhere: no encoder at all, see `precomputed`
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

from hnmine.config.encoder_presets import LICENCES
from hnmine.config.root import EncoderConfig
from hnmine.corpus.text_keys import PLAIN, Reading
from hnmine.errors import ConfigError, ModelError
from hnmine.models import engine as engines
from hnmine.models import folder as weights
from hnmine.models import lexical, passages, transformer
from hnmine.models.fingerprint import Fingerprint
from hnmine.runs import device as devices
from hnmine.runs.progress import say
from hnmine.types import Float32, Role, Texts

_COMMIT = re.compile("[0-9a-f]{40}")


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
    engine: engines.Engine = "torch"
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

    def build(self, lanes: int | None = None) -> Encoder:
        """Load the encoder; heavy. On a CPU it computes `lanes` batches at a time, a core each; None: by its cores."""
        if self.fit is not None:
            return lexical.LexicalEncoder(self.fit)
        encoder = transformer.ModelEncoder(self, lanes)
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
    dtype = devices.choose_dtype(config.dtype, device.kind)
    adapted = bool(config.query_adapter or config.document_adapter)
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
        dtype=dtype,
        engine=engines.choose(
            config.engine,
            device.kind,
            dtype,
            _read_settings(folder / "config.json").get("model_type"),
            patched=adapted or config.trust_remote_code,
        ),
        tokens_per_batch=config.tokens_per_batch or tokens_per_batch or engines.TOKENS_PER_BATCH[device.kind],
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
    special: dict[str, Any] = {"own_code": True} if plan.trust_remote_code else {}
    if plan.engine != "torch":
        special["engine"] = plan.engine
    if plan.long_documents != "truncate":  # else nothing is added, and vectors keep their names
        special |= {"pooling": plan.long_documents, "max_passages": plan.max_passages, "overlap": passages.OVERLAP}
    return Fingerprint.of(
        kind="model",
        files=files,
        max_tokens=plan.max_tokens,
        dtype=plan.dtype,
        sentence_transformers=version("sentence-transformers").split(".")[0],
        **special,
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
    positions = weights.positions(_read_settings(folder / "config.json"))
    if config.max_tokens is not None and positions is not None and positions < config.max_tokens:
        raise ModelError(
            f"encoder {config.name}: max_tokens is {config.max_tokens}, but {folder} has {positions} positions; "
            f"set max_tokens to {positions} or less"
        )


def _read_settings(path: Path) -> dict[str, Any]:
    settings = weights.read_json(path)
    return settings if isinstance(settings, dict) else {}
