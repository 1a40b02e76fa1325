"""The configuration: one model per step; `settings` reads it. What a step used is stored with what it found."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Device = Annotated[
    Literal["auto", "cpu", "gpu"], Field(description="cpu, gpu, or auto: the GPU where one can be used, and it is said")
]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"],
    Field(description="auto: float16 on a GPU, bfloat16 on a CPU that multiplies it, else float32"),
]
_ADAPTER = r"^[A-Za-z0-9_\-]{1,64}$"  # a folder, a torch module and a BLAKE2b key can be named so


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SourcesConfig(_Section):
    """How the collection is read."""

    template: str = Field("{title}\n{text}", description="how a document's title and text are joined")
    train_split: str = Field("train", description="qrels/<split>.tsv whose pairs are mined and trained on")
    dev_split: str = Field("dev", description="split for early stopping; absent: a share of the train queries")
    test_split: str = Field("test", description="split that is reported; absent: the dev queries")
    dev_share: float = Field(0.15, gt=0, lt=1, description="share of train queries held out if there is no dev")
    seed: int = Field(0, ge=0, description="seed of that hold-out")

    @model_validator(mode="after")
    def _template_has_text(self) -> SourcesConfig:
        try:
            self.template.format(title="", text="")
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(f"template may use {{title}} and {{text}} only ({error!r})") from None
        if "{text}" not in self.template:
            raise ValueError("template must contain {text}")
        return self


class LexicalConfig(_Section):
    """TF-IDF followed by a truncated SVD, both fitted on the corpus."""

    width: int = Field(256, ge=1, le=4096, description="dimensions kept by the truncated SVD")
    max_terms: int = Field(50_000, ge=100, description="vocabulary: the most frequent terms")
    seed: int = Field(0, ge=0, description="seed of the randomised SVD")


class EncoderConfig(_Section):
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
    weight: float = Field(1.0, ge=1e-3, le=1e3, description="weight of this block in the fused vector")
    tokens_per_batch: int | None = Field(
        None, ge=64, description="tokens in one forward pass; null: embed.tokens_per_batch"
    )
    gpus: float = Field(
        1.0, gt=0, description="GPUs of one actor: a share up to 1 (0.5: two actors a GPU), or a whole number"
    )

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
        if self.gpus > 1 and not self.gpus.is_integer():
            raise ValueError(f"gpus is {self.gpus:g}; a share is at most 1, more than one GPU a whole number")
        return self


class EmbedConfig(_Section):
    """How texts become vectors, and where these are kept."""

    store: str | None = Field(
        None,
        min_length=1,
        description="vector store: folder, s3://bucket/prefix, gs://bucket/prefix …; null: OUT/store",
    )
    device: Device = "auto"
    actors: int | None = Field(
        None, ge=1, description="encoder actors; null: one per GPU, else one per CPU core, at most 4"
    )
    block_texts: int = Field(512, ge=1, description="texts in one block: the unit of work and of recovery")
    tokens_per_batch: int | None = Field(
        None, ge=64, description="tokens, padding included, in one forward pass; null: 2048 on a CPU, 65536 on a GPU"
    )
    ray: bool = Field(True, description="false: encode in this process, without Ray")

    @field_validator("store", mode="before")
    @classmethod
    def _address(cls, store: Any) -> Any:
        text = str(store) if isinstance(store, Path) else store
        if isinstance(text, str) and re.match(r"\w{2,}:/(?!/)", text):
            raise ValueError(f"an address has two slashes, got {text!r}; write it as text, not as a Path")
        if isinstance(text, str) and re.match(r"\w+://[^/@]*:[^/@]*@", text):
            raise ValueError("credentials belong in the environment (AWS_ACCESS_KEY_ID …): the manifest keeps settings")
        return text


class ReduceConfig(_Section):
    """PCA of the fused vectors."""

    variance: float | None = Field(0.95, gt=0, le=1, description="share of the variance to keep; null: no PCA")
    fit_rows: int = Field(200_000, ge=2, description="documents the basis is fitted on; of more, a seeded sample")
    seed: int = Field(0, ge=0, description="seed of that sample")
    basis: Path | None = Field(None, description="use the basis.safetensors of an earlier run; null: fit one")
    device: Device = "auto"


class SearchConfig(_Section):
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


class SelectConfig(_Section):
    """The two conditions."""

    negatives: int = Field(1, ge=1, le=1000, description="hard negatives a pair, at most")


class DenoiseConfig(_Section):
    """A cross-encoder removes what it finds about as relevant as the positive; p is the sigmoid of its score."""

    model: str = Field(description="a re-ranker with a trained head: folder or hub name")
    revision: str | None = Field(None, description="commit of a hub model")
    margin: float | None = Field(0.0, ge=0, le=1, description="keep p(Q,D) <= p(Q,PD) - margin; null: not asked")
    most: float | None = Field(None, ge=0, le=1, description="keep p(Q,D) <= most (RocketQA: 0.1); null: not asked")
    max_tokens: int = Field(256, ge=16, le=8192, description="tokens of query and document together")
    dtype: Dtype = "auto"
    device: Device = "auto"

    @model_validator(mode="after")
    def _asks_something(self) -> DenoiseConfig:
        if self.margin is None and self.most is None:
            raise ValueError("margin and most are both null, so nothing would be removed; set one, or remove denoise")
        return self


class GuardsConfig(_Section):
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


class AnchorsConfig(_Section):
    """Easier negatives beside the mined ones."""

    source: Literal["first_stage", "random"] = Field("first_stage", description="where anchors are drawn from")
    per_pair: int = Field(3, ge=0, le=64, description="anchors a pair; 0: none")
    depth: int = Field(50, ge=1, description="first_stage: drawn from its first so many documents")


class WarmUpConfig(_Section):
    """First lessons for a model that has no ranking head: random negatives of the same pairs."""

    epochs: int = Field(1, ge=1, description="passes over the pairs")
    learning_rate: float = Field(5e-5, gt=0, le=1, description="peak learning rate")
    negatives: int = Field(3, ge=1, le=64, description="random negatives a pair")


Kind = Literal["cross-encoder", "bi-encoder"]
TrainPreset = Literal["anchored", "paper"]
Loss = Literal["infonce", "margin", "logistic", "bce", "lambda"]


class TrainConfig(_Section):
    """Fine-tuning of the re-ranker."""

    model: str = Field("all-MiniLM-L6-v2", description="re-ranker to start from: folder or hub name")
    revision: str | None = Field(None, description="commit of a hub model")
    kind: Kind = Field("cross-encoder", description="bi-encoder: a SentenceTransformer, its score the cosine")
    presets: tuple[TrainPreset, ...] = Field(
        ("anchored",),
        min_length=1,
        description="what to train, each from the same start: anchored (these settings), paper (margin, no anchors)",
    )

    @field_validator("presets", mode="before")
    @classmethod
    def _one_preset(cls, presets: Any) -> Any:
        return [presets] if isinstance(presets, str) else presets

    warm_up: WarmUpConfig = WarmUpConfig()
    anchors: AnchorsConfig = AnchorsConfig()
    loss: Loss = Field(
        "infonce",
        description="infonce: softmax over a positive and its negatives; margin: the paper's Eq. 7; logistic: "
        "pairwise; bce: each document by itself; lambda: pairwise, weighted by nDCG",
    )
    margin: float = Field(1.0, gt=0, description="margin of the triplet loss, in units of the score; a cosine's: 0.2")
    scale: float | None = Field(
        None, gt=0, description="scores are multiplied by it in losses other than margin; null: 1, 20 for a bi-encoder"
    )
    epochs: int = Field(1, ge=1, description="passes over the pairs")
    learning_rate: float = Field(2e-5, gt=0, le=1, description="peak learning rate")
    warmup_share: float = Field(0.1, ge=0, lt=1, description="share of the steps with a rising learning rate")
    weight_decay: float = Field(0.01, ge=0, le=1, description="AdamW weight decay")
    clip_norm: float = Field(1.0, gt=0, description="largest gradient norm")
    dropout: float | None = Field(None, ge=0, lt=1, description="null: the model's own")
    pairs_per_batch: int = Field(16, ge=1, description="pairs, each with its negatives, in one step")
    max_tokens: int = Field(256, ge=16, le=8192, description="tokens of query and document, also in evaluation")
    max_pairs: int | None = Field(None, ge=1, description="train on at most so many pairs, a seeded sample")
    evaluations_per_epoch: int = Field(2, ge=1, description="looks at dev MRR@10 in an epoch, each with a checkpoint")
    patience: int | None = Field(None, ge=1, description="looks without a new best before training ends; null: never")
    mlflow: str | None = Field(None, description="MLflow tracking address; null: none")
    dev_queries: int = Field(200, ge=1, description="dev queries in such a look, a seeded sample")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="mixed precision; auto: bfloat16 where the device multiplies it, else float32"
    )
    device: Device = "auto"
    workers: int | None = Field(None, ge=1, description="Ray Train workers; null: one per GPU, else one")
    seed: int = Field(0, ge=0, description="seed of sampling, order and dropout")


class EvaluateConfig(_Section):
    """Re-ranking of the first stage and its metrics."""

    first_stage: str = Field(
        "bm25", min_length=1, description="bm25, dense (the encoders' space), or the path of a TREC run file"
    )
    depth: int = Field(20, ge=1, description="documents of the first stage that are re-ranked")
    long_documents: Literal["truncate", "maxp"] = Field(
        "truncate", description="truncate: read the beginning; maxp: score overlapping passages, the best counts"
    )
    queries: int | None = Field(None, ge=1, description="evaluate at most so many queries, a seeded sample")
    seed: int = Field(0, ge=0, description="seed of that sample")
    k1: float = Field(0.9, ge=0, description="BM25 term saturation")
    b: float = Field(0.4, ge=0, le=1, description="BM25 length normalisation")


class NightlyConfig(_Section):
    """What a night decides by itself."""

    refit_variance: float = Field(
        0.8, ge=0, le=1, description="new basis if the last one captures less of the variance of new documents"
    )
    refit_share: float = Field(
        0.3, gt=0, le=1, description="new basis if more of the documents came since it was fitted, as a share"
    )
    train_share: float = Field(
        0.02, ge=0, le=1, description="train if the negatives of so many pairs changed since the last training, a share"
    )
    promote_margin: float = Field(
        0.0, ge=0, le=1, description="deploy a trained re-ranker whose MRR@10 is lower by at most so much"
    )
    keep: int = Field(7, ge=2, description="versions that are kept for `hnmine rollback`")
    lease: float = Field(60.0, ge=5, le=3600, description="seconds after which the lock of a dead job expires")
    work: Path | None = Field(None, description="run folder of the nights; null: HOME/work, if HOME is a folder")


class Config(_Section):
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
    nightly: NightlyConfig = NightlyConfig()

    @model_validator(mode="before")
    @classmethod
    def _named_encoders(cls, tree: Any) -> Any:
        if isinstance(tree, dict) and isinstance(name := tree.get("encoders"), str):
            from hnmine.presets import preset

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
