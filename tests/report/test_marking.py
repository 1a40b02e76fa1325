"""Words of a query, marked in other texts."""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnmine.corpus.analyzer import words
from hnmine.report.marking import BEGIN, END, in_bold, in_markdown, marked, plain, terms_of
from hnmine.runs.printable import one_line

TEXT = st.text(st.sampled_from("ab1 .,-+#'中文字บกทक्षé\u200d\u0301\n*_<|") | st.characters(codec="utf-8"), max_size=30)


@pytest.mark.parametrize(
    ("query", "text", "page"),
    [
        ("the apple", "An Apple, the pear", "An **Apple**, the pear"),
        ("the", "the end", "**the** end"),
        ("c++ or .net", "in C++, .NET and C", "in **C++,** .**NET** and C"),
        ("中文", "说中文字", "说**中文**字"),
        ("snake_case *x*", "a snake_case *x*", r"a **snake\_case** \***x**\*"),
        ("apple", "https://apple.com|apple", r"https\://**apple**.com\|**apple**"),
        ("1000", "1,000 of 1000", "**1,000** of **1000**"),
        ("pear", "an apple", "an apple"),
    ],
)
def test_the_words_of_the_query_are_bold(query: str, text: str, page: str) -> None:
    assert in_markdown(marked(text, terms_of(query), 100)) == page


@settings(deadline=None)
@given(TEXT, TEXT)
def test_marks_stand_around_words_that_both_have_and_change_nothing_else(query: str, text: str) -> None:
    terms, line = terms_of(query), one_line(text)
    shown = marked(text, terms, 1000)
    assert plain(shown) == line.replace(BEGIN, "\ufffd").replace(END, "\ufffd")
    parts = re.findall(f"{BEGIN}([^{END}]*){END}", shown)
    assert shown.count(BEGIN) == shown.count(END) == len(parts)
    assert bool(parts) == any(terms.intersection(words(part)) for part in line.split())
    assert all(terms.intersection(words(part)) for part in parts)


@settings(deadline=None)
@given(TEXT, TEXT)
def test_a_page_shows_the_words_bold_and_no_stars(query: str, text: str) -> None:
    shown = marked(text, terms_of(query), 1000)
    reader = pytest.importorskip("markdown_it").MarkdownIt("gfm-like", {"linkify": False})
    page = reader.render(f"| a |\n|---|\n| x {in_markdown(shown)} y |")
    assert page.count("<strong>") == shown.count(BEGIN)
    assert "".join(html.unescape(re.sub("<[^>]*>", "", page)).split()) == "ax" + "".join(plain(shown).split()) + "y"


def test_a_long_text_is_cut_before_it_is_marked() -> None:
    shown = marked("apple " * 50, terms_of("apple"), 20)
    assert plain(shown) == "apple apple apple …"
    assert in_bold(shown) == "\033[1mapple\033[22m \033[1mapple\033[22m \033[1mapple\033[22m …"
