"""The configuration: one model per step; `settings` reads it. What a step used is stored with what it found."""

from __future__ import annotations

import re
from pathlib import Path
from string import Formatter
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from hnmine.config.base import Device, Dtype, Engine, Section
from hnmine.config.training import CompareConfig, EvaluateConfig, NightlyConfig, TrainConfig

_ADAPTER = r"^[A-Za-z0-9_\-]{1,64}$"  # a folder, a torch module and a BLAKE2b key can be named so


class SourcesConfig(Section):
    """How the collection is read."""

    template: str = Field(
        "{title}\n{text}",
        description="how a document's fields are joined; any field of its row, {metadata.product} for one in another",
    )
    train_split: str = Field("train", description="qrels/<split>.tsv whose pairs are mined and trained on")
    dev_split: str = Field("dev", description="split for early stopping; absent: a share of the train queries")
    test_split: str = Field("test", description="split that is reported; absent: the dev queries")
    dev_share: float = Field(0.15, gt=0, lt=1, description="share of train queries held out if there is no dev")
    seed: int = Field(0, ge=0, description="seed of that hold-out")

    @model_validator(mode="after")
    def _template_has_text(self) -> SourcesConfig:
        try:
            parts = list(Formatter().parse(self.template))
        except ValueError as error:
            raise ValueError(f"template cannot be read: {error}") from None
        for _, key, form, conversion in parts:
            if key is not None and (not key.strip() or form or conversion):
                raise ValueError(f"template: expected {{title}}, {{text}} or other fields by name, got {{{key}}}")
        if "{text}" not in self.template:
            raise ValueError("template must contain {text}")
        return self


class LexicalConfig(Section):
    """TF-IDF followed by a truncated SVD, both fitted on the corpus."""

    width: int = Field(256, ge=1, le=4096, description="dimensions kept by the truncated SVD")
    max_terms: int = Field(50_000, ge=100, description="vocabulary: the most frequent terms")
    seed: int = Field(0, ge=0, description="seed of the randomised SVD")
    fit: str | None = Field(
        None, pattern=r"^[0-9a-f]+-[0-9a-f]{64}\.safetensors$", description="file in STORE/lexical; null: fit anew"
    )


