"""docs/files.md has every file that run, compare, audit, rank and the nights write, with columns, keys and types."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ir_measures
import pyarrow.parquet as pq
import pytest
from huggingface_hub import ModelCard
from ir_measures import RR, R, nDCG

import hnmine
from hnmine.report.push import push
from tests.builders.collections import append_lines, write_collection
from tests.builders.commands import REPOSITORY
from tests.builders.models import tiny_cross_encoder
from tests.builders.settings import quick_config

PAGE = REPOSITORY / "docs" / "files.md"
JSON_TYPES = {"string": str, "integer": int, "number": (int, float), "object": dict, "list": list, "boolean": bool}
SETTINGS = (
    "train.learning_rate=0.003",
    "train.presets=[paper, distilled]",
    "train.lessons=5",
    "compare.arms=[random]",
    "compare.seeds=1",
    "compare.learning_rates=[1e-3]",
    "ranker.choose=blend-with-re-ranker",
    "ranker.card={license: mit}",
)


class Described(NamedTuple):
    """A file on the page: the pattern of its path, and its columns or keys with their types, if it has a table."""

    pattern: str
    columns: dict[str, str]


def sections(page: str) -> dict[str, list[Described]]:
    """The files of each section of the page, those with a table first."""
    found: dict[str, list[Described]] = {}
    for section in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        name, files = section.split()[0].strip(","), []
        for part in re.split(r"^### ", section, flags=re.MULTILINE)[1:]:
            title, _, text = part.partition("\n")
            rows = re.findall(r"^\| ([^|]+?) \| ([^|]+?) \| ?[^|]*?\|$", text, re.MULTILINE)
            columns = {row[0]: row[1].replace("&lt;", "<").replace("&gt;", ">") for row in rows[1:]}
            if title.startswith("`"):
                files += [Described(pattern, columns) for pattern in re.findall(r"`([^`]+)`", title)]
            else:
                lines = re.findall(r"^(?:\* |  )(`.*?)(?::|$)", text, re.MULTILINE)
                files += [Described(pattern, {}) for line in lines for pattern in re.findall(r"`([^`]+)`", line)]
        found[name] = files
    return found


def matches(pattern: str, path: str) -> bool:
    """Whether a path is one of a pattern: <…> and * are one part of it, ** are any number."""
    parts = re.split(r"(<[^>]+>|\*\*|\*)", pattern)
    special = {"**": ".+", "*": "[^/]+"}
    return bool(
        re.fullmatch("".join(special.get(p, "[^/]+" if p.startswith("<") else re.escape(p)) for p in parts), path)
    )


def described(files: list[Described], path: str) -> Described | None:
    """What the page says of a path; a pattern without wildcards is the closer one."""
    fitting = [each for each in files if matches(each.pattern, path)]
    return min(fitting, key=lambda each: (not each.columns, len(re.findall(r"<|\*", each.pattern))), default=None)


def faults(root: Path, files: list[Described], section: str) -> Iterator[str]:
    """Yield each file, column, key or type that differs from the page."""
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if not path.is_file() or path.is_symlink() or any(part.is_symlink() for part in path.parents):
            continue
        known = described(files, name)
        if known is None:
            yield f"{section}: {name} is not on the page"
        elif path.suffix == ".parquet" and known.columns:
            schema = {field.name: arrow_type(str(field.type)) for field in pq.read_schema(path)}
            wanted = {column: kind.rstrip("?") for column, kind in known.columns.items()}
            if schema != wanted:
                yield f"{section}: {name} has {schema}, the page says {wanted}"
        elif path.suffix in (".json", ".jsonl") and known.columns:
            text = path.read_text(encoding="utf-8")
            content = json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
            for row in content if isinstance(content, list) else [content]:
                yield from (f"{section}: {name}: {fault}" for fault in key_faults(row, known.columns))


def key_faults(value: dict[str, Any], columns: dict[str, str], prefix: str = "") -> Iterator[str]:
    """Yield the keys of an object that the page has not, has of another type, or has and are missing."""
    mine = {key.removeprefix(prefix): kind for key, kind in columns.items() if key.startswith(prefix)}
    direct = {key: kind for key, kind in mine.items() if "." not in key}
    for key in value.keys() | direct.keys():
        if key not in direct:
            yield f"{prefix}{key} is not on the page"
        elif key not in value:
            if not direct[key].endswith("?"):
                yield f"{prefix}{key} is missing"
        elif value[key] is None or not isinstance(value[key], JSON_TYPES[direct[key].rstrip("?")]):
            if value[key] is not None or not direct[key].endswith("?"):
                yield f"{prefix}{key} is {value[key]!r}, the page says {direct[key]}"
        elif any(other.startswith(f"{key}.") for other in mine):
            for row in value[key] if isinstance(value[key], list) else [value[key]]:
                inner = {name: each for name, each in row.items() if prefix or name not in SHARED}
                yield from key_faults(inner, columns, f"{prefix}{key}.")


SHARED = {"config", "versions", "seconds", "peak_bytes", "data", "inputs"}
"""Of each section of the manifest, as the page says above its table."""


def arrow_type(text: str) -> str:
    """A type as the page has it: the width of vectors and the names of elements are left out."""
    return re.sub(r"(?<=>)\[\d+\]|element: |item: ", "", text)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all commands write, on a small collection."""
    folder = tmp_path_factory.mktemp("written")
    data = write_collection(folder / "data")
    append_lines(data / "qrels" / "train.tsv", "apple-care\tbread-guide\t1", "nobody\tbread-guide\t1")
    config = quick_config(tiny_cross_encoder(folder / "start", spread=1), *SETTINGS)
    hnmine.run(data, folder / "out", config)
    hnmine.audit(data, folder / "out", config)
    hnmine.compare(data, folder / "out", config)
    for _ in range(2):
        hnmine.nightly(data, folder / "home", config)
    return folder


