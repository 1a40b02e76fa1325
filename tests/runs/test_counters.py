"""Counters outside Ray, and the dashboard that shows them; tests/test_jobs.py scrapes them from a real Ray."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from hnmine.runs.counters import COUNTERS, DROPPED, GAUGES, LAST_NIGHT, NIGHTS, TEXTS, counted_night, uncounted
from tests.builders.commands import modules_loaded_by

CLUSTER = Path(__file__).parents[2] / "cluster"
BOARD = CLUSTER / "grafana.json"
LABELS = {f"ray_{each.name}_total": set(each.labels) for each in COUNTERS}
LABELS |= {f"ray_{each.name}": set(each.labels) for each in GAUGES}


@pytest.fixture(scope="module")
def board() -> dict:
    return json.loads(BOARD.read_text())


def expressions(board: dict) -> list[str]:
    return [target["expr"] for panel in board["panels"] for target in panel["targets"]]


def test_outside_ray_nothing_is_counted_and_nothing_is_imported() -> None:
    code = "from hnmine.runs.counters import DROPPED, NEGATIVES; NEGATIVES.add(3); DROPPED.add_each({'a': 1, 'b': 0})"
    assert not modules_loaded_by(code) & {"ray", "numpy"}


@pytest.mark.ray
def test_a_driver_and_its_actors_count_and_a_label_that_is_not_declared_is_refused() -> None:
    from hnmine.runs.ray_session import start_ray

    start_ray()
    import ray

    def count() -> list[tuple[float, dict[str, str]]]:
        from unittest import mock

        from ray.util import metrics

        from hnmine.runs.counters import Counter

        counted = []

        class Recorded(metrics.Counter):
            def inc(self, value: float = 1.0, tags: dict[str, str] | None = None) -> None:
                super().inc(value, tags)
                counted.append((value, tags))

        with mock.patch.object(metrics, "Counter", Recorded):
            Counter("hnmine_tried", "What this test counts", "reason").add_each({"near": 2, "never": 0})
        return counted

    assert count() == [(2, {"reason": "near"})]
    assert ray.get(ray.remote(count).remote()) == [(2, {"reason": "near"})]
    with pytest.raises(ValueError, match="reason"):
        DROPPED.add(1, guard="margin")


def test_names_are_prometheus_names_and_differ() -> None:
    names = [counter.name for counter in (*COUNTERS, *GAUGES)]
    assert len({*names}) == len(names)
    for counter in (*COUNTERS, *GAUGES):
        assert re.fullmatch(r"hnmine_[a-z_]+", counter.name)
        assert not counter.name.endswith("_total"), "Prometheus adds it"
        assert counter.description


def test_the_dashboard_shows_every_counter_and_no_other_by_labels_it_has(board: dict) -> None:
    assert checked(expressions(board)) == LABELS.keys()


def checked(every: list[str]) -> set[str]:
    """Check that expressions name numbers that there are, and divide them by labels that they have; return them."""
    shown = set()
    for expression in every:
        names = set(re.findall(r"ray_[a-z_]+", expression))
        shown |= names
        assert names <= LABELS.keys()
        for by in re.findall(r"(?:by|on) \((\w+)\)|{(\w+)=", expression):
            assert all("".join(by) in LABELS[name] for name in names)
        assert expression.count("(") == expression.count(")")
    return shown


def test_the_alerts_ask_for_numbers_that_there_are_and_kubernetes_has_the_same() -> None:
    alerts = yaml.safe_load((CLUSTER / "alerts.yaml").read_text())
    assert checked([rule["expr"] for group in alerts["groups"] for rule in group["rules"]])
    assert yaml.safe_load((CLUSTER / "kubernetes" / "monitoring" / "rules.yaml").read_text())["spec"] == alerts


def test_the_dashboard_has_what_grafana_needs(board: dict) -> None:
    assert {"uid", "title", "schemaVersion", "panels", "time", "templating"} <= board.keys()
    assert "id" not in board, "Grafana gives it; with one, an import would replace another dashboard"
    (variable,) = board["templating"]["list"]
    assert (variable["type"], variable["query"]) == ("datasource", "prometheus")
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["type"] in ("stat", "timeseries", "bargauge")
        assert panel["title"]
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, f"{panel['title']} lies on another"
        taken |= cells
        for each in (panel, *panel["targets"]):
            assert each["datasource"] == {"type": "prometheus", "uid": f"${{{variable['name']}}}"}
        for target in panel["targets"]:
            for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                assert f"by ({label})" in target["expr"]


def test_what_is_tried_before_the_work_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setenv("RAY_ADDRESS", "somewhere")
    monkeypatch.setattr("hnmine.runs.counters.start_ray", lambda: asked.append("ray"))
    with uncounted():
        TEXTS.add(3, encoder="a", role="query")
    assert asked == []


@pytest.mark.parametrize(("fails", "outcome"), [(False, "done"), (True, "failed")])
def test_a_night_is_counted_by_how_it_ends(monkeypatch: pytest.MonkeyPatch, fails: bool, outcome: str) -> None:
    counted: list[tuple[float, dict[str, str]]] = []
    monkeypatch.setattr(NIGHTS, "add", lambda amount, **labels: counted.append((amount, labels)))
    monkeypatch.setattr(LAST_NIGHT, "set", lambda value: counted.append((value, {})))
    with suppress(KeyboardInterrupt), counted_night():
        if fails:
            raise KeyboardInterrupt
    assert counted[0] == (1, {"outcome": outcome})
    assert len(counted) == 1 + (not fails)
