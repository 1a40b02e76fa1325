"""The name of everything that decides an encoder's output."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Fingerprint:
    """All that decides an encoder's output, and the digest that names it."""

    facts: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, **facts: Any) -> Fingerprint:
        """Take the facts as JSON; their order does not matter."""
        return cls(tuple(sorted((name, json.dumps(fact, sort_keys=True)) for name, fact in facts.items())))

    @property
    def digest(self) -> str:
        """20 hexadecimal digits."""
        return hashlib.sha256(repr(self.facts).encode()).hexdigest()[:20]
