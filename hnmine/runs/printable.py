"""Texts of other people as a terminal or a page may show them: nothing in them steers it.

Whatever prints a document, a query or an id goes through here.
"""

from __future__ import annotations

import re
import unicodedata

_LINE_ENDS = re.compile("\r\n|[\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_STEERING = frozenset("\ufeff\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069").union(
    map(chr, range(0xE0000, 0xE0080))
)
"""Format characters that turn the order of what is around them, or hide text; those that join letters stay."""
_MARKDOWN = re.compile(r"([\\`*_\[\]<>&|~$#])")
_BLOCK = re.compile(r"([-+=:]|\d{1,9}[.)])")
_LINK = re.compile(r"(?i)\b(https?|ftp)(:)(?=//)|\b(www)(\.)|(@)")


def printable(text: str) -> str:
    """Return a text without control characters: escape sequences of terminals, overrides of direction, half characters.

    U+FFFD stands in the place of each; line ends are one kind, and they and tabs stay. Printing twice changes nothing.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join("\ufffd" if _steers(each) else each for each in _LINE_ENDS.sub("\n", text))


def one_line(text: str) -> str:
    """Return the printable text on one line, with one blank where white space was."""
    return " ".join(printable(text).split())


def markdown(text: str) -> str:
    """Return a text as one line of Markdown that shows it: no markup, HTML, link or cell of a table begins in it.

    It may stand where a line begins, in a cell of a table, and between marks such as `**`.
    """
    line = _MARKDOWN.sub(r"\\\1", one_line(text))
    line = _LINK.sub(lambda found: f"{found[1] or found[3] or ''}\\{found[2] or found[4] or found[5]}", line)
    if block := _BLOCK.match(line):
        return f"{line[: block.end() - 1]}\\{line[block.end() - 1 :]}"
    return line


def _steers(character: str) -> bool:
    if character in "\n\t":
        return False
    return character in _STEERING or unicodedata.category(character) in ("Cc", "Cs")
