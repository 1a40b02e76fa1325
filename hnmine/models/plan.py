"""The encoders of the ensemble behind one interface: texts in, one float32 row a text out.

An encoder is planned first and built later. The plan is small, travels to the actors, knows its fingerprint, and
needs no model library; only `build` imports one. Three kinds:

    model        anything SentenceTransformer loads (safetensors only), with an adapter a role if it has any
    lexical      TF-IDF and a truncated SVD, see `lexical`
    precomputed  vectors made elsewhere: no encoder at all, see `embedding.precomputed`
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

from hnmine.config.encoder_presets import LICENCES
from hnmine.config.models import EncoderConfig
from hnmine.corpus.text_keys import PLAIN, Reading
from hnmine.errors import ModelError
from hnmine.models import lexical
from hnmine.models.batches import TOKENS_PER_BATCH
from hnmine.models.fingerprint import Fingerprint
from hnmine.models.folder import (
    declared_prompts,
    folder_sha256,
    max_positions,
    read_settings,
    resolve,
    split_revision,
)
from hnmine.models.layout import arranged
from hnmine.models.openvino import Engine, choose_engine
from hnmine.models.passages import MAX_PASSAGES, OVERLAP, PassageEncoder
from hnmine.models.transformer import TransformerEncoder
from hnmine.runs import device as devices
from hnmine.runs.progress import say
from hnmine.types import Float32, Role, Texts


class Encoder(Protocol):
    """A loaded encoder. Loading is heavy and done once; `encode` is light."""

    def encode(self, texts: Sequence[str], reading: Reading = PLAIN) -> Float32:
        """Return one row a text (n, width); the rows need not be unit vectors."""


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
    long_documents: Literal["truncate", "mean"] = "truncate"
    dense_head: int | None = None
    device: str = "cpu"
    """As torch names it."""
    dtype: str = "float32"
    engine: Engine = "torch"
    tokens_per_batch: int = 2048
    gpus: float = 1.0

    @property
    def kind(self) -> Literal["model", "lexical"]:
        """The kind of encoder that `build` makes."""
        return "model" if self.fit is None else "lexical"

    def reading(self, role: Role) -> Reading:
        """Return how a text of this role is read."""
        return self.document if role == "document" else self.query

    @property
    def adapters(self) -> tuple[str, ...]:
        """The adapters that some role reads with."""
        return tuple(sorted({reading.adapter for reading in (self.document, self.query) if reading.adapter}))

    def arranged(self) -> AbstractContextManager[Path]:
        """Arrange the model's folder as it is to be loaded; see `layout.arranged`."""
        assert self.folder is not None
        return arranged(self.folder, dense_head=self.dense_head, adapters=self.adapters)

    def build(self, lanes: int | None = None) -> Encoder:
        """Load the encoder, which is heavy; on a CPU it computes `lanes` batches at a time, None: one a core.

        Raises:
            ModelError: the model cannot be loaded, or the lexical fit is gone.
        """
        if self.fit is not None:
            return lexical.LexicalEncoder(self.fit)
        encoder = self.build_transformer(lanes)
        if self.long_documents == "truncate":
            return encoder
        return PassageEncoder(encoder.encode, encoder.tokenizer, name=self.name, max_tokens=encoder.max_tokens)

    def build_transformer(self, lanes: int | None = None) -> TransformerEncoder:
        """Load the model alone, which truncates long documents; see `build`."""
        try:
            with self.arranged() as folder:
                return TransformerEncoder(
                    folder,
                    name=self.name,
                    adapters=self.adapters,
                    max_tokens=self.max_tokens,
                    device=self.device,
                    dtype=self.dtype,
                    engine=self.engine,
                    tokens_per_batch=self.tokens_per_batch,
                    lanes=lanes,
                )
        except ModelError as error:
            raise ModelError(f"encoder {self.name}: {error}") from None
        except Exception as error:  # what is raised depends on the library that meets the broken file
            raise ModelError(f"encoder {self.name}: {self.folder} cannot be loaded: {error}") from None


