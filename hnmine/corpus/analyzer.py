"""What is a word: the tokens of a text, for BM25 and the lexical encoder alike.

A text is folded (NFKC, case, digits of all scripts) and cut at white space and marks of punctuation. Then

* a combining mark stays with its letter, and format characters vanish;
* a script without spaces gives its characters, marks included, and their bigrams; Tibetan its syllables and theirs;
* a letter or digit alone is a word, and so is a symbol that is not ASCII; `c#`, `c++` and `==` are whole;
* beside its words stands what bears symbols that they lose: `.net`, `-rf`, `a/b`, `3.11`, and 1000 beside `1,000`;
* beside `5v` stand 5 and v; what an apostrophe cuts off as one letter goes: `user's`, `l'eau`.

Hangul counts as a script without spaces, for its particles have none (so does Lucene's CJKAnalyzer). The time is linear
in the text, whatever stands in it.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import chain, pairwise

import regex

from hnmine.corpus.identity import identity

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
_LETTER = rf"[[\p{{L}}\p{{N}}_]--[[{_SPACELESS}\p{{Tibetan}}]&&\p{{L}}]]"  # of a script with spaces; digits too
_WORD = rf"(?:{_LETTER}\p{{M}}*+)++"
_UNIT = rf"[[{_SPACELESS}]&&\p{{L}}]\p{{M}}*+|[\p{{Tibetan}}&&\p{{L}}][\p{{Tibetan}}&&[\p{{L}}\p{{M}}]]*+\u0f0b?+"
_UNITS = regex.compile(_UNIT, regex.V1)
_WORDS = regex.compile(
    rf"(?P<units>(?:{_UNIT})++)|(?<!{_LETTER})[{_LETTER}&&\p{{L}}](?:\#|\+\+|\+(?!{_LETTER}))|{_WORD}"
    r"|\p{RI}{2}|[\p{S}--\p{ASCII}]\p{M}*+",
    regex.V1,
)
_ASCII_WORDS = re.compile(r"(?<![a-z0-9_])[a-z](?:#|\+\+|\+(?![a-z0-9_]))|[a-z0-9_]++")
_COMPOUND = (
    r"(?<!LETTER)(?<![-+*/\\%=&|^~:@#$.<])(?:--?|[.$@#/~%]{1,2})?"
    r"WORD(?:[-./\\+#@\&:=~^*%$,]{1,2}WORD)*+(?:\+\+?|[#%*])?"
)
_COMPOUNDS = regex.compile(_COMPOUND.replace("LETTER", _LETTER).replace("WORD", _WORD), regex.V1)
_ASCII_COMPOUNDS = re.compile(_COMPOUND.replace("LETTER", "[a-z0-9_]").replace("WORD", "[a-z0-9_]++"))
_INSIDE = r"\p{L}\p{M}\p{N}_"
_NEEDED = regex.compile(rf"^[^{_INSIDE}]|[^{_INSIDE}]$|(?<![{_INSIDE}])[{_INSIDE}](?![{_INSIDE}])", regex.V1)
_ASCII_NEEDED = re.compile(r"^[^a-z0-9_]|[^a-z0-9_]$|(?<![a-z0-9_])[a-z0-9_](?![a-z0-9_])")
_OPERATOR = re.compile(r"(?!-+\Z|\.)[-+*/%=<>!&|^~?:@#$.]{2,4}\Z")
_APOSTROPHES = regex.compile(
    rf"\b\p{{L}}['\u2019](?=\p{{L}}{{2}})|(?<=\p{{L}})['\u2019]\p{{L}}(?![{_INSIDE}])", regex.V1
)
_QUANTITY = regex.compile(r"([0-9]++)(\p{L}{1,3})")  # 5v, 10mg
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
        return text.lower() if text.isprintable() else identity(text)
    same = _VOWEL_POINTS.sub("", identity(_UNSEEN.sub("", text))).replace("i\u0307", "i").replace("\u0131", "i")
    return str(_FOREIGN_DIGIT.sub(lambda found: str(unicodedata.decimal(found[0], found[0])), same))  # some are newer


def _tokens(part: str) -> tuple[str, ...]:
    """Return the tokens of a text without white space."""
    # Most parts are a word between marks.
    folded = fold(part)
    if (ascii_only := folded.isascii()) and (word := folded.lstrip("([{\"'").rstrip(".,;:!?)]}\"'")).isalpha():
        return (word,)
    if _OPERATOR.match(folded):
        return (folded,)

    # Words, and of scripts without spaces characters and bigrams.
    if "'" in folded or "\u2019" in folded:
        folded = _APOSTROPHES.sub(" ", folded)
    tokens = []
    for found in (_ASCII_WORDS if ascii_only else _WORDS).finditer(folded):
        if ascii_only or found["units"] is None:
            tokens.append(found[0])
            if found[0][0].isdigit() and (quantity := _QUANTITY.fullmatch(found[0])):
                tokens += quantity.groups()
        else:
            units = [unit.rstrip("\u0f0b") for unit in _UNITS.findall(found[0])]
            tokens += units
            tokens += [first + second for first, second in pairwise(units)]

    # What the words alone would lose.
    if tokens[:1] == [folded]:
        return tuple(tokens)
    for found in (_ASCII_COMPOUNDS if ascii_only else _COMPOUNDS).finditer(folded):
        compound = found[0]
        needed = _ASCII_NEEDED if ascii_only else _NEEDED
        if len(compound) <= _LONGEST_COMPOUND and needed.search(compound) and not _WORDS.fullmatch(compound):
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
