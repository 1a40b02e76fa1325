"""Settings that make a run of seconds, written once for the command line and for the Python API."""

from __future__ import annotations

from pathlib import Path

from hnmine.config.load import load
from hnmine.config.root import Config

LEXICAL_ENCODER = "encoders=[{name: lexical, lexical: {width: 8}}]"


def quick_overrides(model: Path, *more: str) -> list[str]:
    """Return `key=value` settings: one small lexical encoder, and a training from `model` on short texts."""
    return [
        LEXICAL_ENCODER,
        f"train.model={model}",
        "train.max_tokens=64",
        "train.dtype=float32",
        "engine=torch",
        *more,
    ]


def quick_options(model: Path, *more: str) -> list[str]:
    """Return the quick settings as command-line options."""
    return [part for override in quick_overrides(model, *more) for part in ("--set", override)]


def quick_config(model: Path, *more: str) -> Config:
    """Return the quick settings as a configuration."""
    return load(overrides=quick_overrides(model, *more))
