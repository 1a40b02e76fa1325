"""An export replaces what an earlier one left and nothing else, and refuses what it cannot do before it writes."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

import hnmine
from hnmine.errors import ConfigError, DataError
from hnmine.report.export_formats import FORMATS
from hnmine.report.exports import CAUTION, MARK, export_text
from tests.builders.commands import run_hnmine
from tests.builders.mined import mined_run


def content(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_export_has_the_same_bytes_and_replaces_another(tmp_path: Path) -> None:
    mined_run(tmp_path / "out")
    hnmine.export(tmp_path / "out", "flagembedding", tmp_path / "to")
    first = content(tmp_path / "to")
    hnmine.export(tmp_path / "out", "triplet", tmp_path / "to")
    assert "train.jsonl" not in content(tmp_path / "to")
    hnmine.export(tmp_path / "out", "flagembedding", tmp_path / "to")
    assert content(tmp_path / "to") == first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "to"], "nothing is left beside it"


@pytest.mark.parametrize("spoil", ["more", "changed", "unmarked", "damaged", "file"])
def test_what_hnmine_did_not_write_is_never_replaced(spoil: str, tmp_path: Path) -> None:
    mined_run(tmp_path / "out")
    target = tmp_path / "to"
    if spoil == "file":
        target.write_text("mine")
    else:
        hnmine.export(tmp_path / "out", "tevatron", target)
    if spoil == "more":
        (target / "notes" / "mine.txt").parent.mkdir()
        (target / "notes" / "mine.txt").write_text("mine")
    elif spoil == "changed":
        (target / "train.jsonl").write_text("mine")
    elif spoil == "unmarked":
        (target / MARK).unlink()
    elif spoil == "damaged":
        (target / MARK).write_text("[]")
    before = content(tmp_path)
    names = {
        "damaged": "README.md",
        "more": "notes/mine.txt",
        "changed": "train.jsonl",
        "unmarked": "README.md",
        "file": "to exists",
    }
    with pytest.raises(DataError, match=names.get(spoil, "README.md")):
        hnmine.export(tmp_path / "out", "tevatron", target)
    assert content(tmp_path) == before


def test_one_file_is_written_where_one_suffices_and_never_over_another(tmp_path: Path) -> None:
    mined_run(tmp_path / "out")
    found = hnmine.export(tmp_path / "out", "triplet", tmp_path / "new" / "triplets.parquet")
    assert pq.read_schema(tmp_path / "new" / "triplets.parquet").names == ["query", "positive", "negative"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["triplets.parquet"]
    assert str(tmp_path / "new" / "triplets.parquet") in export_text(found)
    with pytest.raises(DataError, match=r"triplets.parquet exists"):
        hnmine.export(tmp_path / "out", "triplet", tmp_path / "new" / "triplets.parquet")
    with pytest.raises(ConfigError, match="looks like a file; nemo expects the name of a folder"):
        hnmine.export(tmp_path / "out", "nemo", tmp_path / "train.json")
    with pytest.raises(ConfigError, match=r"tevatron expects the name of a folder, or of a file that ends in .jsonl"):
        hnmine.export(tmp_path / "out", "tevatron", tmp_path / "train.csv")


def test_a_link_leads_to_what_is_written_and_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    mined_run(tmp_path / "out")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for to in ("ms-swift", "triplet"):
        hnmine.export(tmp_path / "out", to, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere" / "data" / "train.parquet").is_file()
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(DataError, match=r"cannot be written: .*file"):
        hnmine.export(tmp_path / "out", "triplet", tmp_path / "file" / "to")


@pytest.mark.parametrize(
    ("to", "options", "problem"),
    [
        ("triplets", {}, r"no format 'triplets'; expected one of triplet, n-tuple"),
        ("triplet", {"data": "somewhere"}, r"--data would have no effect on triplet"),
        ("triplet", {"negatives": 2}, r"--negatives would have no effect on triplet"),
        ("n-tuple", {"negatives": 0}, r"--negatives: expected 1 or more, got 0"),
        ("ms-swift", {"scores": True}, r"--scores would have no effect on ms-swift"),
        ("beir", {}, r"beir is made of the collection: .* --data"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_by_name(to: str, options: dict, problem: str, tmp_path: Path) -> None:
    mined_run(tmp_path / "out")
    with pytest.raises(ConfigError, match=problem):
        hnmine.export(tmp_path / "out", to, tmp_path / "to", **options)
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("name", ["negatives", "triplets"])
def test_a_table_that_is_not_as_the_manifest_says_is_refused(name: str, tmp_path: Path) -> None:
    mined_run(tmp_path / "out")
    path = tmp_path / "out" / f"{name}.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(DataError, match=rf"{name}.parquet is not as manifest.json says"):
        hnmine.export(tmp_path / "out", "triplet", tmp_path / "to")
    with pytest.raises(DataError, match=r"has no manifest\.json: expected a folder that `hnmine mine`"):
        hnmine.export(tmp_path, "triplet", tmp_path / "to")


@pytest.mark.parametrize("to", ["flagembedding", "tevatron", "nemo", "datasets", "triplet"])
def test_scores_come_with_the_warning_that_they_teach_the_wrong_order(to: str, tmp_path: Path) -> None:
    mined_run(tmp_path / "out")
    asked = FORMATS[to].scores == "asked"
    found = hnmine.export(tmp_path / "out", to, tmp_path / "to", scores=asked)
    assert CAUTION in export_text(found)
    assert CAUTION in (tmp_path / "to" / "README.md").read_text()
    if asked:
        assert CAUTION not in export_text(hnmine.export(tmp_path / "out", to, tmp_path / "without"))


def test_the_readme_says_how_to_load_it_and_names_no_place_of_this_machine(tmp_path: Path) -> None:
    mined_run(tmp_path / "out")
    for to in FORMATS.keys() - {"beir", "trec-qrels"}:
        hnmine.export(tmp_path / "out", to, tmp_path / to)
        text = (tmp_path / to / "README.md").read_text()
        assert FORMATS[to].file in text
        assert str(tmp_path) not in text + (tmp_path / to / MARK).read_text()
        if text.startswith("---"):
            configs = yaml.safe_load(text.split("---")[1])["configs"]
            assert all((tmp_path / to / each["data_files"]).is_file() for each in configs)


def test_the_command_line_exports_and_lists(tmp_path: Path) -> None:
    mined_run(tmp_path / "out")
    done = run_hnmine("export", "--list")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == list(FORMATS)
    done = run_hnmine("export", "--out", tmp_path / "out", "--to", "n-tuple", "--negatives", "1", tmp_path / "to")
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path / 'to'}: " in done.stdout
    assert "rows, 1 negatives a row" in done.stdout
    done = run_hnmine("export", "--out", tmp_path / "out", "--to", "nothing", tmp_path / "to")
    assert done.returncode == 2
    assert "there is no format 'nothing'" in done.stderr
