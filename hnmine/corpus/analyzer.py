"""What is a word: the tokens of a text, for BM25 and the lexical encoder alike.

A text is folded (NFKC, case, digits of all scripts) and cut at white space and marks of punctuation. Then

* a combining mark stays with its letter, and format characters vanish;
* a script without spaces gives its characters, marks included, and their bigrams; Tibetan its syllables and theirs;
* a letter or digit alone is a word, and so is a symbol that is not ASCII; `C#`, `C++` and `==` are whole;
* what bears symbols that its words alone would lose is a token beside them: `.net`, `-rf`, `a/b`, `3.11`.

Hangul counts as a script without spaces, for its particles have none (so does Lucene's CJKAnalyzer). The time is linear
in the text, whatever stands in it.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import chain, pairwise

import regex

from hnmine.corpus.text_keys import identity

ANALYZER_VERSION = 1
"""Goes up with every change of what the tokens of a text are; a part of what names a lexical fit."""

STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be but by for if in into is it no not of on or such that the their then there these they "
        "this to was will with",
    )
)
"""Lucene's for English. A query of nothing else keeps them."""

_SPACELESS = (
    r"\p{Han}\p{Hiragana}\p{Katakana}ー\p{Bopomofo}\p{Hangul}\p{Yi}\p{Tangut}\p{Nushu}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
    r"\p{Tai_Le}\p{New_Tai_Lue}\p{Tai_Tham}\p{Tai_Viet}\p{Javanese}\p{Balinese}"
)
_INSIDE = r"\p{L}\p{M}\p{N}_"  # of a word
_UNIT = rf"[[{_SPACELESS}]&&\p{{L}}]\p{{M}}*+|[\p{{Tibetan}}&&\p{{L}}][\p{{Tibetan}}&&[\p{{L}}\p{{M}}]]*+\u0f0b?+"
_UNITS = regex.compile(_UNIT, regex.V1)
_WORDS = regex.compile(
    rf"(?P<units>(?:{_UNIT})++)"
    rf"|(?<![{_INSIDE}])\p{{L}}(?:\#|\+\+|\+(?![{_INSIDE}]))"
    rf"|(?:[[\p{{L}}\p{{N}}_]--[[{_SPACELESS}\p{{Tibetan}}]&&\p{{L}}]]\p{{M}}*+)++"
    r"|\p{RI}{2}|[\p{S}--\p{ASCII}]\p{M}*+",
    regex.V1,
)
_COMPOUNDS = regex.compile(
    rf"(?<![\p{{P}}\p{{S}}{_INSIDE}])(?:--?|[.$@\#/~%]{{1,2}})?[{_INSIDE}]++"
    rf"(?:[-./\\+\#@&:=~^*%$,]{{1,2}}[{_INSIDE}]++)*+(?:\+\+?|[\#%*])?",
    regex.V1,
)
_NEEDED = regex.compile(rf"^[^{_INSIDE}]|[^{_INSIDE}]$|(?<![{_INSIDE}])[{_INSIDE}](?![{_INSIDE}])", regex.V1)
_OPERATOR = re.compile(r"(?!-+\Z|\.)[-+*/%=<>!&|^~?:@#$.]{2,4}\Z")
_APOSTROPHES = regex.compile(
    rf"\b\p{{L}}['\u2019](?=\p{{L}}{{2}})|(?<=\p{{L}})['\u2019]\p{{L}}(?![{_INSIDE}])", regex.V1
)
_QUANTITY = regex.compile(r"(\p{N}++)(\p{L}{1,3})")
_THOUSANDS = re.compile(r"[0-9]{1,3}(,[0-9]{3})+")
_UNSEEN = regex.compile(r"[\p{Cf}\p{Variation_Selector}\p{Emoji_Modifier}™℠]")
_VOWEL_POINTS = re.compile("[\u0591-\u05bd\u05bf-\u05c7\u0640\u064b-\u0652\u0670]")  # of Hebrew and Arabic; seldom
_FOREIGN_DIGIT = regex.compile(r"[\p{Nd}--[0-9]]", regex.V1)
_LONGEST_COMPOUND = 64
_LONGEST_KEPT, _MOST_KEPT = 24, 1 << 18


def words(text: str) -> list[str]:
    """Return the tokens of a text, those of a word in a row; a token comes as often as the text has it."""
    return list(chain.from_iterable(map(_PARTS.__getitem__, text.split())))


def fold(text: str) -> str:
    """Return the identity of the text, with the digits of ASCII and without points of vowels, ™ and colours of skin."""
    if text.isascii():
        return text.lower()
    same = _VOWEL_POINTS.sub("", identity(_UNSEEN.sub("", text))).replace("i\u0307", "i").replace("\u0131", "i")
    return str(_FOREIGN_DIGIT.sub(lambda found: str(unicodedata.decimal(found[0])), same))


def _tokens(part: str) -> tuple[str, ...]:
    """Return the tokens of a text without white space."""
    folded = fold(part)
    if quantity := _QUANTITY.fullmatch(folded):
        return (folded, *quantity.groups())
    if folded.isascii() and folded.isalnum():
        return (folded,)
    if _OPERATOR.match(folded):
        return (folded,)

    # Words, and of scripts without spaces characters and bigrams.
    folded = _APOSTROPHES.sub(" ", folded)
    tokens = []
    for found in _WORDS.finditer(folded):
        if found["units"] is None:
            tokens.append(found[0])
        else:
            units = [unit.rstrip("\u0f0b") for unit in _UNITS.findall(found[0])]
            tokens += units
            tokens += [first + second for first, second in pairwise(units)]

    # What the words alone would lose.
    for found in _COMPOUNDS.finditer(folded):
        compound = found[0]
        if len(compound) <= _LONGEST_COMPOUND and _NEEDED.search(compound) and not _WORDS.fullmatch(compound):
            tokens.append(compound.replace(",", "") if _THOUSANDS.fullmatch(compound) else compound)
    return tuple(tokens)


class _Parts(dict[str, tuple[str, ...]]):
    """The tokens of the parts of texts; the short ones that came first are kept, for they come again."""

    def __missing__(self, part: str) -> tuple[str, ...]:
        tokens = _tokens(part)
        if len(part) <= _LONGEST_KEPT and len(self) < _MOST_KEPT:
            self[part] = tokens
        return tokens


_PARTS = _Parts()
