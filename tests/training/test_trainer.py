"""What trainings share: dev queries are told, a record is trusted if it is whole, identities follow their causes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hnmine.runs.folder import Run
from hnmine.training.trainer import Bench, Record, _read_record, _write_card
from tests.builders.collections import append_lines, write_collection
from tests.builders.models import tiny_cross_encoder
from tests.builders.presets import NO_START, presets_of, run_with_negatives, splits_and_config


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_collection(tmp_path / "data")


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with run_with_negatives(tmp_path / "out") as opened:
        yield opened


WHOLE = {
    "identity": "a",
    "files": {"model.safetensors": "b"},
    "lists": 1,
    "steps": 2,
    "best_step": 2,
    "dev": 0.5,
    "dev_by_step": {"0": 0, "2": 0.5},
    "recipe": {"loss": "margin", "kind": "cross-encoder"},
}


def bench_of(data: Path, run: Run, *overrides: str) -> Bench:
    splits, config = splits_and_config(data, *overrides)
    return Bench(splits, config.train, run)


def test_few_dev_queries_and_fewer_than_asked_for_are_told(
    data: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    bench_of(data, run, "train.dev_queries=4")
    said = capsys.readouterr().err
    assert "dev: 4 queries of dev; training on cpu" in said
    assert "warning: 4 dev queries are too few to tell a better step from a lucky one; judge 30 at least" in said
    queries = [json.dumps({"_id": f"more-{i}", "text": f"story of {i}"}) for i in range(26)]
    append_lines(data / "queries.jsonl", *queries)
    append_lines(data / "qrels" / "dev.tsv", *(f"more-{i}\tapple-story\t1" for i in range(26)))
    bench_of(data, run, "train.dev_queries=31")
    said = capsys.readouterr().err
    assert "dev: 30 queries of dev, fewer than train.dev_queries=31; training on cpu" in said
    assert "too few" not in said


def test_a_learning_rate_that_is_not_given_goes_down_as_the_model_is_wider(
    data: Path, run: Run, tmp_path: Path
) -> None:
    start = tiny_cross_encoder(tmp_path / "start")
    assert bench_of(data, run, f"train.model={start}").recipe.learning_rate == pytest.approx(1e-4 * 384 / 32)
    assert bench_of(data, run).recipe.learning_rate == pytest.approx(1e-4), "all-MiniLM-L6-v2"
    assert bench_of(data, run, f"train.model={start}", "train.learning_rate=2e-5").recipe.learning_rate == 2e-5


def test_an_identity_follows_start_lists_dev_and_recipe(data: Path, run: Run, tmp_path: Path) -> None:
    splits, config = splits_and_config(data)
    bench = Bench(splits, config.train, run)
    lists, recipe = presets_of(splits, config, run).lists("anchored", NO_START)
    start, other = tiny_cross_encoder(tmp_path / "start"), tiny_cross_encoder(tmp_path / "other", seed=1)
    own = bench.identity(start, lists, recipe)
    assert Bench(splits, config.train, run).identity(start, lists, recipe) == own
    otherwise = Bench(splits, config.train, run)
    otherwise.dev = replace(bench.dev, relevant=(frozenset({0, 1}), *bench.dev.relevant[1:]))
    changed = [
        bench.identity(other, lists, recipe),
        bench.identity(start, replace(lists, queries=lists.queries[::-1]), recipe),
        bench.identity(start, lists, replace(recipe, learning_rate=1e-6)),
        bench_of(data, run, "train.dev_queries=3").identity(start, lists, recipe),
        otherwise.identity(start, lists, recipe),
        bench_of(data, run, "train.workers=2").identity(start, lists, recipe),
    ]
    assert len({own, *changed}) == 7


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "\xff",
        "{}",
        '{"identity": 1}',
        json.dumps(WHOLE | {"dev": float("nan")}),
        json.dumps(WHOLE | {"dev_by_step": {}}),
        json.dumps(WHOLE | {"recipe": 1}),
    ],
)
def test_a_record_that_is_broken_is_told_and_not_trusted(
    tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hnmine.json").write_text(content, encoding="latin-1")
    assert _read_record("paper", tmp_path) is None
    assert f"paper: {tmp_path / 'hnmine.json'} is not what a finished training leaves (" in capsys.readouterr().err


def test_a_record_that_is_whole_is_trusted_and_one_that_is_missing_is_nothing_to_tell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _read_record("paper", tmp_path) is None
    (tmp_path / "hnmine.json").write_text(json.dumps(WHOLE))
    record = _read_record("paper", tmp_path)
    assert record is not None
    assert record.model_dump() == WHOLE
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("kind", "loads"),
    [("cross-encoder", "CrossEncoder('path of this folder')"), ("bi-encoder", "SentenceTransformer('path of")],
)
def test_the_card_says_data_settings_metrics_versions_and_how_to_load_it(
    data: Path, run: Run, tmp_path: Path, kind: str, loads: str
) -> None:
    record = Record.model_validate(WHOLE | {"recipe": {"loss": "margin", "kind": kind}})
    _write_card(tmp_path, "paper", record, bench_of(data, run)._about_data())
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    for part in ("Data: 30 documents (digest ", "12 train pairs, 4 dev queries", "step 2 of 2", "| 2 | 0.5000 |"):
        assert part in card
    assert loads in card
    assert '"loss": "margin"' in card
    assert '"torch": "' in card
