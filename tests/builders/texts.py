"""Texts: some to read, random ones, and both as `Texts`."""

from __future__ import annotations

import numpy as np

from hnmine.types import Texts

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SENTENCES = [
    "deploy MySQL in the cloud",
    "",
    "MySQL on premises",
    "the cloud " * 40,
    "a",
    "Postgres in the cloud, and unknown words: Kubernetes!",
    "a b c " * 7,
]
_WORDS = ["deploy", "mysql", "postgres", "in", "the", "cloud", "on", "premises", "query", "passage", "doc"]


def as_texts(texts: list[str]) -> Texts:
    """Give texts the ids t0, t1 …"""
    return Texts(ids=tuple(f"t{row}" for row in range(len(texts))), texts=tuple(texts))


def numbered_texts(count: int, prefix: str) -> Texts:
    """Return texts that are their ids: the prefix and a number."""
    names = tuple(f"{prefix}{i}" for i in range(count))
    return Texts(ids=names, texts=names)


def blank_pages(count: int) -> Texts:
    """Return documents that answer no query and lie near none; no two are the same."""
    texts = tuple(f"Page {i} was left blank on purpose." for i in range(count))
    return Texts(ids=tuple(f"page-{i}" for i in range(count)), texts=texts)


def random_texts(count: int, name: str, longest: int = 20) -> Texts:
    """Return texts of random words that end in `name` and a number, so that no two are the same."""
    rng = np.random.default_rng(len(name) + count)
    texts = [f"{' '.join(rng.choice(_WORDS, rng.integers(1, longest)))} {name} {row}" for row in range(count)]
    return Texts(ids=tuple(f"{name}{row}" for row in range(count)), texts=tuple(texts))


def random_text_pairs(count: int, seed: int = 0, letters: int = 150) -> tuple[list[str], list[str]]:
    """Queries of some words and documents of none to `letters` letters; some longer than is read."""
    rng = np.random.default_rng(seed)

    def text(longest: int) -> str:
        return "".join(rng.choice(list(LETTERS + "   "), size=int(rng.integers(0, longest))))

    return [text(20) for _ in range(count)], [text(letters) for _ in range(count)]
