"""The words that a text shares with a query, marked: those of the analyzer, which BM25 counts too.

`marked` puts `BEGIN` and `END` around them, which no printable text has; `in_bold` and `in_markdown` make of them what
a terminal and a page show.
"""

from __future__ import annotations

import regex

from hnmine.corpus.analyzer import STOP_WORDS, words
from hnmine.runs.printable import markdown, one_line, printable

BEGIN, END = "\ue000", "\ue001"
_RUNS = regex.compile(r"[\p{L}\p{M}\p{N}\p{Cf}_]+|[^\p{L}\p{M}\p{N}\p{Cf}_]+")
_LETTER = regex.compile(r"[\p{L}\p{M}\p{N}]")
_LETTERS = regex.compile(r"\X")


def terms_of(query: str) -> frozenset[str]:
    """Return the words of a query that are looked for: without stop words, if there are others."""
    terms = frozenset(words(query))
    return terms - STOP_WORDS or terms


def marked(text: str, terms: frozenset[str], width: int) -> str:
    """Return the beginning of a text on one line, of `width` characters at most, its words among the terms marked."""
    line = one_line(text).replace(BEGIN, "\ufffd").replace(END, "\ufffd")
    if len(line) > width:
        line = f"{line[: width - 2].rstrip()} …"
    return " ".join(_marked(part, terms) for part in line.split()).replace(END + BEGIN, "")


def _marked(part: str, terms: frozenset[str]) -> str:
    """Mark what holds a term in a text without white space: the shortest that no sign begins or ends.

    Beside a letter, the stars of Markdown are no marks around a sign.
    """
    if not terms.intersection(words(part)):
        return part
    for pattern in (_RUNS, _LETTERS):  # words; the letters of scripts without spaces
        pieces = pattern.findall(part)
        found = [piece for piece in pieces if terms.intersection(words(piece))]
        if len(pieces) > 1 and found and all(_LETTER.match(piece[0]) and _LETTER.match(piece[-1]) for piece in found):
            return "".join(_marked(piece, terms) for piece in pieces)
        if part.isascii():
            break
    return f"{BEGIN}{part}{END}"


def in_bold(text: str) -> str:
    """Return a marked text for a terminal that shows bold."""
    return printable(text).replace(BEGIN, "\033[1m").replace(END, "\033[22m")


def plain(text: str) -> str:
    """Return a marked text without its marks."""
    return printable(text).replace(BEGIN, "").replace(END, "")


def in_markdown(text: str) -> str:
    """Return a marked text as Markdown on one line."""
    return markdown(text).replace(BEGIN, "**").replace(END, "**")
