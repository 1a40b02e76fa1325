"""Settings that are gone or have another name; `retired.yaml` says of each what to write instead."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from typing import Any, Final

import yaml

from hnmine.config.base import slug

_TABLE: Final = yaml.safe_load((files(__package__) / "retired.yaml").read_text("utf-8"))
RETIRED: Final[dict[str, str]] = _TABLE["keys"]
"""Remedy by key; `*` stands for the position in a list. A key without an entry has that of the section it was in."""


def still_known(arms: tuple[str, ...]) -> tuple[str, ...]:
    """Return these ways to choose negatives; of one that was removed, a ValueError says what to take instead."""
    for name in map(slug, arms):
        if name in _TABLE["arms"]:
            raise ValueError(f"{name}: {_TABLE['arms'][name]}")
    return arms


def remedies(location: tuple[int | str, ...], value: Any) -> Iterator[tuple[str, str]]:
    """Yield (key, remedy) of each retired setting that stands at `location`, or below it in `value`."""
    if isinstance(value, dict):
        below = [found for key, inner in value.items() for found in remedies((*location, key), inner)]
        if below:
            yield from below
            return
    key = ".".join("*" if isinstance(part, int) else str(part) for part in location)
    remedy = _TABLE["values"].get(key, {}).get(value) if isinstance(value, str) else None
    while remedy is None and key:
        remedy, key = RETIRED.get(key), key.rpartition(".")[0]
    if remedy is not None:
        yield ".".join(map(str, location)), remedy
