"""Which texts are the same: against a slow definition, and letter by letter."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnmine.corpus.identity import identity, identity_numbers


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("Caring for it", "CARING  for\tit\n"),
        ("a b", "a\u00a0b"),
        ("a b", "\u3000a\u2003b\x85"),
        ("a b", "a\x1fb"),
        ("ab", "a\u200bb\ufeff"),
        ("soft", "so\xadft"),
        ("ﬁne", "Fine"),
        ("straße", "STRASSE"),
        ("\uff23\uff03\u3000\uff15\uff36", "c# 5v"),
        ("café", "cafe\u0301"),
        ("Ǆ", "ǆ"),
        ("half ｶﾞ", "half ガ"),
    ],
)
def test_texts_are_the_same_but_for_case_blanks_forms_and_what_nobody_sees(text: str, other: str) -> None:
    assert text != other
    assert identity(text) == identity(other)


@pytest.mark.parametrize(("text", "other"), [("C", "C#"), ("resume", "résumé"), ("a b", "ab"), ("हि", "हे"), ("1", "2")])
def test_texts_that_people_tell_apart_are_not_the_same(text: str, other: str) -> None:
    assert identity(text) != identity(other)


@pytest.mark.parametrize("text", ["", " \t\n", "\u200b\u200d\ufeff", "\u2800", "\x00\x1f", "\u3164", "\u00ad \u2060"])
def test_of_a_text_without_anything_to_see_nothing_is_left(text: str) -> None:
    assert identity(text) == ""


def slow_identity(text: str) -> str:
    """NFKC, case folding, white space folded: a letter at a time, without what is a format or control character."""
    seen = "".join(
        " " if letter.isspace() else letter
        for letter in text
        if letter.isspace() or unicodedata.category(letter) not in ("Cc", "Cf")
    )
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", seen).casefold())
    return " ".join(folded.split())


VISIBLE_MARKS = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD, *range(0x13430, 0x13456)}
"""Format characters that are seen: signs that stand around a number or a sign."""
LETTERS = st.characters(codec="utf-8").filter(lambda letter: ord(letter) not in VISIBLE_MARKS)


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.text(st.characters(max_codepoint=127)), st.text(LETTERS)))
def test_the_identity_is_the_slow_definition_and_an_identity_is_its_own(text: str) -> None:
    same = identity(text)
    assert identity(same) == same
    # Ignorable letters and marks have no category of their own.
    if not any(ord(letter) == 0x2800 or unicodedata.category(letter) in ("Mn", "Lo", "Cn") for letter in text):
        assert same == slow_identity(text)


def test_every_character_in_any_case_is_the_same_text() -> None:
    every = (chr(point) for point in range(sys.maxunicode + 1) if not 0xD800 <= point < 0xE000)
    forms = ((letter, letter.lower(), letter.upper(), unicodedata.normalize("NFKC", letter)) for letter in every)
    letters = [letter for letter, *others in forms if any(other != letter for other in others)]
    other = [letter for letter in letters if identity(letter.lower()) != identity(letter)]
    upper = [letter for letter in letters if identity(letter.upper()) != identity(letter)]
    again = [letter for letter in letters if identity(identity(f"a{letter}b")) != identity(f"a{letter}b")]
    assert (other, upper, again) == ([], ["\u0131"], [])  # the capital of the dotless i is the dotted one's


@given(st.lists(st.sampled_from(["a", "A", " a", "b", "B\u200b", "c"])), st.lists(st.sampled_from(["A", "c", "d"])))
def test_numbers_are_equal_where_texts_are_the_same_also_across_groups(texts: list[str], others: list[str]) -> None:
    numbers, more = identity_numbers(texts, others)
    together = [*zip(texts, numbers.tolist(), strict=True), *zip(others, more.tolist(), strict=True)]
    assert all((identity(a) == identity(b)) == (m == n) for a, m in together for b, n in together)
    assert sorted({number for _, number in together}) == list(range(len({number for _, number in together})))
