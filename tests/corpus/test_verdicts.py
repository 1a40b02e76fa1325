"""Verdicts of people: pages with ticked boxes and tables become judgements, and every row is accounted for."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnmine.config.steps import SourcesConfig
from hnmine.corpus.collection import Collection
from hnmine.corpus.layouts import read_collection
from hnmine.corpus.objects import Collection as MadeCollection
from hnmine.corpus.verdicts import marker, texts_digest, verdict_rows
from hnmine.errors import DataError
from tests.builders.collections import write_collection

CARE, GUIDE, PRICE, STORY = "apple-care", "apple-guide", "apple-price", "apple-story"
HEADER = "query_id\tdocument_id\tverdict\n"


def read(folder: Path, *files: Path, **sources: object) -> Collection:
    """Read the collection with these verdicts."""
    return read_collection(folder, SourcesConfig(verdicts=tuple(map(str, files)), **sources))


def rows_of(collection: Collection, query: str) -> tuple[set[str], set[str]]:
    """Return the ids of what is right and of what people judged wrong for a query."""
    row, ids = collection.queries.row_of[query], collection.documents.ids
    found = (collection.positives().get(row, set()), collection.wrong().get(row, set()))
    right, wrong = ({ids[doc] for doc in docs} for docs in found)
    return right, wrong


def reasons(collection: Collection) -> dict[str, int]:
    """Return the reasons of rows that were set aside."""
    return dict(Counter(row.reason for row in collection.quarantined))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_collection(tmp_path / "data")


@pytest.mark.parametrize("form", ["tsv", "csv", "jsonl", "md", "negative_id", "folder", "bare"])
def test_right_is_a_positive_of_the_split_and_wrong_is_known(folder: Path, form: str) -> None:
    pairs = [(CARE, STORY, "right"), (CARE, PRICE, "wrong")]
    path = folder.parent / f"verdicts.{form}"
    if form in ("tsv", "csv", "negative_id", "folder"):
        path.parent.mkdir(exist_ok=True)
        file = path if form != "folder" else path / "anna.tsv"
        file.parent.mkdir(exist_ok=True)
        sign = "," if form == "csv" else "\t"
        header = HEADER.replace("document_id", "negative_id") if form == "negative_id" else HEADER
        file.write_text((header + "".join("\t".join(pair) + "\n" for pair in pairs)).replace("\t", sign))
    elif form == "jsonl":
        path.write_text("".join(json.dumps({"qid": q, "docid": d, "verdict": v.upper()}) + "\n" for q, d, v in pairs))
    else:
        plain = read(folder)
        lines = []
        for query, document, verdict in pairs:
            texts = (
                plain.queries.texts[plain.queries.row_of[query]],
                plain.documents.texts[plain.documents.row_of[document]],
            )
            boxes = [f"- [{'x' if verdict == each else ' '}] {each}" for each in ("right", "wrong")]
            lines += ["some text", marker(query, document, texts_digest(*texts)), *boxes, ""]
        path.write_text("\n".join(lines))
    collection = read(folder, path)
    assert rows_of(collection, CARE) == ({GUIDE, STORY}, {PRICE})
    train, row = collection.pairs("train"), collection.queries.row_of[CARE]
    mined = {collection.documents.ids[doc] for doc in train.doc_rows_P[train.query_rows_P == row].tolist()}
    assert mined == {GUIDE, STORY}
    assert len(train) == len(read(folder).pairs("train")) + 1
    assert len(collection.pairs("dev")) == len(read(folder).pairs("dev"))
    assert collection.queries.ids == read(folder).queries.ids
    assert sum(collection.rows_kept.values()) == sum(read(folder).rows_kept.values()) + 2


def test_every_bad_row_is_set_aside_with_a_reason(folder: Path) -> None:
    path = folder.parent / "verdicts.tsv"
    rows = [
        (CARE, STORY, "right"),
        (CARE, STORY, "wrong"),  # duplicate_pair: right stands
        (CARE, PRICE, ""),  # no_verdict
        (CARE, PRICE, "perhaps"),  # bad_verdict
        ("nobody", PRICE, "wrong"),  # unknown_query
        (CARE, "nothing", "wrong"),  # unknown_document
        (CARE, GUIDE, "wrong"),  # judged_right
        ("", GUIDE, "wrong"),  # malformed_row
    ]
    path.write_text(HEADER + "".join("\t".join(row) + "\n" for row in rows))
    collection = read(folder, path)
    names = ["duplicate_pair", "no_verdict", "bad_verdict", "unknown_query", "unknown_document", "judged_right"]
    assert reasons(collection) == dict.fromkeys([*names, "malformed_row"], 1)
    assert rows_of(collection, CARE) == ({GUIDE, STORY}, set())
    assert (collection.rows_read[str(path)], collection.rows_kept[str(path)]) == (8, 1)


def test_a_page_is_read_as_people_leave_it(folder: Path) -> None:
    plain = read(folder)
    digest = texts_digest(plain.queries.texts[plain.queries.row_of[CARE]], plain.documents.texts[1])
    page = folder.parent / "review.md"
    blocks = [
        "- [x] right\n",  # above all: malformed_row
        f"{marker(CARE, PRICE, digest)}\n\n* [ X ] **Wrong**: it is about the price\n* [ ] right\n",
        f"{marker(CARE, STORY, 'other')}\n- [x] right\n",  # text_changed
        f"{marker(CARE, 'bread-guide', '')}\n- [ ] right\n- [ ] wrong\n",  # nobody can say, so it is no row
        f"{marker(CARE, 'bread-price', '')}\n- [x] right\n- [x] wrong\n",  # bad_verdict
        '<!-- hnmine {"query_id": -->\n- [x] right\n',  # broken_json
    ]
    page.write_text("# Title\n" + "\n".join(blocks))
    collection = read(folder, page)
    names = ["malformed_row", "text_changed", "bad_verdict", "broken_json"]
    assert reasons(collection) == dict.fromkeys(names, 1)
    assert rows_of(collection, CARE) == ({GUIDE}, {PRICE})


def test_a_verdict_makes_a_lower_grade_right_or_wrong_and_holds_for_queries_of_one_text() -> None:
    corpus = {"d1": "one", "d2": "two", "d3": "three", "d4": "four"}
    queries = {"q1": "a question", "q2": "A  question", "q3": "another"}
    qrels = {"q1": {"d1": 2, "d2": 1, "d3": 1}, "q3": {"d4": 2}}

    def made(*lines: str, tmp: Path) -> MadeCollection:
        tmp.write_text(HEADER + "".join(f"{line}\n" for line in lines))
        return MadeCollection.of(corpus, queries, qrels, SourcesConfig(min_score=2, verdicts=str(tmp)))

    with tempfile.TemporaryDirectory() as folder:
        found = made("q2\td2\tright", "q1\td3\twrong", tmp=Path(folder) / "v.tsv")
    assert rows_of(found, "q1") == ({"d1", "d2"}, {"d3"})
    assert rows_of(found, "q2") == ({"d1", "d2"}, {"d3"})
    assert found.lower_grades() == {}
    assert found.layout != MadeCollection.of(corpus, queries, qrels, SourcesConfig(min_score=2)).layout


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.md", None, "does not exist"),
        ("notes.md", "# nothing\n", "holds no verdict"),
        ("open.md", marker(CARE, PRICE, "") + "\n- [ ] right\n", "holds no verdict"),
        ("other.tsv", "a\tb\n1\t2\n", "no query and no document and no verdict"),
        ("empty.tsv", "", "holds no verdict"),
    ],
)
def test_a_file_without_a_verdict_is_refused(folder: Path, name: str, content: str | None, message: str) -> None:
    path = folder.parent / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=message):
        read(folder, path)


@settings(deadline=None)
@given(
    st.lists(st.tuples(*[st.text(st.characters(codec="utf-8"), min_size=1, max_size=9)] * 2), min_size=1, max_size=4)
)
def test_any_ids_go_through_a_page(pairs: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "review.md"
        lines = [f"{marker(query, document, 't')}\n- [x] wrong\n" for query, document in pairs]
        assert all(line.count("-->") == 1 and len(line.splitlines()) == 2 for line in lines)
        page.write_text("".join(lines), encoding="utf-8")
        found = [row.fields for row in verdict_rows([str(page)])]
    assert found == [{"query": q, "document": d, "texts": "t", "verdict": "wrong"} for q, d in pairs]
