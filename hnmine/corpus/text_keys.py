"""What names a vector: the fingerprint of its encoder, and the key of its text as it is written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEY_BYTES = 16
Keys = NDArray[np.uint64]  # of n texts (n, 2)


@dataclass(frozen=True)
class Reading:
    """How an encoder reads a text: the prompt before it, and the adapter of the model that is on."""

    prompt: str = ""
    adapter: str | None = None


PLAIN = Reading()


def key_of(text: str, reading: Reading = PLAIN) -> bytes:
    """Return the key of a text as it is read: 128 bits of BLAKE2b over prompt and text, keyed by the adapter."""
    adapter = (reading.adapter or "").encode()
    digest = hashlib.blake2b(reading.prompt.encode(), digest_size=KEY_BYTES, key=adapter)
    digest.update(b"\0")
    digest.update(text.encode())
    return digest.digest()


def keys_of(texts: Sequence[str], reading: Reading = PLAIN) -> Keys:
    """Return the keys of many texts, in their order."""
    joined = b"".join(key_of(text, reading) for text in texts)
    return np.frombuffer(joined, dtype=np.uint64).reshape(-1, 2)


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
