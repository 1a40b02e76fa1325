"""Held-out queries: drawn by a hash of their text, so that the draw is the same every night."""

from __future__ import annotations

import hashlib

import numpy as np

from hnmine.errors import DataError
from hnmine.types import Pairs, Texts


def hold_out(pairs: Pairs, queries: Texts, share: float, seed: int) -> tuple[Pairs, Pairs]:
    """Return (held out, rest): about this share of the queries, those of one text together, with all their pairs.

    A query's text and the seed alone decide, so that what is held out today was not trained on yesterday. Either side
    has one query at least.

    Raises:
        DataError: the pairs have one query only.
    """
    draws = {queries.texts[row]: 0.0 for row in pairs.query_rows_P.tolist()}
    if len(draws) < 2:
        raise DataError("one train query only, and no dev split to stop early on; add qrels/dev.tsv or more queries")
    for text in draws:
        digest = hashlib.sha256(f"{seed} {text}".encode()).digest()
        draws[text] = int.from_bytes(digest[:8]) / 2**64
    ascending = sorted(draws.values())
    border = min(max(share, ascending[1]), ascending[-1])
    held_P = np.array([draws[queries.texts[row]] < border for row in pairs.query_rows_P.tolist()])
    return pairs.take(held_P), pairs.take(~held_P)
