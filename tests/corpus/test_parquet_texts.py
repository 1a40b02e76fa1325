"""Documents that stay in Parquet files are the documents that reading them here gives, whatever is asked of them."""

from __future__ import annotations

import json
import pickle
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import pytest

from hnmine.config.steps import SourcesConfig
from hnmine.corpus import parquet_texts
from hnmine.corpus.collection import Collection, Quarantined
from hnmine.corpus.identity import identity_keys, identity_numbers
from hnmine.corpus.layouts import read_collection
from hnmine.corpus.parquet_texts import ParquetTexts
from hnmine.corpus.text_keys import PLAIN, Reading, keys_of, lengths_of
from hnmine.errors import DataError
from tests.builders.collections import write_collection
from tests.builders.parquet_collections import as_parquet, put_there
from tests.builders.texts import random_texts

pytestmark = pytest.mark.ray

PROMPTED = Reading(prompt="passage: ")


@dataclass
class Both:
    """One collection, read by workers of Ray and read here."""

    address: str
    distant: Collection
    here: Collection
    bad: tuple[list[Quarantined], list[Quarantined]]


def documents_of(folder: Path) -> list[dict[str, Any]]:
    """Return the documents of a BEIR folder among 400 others and rows of every kind that is refused or joined."""
    rows = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]
    more = random_texts(400, "more", 30)
    rows += [{"_id": name, "title": "", "text": text} for name, text in zip(more.ids, more.texts, strict=True)]
    rows += [
        {"_id": None, "title": "none", "text": "no id"},
        {"_id": "blank", "title": " ", "text": ""},
        {"_id": "more7", "title": "", "text": "another text under an id that is taken"},
        {"_id": "more8", "title": "", "text": more.texts[8]},
        {"_id": "copy", "title": "", "text": f"  {more.texts[9].upper()}"},
        {"_id": "日本", "title": "題", "text": "語彙 \U0001f600 é"},
        {"_id": "long", "title": "", "text": "x" * 2_000_100},
    ]
    order = np.random.default_rng(3).permutation(len(rows))
    return [rows[at] for at in order]


@pytest.fixture(scope="module")
def both(s3: Any, tmp_path_factory: pytest.TempPathFactory) -> Both:
    folder = write_collection(tmp_path_factory.mktemp("parquet") / "data")
    as_parquet(folder, documents_of(folder), files=3, rows=20)
    address = s3(f"bucket/{uuid.uuid4().hex}")
    put_there(folder, address)
    bad: tuple[list[Quarantined], list[Quarantined]] = ([], [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parquet_texts, "PART_ROWS", 50)
        distant = read_collection(address, SourcesConfig(), bad[0], by_workers=True)
    here = read_collection(address, SourcesConfig(), bad[1])
    return Both(address, distant, here, bad)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_texts, "PART_ROWS", 50)


def test_the_collection_is_the_same(both: Both) -> None:
    distant, here = both.distant, both.here
    assert isinstance(distant.documents.texts, ParquetTexts)
    assert list(distant.documents.ids) == list(here.documents.ids)
    assert list(distant.documents.texts) == list(here.documents.texts)
    assert list(distant.queries.texts) == list(here.queries.texts)
    assert both.bad[0] == both.bad[1]
    assert {each.reason for each in both.bad[0]} >= {"missing_id", "empty_text"}
    assert distant.digests() == here.digests()


def test_what_is_known_without_the_texts_is_what_the_texts_give(both: Both) -> None:
    distant, here = both.distant.documents.texts, list(both.here.documents.texts)
    rows = np.random.default_rng(0).integers(0, len(here), 60)
    np.testing.assert_array_equal(lengths_of(distant), list(map(len, here)))
    np.testing.assert_array_equal(lengths_of(distant, rows), [len(here[row]) for row in rows])
    np.testing.assert_array_equal(keys_of(distant), keys_of(here))
    np.testing.assert_array_equal(keys_of(distant, PROMPTED), keys_of(here, PROMPTED))
    np.testing.assert_array_equal(identity_keys(distant), identity_keys(here))


