"""Settings of each step from reading to nights; those of encoders and of training have modules of their own."""

from __future__ import annotations

from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, field_validator, model_validator
from typing_extensions import TypedDict  # pydantic wants this one before Python 3.12

from hnmine.config.base import Address, Section, slug
from hnmine.config.rerankers import RerankerModel
from hnmine.config.retired import still_known


class SourcesConfig(Section):
    """How the collection is read."""

    template: str = Field(
        "{title}\n{text}",
        description="how a document's fields are joined: {title} and {text} by any of their names, or any field of its "
        "row, {metadata.product} for one in another",
    )
    min_score: float | None = Field(None, gt=0, description="lowest grade of a right document; null: any above 0")
    lower_grades: Literal["ignore", "negatives"] = Field(
        "ignore",
        description="documents of a grade above 0 and below min_score: ignore: neither right nor a negative; "
        "negatives: may be chosen as negatives",
    )
    verdicts: tuple[str, ...] = Field(
        (),
        description="reviewed pages of `hnmine explain --sample`, or tables of query_id, document_id and verdict; "
        "right: a judged right document; wrong: may be a negative, and no guard is asked",
    )
    train_split: str = Field("train", description="the split whose pairs are mined and trained on")
    dev_split: str = Field("dev", description="split for early stopping; absent: a share of the train queries")
    test_split: str = Field("test", description="split that is reported; absent: the dev queries")
    dev_share: float = Field(0.15, gt=0, lt=1, description="share of train queries held out if there is no dev")

    @field_validator("verdicts", mode="before")
    @classmethod
    def _one_or_several(cls, verdicts: Any) -> Any:
        return (str(verdicts),) if isinstance(verdicts, str | Path) else verdicts

    @model_validator(mode="after")
    def _template_has_text(self) -> SourcesConfig:
        try:
            parts = list(Formatter().parse(self.template))
        except ValueError as error:
            raise ValueError(f"template cannot be read: {error}") from None
        for _, key, form, conversion in parts:
            if key is not None and (not key.strip() or form or conversion):
                raise ValueError(f"template: expected {{title}}, {{text}} or other fields by name, got {{{key}}}")
        if not any(key for _, key, _, _ in parts):
            raise ValueError("template must name a field, as {text} does")
        return self


class EmbedConfig(Section):
    """How texts become vectors, and where these are kept."""

    store: Address | None = Field(
        None,
        description="vector store: folder, s3://bucket/prefix, gs://bucket/prefix …; null: OUT/store",
    )
    actors: int | None = Field(
        None, ge=1, description="encoder actors; null: one per GPU, else one per 8 CPU cores of a node"
    )
    tokens_per_batch: int | None = Field(
        None, ge=64, description="tokens, padding included, in one forward pass; null: 2048 on a CPU, 65536 on a GPU"
    )


class ReduceConfig(Section):
    """PCA of the fused vectors."""

    variance: float | None = Field(0.95, gt=0, le=1, description="share of the variance to keep; null: no PCA")
    fit_rows: int = Field(200_000, ge=2, description="documents the basis is fitted on; of more, a seeded sample")
    basis: Path | None = Field(None, description="use the basis.safetensors of an earlier run; null: fit one")


class SearchConfig(Section):
    """The short list."""

    index: Literal["flat", "ivf"] = Field(
        "flat", description="flat: exact; ivf: looks into part of the corpus, its rows are certified approximate"
    )
    ivf_probes: int = Field(32, ge=1, le=2048, description="parts looked into for a query; more: slower, more found")
    shards: int | None = Field(
        None, ge=1, description="slices of the documents, a Ray actor each; null: one, or as many GPUs as they need"
    )

    @model_validator(mode="after")
    def _ivf_is_on(self) -> SearchConfig:
        if self.index == "flat" and self.ivf_probes != type(self).model_fields["ivf_probes"].default:
            raise ValueError("ivf_probes would have no effect on index: flat; remove it or set index: ivf")
        return self


RuleName = Literal[
    "two-conditions",
    "nearest-document",
    "condition-1",
    "percpos-0.95",
    "marginpos-0.05",
    "percpos-0.95-own-cluster",
    "just-below-the-positive",
    "simans",
    "trisampler",
    "random-of-ranks-10-110",
    "bm25",
    "random-of-bm25-s-first-50",
    "random",
    "two-conditions-guarded",
    "two-conditions-guarded-then-bm25",
    "two-conditions-then-bm25",
    "percpos-0.95-then-bm25",
]
"""What chooses negatives: the two conditions with the guards, or one of the rules that audit and compare measure."""


