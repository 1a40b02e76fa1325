"""TREC's markup, as it comes from disks of fifty years and from generators of today."""

from __future__ import annotations

import pytest

from hnmine.corpus.markup import DOCUMENT_TAGS, TOPIC_TAGS, is_markup, markup_rows

ROBUST = """
<top>

<num> Number: 301
<title> International Organized Crime

<desc> Description:
Identify organizations that participate in it.

<narr> Narrative:
A relevant document must name one.

</top>
"""
NEWS = """<DOC>
<DOCNO> FT911-1 </DOCNO>
<DATE>910514</DATE>
<HEADLINE>
FT  14 MAY 91 / Cold &amp; wet
</HEADLINE>
<TEXT>
<P> Text <!-- not
this --> one </P> x < 5 &amp;lt; y
<TITLE>within</TITLE>
</TEXT>
<TEXT>more
</TEXT>
</DOC>
"""


def read(text: str | bytes, tags=DOCUMENT_TAGS) -> list[tuple]:
    raw = text if isinstance(text, bytes) else text.encode()
    return [
        (row.line, row.reason or tuple(row.fields[name] for name in ("id", "title", "text")))
        for row in markup_rows("docs", raw.splitlines(keepends=True), tags)
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ROBUST, [(2, ("301", "", "International Organized Crime"))]),
        ("<top><num>5</num><title>a &lt;b&gt; &amp; c</title></top>", [(1, ("5", "", "a <b> & c"))]),
        (
            "<top>\n<num>Number: MB01\n<query> BBC cuts </query>\n<querytime>x</querytime>\n</top>",
            [(1, ("MB01", "", "BBC cuts"))],
        ),
        (
            '<topics task="c">\n<topic number="1">\n<query>origin</query><question>what is it</question></topic>'
            "<topic number='2'><question>why <b>not</b>?</question></topic>\n</topics>",
            [(2, ("1", "", "origin")), (3, ("2", "", "why  not ?"))],
        ),
        ("<TOP>\n<NUM>7\n<DESC>Description: only\nthis\n</TOP>", [(1, ("7", "", "only\nthis"))]),
        (
            '<?xml version="1.0"?><topics><topic><identifier>8</identifier><title>t</title></topic></topics>',
            [(1, ("8", "", "t"))],
        ),
        ("<top><num>9</num><title>Topic: cats: a history</title></top>", [(1, ("9", "", "cats: a history"))]),
    ],
)
def test_topics(text: str, expected: list) -> None:
    assert is_markup(text.encode())
    assert read(text, TOPIC_TAGS) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (NEWS, [(1, ("FT911-1", "FT  14 MAY 91 / Cold & wet", "Text   one   x < 5 &lt; y\n within\nmore"))]),
        (
            "<DOC><DOCNO>W1</DOCNO><DOCHDR>http</DOCHDR><html><head><title>T</title></head><body>B<p>C</body></html></DOC>",
            [(1, ("W1", "T", "B C"))],
        ),
        (
            "<doc><docno>1</docno><text>a</text></doc>\n\n<doc>\n<docno>2\n<text>b\n</doc>",
            [(1, ("1", "", "a")), (3, ("2", "", "b"))],
        ),
        ('<DOC id="AFP1" type="story">\n<TEXT>x</TEXT></DOC>', [(1, ("AFP1", "", "x"))]),
        ("<DOC><DOCNO>1</DOCNO><TEXT>cut off", [(1, "malformed_row")]),
        (
            "<DOC><DOCNO>1</DOCNO>\n<DOC><DOCNO>2</DOCNO><TEXT>b</TEXT></DOC>",
            [(1, "malformed_row"), (2, ("2", "", "b"))],
        ),
        (
            b"<DOC><DOCNO>1</DOCNO><TEXT>caf\xe9</TEXT></DOC><DOC><DOCNO>2</DOCNO><TEXT>b</TEXT></DOC>",
            [(1, "not_utf8"), (1, ("2", "", "b"))],
        ),
        ("<DOC><DOCNO></DOCNO><TEXT>b</TEXT></DOC>", [(1, ("", "", "b"))]),
    ],
)
def test_documents(text: str | bytes, expected: list) -> None:
    assert read(text) == expected


def test_entities_of_a_document_type_are_left_alone() -> None:
    bomb = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><topic number="1"><query>&b; &eacute;</query></topic>'
    assert read(bomb, TOPIC_TAGS) == [(1, ("1", "", "&b; é"))]


@pytest.mark.parametrize(
    "junk", [b"<TITLE>", b"</TEXT>", b"<", b"<a ", b"<!--", b"-->", b"<DOC ", b' id="', b"&#", b"\n "]
)
def test_time_grows_with_the_size(junk: bytes) -> None:
    record = b"<DOC><DOCNO>1</DOCNO><TITLE>" + junk * 50_000 + b"</DOC>"
    assert len(list(markup_rows("docs", [record], DOCUMENT_TAGS))) <= 50_000


@pytest.mark.parametrize("head", [b"<html><body>404</body></html>", b'{"id": "<DOC>"}', b"1\t<DOC>", b""])
def test_other_files_are_no_markup(head: bytes) -> None:
    assert not is_markup(head)
