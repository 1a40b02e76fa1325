"""Copies and near copies of positives, against a plain loop."""

from __future__ import annotations

import numpy as np

from hnmine.comparison.copies import GRAM, MOST, NEAR, count_copies, sample_of
from hnmine.corpus.identity import identity, identity_numbers
from hnmine.types import NO_ROW
from tests.builders.field_cases import SPELLINGS, tickets


def strings_of(text: str) -> set[str]:
    """All strings of so many letters, of a shorter text itself."""
    return {text[at : at + GRAM] for at in range(len(text) - GRAM + 1)} or {text}


def test_copies_and_near_copies_are_counted_as_a_plain_loop_counts_them() -> None:
    rng = np.random.default_rng(1)
    texts = [text for _, text in tickets()[0].values()][:20]
    texts += [SPELLINGS[at % 4](text) for at, text in enumerate(texts[:6])]
    texts += [text.replace("go to", "walk to") for text in texts[4:10]]
    texts += ["a", "b", "a", "ab cd", "ab ce"]
    groups = identity_numbers(texts)[0]
    positives = rng.choice(len(texts), 18)
    examined = np.unique(positives)[:12]
    nearest = np.array([rng.permutation(len(texts))[:11] for _ in examined])
    nearest[:3, 8:] = NO_ROW
    found = count_copies(texts, groups, positives, examined, nearest)

    def near(doc: int, other: int) -> bool:
        one, two = strings_of(identity(texts[doc])), strings_of(identity(texts[other]))
        return identity(texts[doc]) != identity(texts[other]) and len(one & two) >= NEAR * len(one | two)

    has_copy = [sum(identity(text) == identity(other) for other in texts) > 1 for text in texts]
    assert found.documents == sum(has_copy)
    assert (found.positives, found.examined) == (len(set(positives.tolist())), len(examined))
    assert found.positives_with_copy == sum(has_copy[doc] for doc in set(positives.tolist()))
    expected = sum(
        any(near(doc, other) for other in others if other != NO_ROW)
        for doc, others in zip(examined.tolist(), nearest.tolist(), strict=True)
    )
    assert 0 < expected < len(examined)
    assert found.with_near_copy == expected


def test_the_counts_are_said_with_the_rule() -> None:
    texts = [
        "the ferry leaves at noon from the pier",
        "the ferry leaves at noon from the pier.",
        "THE TRAM",
        "the tram",
    ]
    docs = np.array([0, 2, 0])
    nearest = np.array([[0, 1, 2], [2, 3, NO_ROW]])
    copies = count_copies(texts, identity_numbers(texts)[0], docs, np.array([0, 2]), nearest)
    assert copies.lines() == [
        "1 of 2 judged positives have a copy in the corpus, which is never a negative; 2 documents of all have one",
        "1 of 2 (50.0%) have a near copy, of the 10 nearest documents one with 80% of the same strings of 5 letters; "
        "guards.near_duplicate keeps such away",
    ]


def test_of_many_positives_a_seeded_sample_is_examined() -> None:
    rows = np.repeat(np.arange(MOST + 50), 2)
    sample = sample_of(rows, 3)
    assert len(sample) == len(set(sample.tolist())) == MOST
    assert np.array_equal(sample, sample_of(rows, 3))
    assert sample_of(np.array([4, 1, 4]), 3).tolist() == [1, 4]
