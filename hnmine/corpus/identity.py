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

from hnmine.corpus.text_keys import KEY_BYTES, DistantTexts, Keys
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


def identity_keys(texts: Sequence[str]) -> Keys:
    """Return a key (N, 2) for each text: the same for texts that are the same."""
    if isinstance(texts, DistantTexts):
        return texts.identity_keys
    found = (hashlib.blake2b(_identity(text), digest_size=KEY_BYTES).digest() for text in texts)
    joined = np.fromiter(found, np.dtype((np.void, KEY_BYTES)), len(texts))
    return joined.view(np.uint64).reshape(-1, 2)


def identity_numbers(*groups: Sequence[str]) -> list[Int64]:
    """Return a number for each text of each group: the same for the same text, from 0 in the order of appearance."""
    # Sort all texts by what they have in common.
    sizes = list(map(len, groups))
    keys_N2 = np.concatenate([identity_keys(texts) for texts in groups])
    order_N = np.lexsort((keys_N2[:, 1], keys_N2[:, 0]))
    is_other_N = np.ones(len(order_N), dtype=bool)
    is_other_N[1:] = (keys_N2[order_N[1:]] != keys_N2[order_N[:-1]]).any(axis=1)
    # Number them by the first of each.
    first_G = order_N[is_other_N]  # the sort is stable
    number_G = np.empty(len(first_G), np.int64)
    number_G[np.argsort(first_G)] = np.arange(len(first_G))
    numbers_N = np.empty(len(order_N), np.int64)
    numbers_N[order_N] = number_G[np.cumsum(is_other_N) - 1]
    return np.split(numbers_N, np.cumsum(sizes)[:-1])