class SelectConfig(Section):
    """Which documents are mined."""

    rule: Annotated[RuleName, BeforeValidator(lambda name: slug(name) if isinstance(name, str) else name)] = Field(
        "two-conditions",
        description="two-conditions, with the guards; or a rule that `hnmine audit` measures, by its name there, which "
        "guards nothing",
    )
    negatives: int = Field(1, ge=1, le=1000, description="hard negatives a pair, at most")


class DenoiseConfig(Section):
    """A cross-encoder removes what it finds about as relevant as the positive; p is the sigmoid of its score."""

    model: RerankerModel = Field(description="a re-ranker with a head: a preset, a folder, or name@commit on the hub")
    margin: float | None = Field(0.0, ge=0, le=1, description="keep p(Q,D) <= p(Q,PD) - margin; null: not asked")
    most: float | None = Field(None, ge=0, le=1, description="keep p(Q,D) <= most (RocketQA: 0.1); null: not asked")

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


class EvaluateConfig(Section):
    """Re-ranking of the first stage and its metrics."""

    first_stage: str = Field(
        "bm25", min_length=1, description="bm25, dense (the encoders' space), or the path of a TREC run file"
    )
    depth: int = Field(20, ge=1, description="documents of the first stage that are re-ranked")
    exclude_self: bool = Field(
        False,
        description="never rank a document with the id or the text of the query, if it is not judged right (ArguAna)",
    )
    long_documents: Literal["truncate", "maxp"] = Field(
        "truncate", description="truncate: read the beginning; maxp: score overlapping passages, the best counts"
    )
    blend: Literal["none", "first_stage", "encoders"] = Field(
        "encoders",
        description="also tell what a re-ranker is worth with the first stage's scores added, or with each encoder's "
        "cosine too; the weights are chosen on dev",
    )
    queries: int | None = Field(None, ge=1, description="evaluate at most so many queries, a seeded sample")
    k1: float = Field(0.9, ge=0, description="BM25 term saturation")
    b: float = Field(0.4, ge=0, le=1, description="BM25 length normalisation")


class CardFacts(TypedDict, total=False):
    """What a model card says that hnmine cannot know; ids of the hub."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    license: Annotated[str, Field(pattern=r"^[a-z0-9.+-]+$")]
    language: list[Annotated[str, Field(pattern=r"^([a-z]{2,3}|multilingual)$")]]
    datasets: list[Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]]


class RankerConfig(Section):
    """Which row of the table becomes OUT/ranker."""

    choose: Literal["auto", "first-stage", "blend", "re-ranker", "blend-with-re-ranker"] = Field(
        "auto", description="auto: the best on dev, of equals the cheaper; or the best of this kind"
    )
    card: CardFacts = Field(
        CardFacts(),
        description="for model cards: license, language, datasets, as {license: apache-2.0, language: [en], datasets: "
        "[OWNER/NAME]}; what is not given is not claimed",
    )


class CompareConfig(Section):
    """Ways to choose negatives, side by side."""

    arms: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(still_known)] | None = Field(
        None, description="which; null: all that `hnmine compare` knows"
    )
    seeds: int = Field(3, ge=1, le=100, description="trainings an arm, with seed, seed + 1, …")
    learning_rates: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
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
    models: tuple[RerankerModel, ...] | None = Field(
        None, min_length=1, description="re-rankers to start from, a table each; null: train.model"
    )

    @field_validator("learning_rates")
    @classmethod
    def _rates_differ(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        """Refuse what files could not be named after: names have six digits of a rate."""
        if len({f"{rate:g}" for rate in rates}) < len(rates):
            raise ValueError(f"must differ in their first six digits, got {', '.join(map(str, rates))}")
        return rates

    @field_validator("models")
    @classmethod
    def _models_differ(cls, models: tuple[str, ...] | None) -> tuple[str, ...] | None:
        """Refuse what files could not be named after: names have the last part of a model's."""
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
        0.0, ge=0, le=1, description="deploy a ranker whose MRR@10, on dev or held out, is lower by at most so much"
    )
    keep: int = Field(7, ge=2, description="versions that are kept for `hnmine rollback`")
    work: Path | None = Field(None, description="run folder of the nights; null: HOME/work, if HOME is a folder")