class EncoderConfig(Section):
    """One encoder of the ensemble: exactly one of `model`, `precomputed` and `lexical`."""

    name: str = Field(min_length=1, pattern=r"^[\w.\-]+$", description="short name, used in logs and reports")
    model: str | None = Field(None, description="folder or hub name that SentenceTransformer can load")
    precomputed: Path | None = Field(
        None, description="folder with documents.parquet and queries.parquet, columns id and vector"
    )
    lexical: LexicalConfig | None = Field(None, description="{}: TF-IDF and truncated SVD fitted on the corpus")
    revision: str | None = Field(None, description="commit of a hub model")
    query_prompt: str | None = Field(None, description="put before every query; null: the model's own")
    document_prompt: str | None = Field(None, description="put before every document; null: the model's own")
    max_tokens: int | None = Field(None, ge=8, le=32_768, description="tokens read of a text; null: the model's own")
    long_documents: Literal["truncate", "mean", "max"] = Field(
        "truncate",
        description="truncate: read the first max_tokens; mean, max: encode overlapping passages of max_tokens, the "
        "document's vector is the mean or elementwise maximum of theirs; max wants a model that was trained for it",
    )
    max_passages: int = Field(
        16, ge=2, le=10_000, description="mean, max: passages read of a document; what is behind them is not"
    )
    architecture: Literal["gte"] | None = Field(
        None, description="gte: load a model_type `new` (GTE's remote code) with transformers' own class"
    )
    dense_head: int | None = Field(None, ge=1, le=65_536, description="width: take the head in <n>_Dense_<width>")
    query_adapter: str | None = Field(
        None, pattern=_ADAPTER, description="folder of the LoRA adapter, inside the model's, that is on for queries"
    )
    document_adapter: str | None = Field(None, pattern=_ADAPTER, description="the same for documents")
    trust_remote_code: bool = Field(
        False, description="true: run the model's own Python code; a hub model then needs its commit as revision"
    )
    dtype: Dtype = "auto"
    engine: Engine = "auto"
    weight: float = Field(1.0, ge=1e-3, le=1e3, description="weight of this block in the fused vector")
    tokens_per_batch: int | None = Field(
        None, ge=64, description="tokens in one forward pass; null: embed.tokens_per_batch"
    )
    gpus: float = Field(1.0, gt=0, le=1, description="GPU of one actor, or a share of it (0.5: two actors a GPU)")

    @model_validator(mode="after")
    def _one_kind(self) -> EncoderConfig:
        kinds = [kind for kind in ("model", "precomputed", "lexical") if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(f"needs exactly one of model, precomputed, lexical; got {kinds or 'none'}")
        fields = type(self).model_fields
        of_all = ("name", "weight", *kinds)
        idle = [key for key in fields if key not in of_all and getattr(self, key) != fields[key].default]
        if self.model is None and idle:
            raise ValueError(f"{', '.join(idle)} would have no effect on a {kinds[0]} encoder; remove it")
        if self.architecture is not None and self.trust_remote_code:
            raise ValueError("architecture replaces the model's own code; remove it or trust_remote_code")
        return self

    @model_validator(mode="after")
    def _passages_are_read(self) -> EncoderConfig:
        most = type(self).model_fields["max_passages"].default
        if self.long_documents == "truncate" and self.max_passages != most:
            raise ValueError(
                "max_passages would have no effect on long_documents: truncate; remove it, or set mean or max"
            )
        return self


class EmbedConfig(Section):
    """How texts become vectors, and where these are kept."""

    store: str | None = Field(
        None,
        min_length=1,
        description="vector store: folder, s3://bucket/prefix, gs://bucket/prefix …; null: OUT/store",
    )
    device: Device = "auto"
    actors: int | None = Field(
        None, ge=1, description="encoder actors; null: one per GPU, else one per 8 CPU cores of a node"
    )
    block_texts: int = Field(512, ge=1, description="texts in one block: the unit of work and of recovery")
    tokens_per_batch: int | None = Field(
        None, ge=64, description="tokens, padding included, in one forward pass; null: 2048 on a CPU, 65536 on a GPU"
    )
    ray: bool | None = Field(
        None,
        description="encode by Ray's actors, or in this process; null: by Ray on a cluster, on GPUs, where actors are "
        "set, and with more CPU cores than one actor uses",
    )

    @field_validator("store", mode="before")
    @classmethod
    def _address(cls, store: Any) -> Any:
        text = str(store) if isinstance(store, Path) else store
        if isinstance(text, str) and re.match(r"\w{2,}:/(?!/)", text):
            raise ValueError(f"an address has two slashes, got {text!r}; write it as text, not as a Path")
        if isinstance(text, str) and re.match(r"\w+://[^/@]*:[^/@]*@", text):
            raise ValueError("credentials belong in the environment (AWS_ACCESS_KEY_ID …): the manifest keeps settings")
        return text


class ReduceConfig(Section):
    """PCA of the fused vectors."""

    variance: float | None = Field(0.95, gt=0, le=1, description="share of the variance to keep; null: no PCA")
    fit_rows: int = Field(200_000, ge=2, description="documents the basis is fitted on; of more, a seeded sample")
    seed: int = Field(0, ge=0, description="seed of that sample")
    basis: Path | None = Field(None, description="use the basis.safetensors of an earlier run; null: fit one")
    device: Device = "auto"


class SearchConfig(Section):
    """The short list."""

    candidates: int = Field(64, ge=1, description="first length of the short list; grows where the proof needs it")
    index: Literal["flat", "ivf"] = Field(
        "flat", description="flat: exact; ivf: looks into part of the corpus, its rows are certified approximate"
    )
    ivf_lists: int | None = Field(
        None, ge=1, description="parts the documents (of a shard) are divided into; null: about 4 times their root"
    )
    ivf_probes: int = Field(32, ge=1, le=2048, description="parts looked into for a query; more: slower, more found")
    ivf_seed: int = Field(0, ge=0, le=2**31 - 1, description="seed of the division, by k-means")
    shards: int | None = Field(
        None, ge=1, description="slices of the documents, a Ray actor each; null: one, or as many GPUs as they need"
    )
    device: Device = "auto"

    @model_validator(mode="after")
    def _ivf_is_on(self) -> SearchConfig:
        idle = [
            key for key in ("ivf_lists", "ivf_probes") if getattr(self, key) != type(self).model_fields[key].default
        ]
        if self.index == "flat" and idle:
            raise ValueError(f"{', '.join(idle)} would have no effect on index: flat; remove it or set index: ivf")
        return self


class SelectConfig(Section):
    """The two conditions."""

    negatives: int = Field(1, ge=1, le=1000, description="hard negatives a pair, at most")


class DenoiseConfig(Section):
    """A cross-encoder removes what it finds about as relevant as the positive; p is the sigmoid of its score."""

    model: str = Field(description="a re-ranker with a trained head: folder or hub name")
    revision: str | None = Field(None, description="commit of a hub model")
    margin: float | None = Field(0.0, ge=0, le=1, description="keep p(Q,D) <= p(Q,PD) - margin; null: not asked")
    most: float | None = Field(None, ge=0, le=1, description="keep p(Q,D) <= most (RocketQA: 0.1); null: not asked")
    max_tokens: int = Field(256, ge=16, le=8192, description="tokens of query and document together")
    dtype: Dtype = "auto"
    engine: Engine = "auto"
    device: Device = "auto"

    @model_validator(mode="after")
    def _asks_something(self) -> DenoiseConfig:
        if self.margin is None and self.most is None:
            raise ValueError("margin and most are both null, so nothing would be removed; set one, or remove denoise")
        return self


class GuardsConfig(Section):
    """Further tests against false negatives; null: off. Each is counted."""

    first_rank: int | None = Field(None, ge=1, description="nearest rank allowed, 1 the nearest unlabelled document")
    last_rank: int | None = Field(None, ge=1, description="farthest rank allowed")
    margin: float | None = Field(None, ge=0, le=2, description="largest d(Q,PD) - d(Q,D): not so much nearer")
    relative_margin: float | None = Field(None, ge=0, le=10, description="the same, as a share of the similarity")
    near_duplicate: float | None = Field(None, ge=0, le=2, description="least d(PD,D): no near-copy of the positive")
    agreement: int | None = Field(None, ge=1, description="encoders in whose own space both conditions must hold")
    denoise: DenoiseConfig | None = Field(
        None, description="cross-encoder denoising, asked about what all else keeps; keys, if not null:"
    )

    @model_validator(mode="after")
    def _window(self) -> GuardsConfig:
        if self.first_rank is not None and self.last_rank is not None and self.first_rank > self.last_rank:
            raise ValueError(f"first_rank {self.first_rank} is beyond last_rank {self.last_rank}")
        return self


class Config(Section):
    """Everything a run can be told."""

    sources: SourcesConfig = SourcesConfig()
    encoders: tuple[EncoderConfig, ...] = Field(
        (
            EncoderConfig(name="minilm", model="all-MiniLM-L6-v2"),
            EncoderConfig(name="lexical", lexical=LexicalConfig()),
        ),
        min_length=1,
    )
    embed: EmbedConfig = EmbedConfig()
    reduce: ReduceConfig = ReduceConfig()
    search: SearchConfig = SearchConfig()
    select: SelectConfig = SelectConfig()
    guards: GuardsConfig = GuardsConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    compare: CompareConfig = CompareConfig()
    nightly: NightlyConfig = NightlyConfig()

    @model_validator(mode="before")
    @classmethod
    def _named_encoders(cls, tree: Any) -> Any:
        if isinstance(tree, dict) and isinstance(name := tree.get("encoders"), str):
            from hnmine.config.encoder_presets import preset

            return tree | {"encoders": preset(name)}
        return tree

    @model_validator(mode="after")
    def _names_differ(self) -> Config:
        if (self.guards.agreement or 0) > len(self.encoders):
            raise ValueError(
                f"guards.agreement is {self.guards.agreement}, but there are {len(self.encoders)} encoders"
            )
        names = [encoder.name for encoder in self.encoders]
        if len(set(names)) != len(names):
            raise ValueError(f"encoders: names must differ, got {names}")
        return self
