"""Settings of training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from hnmine.config.base import Address, Section, Slug, slug
from hnmine.config.rerankers import RerankerModel
from hnmine.config.retired import still_known

Kind = Literal["cross-encoder", "bi-encoder"]
LOADED_BY: dict[Kind, str] = {"cross-encoder": "CrossEncoder", "bi-encoder": "SentenceTransformer"}
"""The class of sentence-transformers that reads a fine-tuned model."""
Loss = Literal["infonce", "margin", "logistic", "bce", "lambda", "marginmse", "kl"]
TAUGHT: tuple[Loss, ...] = ("marginmse", "kl")
"""Losses that learn from a teacher's scores."""


class LoraConfig(Section):
    """Train matrices of low rank beside the weights, instead of these."""

    rank: int = Field(16, ge=1, le=1024, description="width of the matrices beside each linear layer of the body")
    alpha: float = Field(32.0, gt=0, description="what they add is scaled by alpha / rank")
    keep: Literal["merged", "adapter"] = Field(
        "merged",
        description="merged: save the whole model; adapter: save them alone, in peft's layout, beside its base",
    )


class TrainConfig(Section):
    """Fine-tuning of the re-ranker."""

    model: RerankerModel = Field(
        "all-MiniLM-L6-v2",
        description="re-ranker to start from: a name that `hnmine presets` lists, a folder, or name@commit on the hub",
    )
    kind: Kind = Field("cross-encoder", description="bi-encoder: a SentenceTransformer, its score the cosine")
    presets: Annotated[tuple[Slug, ...], AfterValidator(still_known)] = Field(
        ("distilled",),
        min_length=1,
        description="what to train, each from the same start: distilled (these settings, with lessons from "
        "the encoders on queries that need no judgement), anchored (without lessons), paper (margin on the mined "
        "negatives alone), positives (bce on the positives alone: what training gains without negatives), or any "
        "other way to choose negatives that `hnmine compare --list` prints",
    )
    lessons: int = Field(
        1000,
        ge=1,
        description="lessons of preset distilled, each to rank one query's documents as first stage and encoders "
        "together do; no query of dev and test, first those that are not trained on; where there are fewer queries, "
        "each comes again with other documents",
    )
    anchors: int = Field(
        3,
        ge=0,
        le=64,
        description="easier negatives a pair, drawn from the first stage, beside the mined ones; 0: none",
    )
    loss: Loss = Field(
        "infonce",
        description="infonce: softmax over a positive and its negatives; margin: the paper's Eq. 7; logistic: "
        "pairwise; bce: each document by itself; lambda: pairwise, weighted by nDCG; marginmse: the positive's lead "
        "over each negative as a teacher sees it; kl: each document's share of the list as a teacher sees it",
    )
    teacher: RerankerModel | None = Field(
        None,
        description="cross-encoder with a trained head that loss: marginmse or kl learns from, folder or hub name; it "
        "scores every training list once",
    )
    margin: float = Field(1.0, gt=0, description="margin of the triplet loss, in units of the score; a cosine's: 0.2")
    epochs: int = Field(1, ge=1, description="passes over the pairs")
    learning_rate: float | None = Field(
        None,
        gt=0,
        le=1,
        description="peak learning rate; null: 1e-4 for a model 384 wide, as MiniLM is, as much less as another is "
        "wider, ten times as much with lora, and a fifth in preset paper, which larger steps ruin",
    )
    pairs_per_batch: int = Field(16, ge=1, description="pairs, each with its negatives, in one step")
    max_tokens: int = Field(256, ge=16, le=8192, description="tokens of query and document, also in evaluation")
    max_pairs: int | None = Field(None, ge=1, description="train on at most so many pairs, a seeded sample")
    evaluations_per_epoch: int = Field(2, ge=1, description="looks at dev MRR@10 in an epoch, each with a checkpoint")
    mlflow: Address | None = Field(None, description="MLflow tracking address; null: none")
    dev_queries: int = Field(200, ge=1, description="dev queries in such a look, a seeded sample")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="mixed precision; auto: bfloat16 where the device multiplies it, else float32"
    )
    lora: LoraConfig | None = Field(
        None, description="{}: train low-rank matrices instead of a large model's weights; keys, if not null:"
    )
    weights: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="number type of the weights that lora leaves as they are; those that are trained stay float32, "
        "since a step is less than bfloat16 resolves",
    )
    gradient_checkpointing: bool | None = Field(
        None,
        description="keep each layer's input alone and compute the layer twice; null: if the memory, as measured, asks "
        "for it",
    )
    workers: int | None = Field(None, ge=1, description="shares of each step; null: one per GPU, else one")

    @field_validator("presets", mode="before")
    @classmethod
    def _slugs(cls, presets: Any) -> Any:
        listed = [presets] if isinstance(presets, str) else presets
        if not isinstance(listed, list | tuple):
            return listed
        return [slug(name) if isinstance(name, str) else name for name in listed]

    @model_validator(mode="after")
    def _bfloat16_is_frozen(self) -> TrainConfig:
        if self.weights == "bfloat16" and self.lora is None:
            raise ValueError(
                "weights: bfloat16 is for weights that are not trained: set train.lora too, or weights: float32 with "
                "dtype: bfloat16"
            )
        if self.weights == "bfloat16" and self.dtype == "float32":
            raise ValueError("weights: bfloat16 computes in bfloat16; remove dtype: float32")
        return self

    @model_validator(mode="after")
    def _teacher_is_heard(self) -> TrainConfig:
        taught = self.loss in TAUGHT
        if taught and self.teacher is None:
            raise ValueError(f"loss: {self.loss} learns from a teacher; name a cross-encoder as train.teacher")
        if not taught and self.teacher is not None:
            raise ValueError(
                f"teacher would have no effect on loss: {self.loss}; remove it or set loss: marginmse or kl"
            )
        return self
