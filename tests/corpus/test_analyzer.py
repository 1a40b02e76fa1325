"""What is a word, in every script."""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from hnmine.corpus.analyzer import words
from hnmine.corpus.identity import identity

TOKENS = {
    "The Quick, brown fox's (9) tails": "the quick brown fox 9 tails",
    "It's R's don't O'Brien l'eau dogs'": "it r don brien eau dogs",
    "R C 5 x": "r c 5 x",
    'C# C++ F#. (C#) "C++"': "c# c++ f# c# c++",
    "C/C++": "c c++ c/c++",
    ".NET (.NET)": "net .net net .net",
    "node.js well-known": "node js well known",
    "a/b 3.11 -rf --force": "a b a/b 3 11 3.11 rf -rf force --force",
    "$PATH @user #tag 5%": "path $path user @user tag #tag 5 5%",
    "== => && a": "== => && a",
    "5V 10mg s3": "5v 5 v 10mg 10 mg s3",
    "1,000 1000": "1 000 1000 1000",
    "max_tokens __init__": "max_tokens __init__",
    "end.Next pre- ... and...": "end next pre and",
    "Straße İstanbul KIRMIZI k\u0131rm\u0131z\u0131 Œuvre": "strasse istanbul kirmizi kirmizi œuvre",
    "\uff21\uff22\uff23\uff11 ﬁle x² ①": "abc1 file x2 1",
    "co\u00adop\u200bt foo™": "coopt foo",
    "۱۲۳ १२ ๕": "123 12 5",
    "हिन्दी में": "हिन्दी में",
    "كِتَابٌ كتـاب": "كتاب كتاب",
    "שָׁלוֹם": "שלום",
    "کتاب\u200cرا": "کتابرا",  # noqa: RUF001
    "数据库": "数 据 库 数据 据库",
    "猫": "猫",
    "iPhone15手机": "iphone15 手 机 手机",
    "使用C#和.NET": "使 用 使用 c# 和 net .net",
    "ｶﾞｷﾞ コー": "ガ ギ ガギ コ ー コー",
    "서울": "서 울 서울",
    "ที่นี่": "ที่ นี่ ที่นี่",
    "བཀྲ་ཤིས།": "བཀྲ ཤིས བཀྲཤིས",
    "👍🏽 ❤️ 🇩🇪 5€": "👍 ❤ 🇩🇪 5 €",
    "": "",
    " \n\t\u3000 ": "",
    "... -- !": "",
    "\u0301\u200d\ufe0f": "",
}


@pytest.mark.parametrize("text", TOKENS)
def test_the_tokens_of_a_text_are_these(text: str) -> None:
    assert words(text) == TOKENS[text].split()


@pytest.mark.parametrize(
    "text", ["ລາວ", "ខ្មែរ", "မြန်မာ", "ไทย", "ひらがな", "カタカナ", "漢字", "ꆈꌠꉙ", "한국어", "ᥖᥭᥰᥖᥬᥲ"]
)
def test_each_character_of_a_script_without_spaces_is_found_and_so_are_its_neighbours(text: str) -> None:
    characters = _characters(text)
    tokens = set(words(f"x{text}9"))
    assert set(characters) <= tokens
    assert {a + b for a, b in pairwise(characters)} <= tokens
    for character in characters:
        assert set(words(character)) <= tokens


def _characters(text: str) -> list[str]:
    """Put each mark to the letter before it."""
    characters: list[str] = []
    for each in unicodedata.normalize("NFKC", text):
        if unicodedata.category(each).startswith("M"):
            characters[-1] += each
        else:
            characters.append(each)
    return characters


ANY = st.text(max_size=40) | st.text("aB9 .,#+-/'_$éß猫犬กิक्ི་👍🇩\u200d", max_size=40)


@settings(max_examples=400, deadline=None)
@given(ANY)
def test_what_one_can_read_has_a_token_and_no_token_has_a_blank(text: str) -> None:
    tokens = words(text)
    assert all(token and not re.search(r"\s", token) for token in tokens)
    if any(unicodedata.category(each)[0] in "LN" for each in identity(text).replace("\u0640", "")):
        assert tokens, "but for Arabic's stroke, which only makes words longer"
    assert len(tokens) <= 4 * len(unicodedata.normalize("NFKC", text))


@settings(max_examples=400, deadline=None)
@given(ANY)
def test_texts_that_are_the_same_have_the_same_tokens(text: str) -> None:
    text = re.sub("[™℠]", "", text)
    assert sorted(words(text)) == sorted(words(identity(text)))
    assert words(text) == words(f"\u3000{text}\n")
    assert words(unicodedata.normalize("NFD", text)) == words(unicodedata.normalize("NFC", text))


@settings(max_examples=300, deadline=None)
@given(ANY, ANY, ANY)
def test_a_text_between_others_keeps_its_tokens(before: str, text: str, after: str) -> None:
    assert words(f"{before} {text}\n{after}") == words(before) + words(text) + words(after)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.from_regex(r"[A-Za-z]{2,9}|[a-z]{3,5}[0-9]|[0-9]{1,4}", fullmatch=True)), st.sampled_from(" \n,;!"))
def test_plain_words_are_what_they_always_were(plain: list[str], between: str) -> None:
    text = f"{between} ".join(plain)
    assert words(text) == re.findall(r"\w+", text.lower())


@settings(max_examples=300, deadline=None)
@given(st.text("aB9z.,#+-/'_$%@&=()", max_size=30))
def test_ascii_is_cut_as_beside_a_letter_that_is_not(text: str) -> None:
    """There is a quick way for ASCII; a foreign letter far away turns it off."""
    assert sorted(words(f"{text};,;é")) == sorted([*words(f"{text};,;"), "é"])


LONG = 100_000
AWKWARD = [
    *("a", "\u0301", "a\u0301", "😀", "\u200d", ".", "a.", "-", "_", "'", "a'", "c+", "+", "猫", "กิ", "ཀ", "་", "1,"),
    *(",000", "🇩", "९", "a/b;", "❤\ufe0f", "\0", "\ud800", "İ", "$$a", "ᄀ", "1a", "=", "a-", "é/", "é+", "ß.", "ﬀ"),
]


@pytest.mark.parametrize("piece", AWKWARD, ids=ascii)
def test_a_long_line_of_anything_takes_a_moment(piece: str) -> None:
    """Time that grows with the square of the length would not end here."""
    assert len(words(piece * (LONG // len(piece)))) <= 3 * LONG


def test_a_digit_that_is_newer_than_python_is_read() -> None:
    every = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    assert all(words(f"a{digit}") for digit in regex.findall(r"\p{Nd}", every))
