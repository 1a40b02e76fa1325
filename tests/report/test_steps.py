"""What the page says of mining, cost and provenance, by hand."""

from __future__ import annotations

import re

import pytest

from hnmine.config.root import Config
from hnmine.report.steps import cost, funnel, hidden, learning, provenance


def texts(svg: str) -> list[str]:
    """The texts of a chart, those that are drawn twice once."""
    return list(dict.fromkeys(re.findall(r"<text[^>]*>([^<]*)</text>", svg)))


@pytest.mark.parametrize(
    ("dropped", "left"),
    [
        ({"positive_is_nearest": 411, "nearer_ones_resemble_positive": 196}, [900, 489, 293, 293]),
        (
            {"positive_is_nearest": 400, "nearer_ones_resemble_positive": 100, "guards_leave_none": 150},
            [900, 500, 400, 250, 250],
        ),
        ({"rule_chose_none": 300}, [900, 600, 600]),
        ({}, [900, 900]),
    ],
)
def test_the_funnel_leaves_what_the_reasons_leave(dropped: dict[str, int], left: list[int]) -> None:
    chart = funnel({"pairs": 900, "dropped": dropped, "selected_pairs": left[-1]})
    assert [int(text.split(" (")[0]) for text in texts(chart.svg) if re.match(r"\d+ \(", text)] == list(
        dict.fromkeys(left)
    )
    assert [int(count) for count in re.findall(r": (\d+) \(", chart.label)] == left
    assert chart.narrow is not None
    assert len(texts(chart.narrow)) == len(texts(chart.svg))


def test_steps_are_summed_over_sections_and_rates_are_of_what_was_done() -> None:
    mining = {"seconds": {"read": 2.0, "embed": 4.0, "select": 0.5}, "peak_bytes": {"embed": 3_000_000_000}}
    mining["counts"] = {
        "rows_read": {"a": 10, "b": 20},
        "texts_encoded": 1000,
        "documents": 5,
        "queries": 5,
        "pairs": 40,
        "negatives": 7,
    }
    training = {"seconds": {"read": 1.0, "train": 9.0, "train: paper": 8.0}, "start": {}}
    training["presets"] = {"paper": {"lists": 100, "recipe": {"epochs": 2}}}
    ranked = {"seconds": {"ranker": 1.5}, "peak_bytes": {"ranker": 7_000_000}}
    rows = cost({"mining": mining, "training": training, "evaluation": ranked, "ranker": ranked})
    assert [(row["step"], row["seconds"], row["amount"], row["rate"], row["memory"]) for row in rows] == [
        ("read", 2.0, "30 rows", "15 rows/s", ""),
        ("embed", 4.0, "1,000 texts", "250 texts/s", "3.0 GB"),
        ("select", 0.5, "40 pairs", "80 pairs/s", ""),
        ("train", 9.0, "", "", ""),
        ("train: paper", 8.0, "200 lists", "25 lists/s", ""),
        ("ranker", 3.0, "", "", "7 MB"),
    ]
    assert cost({}) == []


def test_settings_that_differ_are_named_and_versions_that_differ_are_told() -> None:
    config = Config().model_dump(mode="json")
    config["select"]["negatives"], config["evaluate"]["first_stage"] = 4, "run\x1b.trec"
    section = {"config": config, "versions": {"hnmine": "1"}, "data": "my\u202e-search"}
    found = provenance(
        {"mining": section, "training": section | {"versions": {"hnmine": "2"}, "start": {"model": "m"}}}
    )
    assert found is not None
    assert found["changed"] == {"select.negatives": "4", "evaluate.first_stage": '"run\\e.trec"'}
    assert found["data"] == "my\ufffd-search"
    assert not found["same_versions"]
    assert found["models"]["re-ranker"] == "m"
    assert provenance({}) is None


def test_without_figures_there_is_no_chart() -> None:
    assert learning({}) is None
    assert learning({"presets": {"paper": {}}}) is None
    assert hidden({}) is None
    rule = {"hidden": 0.0, "interval": [0.0, 1.0], "yield": 0.0, "negatives": 0}
    found = hidden({"rules": {"two conditions": rule}, "queries": 3})
    assert found is not None
    assert found["chart"] is None
