"""The page of a run: what stands in it, what it may weigh, and that no text of others becomes a part of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page

import hnmine
from hnmine.errors import DataError
from hnmine.ranking.rows import read_rows
from hnmine.report.page import MOST_BYTES, NIGHTS, PAGE, renew_page, report
from tests.builders.browsers import started_chromium
from tests.builders.runs import WITH_BLEND, reported_run

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
    return reported_run(tmp_path_factory.mktemp("page") / "my-run" / "out", queries=24)


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
    assert f"{better} of 24 queries got better, {worse} got worse." in text
    assert f"{better} better{24 - better - worse} equal{worse} worse" in text
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
    (tmp_path / "home.json").touch()
    with pytest.raises(DataError, match="is a home of nights, where each night leaves report"):
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


# In a real browser

SCREENS = [(1280, "light"), (1280, "dark"), (800, "light"), (360, "light"), (360, "dark")]
CUT = """() => {
  const cut = [], inside = (each, name) => each.closest(name);
  for (const each of document.querySelectorAll("body *")) {
    if (inside(each, ".sr, .skip, pre, .panel, svg, .scroll")) continue;
    const hides = getComputedStyle(each).overflowX !== "visible";
    if (hides && each.scrollWidth > each.clientWidth + 1) cut.push("hidden: " + each.outerHTML.slice(0, 90));
  }
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, range = document.createRange();
    if (!node.data.trim() || inside(node.parentElement, ".sr, .skip, script, pre, .scroll")) continue;
    range.selectNodeContents(node);
    for (const box of range.getClientRects())
      if (box.width && (box.left < -1 || box.right > innerWidth + 1)) cut.push("beyond: " + node.data.slice(0, 60));
  }
  for (const svg of document.querySelectorAll("svg")) {
    const names = [...svg.querySelectorAll("text")].filter((text) => !text.hasAttribute("stroke") && text.textContent);
    const boxes = names.map((text) => text.getBoundingClientRect());
    boxes.forEach((a, i) => boxes.slice(0, i).forEach((b, j) => {
      const across = a.left + 1 < b.right - 1 && b.left + 1 < a.right - 1;
      if (across && a.top + 3 < b.bottom - 3 && b.top + 3 < a.bottom - 3)
        cut.push(`over: ${names[i].textContent} | ${names[j].textContent}`);
    }));
  }
  if (document.documentElement.scrollWidth > innerWidth) cut.push(`page of ${document.documentElement.scrollWidth}`);
  return cut;
}"""
"""What is cut off, stands beyond the screen, or over another text."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Start the Chromium of this machine, or playwright's; skip where there is none."""
    with started_chromium() as browser:
        yield browser


def opened(chromium: Browser, out: Path, width: int = 1280, **how: Any) -> tuple[Page, list[str]]:
    """Open the page of a run; return it, and what it asked for or complained of."""
    heard: list[str] = []
    page = chromium.new_page(viewport={"width": width, "height": 900}, **how)
    page.on("request", lambda request: heard.append(request.url))
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("dialog", lambda dialog: heard.append(f"dialog: {dialog.message}"))
    page.goto((out / PAGE).as_uri())
    return page, [each for each in heard if each != (out / PAGE).as_uri()]


def look(chromium: Browser, out: Path, width: int, scheme: Literal["light", "dark"], picture: Path) -> None:
    """Let a browser and axe find nothing on a page, its details closed and open; and take a picture of it."""
    page, heard = opened(chromium, out, width, color_scheme=scheme)
    assert heard == []
    for details in (False, True):
        page.evaluate("open => document.querySelectorAll('details').forEach(each => { each.open ||= open })", details)
        assert page.evaluate(CUT) == []
    found = Axe().run(page)
    assert [violation["id"] for violation in found.response["violations"]] == [], found.generate_report()
    assert len(page.screenshot(path=picture, full_page=True)) > 50_000
    page.close()


def head_of(page: str) -> str:
    """Return the words above the sections."""
    return re.sub(r"\s+", " ", "".join(Shape(page[page.index("<h1>") : page.index("<nav")]).text))


CAVEAT = "There is no test split: these are the dev queries, which chose, and the figures flatter."
OUT_OF_DATE = "The evaluation in out/evaluation is out of date"


def test_figures_of_the_queries_that_chose_are_called_so_below_the_headline(tmp_path: Path, page: str) -> None:
    assert CAVEAT not in head_of(page)
    assert f"worse. {CAVEAT}" in head_of(page_of(reported_run(tmp_path, queries=12, test_is_dev=True)))


def test_the_gain_over_what_needs_no_re_ranker_stands_beside_the_gain(tmp_path: Path) -> None:
    out = reported_run(tmp_path / "out", queries=24, rows=WITH_BLEND)
    head, rows = head_of(page_of(out)), read_rows(out)
    gain = (rows[3].test_table()["MRR@10"].to_numpy() - rows[4].test_table()["MRR@10"].to_numpy()).mean()
    said = re.search(
        r"Against first stage: BM25, blended, which needs no training and no re-ranker, it is a (loss|gain) of "
        r"([+-][\d.]+), with 95 % confidence between ([+-][\d.]+) and ([+-][\d.]+)",
        head,
    )
    assert (said[1], said[2]) == ("gain" if gain > 0 else "loss", f"{gain:+.3f}")
    assert float(said[3]) <= gain <= float(said[4])
    assert "a query costs 12.5 ms instead of 12.5 ms." in head
    assert "blended is not surely worse: --set ranker.choose=blend deploys it." in head
    assert re.search(r"gain against before: as given\W*against first stage: BM25, blended", head)


