"""When two texts are the same for people: they have one `identity`.

They may differ in case, in white space, in characters that nobody sees, and in compatibility forms (NFKC: ﬁ and fi,
full width and half width).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from hnmine.corpus.text_keys import KEY_BYTES
from hnmine.types import Int64

_UNSEEN = re.compile(
    "[\0-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]+"
)
"""Control characters and what Unicode names ignorable: zero-width ones, marks of direction, variation selectors."""
_OFTEN = dict(zip("\u00a0\u3000\u2800\uff0c\uff1a\uff1b\uff1f\uff01\uff08\uff09", "   ,:;?!()", strict=True)) | {
    "\u2026": "..."
}
"""What NFKC makes of characters that texts are full of, without which it is five times as fast; and Braille's blank."""
_ASCII_UNSEEN = bytes([*range(9), *range(14, 28), 127])
_ASCII_FOLDED = bytes(32 if byte < 32 else byte for byte in range(128)).lower().ljust(256)


def identity(text: str) -> str:
    """Return what two texts have in common that are the same: NFKC, cases and white space folded, the unseen dropped.

    It is empty for a text in which there is nothing to see. The identity of an identity is itself.
    """
    return _identity(text).decode(errors="surrogatepass")


def _identity(text: str) -> bytes:
    if text.isascii():
        folded = text.encode().translate(_ASCII_FOLDED, _ASCII_UNSEEN)
        return b" ".join(folded.split()) if b"  " in folded else folded.strip()
    seen = _UNSEEN.sub("", text)
    for letter, normal in _OFTEN.items():
        seen = seen.replace(letter, normal)
    folded_once = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", seen).casefold())
    return " ".join(folded_once.split()).encode(errors="surrogatepass")


def identity_numbers(*groups: Sequence[str]) -> list[Int64]:
    """Return a number for each text of each group: the same for the same text, from 0 in the order of appearance."""
    numbers: dict[bytes, int] = {}

    def number(text: str) -> int:
        return numbers.setdefault(hashlib.blake2b(_identity(text), digest_size=KEY_BYTES).digest(), len(numbers))

    return [np.fromiter(map(number, texts), np.int64, len(texts)) for texts in groups]