def test_the_report_has_a_section_for_each_step(written: Path) -> None:
    steps = ["rows", "queries", "arms", "mining", "hidden", "learning", "cost", "provenance"]
    for root, expected in ((written / "out", steps), (written / "home" / "work", [*steps, "nights"])):
        left = (root / "report.html").read_text(encoding="utf-8")
        assert left == hnmine.report(root).read_text(encoding="utf-8")
        shown = {*re.findall(r'<section id="(\w+)"', left)}
        assert {*expected} - shown <= ({"arms", "hidden"} if "nights" in expected else set())


def test_the_page_has_every_file_column_key_and_type(written: Path) -> None:
    page = sections(PAGE.read_text(encoding="utf-8"))
    out, home = written / "out", written / "home"
    places = [
        (out, "OUT"),
        (home, "HOME"),
        (home / "work", "OUT"),
        (out / "store", "STORE"),
        (out / "ranker", "Ranker"),
    ]
    places += [(version, "OUT") for version in sorted((home / "versions").iterdir())]
    places += [(ranker, "Ranker") for ranker in sorted((home / "rankers").iterdir())]
    beside = {"version.json", "files.json"}  # of the nights, checked there
    found = [each for root, section in places for each in faults(root, page[section], section)]
    found = [each for each in found if not any(each.endswith(f"{name} is not on the page") for name in beside)]
    assert not found, "\n".join(found)


def test_every_table_of_the_page_is_of_a_file_that_is_written(written: Path) -> None:
    page = sections(PAGE.read_text(encoding="utf-8"))
    out, home = written / "out", written / "home"
    places = {"OUT": [out, home / "work"], "HOME": [home], "STORE": [out / "store"], "Ranker": [out / "ranker"]}
    for section, roots in places.items():
        names = [path.relative_to(root).as_posix() for root in roots for path in root.rglob("*") if path.is_file()]
        with_table = [each.pattern for each in page[section] if each.columns]
        assert with_table
        assert [pattern for pattern in with_table if not any(matches(pattern, name) for name in names)] == []


