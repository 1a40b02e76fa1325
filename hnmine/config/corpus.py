"""Settings of reading a collection."""

from __future__ import annotations

from string import Formatter

from pydantic import Field, model_validator

from hnmine.config.base import Section


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
