"""`hnmine config`: every setting with its default, meaning, unit and range, as YAML that `load` reads."""

from __future__ import annotations

from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hnmine.config.base import section_of
from hnmine.config.encoder_presets import DEFAULT
from hnmine.config.root import Config

_BOUNDS = {"ge": "from {}", "gt": "above {}", "le": "to {}", "lt": "below {}"}


def describe() -> str:
    """Return one line a key; those of an entry of `encoders`, and of a section that is null, are comments."""
    return "\n".join(_lines(Config))


def _lines(section: type[BaseModel], comment: str = "# ") -> list[str]:
    """Return the lines of a section; `comment` begins those of a section in it that is null or a list by default."""
    lines = []
    for key, field in section.model_fields.items():
        inner = section_of(field.annotation)
        may_be_absent = inner is not field.annotation
        if inner is None or may_be_absent:
            lines.append(f"{key}: {_default(key, field)}  # {field.description}{_range(field)}")
            lines += [f"  {comment}{line}" for line in _lines(inner, "")] if inner else []
        else:
            lines.append(f"{key}:  # {(inner.__doc__ or '').strip()}")
            lines += [f"  {line}" for line in _lines(inner, comment)]
    return lines


def _default(key: str, field: FieldInfo) -> str:
    """Return the default as YAML on one line."""
    if field.is_required():
        return "(required)"
    value: Any = DEFAULT if key == "encoders" else field.default
    if isinstance(value, tuple):
        value = list(value)
    style = '"' if isinstance(value, str) and "\n" in value else None
    text: str = yaml.safe_dump(value, default_flow_style=True, default_style=style, sort_keys=False, width=1000)
    return text.strip().removesuffix("\n...")


def _range(field: FieldInfo) -> str:
    """Return the range of a number in brackets, or nothing."""
    parts = [
        words.format(f"{bound:,}" if isinstance(bound, int) else f"{bound:,g}")
        for rule in field.metadata
        for name, words in _BOUNDS.items()
        if (bound := getattr(rule, name, None)) is not None
    ]
    return f" ({' '.join(parts)})" if parts else ""