@pytest.mark.parametrize("seed", range(4))
def test_rows_are_taken_in_the_order_that_is_asked(both: Both, seed: int) -> None:
    fresh, here = both.distant.documents.texts, list(both.here.documents.texts)
    assert isinstance(fresh, ParquetTexts)
    fresh = fresh.kept([True] * len(here))
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, len(here), int(rng.integers(0, 80))).tolist()
    assert fresh.take(rows) == tuple(here[row] for row in rows)
    assert fresh[-1] == here[-1]
    assert fresh[3:40:7] == tuple(here[3:40:7])
    with pytest.raises(IndexError):
        fresh[len(here)]
    keep = rng.random(len(here)) < 0.5
    some = fresh.kept(keep.tolist())
    assert list(some) == [text for text, kept in zip(here, keep, strict=True) if kept]
    np.testing.assert_array_equal(some.keys(PLAIN), keys_of(here)[keep])
    found = dict(rows_and_texts(some))
    assert [found[row] for row in range(len(some))] == list(some)
    assert some.work_on(np.array([5, 0, 2]), list) == [some[5], some[0], some[2]]


def _copy(texts: list[str]) -> list[str]:
    return list(texts)


def rows_and_texts(texts: ParquetTexts) -> list[tuple[int, str]]:
    """Return every row with its text as the workers see it, part after part."""
    found: list[tuple[int, str]] = []
    for rows, some in texts.by_parts(_copy):
        found += zip(rows.tolist(), some, strict=True)
    return found


def test_a_part_is_of_one_file_and_the_parts_are_all_rows(both: Both) -> None:
    texts = both.distant.documents.texts
    assert isinstance(texts, ParquetTexts)
    files, parts = texts.files, texts.files.parts()
    assert [group for part in parts for group in part] == list(range(len(files.groups)))
    assert all(len({files.groups[group][0] for group in part}) == 1 for part in parts)
    assert len(parts) > 3
    travelled = pickle.loads(pickle.dumps(files))
    assert travelled.texts(texts.places[:30]) == list(both.here.documents.texts[:30])


def test_texts_asked_for_one_by_one_are_brought_here_once(both: Both, capsys: pytest.CaptureFixture[str]) -> None:
    texts = both.distant.documents.texts
    assert isinstance(texts, ParquetTexts)
    fresh = texts.kept([True] * len(texts))
    assert [fresh[row] for row in range(40)] == list(both.here.documents.texts[:40])
    assert capsys.readouterr().err.count("are brought to this machine") == 1


@pytest.mark.parametrize("how", ["take", "all"])
def test_documents_that_change_while_they_are_used_are_refused(both: Both, s3: Any, tmp_path: Path, how: str) -> None:
    folder = write_collection(tmp_path / "data")
    rows = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]
    as_parquet(folder, rows)
    address = s3(f"bucket/{uuid.uuid4().hex}")
    put_there(folder, address)
    texts = read_collection(address, SourcesConfig(), by_workers=True).documents.texts
    (folder / "corpus.jsonl").touch()
    (folder / "corpus" / "part-00000.parquet").unlink()
    (folder / "corpus").rmdir()
    as_parquet(folder, [row | {"text": f"{row['text']}!"} for row in rows])
    put_there(folder, address)
    with pytest.raises(DataError, match=r"30 documents of .* have changed since they were read"):
        texts[:] if how == "take" else list(texts)


@pytest.mark.parametrize(
    ("template", "message"),
    [("{titel} {text}", "sources.template names titel"), ("{title}\n{text}", "no usable document")],
)
def test_what_is_refused_here_is_refused_there(s3: Any, tmp_path: Path, template: str, message: str) -> None:
    folder = write_collection(tmp_path / "data")
    text = "" if "usable" in message else "text"
    as_parquet(folder, [{"_id": str(row), "title": "", "text": text} for row in range(5)])
    address = s3(f"bucket/{uuid.uuid4().hex}")
    put_there(folder, address)
    said = []
    for by_workers in (True, False):
        with pytest.raises(DataError, match=message) as caught:
            read_collection(address, SourcesConfig(template=template), by_workers=by_workers)
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_files_that_are_not_parquet_or_not_seen_by_all_are_read_here(s3: Any, tmp_path: Path) -> None:
    folder = write_collection(tmp_path / "data")
    address = s3(f"bucket/{uuid.uuid4().hex}")
    put_there(folder, address)
    assert not isinstance(read_collection(address, SourcesConfig(), by_workers=True).documents.texts, ParquetTexts)
    as_parquet(folder, [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()])
    assert not isinstance(read_collection(folder, SourcesConfig(), by_workers=True).documents.texts, ParquetTexts)


def test_the_same_texts_are_found_without_them(both: Both) -> None:
    distant, here = ([each.documents.texts, each.queries.texts] for each in (both.distant, both.here))
    np.testing.assert_array_equal(np.concatenate(identity_numbers(*distant)), np.concatenate(identity_numbers(*here)))
    assert pafs.FileSystem.from_uri(both.address)  # the address is real
