"""The part of the configuration that comes after mining: train, evaluate, compare, nightly."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from hnmine.config.base import Device, Dtype, Engine, Section, Slug, slug


class AnchorsConfig(Section):
    """Easier negatives beside the mined ones."""

    source: Literal["first_stage", "mistakes", "random"] = Field(
        "first_stage",
        description="first_stage: drawn from its first documents; mistakes: those of them that the start, the "
        "re-ranker before training, scores highest, but no higher than the positive; random: drawn from the corpus",
    )
    per_pair: int = Field(3, ge=0, le=64, description="anchors a pair; 0: none")
    depth: int = Field(
        50, ge=1, description="documents of a query's first stage that first_stage and mistakes choose from"
    )


class WarmUpConfig(Section):
    """First lessons for a model that has no ranking head: random negatives of the same pairs."""

    epochs: int = Field(1, ge=1, description="passes over the pairs")
    learning_rate: float = Field(5e-5, gt=0, le=1, description="peak learning rate")
    negatives: int = Field(3, ge=1, le=64, description="random negatives a pair")
    layers: int | None = Field(
        None, ge=1, description="keep the model's first so many layers, for a faster re-ranker; null: all"
    )


class DistillConfig(Section):
    """Lessons beside the judged pairs, in preset distilled: to rank as first stage and encoders together do."""

    lessons: int = Field(
        1000,
        ge=1,
        description="how many, a query each, none of dev and test; first those that are not trained on; where there "
        "are fewer, each comes again with other documents",
    )
    documents: int = Field(
        6, ge=2, le=64, description="of a query's first stage in a lesson: the teacher's first two, and random"
    )


class TeacherConfig(Section):
    """A cross-encoder that scores every training list once, before training."""

    model: str = Field(description="a re-ranker with a trained head: folder or hub name")
    revision: str | None = Field(None, description="commit of a hub model")
    max_tokens: int = Field(256, ge=16, le=8192, description="tokens of query and document together")
    dtype: Dtype = "auto"
    engine: Engine = "auto"


def _differ(rates: tuple[float, ...]) -> tuple[float, ...]:
    if len({f"{rate:g}" for rate in rates}) < len(rates):
        raise ValueError(f"must differ in their first six digits, got {', '.join(map(str, rates))}")
    return rates


Rates = Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], AfterValidator(_differ)]
"""Learning rates that are tried; files are named after them."""


class AutoConfig(Section):
    """Preset auto: what is tried, on few pairs, before the best of it is trained in full."""

    arms: tuple[str, ...] = Field(
        (
            "random-of-bm25-s-first-50",
            "mistakes-of-the-start",
            "distillation-random-of-bm25-s-first-50",
            "distillation-mistakes-of-the-start",
            "two-conditions-then-bm25",
            "the-paper",
        ),
        min_length=1,
        description="ways to choose negatives, of those that `hnmine compare --list` names",
    )
    learning_rates: Rates = Field((2e-5, 1e-4), min_length=1, description="each way is tried with each")
    pairs: int = Field(128, ge=1, description="pairs of the first round; twice as many in every further one")


Kind = Literal["cross-encoder", "bi-encoder"]
LOADED_BY: dict[Kind, str] = {"cross-encoder": "CrossEncoder", "bi-encoder": "SentenceTransformer"}
"""The class of sentence-transformers that reads a tuned model."""
PRESETS = ("distilled", "anchored", "paper", "positives", "auto")
"""Of `train.presets`; any other is an arm of `ground.known_arms`."""
Loss = Literal["infonce", "margin", "logistic", "bce", "lambda", "marginmse", "kl"]
TAUGHT: tuple[Loss, ...] = ("marginmse", "kl")
"""Losses that learn from a teacher's scores."""


