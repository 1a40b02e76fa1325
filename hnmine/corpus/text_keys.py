"""What names a vector: the fingerprint of its encoder, and the key of its text as it is written."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

KEY_BYTES = 16
_Answer = TypeVar("_Answer")
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


class DistantTexts(Sequence[str]):
    """Texts that this process does not hold, and what is known of them all the same."""

    @property
    @abstractmethod
    def lengths(self) -> NDArray[np.int64]:
        """The characters of each text."""

    @property
    @abstractmethod
    def identity_keys(self) -> Keys:
        """Of each text the key of its `identity`."""

    @abstractmethod
    def keys(self, reading: Reading) -> Keys:
        """Return the key of each text as it is read."""

    @abstractmethod
    def by_parts(self, work: Callable[..., _Answer], *arguments: Any) -> Iterator[tuple[NDArray[np.int64], _Answer]]:
        """Yield what `work(texts, *arguments)` returns for some texts after the other, with their rows."""

    @abstractmethod
    def work_on(self, rows_n: NDArray[np.int64], work: Callable[..., _Answer], *arguments: Any) -> _Answer:
        """Return what `work(texts, *arguments)` returns for the texts of these rows, where it is done."""


def lengths_of(texts: Sequence[str], rows: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Return the characters of these texts, None: of all."""
    if isinstance(texts, DistantTexts):
        return texts.lengths if rows is None else texts.lengths[rows]
    some = texts if rows is None else (texts[row] for row in rows.tolist())
    return np.fromiter(map(len, some), np.int64, len(texts) if rows is None else len(rows))


def keys_of(texts: Sequence[str], reading: Reading = PLAIN) -> Keys:
    """Return the keys of many texts, in their order."""
    if isinstance(texts, DistantTexts):
        return texts.keys(reading)
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