def test_what_is_not_in_the_folder_is_not_called_after(tmp_path: Path) -> None:
    page = page_of(reported_run(tmp_path / "out", queries=12, warmed_up=True, deployed="first stage: BM25"))
    head = head_of(page)
    assert "queries would get better" in head
    assert "With after: paper, blended, which is not in out/ranker, MRR@10 would rise" in head
    assert "Staysfirst stage: BM25 deployed" in head
    assert "Best of the othersafter: paper, blended" in head
    assert '<p class="when">After</p>' not in page


def test_only_a_night_deploys(tmp_path: Path, page: str) -> None:
    assert "after: paper, blended deployed" in head_of(page)
    out = reported_run(tmp_path / "out", queries=12)
    (out / NIGHTS).unlink()
    page = page_of(out)
    assert "Afterafter: paper, blended in out/ranker" in head_of(page)
    assert "deployed</span>" not in page


@pytest.mark.parametrize(
    ("reach", "expected"),
    [
        (1.0, "The first stage has all of the right documents."),
        (0.99999, "has 99.9 % of the right documents; re-ranking cannot"),
        (0.861, "has 86.1 % of the right documents; re-ranking cannot"),
    ],
)
def test_nothing_is_said_of_others_where_the_first_stage_has_all(tmp_path: Path, reach: float, expected: str) -> None:
    assert expected in page_of(reported_run(tmp_path / "out", queries=12, reach=reach))


@pytest.mark.parametrize(("gone", "steps"), [([], ["evaluate"]), (["training"], ["train", "evaluate"])])
def test_an_evaluation_that_no_longer_holds_is_said_with_the_command(
    tmp_path: Path, page: str, gone: list[str], steps: list[str]
) -> None:
    assert OUT_OF_DATE not in page
    out = reported_run(tmp_path / "out", queries=12)
    (out / "rerankers").mkdir()
    renew_page(out)
    assert not (out / PAGE).exists()
    report(out)
    manifest = json.loads((out / "manifest.json").read_text())
    kept = {name: each for name, each in manifest.items() if name not in {"evaluation", "ranker", *gone}}
    (out / "manifest.json").write_text(json.dumps(kept))
    renew_page(out)  # as a training does
    head = head_of((out / PAGE).read_text(encoding="utf-8"))
    assert OUT_OF_DATE in head
    assert ", then ".join(f"hnmine {step} --data DIR --out DIR" for step in steps) + " makes it anew." in head


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_nothing_is_cut_and_axe_finds_nothing_on_any_screen(
    chromium: Browser, out: Path, page: str, width: int, scheme: Literal["light", "dark"], tmp_path: Path
) -> None:
    assert page
    look(chromium, out, width, scheme, tmp_path / "page.png")


@pytest.mark.browser
def test_texts_that_were_written_to_break_a_page_break_nothing(chromium: Browser, tmp_path: Path) -> None:
    names: dict[str, str] = {}

    def text_of(name: str) -> str:
        return names.setdefault(name, f"{HOSTILE[len(names) % len(HOSTILE)]}{len(names)}")

    out = reported_run(tmp_path / "out", queries=24, text_of=text_of, rows=WITH_BLEND, test_is_dev=True)
    report(out)
    for width, scheme in (SCREENS[0], SCREENS[-1]):
        look(chromium, out, width, scheme, tmp_path / "page.png")


@pytest.mark.browser
def test_a_dot_opens_both_lists_of_its_query(chromium: Browser, out: Path, page: str) -> None:
    shown, heard = opened(chromium, out)
    number = re.search(r'<details class="query" id="q(\d+)"', page)[1]
    shown.locator(f'.dots a[href="#q{number}"]').dispatch_event("click")
    panel = shown.locator("#panel")
    assert panel.locator(".when").all_inner_texts() == ["Before", "After"]
    assert panel.locator("li").count() == 10
    assert panel.locator("bdi").first.inner_text() == shown.locator(f"#q{number} summary bdi").inner_text()
    shown.locator("#rest > summary").click()
    shown.locator(".find").fill("query 7")
    assert shown.locator("#rest .query:visible").count() <= 2
    assert heard == []
    shown.close()


@pytest.mark.browser
def test_without_javascript_all_can_be_read_and_a_dot_leads_to_its_query(
    chromium: Browser, out: Path, page: str
) -> None:
    shown, _ = opened(chromium, out, java_script_enabled=False)
    for name in SECTIONS:
        assert shown.locator(f"#{name} h2").is_visible()
    assert not shown.locator(".js").first.is_visible()
    number = re.findall(r'<details class="query" id="q(\d+)"', page)[-1]
    assert not shown.locator(f"#q{number} summary").is_visible()
    shown.locator(f'.dots a[href="#q{number}"]').click(force=True)
    shown.locator(f"#q{number} summary").click()
    assert shown.locator(f"#q{number} .lists").is_visible()
    assert shown.locator("svg:visible").count() >= 10
    shown.close()


@pytest.mark.browser
def test_it_prints_on_paper_with_the_twenty_queries_open(chromium: Browser, out: Path, page: str) -> None:
    assert page
    shown, _ = opened(chromium, out, 794)  # A4 at 96 dots an inch
    shown.emulate_media(media="print", color_scheme="dark")
    shown.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert shown.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--ink').trim()") == "#1a1e23"
    assert shown.evaluate("document.documentElement.scrollWidth") <= 794
    assert shown.locator("#queries > .query .lists:visible").count() == shown.locator("#queries > .query").count()
    assert not shown.locator("nav").is_visible()
    assert shown.pdf(format="A4").startswith(b"%PDF")
    shown.close()