def plan(
    config: EncoderConfig,
    documents: Texts,
    store: str | Path,
    device: devices.Choice,
    tokens_per_batch: int | None = None,
    *,
    engine: str = "auto",
    seed: int = 0,
    fit: str | None = None,
) -> Plan:
    """Plan a `model` or `lexical` encoder; the lexical one is fitted here.

    Args:
        config: of the encoder.
        documents: what a lexical encoder is fitted on.
        store: where fits are kept: the address of the vector store.
        device: of a model.
        tokens_per_batch: of one forward pass of a model, padding included; None: by the device.
        engine: of a model: auto, torch or openvino.
        seed: of a lexical fit.
        fit: file of an earlier lexical fit, which is taken whatever the documents; None: fit on these.

    Raises:
        ConfigError: openvino was asked for and cannot be used.
        ModelError: the model, its head or an adapter is missing, or it is unsafe.
        DataError: the documents have no terms, the fit is not there, or the store cannot be used.
    """
    # A lexical encoder is its fit.
    if config.lexical is not None:
        fitted = lexical.fitted(documents, store, width=config.lexical.width, seed=seed, known=fit)
        return Plan(name=config.name, fingerprint=fitted.fingerprint, fit=fitted)

    # A model is named by its files and by how they are read.
    unnamed = _model_plan(config, device, tokens_per_batch, engine)
    return replace(unnamed, fingerprint=_fingerprint(unnamed))


def _model_plan(config: EncoderConfig, device: devices.Choice, tokens_per_batch: int | None, engine: str) -> Plan:
    """Plan a `model` encoder; its fingerprint is still empty."""
    # Find the model; say what its licence forbids, and refuse what it cannot do.
    assert config.model is not None
    name, _ = split_revision(config.model)
    if name in LICENCES:
        say("embed", f"{config.name}: {name} is under {LICENCES[name]}")
    folder = resolve(config.model, dense_head=config.dense_head)
    settings, prompts = read_settings(folder / "config.json"), declared_prompts(folder)
    positions = max_positions(settings)
    if config.max_tokens is not None and positions is not None and positions < config.max_tokens:
        raise ModelError(
            f"encoder {config.name}: max_tokens is {config.max_tokens}, but {folder} has {positions} positions; "
            f"set max_tokens to {positions} or less"
        )
    adapters = bool(config.query_adapter or config.document_adapter)
    if adapters and find_spec("peft") is None:
        raise ModelError(f"encoder {config.name}: adapters need peft, which is missing; pip install 'hnmine[adapters]'")

    # Choose how it reads and computes.
    dtype = devices.choose_dtype(config.dtype, device.kind)
    if config.long_documents == "mean":
        say("embed", f"{config.name}: of a document passages after the first {MAX_PASSAGES} are not read")
    return Plan(
        name=config.name,
        fingerprint=Fingerprint(()),
        folder=folder,
        document=_reading(config.document_prompt, prompts["document"], config.document_adapter),
        query=_reading(config.query_prompt, prompts["query"], config.query_adapter),
        max_tokens=config.max_tokens,
        long_documents=config.long_documents,
        dense_head=config.dense_head,
        device=device.torch_name,
        dtype=dtype,
        engine=choose_engine(engine, device.kind, dtype, settings.get("model_type"), adapters=adapters),
        tokens_per_batch=tokens_per_batch or TOKENS_PER_BATCH[device.kind],
        gpus=config.gpus,
    )


def _reading(configured: str | None, declared: str, adapter: str | None) -> Reading:
    return Reading(prompt=declared if configured is None else configured, adapter=adapter)


def _fingerprint(plan: Plan) -> Fingerprint:
    """Name what decides the vectors; architecture, head and adapters are in the files as they are arranged.

    A fact that is at its usual value is left out, so that vectors made before there was a choice keep their name.
    """
    try:
        with plan.arranged() as folder:
            files = folder_sha256(folder)
    except ModelError as error:
        raise ModelError(f"encoder {plan.name}: {error}") from None
    unusual: dict[str, Any] = {} if plan.engine == "torch" else {"engine": plan.engine}
    if plan.long_documents == "mean":
        unusual["mean_of_passages"] = {"most": MAX_PASSAGES, "overlap": OVERLAP}
    return Fingerprint.of(
        kind="model",
        files=files,
        max_tokens=plan.max_tokens,
        dtype=plan.dtype,
        sentence_transformers=version("sentence-transformers").split(".")[0],
        **unusual,
    )
