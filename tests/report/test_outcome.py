"""What became of the queries: against loops over them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats

from hnmine.ranking.measures import METRICS, paired
from hnmine.ranking.rows import Row
from hnmine.report.outcome import EXTREMES, MOST_DOTS, Outcome, held, interval_of_means, opposed
from hnmine.report.texts import QUERIES, SHOWN
from tests.builders.runs import DEPLOYED, WITH_BLEND, reported_run


def row(name: str, kind: str, dev: float) -> Row:
    worth = {"dev": {"MRR@10": dev}, "test": {"MRR@10": dev}, "milliseconds_per_query": None}
    return Row.model_validate({"name": name, "slug": name, "kind": kind, "weights": {}, **worth})


FIRST, START, AFTER = (
    row("first stage", "first-stage", 0.5),
    row("before: x", "re-ranker", 0.3),
    row("after", "blend", 0.6),
)


@pytest.mark.parametrize(
    ("rows", "deployed", "warmed_up", "expected"),
    [
        ([FIRST, START, AFTER], "after", False, ("before: x", "after")),
        ([FIRST, START, AFTER], "after", True, ("first stage", "after")),
        ([FIRST, START, AFTER], "first stage", True, ("first stage", "after")),
        ([FIRST, START, AFTER], "first stage", False, ("before: x", "first stage")),
        ([FIRST, START, AFTER], "", False, ("before: x", "after")),
        ([FIRST, AFTER], "", False, ("first stage", "after")),
        ([FIRST], "first stage", False, ("first stage", "first stage")),
    ],
)
def test_what_was_given_is_set_against_what_is_deployed(rows, deployed, warmed_up, expected) -> None:
    assert tuple(each.name for each in opposed(rows, deployed, is_warmed_up=warmed_up)) == expected


def test_intervals_are_those_of_scipys_bootstrap_up_to_chance() -> None:
    values_QK = np.random.default_rng(1).choice([-0.5, 0, 0.2, 1], size=(150, 3), p=[0.2, 0.4, 0.2, 0.2])
    low, high = interval_of_means(values_QK)
    for at, column in enumerate(values_QK.T):
        known = stats.bootstrap((column,), np.mean, method="percentile", rng=2).confidence_interval
        assert (low[at], high[at]) == pytest.approx((known.low, known.high), abs=0.012)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reported_run(tmp_path_factory.mktemp("outcome"), queries=60, text_of=lambda name: name)


def test_every_query_is_told_by_what_stands_in_the_files(out: Path) -> None:
    outcome = Outcome.read(out, json.loads((out / "manifest.json").read_text()))
    tables = [
        pq.read_table(out / "evaluation" / f"{each.slug}.parquet").to_pylist()
        for each in (outcome.before, outcome.after)
    ]
    right = {each["query_id"]: each["right_ids"] for each in pq.read_table(out / QUERIES).to_pylist()}
    changes = outcome.changes(50, 1000)
    assert [each.change for each in changes] == sorted(each.change for each in changes)
    assert sorted(each.number for each in changes) == list(range(60))
    for change in changes:
        for table, place, listed in zip(tables, (change.was, change.now), (change.before, change.after), strict=True):
            found = table[change.number]
            assert found["query_id"] == change.query_id
            ranked = sorted(zip(found["document_ids"], found["scores"], strict=True), key=lambda each: -each[1])
            assert [each.id for each in listed] == [name for name, _ in ranked[:SHOWN]]
            places = [at for at, (name, _) in enumerate(ranked[:10], 1) if name in right[change.query_id]]
            assert place == (places[0] if places else None)
            assert [each.is_right for each in listed] == [name in right[change.query_id] for name, _ in ranked[:SHOWN]]
            assert all(each.text == each.id.replace(" id", "")[: len(each.text)] for each in listed)
    better, equal, worse = outcome.counts()
    assert (better, worse) == tuple(sum(sign * each.change > 0 for each in changes) for sign in (1, -1))
    assert better + equal + worse == 60


def test_lists_are_of_the_extremes_first(out: Path) -> None:
    outcome = Outcome.read(out, json.loads((out / "manifest.json").read_text()))
    changes = outcome.changes(50, 2 * EXTREMES)
    assert {each.number for each in changes if each.before} == {
        each.number for each in [*changes[:EXTREMES], *changes[-EXTREMES:]]
    }


def test_gains_are_means_of_differences_within_their_intervals(out: Path) -> None:
    outcome = Outcome.read(out, json.loads((out / "manifest.json").read_text()))
    gains = outcome.gains()
    assert list(gains) == list(METRICS)
    by_name = {each.name: each for each in outcome.rows}
    for metric, rows in gains.items():
        assert [name for name, _ in rows] == [each.name for each in outcome.rows[1:]]
        for name, intervals in rows:
            assert name not in [reference for reference, *_ in intervals]
            for reference, low, value, high in intervals:
                expected = np.mean(outcome.values(by_name[name], metric) - outcome.values(by_name[reference], metric))
                assert value == pytest.approx(expected)
                assert low <= value <= high


def test_dots_lie_in_their_places_and_apart(out: Path) -> None:
    outcome = Outcome.read(out, json.loads((out / "manifest.json").read_text()))
    dots, changes = list(outcome.dots()), {f"#q{each.number}": each for each in outcome.changes(9, 0)}
    assert len(dots) == 60 <= MOST_DOTS
    assert len({(x, y) for x, y, _, _ in dots}) == 60
    for x, y, change, link in dots:
        places = [0 if place is None else 11 - place for place in (changes[link].was, changes[link].now)]
        assert [round(x), round(y)] == places
        assert change == changes[link].change


def read(out: Path) -> Outcome:
    return Outcome.read(out, json.loads((out / "manifest.json").read_text()))


@pytest.mark.parametrize(
    ("stayed", "chosen", "wanted", "expected"),
    [
        (False, "after", "auto", "after"),
        (False, "first stage", "first-stage", "first stage"),
        (True, "after", "auto", "deployed before: after"),
        (True, "after", "blend", "after"),
        (True, "", "auto", ""),
    ],
)
def test_what_the_folder_holds_is_a_row_even_if_it_is_of_an_earlier_evaluation(
    stayed: bool, chosen: str, wanted: str, expected: str
) -> None:
    earlier = row("deployed before: after", "blend", 0.7).model_copy(update={"slug": "deployed-before"})
    section = {"chosen": chosen, "config": {"ranker": {"choose": wanted}}} if chosen else {}
    assert held([FIRST, START, AFTER, *([earlier] if stayed else [])], section) == expected


def test_the_dev_queries_are_known_by_their_ids(out: Path, tmp_path: Path) -> None:
    assert not read(out).is_dev
    assert read(reported_run(tmp_path / "out", queries=9, test_is_dev=True)).is_dev


@pytest.mark.parametrize("deployed", [DEPLOYED, "first stage: BM25, blended", "first stage: BM25"])
def test_the_blend_that_needs_no_re_ranker_is_a_rival_of_one_that_does(tmp_path: Path, deployed: str) -> None:
    outcome = read(reported_run(tmp_path / "out", queries=30, rows=WITH_BLEND, deployed=deployed))
    blend = outcome.rows[-1]
    assert outcome.after.name == deployed
    assert outcome.free_would_do == (deployed == DEPLOYED)
    if outcome.after == blend:
        assert outcome.free is None is outcome.against_free
    else:
        assert outcome.free == blend
        assert outcome.against_free == paired(outcome.values(outcome.after), outcome.values(blend))
        assert outcome.against_free.difference < 0  # the builder makes later rows better


def test_a_blend_that_is_surely_worse_would_not_do(tmp_path: Path) -> None:
    first, *others = WITH_BLEND.items()
    rows = dict([first, others[-1], *others[:-1]])
    outcome = read(reported_run(tmp_path / "out", queries=200, rows=rows))
    assert outcome.free.kind == "blend"
    assert outcome.against_free.p < 0.05
    assert outcome.against_free.difference > 0
    assert not outcome.free_would_do
