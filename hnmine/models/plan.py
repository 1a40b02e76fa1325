"""The encoders of the ensemble behind one interface: texts in, one float32 row a text out.

An encoder is planned first and built later. The plan is small, travels to the actors, knows its fingerprint, and
needs no model library; only `build` imports one. Three kinds:

    model        anything SentenceTransformer loads (safetensors only), with an adapter a role if it has any
    lexical      TF-IDF and a truncated SVD, see `lexical`
    precomputed  vectors made elsewhere: no encoder at all, see `embedding.vectors`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from hnmine.config.encoders import LICENCES, EncoderConfig
from hnmine.corpus.text_keys import PLAIN, Fingerprint, Reading
from hnmine.errors import ModelError
from hnmine.models import lexical
from hnmine.models.batches import TOKENS_PER_BATCH
from hnmine.models.folder import declared_prompts, folder_sha256, max_positions, model_type, resolve, transformer_config
from hnmine.models.layout import arranged
from hnmine.models.openvino import Engine, choose_engine
from hnmine.models.passages import MAX_PASSAGES, OVERLAP, PassageEncoder
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

    config: EncoderConfig
    fingerprint: Fingerprint
    folder: Path | None = None  # of a model; a lexical encoder has its fit instead
    fit: lexical.Fit | None = None
    document: Reading = PLAIN
    query: Reading = PLAIN
    device: str = "cpu"  # as torch names it
    dtype: str = "float32"
    engine: Engine = "torch"
    tokens_per_batch: int = 2048

    @property
    def name(self) -> str:
        """The encoder's name, in logs and messages."""
        return self.config.name

    def reading(self, role: Role) -> Reading:
        """Return how a text of this role is read."""
        return self.document if role == "document" else self.query

    def build(self, lanes: int | None = None) -> Encoder:
        """Load the encoder, which is heavy; on a CPU it computes `lanes` batches at a time, None: one a core."""
        if self.fit is not None:
            return lexical.LexicalEncoder(self.fit)
        from hnmine.models.transformer import TransformerEncoder

        # Load the model, which truncates long documents.
        assert self.folder is not None
        config = self.config
        try:
            with arranged(self.folder, dense_head=config.dense_head, adapters=config.adapters) as folder:
                encoder = TransformerEncoder(
                    folder,
                    config,
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

        # Let it read them in passages.
        if config.long_documents == "truncate":
            return encoder
        return PassageEncoder(encoder.encode, encoder.tokenizer, name=self.name, max_tokens=encoder.max_tokens)


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
    """Plan a `model` or `lexical` encoder, and refuse what is missing or unsafe.

    A model computes `tokens_per_batch` in a forward pass, padding included (None: by the device). A lexical encoder is
    fitted here on `documents`, unless `fit` names the file of an earlier fit in `store`, the vector store.
    """
    if config.lexical is None:
        return _plan_model(config, device, tokens_per_batch, engine)
    fitted = lexical.fitted(documents, store, width=config.lexical.width, seed=seed, known=fit)
    fingerprint = Fingerprint.of(kind="lexical", fit=fitted.sha256, scikit_learn=version("scikit-learn"))
    return Plan(config=config, fingerprint=fingerprint, fit=fitted)


def _plan_model(config: EncoderConfig, device: devices.Choice, tokens_per_batch: int | None, engine: str) -> Plan:
    """Plan a model. What is at its usual value is left out of its fingerprint, as before there was a choice."""
    # Choose how it reads and computes.
    folder = _find_model(config)
    given: dict[Role, str | None] = {"document": config.document_prompt, "query": config.query_prompt}
    prompts = declared_prompts(folder) | {role: prompt for role, prompt in given.items() if prompt is not None}
    architecture = model_type(folder)
    dtype = devices.choose_dtype(config.dtype, device.kind, model_type=architecture)
    chosen_engine = choose_engine(engine, device.kind, dtype, architecture, adapters=bool(config.adapters))

    # Name what decides the vectors; architecture, head and adapters are in the files as they are arranged.
    try:
        with arranged(folder, dense_head=config.dense_head, adapters=config.adapters) as read:
            files = folder_sha256(read)
    except ModelError as error:
        raise ModelError(f"encoder {config.name}: {error}") from None
    facts: dict[str, Any] = {"files": files, "max_tokens": config.max_tokens, "dtype": dtype}
    if chosen_engine != "torch":
        facts["engine"] = chosen_engine
    if config.long_documents == "mean":
        say("embed", f"{config.name}: of a document passages after the first {MAX_PASSAGES} are not read")
        facts["mean_of_passages"] = {"most": MAX_PASSAGES, "overlap": OVERLAP}
    major = version("sentence-transformers").split(".")[0]
    return Plan(
        config=config,
        fingerprint=Fingerprint.of(kind="model", sentence_transformers=major, **facts),
        folder=folder,
        document=Reading(prompts["document"], config.document_adapter),
        query=Reading(prompts["query"], config.query_adapter),
        device=device.torch_name,
        dtype=dtype,
        engine=chosen_engine,
        tokens_per_batch=tokens_per_batch or TOKENS_PER_BATCH[device.kind],
    )


def _find_model(config: EncoderConfig) -> Path:
    """Return the folder of the model; say what its licence forbids, and refuse what it cannot do."""
    assert config.model is not None
    name = config.model.partition("@")[0]
    if name in LICENCES:
        say("embed", f"{config.name}: {name} is under {LICENCES[name]}")
    folder = resolve(config.model, dense_head=config.dense_head)
    positions = max_positions(transformer_config(folder))
    if config.max_tokens is not None and positions is not None and positions < config.max_tokens:
        cut = f"max_tokens is {config.max_tokens}, but the model has {positions} positions"
        say("embed", f"{config.name}: {cut}; texts are cut there", level="warning")
    if config.adapters and find_spec("peft") is None:
        raise ModelError(f"encoder {config.name}: adapters need peft, which is missing; pip install 'hnmine[adapters]'")
    return folder