class TrainConfig(Section):
    """Fine-tuning of the re-ranker."""

    model: str = Field("all-MiniLM-L6-v2", description="re-ranker to start from: folder or hub name")
    revision: str | None = Field(None, description="commit of a hub model")
    kind: Kind = Field("cross-encoder", description="bi-encoder: a SentenceTransformer, its score the cosine")
    presets: tuple[Slug, ...] = Field(
        ("distilled",),
        min_length=1,
        description="what to train, each from the same start: distilled (these settings, with lessons from "
        "the encoders on queries that need no judgement), anchored (without lessons), paper (margin on the mined "
        "negatives alone), positives (bce on the positives alone: what training gains without negatives), auto (the "
        "best on dev of a few ways to choose negatives), or a way of `hnmine compare --list`",
    )
    auto: AutoConfig = AutoConfig()

    @field_validator("presets", mode="before")
    @classmethod
    def _slugs(cls, presets: Any) -> Any:
        listed = [presets] if isinstance(presets, str) else presets
        return [slug(name) if isinstance(name, str) else name for name in listed] if listed else listed

    warm_up: WarmUpConfig = WarmUpConfig()
    distill: DistillConfig = DistillConfig()
    anchors: AnchorsConfig = AnchorsConfig()
    loss: Loss = Field(
        "infonce",
        description="infonce: softmax over a positive and its negatives; margin: the paper's Eq. 7; logistic: "
        "pairwise; bce: each document by itself; lambda: pairwise, weighted by nDCG; marginmse: the positive's lead "
        "over each negative as a teacher sees it; kl: each document's share of the list as a teacher sees it",
    )
    teacher: TeacherConfig | None = Field(
        None, description="cross-encoder that loss: marginmse or kl learns from; keys, if not null:"
    )
    margin: float = Field(1.0, gt=0, description="margin of the triplet loss, in units of the score; a cosine's: 0.2")
    scale: float | None = Field(
        None, gt=0, description="scores are multiplied by it in losses other than margin; null: 1, 20 for a bi-encoder"
    )
    epochs: int = Field(1, ge=1, description="passes over the pairs")
    learning_rate: float | None = Field(
        None,
        gt=0,
        le=1,
        description="peak learning rate; null: 1e-4 for a model 384 wide, as MiniLM is, as much less as another is "
        "wider, and a fifth of it in preset paper, which larger steps ruin",
    )
    warmup_share: float = Field(0.1, ge=0, lt=1, description="share of the steps with a rising learning rate")
    weight_decay: float = Field(0.01, ge=0, le=1, description="AdamW weight decay")
    clip_norm: float = Field(1.0, gt=0, description="largest gradient norm")
    dropout: float | None = Field(None, ge=0, lt=1, description="null: the model's own")
    pairs_per_batch: int = Field(16, ge=1, description="pairs, each with its negatives, in one step")
    in_batch_negatives: int = Field(
        0, ge=0, description="further negatives of a pair, drawn from the positives of the others in its step"
    )
    max_tokens: int = Field(256, ge=16, le=8192, description="tokens of query and document, also in evaluation")
    max_pairs: int | None = Field(None, ge=1, description="train on at most so many pairs, a seeded sample")
    evaluations_per_epoch: int = Field(2, ge=1, description="looks at dev MRR@10 in an epoch, each with a checkpoint")
    patience: int | None = Field(None, ge=1, description="looks without a new best before training ends; null: never")
    mlflow: str | None = Field(None, description="MLflow tracking address; null: none")
    dev_queries: int = Field(200, ge=1, description="dev queries in such a look, a seeded sample")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="mixed precision; auto: bfloat16 where the device multiplies it, else float32"
    )
    engine: Engine = Field("auto", description="the same as of an encoder; for scoring, training is torch's")
    device: Device = "auto"
    workers: int | None = Field(None, ge=1, description="shares of each step; null: one per GPU, else one")
    ray: bool | None = Field(
        None, description="by Ray Train; null: on a cluster or with several workers, else in this process"
    )
    seed: int = Field(0, ge=0, description="seed of sampling, order and dropout")

    @model_validator(mode="after")
    def _teacher_is_heard(self) -> TrainConfig:
        taught = self.loss in TAUGHT
        if taught and self.teacher is None:
            raise ValueError(f"loss: {self.loss} learns from a teacher; name a cross-encoder as train.teacher.model")
        if not taught and self.teacher is not None:
            raise ValueError(
                f"teacher would have no effect on loss: {self.loss}; remove it or set loss: marginmse or kl"
            )
        if self.teacher is not None and self.in_batch_negatives:
            raise ValueError(
                "in_batch_negatives are drawn in training, the teacher scores before it; remove one of them"
            )
        return self

    @model_validator(mode="after")
    def _workers_have_ray(self) -> TrainConfig:
        if self.ray is False and (self.workers or 1) > 1:
            raise ValueError(f"workers: {self.workers} need Ray; set ray to true or null, or workers to 1")
        return self

    @model_validator(mode="after")
    def _batch_has_others(self) -> TrainConfig:
        if self.in_batch_negatives >= self.pairs_per_batch:
            raise ValueError(
                f"in_batch_negatives is {self.in_batch_negatives}, but a step of pairs_per_batch: "
                f"{self.pairs_per_batch} has {self.pairs_per_batch - 1} others; lower it or raise that"
            )
        return self


class EvaluateConfig(Section):
    """Re-ranking of the first stage and its metrics."""

    first_stage: str = Field(
        "bm25", min_length=1, description="bm25, dense (the encoders' space), or the path of a TREC run file"
    )
    depth: int = Field(20, ge=1, description="documents of the first stage that are re-ranked")
    long_documents: Literal["truncate", "maxp"] = Field(
        "truncate", description="truncate: read the beginning; maxp: score overlapping passages, the best counts"
    )
    blend: Literal["none", "first_stage", "encoders"] = Field(
        "encoders",
        description="also tell what a re-ranker is worth with the first stage's scores added, or with each encoder's "
        "cosine too; the weights are chosen on dev",
    )
    queries: int | None = Field(None, ge=1, description="evaluate at most so many queries, a seeded sample")
    seed: int = Field(0, ge=0, description="seed of that sample")
    k1: float = Field(0.9, ge=0, description="BM25 term saturation")
    b: float = Field(0.4, ge=0, le=1, description="BM25 length normalisation")


class CompareConfig(Section):
    """Ways to choose negatives, side by side."""

    arms: tuple[str, ...] | None = Field(None, min_length=1, description="which; null: all that `hnmine compare` knows")
    seeds: int = Field(3, ge=1, le=100, description="trainings an arm, from train.seed on")
    negatives: int = Field(4, ge=2, le=64, description="negatives a pair, the same for all arms")
    learning_rates: Rates = Field(
        (1e-5, 5e-5),
        min_length=1,
        description="the best on dev is taken for each arm, found with its first seed; where that is the largest of "
        "several, twice as much is tried too, and so on",
    )
    sizes: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        None,
        min_length=1,
        description="numbers of train pairs, a table each; null: all, or train.max_pairs. A model "
        "without a ranking head is warmed up on all of them, whatever the number",
    )
    models: tuple[str, ...] | None = Field(
        None, min_length=1, description="re-rankers to start from, a table each; null: train.model"
    )

    @field_validator("models")
    @classmethod
    def _models_differ(cls, models: tuple[str, ...] | None) -> tuple[str, ...] | None:
        """Files are named after them."""
        if models and len({slug(Path(model).name) for model in models}) < len(models):
            raise ValueError(f"letters and digits of the names' last parts must differ, got {', '.join(models)}")
        return models


class NightlyConfig(Section):
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
