"""What other people's texts may do to a terminal and to a page: nothing."""

from __future__ import annotations

import html
import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnmine.runs.printable import markdown, one_line, printable

ANY_TEXT = st.text(st.characters(codec=None), max_size=60)
NASTY = st.lists(
    st.sampled_from("\\`*_[]<>&|~$#!()-+=:.@{}\"'\n\t\r 1a\x1b\x9b\u202e\u2028\ud800é")
    | st.sampled_from(["http://x.y", "www.x.y", "<b>", "**", "~~", "&amp;", "\n# ", "\n- [x] ", "\n```\n", "| a |"])
    | st.sampled_from(["![a](b)", "<!-- ", "1. ", "\n    ", "---\n", "a@b.c", "$$", "[a]: b\n"]),
    max_size=12,
).map("".join)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("\x1b[31mred\x1b[0m", "\ufffd[31mred\ufffd[0m"),
        ("\x1b]0;title\x07", "\ufffd]0;title\ufffd"),
        ("\x9b2J", "\ufffd2J"),
        ("over\rwritten\b", "over\nwritten\ufffd"),
        ("a\r\nb\u2028c\x85d\te", "a\nb\nc\nd\te"),
        ("user\u202etxt.exe", "user\ufffdtxt.exe"),
        ("half \ud83d", "half \ufffd"),
        ("tag \U000e0041", "tag \ufffd"),
        ("می‌خواهم 👩‍👩‍👧 क्‍ष", "می‌خواهم 👩‍👩‍👧 क्‍ष"),
    ],
)
def test_what_steers_a_terminal_is_replaced_and_what_joins_letters_stays(text: str, shown: str) -> None:
    assert printable(text) == shown


@settings(deadline=None)
@given(ANY_TEXT | NASTY)
def test_a_printable_text_can_be_written_and_has_no_controls(text: str) -> None:
    shown = printable(text)
    shown.encode()
    assert all(each in "\n\t" or unicodedata.category(each) not in ("Cc", "Cs", "Zl", "Zp") for each in shown)
    assert printable(shown) == shown
    assert len(one_line(text).splitlines()) <= 1


@pytest.mark.parametrize("place", ["Q", "| Q |\n|---|\n| Q |", "- Q", "> Q", "a **bQ**", "# Q", "a Q b"])
@settings(deadline=None)
@given(text=ANY_TEXT | NASTY)
def test_markdown_shows_the_text_and_nothing_else(place: str, text: str) -> None:
    reader = pytest.importorskip("markdown_it").MarkdownIt("gfm-like", {"linkify": False})
    page, plain = (reader.render(place.replace("Q", shown)) for shown in (markdown(text), "Q"))
    tags = re.compile(r"<[^>]*>")
    if one_line(text):
        assert tags.findall(page) == tags.findall(plain)
    shown, pattern = ("".join(html.unescape(tags.sub("", each)).split()) for each in (page, plain))
    assert shown == pattern.replace("Q", "".join(one_line(text).split()))


def test_markdown_links_nowhere_by_itself() -> None:
    assert markdown("see https://a.b/c_d, www.a.b or me@a.b") == r"see https\://a.b/c\_d, www\.a.b or me\@a.b"
    assert markdown("1. first\n- second") == r"1\. first - second"
    assert markdown("<!-- hnmine -->") == r"\<!-- hnmine --\>"
