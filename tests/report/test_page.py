"""The page of a run: what stands in it, what it may weigh, and that no text of others becomes a part of it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import hnmine
from hnmine.errors import DataError
from hnmine.ranking.rows import read_rows
from hnmine.report.page import MOST_BYTES, NIGHTS, PAGE, report
from tests.builders.runs import reported_run

SECTIONS = ["rows", "queries", "arms", "mining", "hidden", "learning", "nights", "cost", "provenance"]
HOSTILE = [
    "</script><script>alert(1)</script>",
    "</style><img src=x onerror=alert(1)>",
    "{{ 7 * 7 }}{% raw %}{# x #}",
    "]]><!-- --> <![CDATA[",
    "\x00\x07\x1b[31m\x85\u2028\ufeff",
    "\u202eevil\u2066\u2069 \u202a",
    "\" onmouseover='alert(1)' `${1}`",
    "&lt;b&gt; &amp;#x3c;script&amp;#x3e;",
    "javascript:alert(1)",
    "搜索引擎 索引 שלום עולם مرحبا",
    "a" * 300,
    "\U0001d54f e\u0301 \u200d \ufffe",
]


class Shape(HTMLParser):
    """The elements of a page with the names of their attributes, those of its charts apart; and the text in it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.drawn: set[str] = set()
        self.text: list[str] = []
        self.in_chart = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.in_chart = self.in_chart or tag == "svg"
        if self.in_chart:
            self.drawn |= {tag, *(name for name, _ in attrs)}
        else:
            self.elements.append((tag, tuple(name for name, _ in attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.in_chart = self.in_chart and tag != "svg"

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def page_of(out: Path) -> str:
    return report(out).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reported_run(tmp_path_factory.mktemp("page") / "my-run" / "out")


@pytest.fixture(scope="module")
def page(out: Path) -> str:
    return page_of(out)


def test_the_first_sentence_counts_the_queries_and_tells_the_gain(out: Path, page: str) -> None:
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["ranker"]["chosen"] == "after: paper, blended"
    before, after = (read_rows(out)[at].test_table()["MRR@10"].to_numpy() for at in (1, 3))
    text = re.sub(r"\s+", " ", "".join(Shape(page[page.index("<h1>") : page.index("<nav")]).text))
    better, worse = int((after > before).sum()), int((after < before).sum())
    assert better
    assert worse
    assert f"{better} of 40 queries got better, {worse} got worse." in text
    assert f"{better} better{40 - better - worse} equal{worse} worse" in text
    gain = after.mean() - before.mean()
    assert f"from {before.mean():.3f} to {after.mean():.3f}: a gain of {gain:+.3f}, with 95 % confidence" in text
    assert "Deploy it or not? Answer" in text


def test_a_run_that_left_everything_has_every_section_and_a_link_to_it(page: str) -> None:
    assert re.findall(r'<section id="(\w+)"', page) == SECTIONS
    assert re.findall(r'<li><a href="#(\w+)"', page) == SECTIONS


@pytest.mark.parametrize(
    ("gone", "sections", "command"),
    [
        ("compare.json", {"arms"}, "compare"),
        ("audit.json", {"hidden"}, "audit"),
        ("negatives.parquet", {"mining"}, "mine"),
        ("evaluation/after-paper.parquet", {"rows", "queries"}, "evaluate"),
        (NIGHTS, {"nights"}, None),
    ],
)
def test_what_is_not_there_is_left_out_with_the_command_that_makes_it(
    out: Path, tmp_path: Path, gone: str, sections: set[str], command: str | None
) -> None:
    for path in out.rglob("*"):
        if path.is_file() and path.relative_to(out).as_posix() != gone:
            (tmp_path / path.relative_to(out)).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path.relative_to(out)).write_bytes(path.read_bytes())
    page = page_of(tmp_path)
    shown = re.findall(r'<section id="(\w+)"', page)
    assert [each for each in SECTIONS if each not in sections] == [each for each in shown if each != "lacking"]
    assert ("lacking" in shown) == (command is not None)
    if command:
        assert f"<code>hnmine {command} --data DIR --out DIR</code>" in page


def test_it_is_the_same_page_each_time_whoever_asks(out: Path, page: str) -> None:
    assert hnmine.report(out) == out / PAGE
    assert (out / PAGE).read_text(encoding="utf-8") == page


def test_it_asks_nobody_and_runs_its_own_script_alone(page: str) -> None:
    addresses = set(re.findall(r"https?://[^\s\"'<>]+", page))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert page.count("<script") == 1
    assert "default-src 'none'" in page
    assert not re.search(r"<(link|iframe|img|object|embed|form)\b|@import|url\(", page)


def test_a_folder_without_anything_and_a_file_that_is_not_ours_are_refused_by_name(out: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has nothing to report; run `hnmine run`"):
        report(tmp_path)
    (tmp_path / "audit.json").write_text("[1")
    with pytest.raises(DataError, match=r"audit\.json is not what a step of hnmine leaves"):
        report(tmp_path)


@pytest.mark.parametrize(("queries", "letters"), [(1000, 5_000), (2000, 50)])
def test_a_page_stays_under_a_megabyte_and_says_what_was_left_out(tmp_path: Path, queries: int, letters: int) -> None:
    def text_of(name: str) -> str:
        return name if "id" in name else f"{name} " + "漢字 words " * (letters // 8)

    out = reported_run(tmp_path / "out", queries=queries, text_of=text_of)
    page = page_of(out)
    assert len(page.encode()) < MOST_BYTES
    said = re.search(r"The lists of ([\d,]+) queries more are left out", page)
    with_lists = page.count('<div class="lists">')
    assert said
    assert with_lists + int(said[1].replace(",", "")) == queries
    assert with_lists >= 100
    assert "</html>" in page


def test_long_texts_are_read_at_their_beginning(tmp_path: Path) -> None:
    out = reported_run(
        tmp_path / "out", text_of=lambda name: f"{name} {'x' * 700_000}" if name == "document 7" else name
    )
    assert (out / "evaluation" / "documents.parquet").stat().st_size < 50_000
    assert len(page_of(out)) < MOST_BYTES


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Shape:
    return Shape(page_of(reported_run(tmp_path_factory.mktemp("plain"), queries=12, text_of=lambda name: name)))


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(texts=HOSTILE)
@given(
    texts=st.lists(st.one_of(st.sampled_from(HOSTILE), st.text(st.characters(exclude_categories=["Cs"]))), min_size=1)
)
def test_no_text_of_others_becomes_an_element_or_an_attribute(
    plain: Shape, tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    names: dict[str, str] = {}

    def text_of(name: str) -> str:  # another name, another text: what goes by its name must stay apart
        return names.setdefault(name, f"{texts[len(names) % len(texts)]}{len(names)}")

    found = Shape(page_of(reported_run(tmp_path_factory.mktemp("hostile"), queries=12, text_of=text_of)))
    assert found.elements == plain.elements
    assert found.drawn <= plain.drawn
    steering = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff]")
    assert not steering.search("".join(found.text))


def test_a_loss_is_told_as_a_loss(tmp_path: Path) -> None:
    out = reported_run(tmp_path / "out")
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["ranker"]["chosen"] = "first stage: BM25"
    (out / "manifest.json").write_text(json.dumps(manifest))
    before, after = (row.test["MRR@10"] for row in (read_rows(out)[1], read_rows(out)[0]))
    assert after < before
    assert f"falls from {before:.3f} to {after:.3f}: a loss of <b>{after - before:+.3f}</b>" in page_of(out)