def test_no_table_knows_documents_by_rows(written: Path) -> None:
    tables = [path for path in written.rglob("*.parquet") if "store" not in path.parts and "scored" not in path.parts]
    assert tables
    for path in tables:
        names = pq.read_schema(path).names
        assert any(name.endswith("id") for name in names), path
        assert not any("row" in name for name in names), path


def test_exported_runs_and_qrels_give_the_metrics_of_the_table(written: Path, tmp_path: Path) -> None:
    hnmine.export(written / "out", "trec-run", tmp_path / "runs")
    hnmine.export(written / "out", "trec-qrels", tmp_path / "qrels", data=written / "data")
    rows = json.loads((written / "out" / "evaluation" / "rows.json").read_text())
    for prefix, split in (("", "test"), ("dev-", "dev")):
        qrels = list(ir_measures.read_trec_qrels(str(tmp_path / "qrels" / f"{split}.qrels")))
        for row in rows:
            run = list(ir_measures.read_trec_run(str(tmp_path / "runs" / f"{prefix}{row['slug']}.trec")))
            found = ir_measures.calc_aggregate([RR @ 3, RR @ 10, nDCG @ 10, R @ 10], qrels, run)
            by_name = {"MRR@3": RR @ 3, "MRR@10": RR @ 10, "nDCG@10": nDCG @ 10, "Recall@10": R @ 10}
            assert {name: found[each] for name, each in by_name.items()} == pytest.approx(row[split])


def test_the_cards_of_a_run_have_the_figures_of_the_table(written: Path) -> None:
    out = written / "out"
    manifest = json.loads((out / "manifest.json").read_text())
    cards = {f"rerankers/{name}": f"after: {name}" for name in ("paper", "distilled")}
    for folder, row in (cards | {"ranker": manifest["ranker"]["chosen"]}).items():
        text = (out / folder / "README.md").read_text()
        card = ModelCard.load(out / folder / "README.md", ignore_metadata_errors=False)
        assert card.data.license == "mit"
        assert card.data.eval_results
        found = {each.metric_name: each.metric_value for each in card.data.eval_results}
        assert found == {name: round(value, 4) for name, value in manifest["evaluation"]["metrics"][row].items()}
        assert str(written) not in text, "no path of this machine"
    assert (out / "ranker" / "re-ranker" / "README.md").read_text().startswith("---\n")


def test_what_a_run_leaves_can_be_pushed_and_holds_no_file_that_the_manifest_does_not_name(written: Path) -> None:
    for which in ("ranker", "reranker"):
        text = push(written / "out", "someone/name", which=which)
        assert "model.safetensors" in text
        assert "Nothing was sent" in text


def test_the_page_is_read_as_it_is_written() -> None:
    page = (
        "## OUT, a folder\n\n### `a/<b>.parquet`, `c.json`\n\nText.\n\n| column | type | meaning |\n|---|---|---|\n"
        "| id | string | of it |\n| v | list&lt;float&gt;? | |\n\n### Other files\n\n* `d/**`, `e`: f, `g`\n"
    )
    (files,) = sections(page).values()
    columns = {"id": "string", "v": "list<float>?"}
    assert files == [*(Described(name, columns) for name in ("a/<b>.parquet", "c.json")), ("d/**", {}), ("e", {})]
    assert matches("a/<b>.parquet", "a/x.parquet")
    assert not matches("a/<b>.parquet", "a/x/y.parquet")
    assert matches("d/**", "d/x/y")
    assert set(key_faults({"a": 1, "b": None, "c": {"d": "x"}}, {"a": "string", "c": "object", "c.e": "integer"})) == {
        "a is 1, the page says string",
        "b is not on the page",
        "c.d is not on the page",
        "c.e is missing",
    }
