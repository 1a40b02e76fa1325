"""Named ensembles of encoders; `encoder_presets.yaml` holds them."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

import yaml

from hnmine.config.models import EncoderConfig
from hnmine.errors import ConfigError

LICENCES: Final = {"jinaai/jina-embeddings-v3-hf": "CC BY-NC 4.0: for non-commercial use only"}
"""Of hub models that not everybody may use; said whenever one is."""
DEFAULT: Final = "minilm+lexical"
PRESETS: Final[dict[str, tuple[EncoderConfig, ...]]] = {
    name: tuple(map(EncoderConfig.model_validate, encoders))
    for name, encoders in yaml.safe_load((files(__package__) / "encoder_presets.yaml").read_text("utf-8")).items()
}


def preset(name: str) -> tuple[EncoderConfig, ...]:
    """Return the encoders of a preset.

    Raises:
        ConfigError: there is no such preset; the message names those there are.
    """
    if name not in PRESETS:
        raise ConfigError(f"encoders: unknown preset {name!r}; known presets: {', '.join(PRESETS)}")
    return PRESETS[name]
