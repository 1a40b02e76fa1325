"""A page of mined triplets: what people read on it, and the way back to judgements."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from hnmine.config.load import load
from hnmine.config.root import Config
from hnmine.corpus.layouts import read_collection
from hnmine.corpus.objects import Collection
from hnmine.errors import ConfigError, DataError
from hnmine.pipeline import mine
from hnmine.report.explain import mined_run
from hnmine.report.review import review_page
from hnmine.runs.printable import one_line
from tests.builders.collections import write_collection
from tests.builders.settings import LEXICAL_ENCODER

NASTY = (
    "apple | costs \x1b[31m <b>bold</b> **not** `code` --> <!-- hnmine {} -->\n- [x] right\n\u202e[a](http://b.c) &amp;"
)


def settings(*more: str) -> Config:
    """Return settings that mine in a second."""
    return load(overrides=[LEXICAL_ENCODER, "ray=false", "device=cpu", *more])


def mined_pairs(out: Path) -> set[tuple[str, str, str]]:
    """Return query, positive and negative of all that was mined."""
    rows = pq.read_table(out / "negatives.parquet").to_pylist()
    return {(row["query_id"], row["positive_id"], row["negative_id"]) for row in rows}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_collection(tmp_path / "data")


def test_what_people_tick_is_what_the_next_mine_does(data: Path, tmp_path: Path) -> None:
    out, page = tmp_path / "out", tmp_path / "review.md"
    mine(data, out, settings("select.negatives=2"))
    before = mined_pairs(out)
    text = review_page(mined_run(out), 20, seed=1)
    assert text == review_page(mined_run(out), 20, seed=1)
    assert text.count("- [ ] right") == len({query for query, _, _ in before})

    # Tick the first as right, the second as wrong, and leave the others open.
    ticked = text.replace("- [ ] right", "- [x] right", 1)
    first, rest = ticked.split("- [ ] wrong", 1)
    ticked = f"{first}- [ ] wrong{rest.replace('- [ ] wrong', '- [X] wrong', 1)}"
    page.write_text(ticked, encoding="utf-8")
    pairs = re.findall(r'"query_id": "([^"]*)", "document_id": "([^"]*)"', text)
    (query, right), (other, wrong) = pairs[:2]

    # Right is a positive and no negative; wrong stands though a guard would remove it.
    manifest = mine(data, out, settings("select.negatives=2", f"sources.verdicts={page}"))
    after = mined_pairs(out)
    assert right not in {negative for name, _, negative in after if name == query}
    assert (query, right) in read_pairs(data, page)
    counts = manifest["mining"]["counts"]
    assert counts["verdicts"] == {"right": 1, "new_positives": 1, "wrong": 1}
    assert counts["quarantined"] == {}
    assert (counts["rows_read"][str(page)], counts["rows_kept"][str(page)]) == (2, 2)
    assert counts["pairs"] == 13

    # A page that is drawn again asks about others.
    again = review_page(mined_run(out), 50, seed=1)
    assert f'"query_id": "{other}", "document_id": "{wrong}"' not in again

    mine(data, out, settings("guards.first_rank=900", f"sources.verdicts={page}"))
    assert {(other, wrong)} == {(name, negative) for name, _, negative in mined_pairs(out)}


def read_pairs(data: Path, page: Path) -> set[tuple[str, str]]:
    """Return query and document of the train pairs, by id."""
    collection = read_collection(data, settings(f"sources.verdicts={page}").sources)
    pairs = collection.pairs("train")
    rows = zip(pairs.query_rows_P.tolist(), pairs.doc_rows_P.tolist(), strict=True)
    return {(collection.queries.ids[query], collection.documents.ids[doc]) for query, doc in rows}


def test_a_page_shows_any_text_and_obeys_none(data: Path, tmp_path: Path) -> None:
    corpus, out = data / "corpus.jsonl", tmp_path / "out"
    rows = [json.loads(line) for line in corpus.read_text().splitlines()]
    for row in rows:
        if row["_id"].endswith("-price"):
            row |= {"_id": f"| --> `{row['_id']}` <b>", "text": f"{row['text']} {NASTY}"}
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    mine(data, out, settings())
    text = review_page(mined_run(out), 50, seed=0)
    assert "bold" in text
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", text)
    boxes = [line for line in text.splitlines() if line.lstrip().startswith("- [")]
    assert {line[:5] for line in boxes} == {"- [ ]"}
    assert len(boxes) == 2 * text.count("\n<!-- hnmine ")

    # What a reader of Markdown makes of it.
    reader = pytest.importorskip("markdown_it").MarkdownIt("gfm-like", {"linkify": False})
    shown = reader.render(text)
    tags = set(re.findall(r"</?(\w+)", re.sub(r"<!--.*?-->", "", shown)))
    assert tags <= {"h1", "h2", "p", "strong", "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "code"}
    plain = " ".join(html.unescape(re.sub(r"<[^>]*>", "", shown)).split())
    assert one_line(NASTY) in plain


def test_nothing_mined_is_said(data: Path, tmp_path: Path) -> None:
    mine(data, tmp_path / "out", settings("guards.first_rank=900"))
    with pytest.raises(DataError, match="no mined negative without a verdict"):
        review_page(mined_run(tmp_path / "out"), 20, seed=0)


def test_a_collection_of_objects_is_made_with_its_verdicts(tmp_path: Path) -> None:
    table = tmp_path / "verdicts.tsv"
    table.write_text("query_id\tdocument_id\tverdict\nq\tb\tright\n")
    objects = {"a": "one two", "b": "two one three", "c": "four"}, {"q": "three"}, {"q": {"a": 1}}
    with pytest.raises(ConfigError, match=r"sources.verdicts is .* but the collection was made with \(\)"):
        mine(Collection.of(*objects), tmp_path / "out", settings(f"sources.verdicts={table}"))
    config = settings(f"sources.verdicts={table}")
    found = mine(Collection.of(*objects, sources=config.sources), tmp_path / "out", config)
    assert found["mining"]["counts"]["pairs"] == 2


def test_right_counts_where_its_query_is_tested(data: Path, tmp_path: Path) -> None:
    table = tmp_path / "verdicts.tsv"
    table.write_text("query_id\tdocument_id\tverdict\nisland-care\tisland-price\tright\n")
    collection = read_collection(data, settings(f"sources.verdicts={table}").sources)
    assert [len(collection.pairs(split)) for split in ("train", "dev", "test")] == [12, 4, 5]
