"""Settings of an encoder, and named ensembles of encoders, which `encoder_presets.yaml` holds."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Final, Literal

import yaml
from pydantic import Field, model_validator

from hnmine.config.base import Dtype, Section

_ADAPTER = r"^[A-Za-z0-9_\-]{1,64}$"  # valid as the name of a folder, of a torch module and in a BLAKE2b key


class LexicalConfig(Section):
    """TF-IDF followed by a truncated SVD, both fitted on the corpus."""

    width: int = Field(256, ge=1, le=4096, description="dimensions kept by the truncated SVD")


class EncoderConfig(Section):
    """One encoder of the ensemble: exactly one of `model`, `precomputed` and `lexical`."""

    name: str = Field(
        pattern=r"^\w[\w.\-]*$", max_length=60, description="short name, used in logs, reports and names of files"
    )
    model: str | None = Field(
        None, description="what SentenceTransformer loads: a folder, or a hub name, pinned as name@commit"
    )
    precomputed: Path | None = Field(
        None, description="folder with documents.parquet and queries.parquet, columns id and vector"
    )
    lexical: LexicalConfig | None = Field(None, description="{}: TF-IDF and truncated SVD fitted on the corpus")
    query_prompt: str | None = Field(None, description="put before every query; null: the model's own")
    document_prompt: str | None = Field(None, description="put before every document; null: the model's own")
    max_tokens: int | None = Field(None, ge=8, le=32_768, description="tokens read of a text; null: the model's own")
    long_documents: Literal["truncate", "mean"] = Field(
        "truncate",
        description="truncate: read the first max_tokens; mean: encode overlapping passages of max_tokens, the "
        "document's vector is the mean of theirs",
    )
    dense_head: int | None = Field(None, ge=1, le=65_536, description="width: take the head in <n>_Dense_<width>")
    query_adapter: str | None = Field(
        None, pattern=_ADAPTER, description="folder of the LoRA adapter, inside the model's, that is on for queries"
    )
    document_adapter: str | None = Field(None, pattern=_ADAPTER, description="the same for documents")
    dtype: Dtype = "auto"
    weight: float = Field(1.0, ge=1e-3, le=1e3, description="weight of this encoder in the fused vector")
    gpus: float = Field(1.0, gt=0, le=1, description="GPU of one actor, or a share of it (0.5: two actors a GPU)")

    @property
    def adapters(self) -> set[str]:
        """The adapters that some role reads with."""
        return {adapter for adapter in (self.query_adapter, self.document_adapter) if adapter}

    @model_validator(mode="after")
    def _one_kind(self) -> EncoderConfig:
        kinds = [kind for kind in ("model", "precomputed", "lexical") if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(f"needs exactly one of model, precomputed, lexical; got {kinds or 'none'}")
        fields = type(self).model_fields
        for_all = ("name", "weight", *kinds)
        idle = [key for key in fields if key not in for_all and getattr(self, key) != fields[key].default]
        if self.model is None and idle:
            raise ValueError(f"{', '.join(idle)} would have no effect on a {kinds[0]} encoder; remove it")
        return self


class ModelFacts(Section):
    """What a person chooses a model of a preset by."""

    licence: str
    parameters: str = Field(pattern=r"^\d+(\.\d+)?[MB]$", description="millions (M) or billions (B)")
    languages: str
    layout: str = Field(description="what its folder holds, in words")
    run_on: str = Field("not run", description="where we have run it")


_FILE = yaml.safe_load((files(__package__) / "encoder_presets.yaml").read_text("utf-8"))
MODELS: Final = {name: ModelFacts.model_validate(facts) for name, facts in _FILE["models"].items()}
"""Facts of the models of all presets, by hub name."""
LICENCES: Final = {name: facts.licence for name, facts in MODELS.items() if "non-commercial" in facts.licence}
"""Of hub models that not everybody may use; said whenever one is."""
DEFAULT_PRESET: Final = "minilm+lexical"
PRESETS: Final[dict[str, tuple[EncoderConfig, ...]]] = {
    name: tuple(map(EncoderConfig.model_validate, encoders)) for name, encoders in _FILE["presets"].items()
}
