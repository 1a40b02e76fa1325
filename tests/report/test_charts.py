"""Charts: drawn of any numbers there may be, with texts escaped and colours of the page."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from hnmine.report import charts
from hnmine.report.charts import Chart

RNG = np.random.default_rng(0)
SAME = np.full(5, 0.25)
DRAWN = {
    "outcome": lambda: charts.outcome((3, 4, 5), [(-0.1, 0.2, 0.3), (-0.2, 0.0, 0.1)], "label"),
    "outcome of nothing": lambda: charts.outcome((0, 7, 0), [(0.0, 0.0, 0.0)], "label"),
    "forest": lambda: charts.forest([('<a> & "b"', [("x", 0.1, 0.2, 0.3), ("y", -0.1, 0.0, 0.1)])], "label"),
    "bars": lambda: charts.bars([("nothing", 0, "0"), ("n" * 500, 3, "3")], "label", [(0, 0), (1, 5)]),
    "histograms": lambda: charts.histograms({"a": RNG.random(50), "b": SAME}, "label"),
    "histograms of one value": lambda: charts.histograms({"a": SAME, "b": SAME}, "label"),
    "lengths": lambda: charts.histograms({"a": np.array([0.0, 1, 99, 250_000]), "b": np.zeros(3)}, "label", log=True),
    "lengths of one value": lambda: charts.histograms({"a": np.full(3, 626.0)}, "label", log=True),
    "distances": lambda: charts.distances(RNG.random(9), RNG.random(9), "label"),
    "distances of one pair": lambda: charts.distances(SAME[:1], SAME[:1], "label"),
    "space": lambda: charts.space(
        [{"x": 0.1, "y": 0.2}], [({"x": 0, "y": 1}, {"x": 1, "y": 1}, {"x": 1, "y": 0})], "label"
    ),
    "space without triplets": lambda: charts.space([{"x": 0.1, "y": 0.2}], [], "label"),
    "ranks": lambda: charts.ranks([(0.0, 10.0, 1.0, "#q0"), (3.1, 3.0, 0.0, "#q1"), (5.0, 2.0, -0.2, "#q2")], "label"),
    "lines": lambda: charts.lines(
        {"one": [(0, 0.5), (4, 0.6)], "two": [(0, 0.5)], "three": [(0, 0.5), (4, 0.6)]}, "two", "label"
    ),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_chart_is_whole_svg_in_the_colours_of_the_page_and_of_a_bounded_size(name: str) -> None:
    chart: Chart = DRAWN[name]()
    assert chart.label == "label"
    for svg in filter(None, (chart.svg, chart.narrow)):
        root = ET.fromstring(svg)
        assert 300 < float(root.attrib["width"]) < 950
        colours = set(re.findall(r'(?:fill|stroke)="([^"]+)"', svg))
        assert colours <= {
            "none",
            "transparent",
            *(f"var(--{each})" for each in ("ink", "soft", "hair", "fill", "accent", "paper")),
        }
        assert "NaN" not in svg
        assert not re.search(r' (d|x2|y2|transform)="[^"]*\d\.\d\d', svg)


def test_dots_are_links_inside_the_page_that_no_keyboard_stops_at() -> None:
    svg = DRAWN["ranks"]().svg
    assert re.findall(r'<a [^>]*href="([^"]*)"', svg) == ["#q0", "#q1", "#q2"]
    assert svg.count('tabindex="-1"') == 3


def test_names_are_escaped_and_cut_to_the_width() -> None:
    assert "&lt;a&gt; &amp; " in DRAWN["forest"]().svg
    chart = DRAWN["bars"]()
    wide, narrow = (max(map(len, re.findall(r">(n+ …)<", svg))) for svg in (chart.svg, chart.narrow))
    assert narrow < wide < 120


def labels(svg: str) -> list[list[str]]:
    """Return the labels of each axis."""
    axes = re.findall(r'class="[^"]*role-axis-label[^"]*"[^>]*>(.*?)</g>', svg, re.DOTALL)
    return [re.findall(r"<text[^>]*>([^<]+)</text>", axis) for axis in axes]


@pytest.mark.parametrize("size", [0.0, 0.0004, 0.003, 0.01, 0.07, 0.6])
def test_no_axis_has_a_label_twice_however_small_the_differences_are(size: float) -> None:
    triple = (-size, 0.0, size)
    steps = [(0.0, 0.5), (1.0, 0.5 + size), (2.0, 0.5)]
    drawn = [
        charts.outcome((1, 2, 3), [triple, triple], "label"),
        charts.forest([("a", [("x", *triple)]), ("b", [("x", 0.0, 0.0, 0.0)])], "label"),
        charts.lines({"one": steps}, "one", "label"),
        charts.histograms({"a": 0.5 + size * RNG.random(20)}, "label"),
        charts.distances(0.5 + size * RNG.random(9), 0.5 + size * RNG.random(9), "label"),
    ]
    for chart in drawn:
        for svg in filter(None, (chart.svg, chart.narrow)):
            for axis in labels(svg):
                assert len(set(axis)) == len(axis), axis
    assert labels(drawn[0].svg)
    assert all("0.00" not in label for chart in drawn[:2] for axis in labels(chart.svg) for label in axis)


@pytest.mark.parametrize("last", [1, 2, 3, 8, 250])
def test_training_steps_are_whole(last: int) -> None:
    chart = charts.lines({"one": [(0.0, 0.5), (float(last), 0.6)]}, "one", "label")
    for svg in (chart.svg, chart.narrow):
        along = labels(svg)[0]
        assert len(along) >= 2
        assert all(label.isdigit() for label in along), along


@pytest.mark.parametrize(
    ("shortest", "longest"), [(1, 9), (3, 60), (6, 52), (11, 19), (12, 14), (40, 45), (7, 700), (1, 90_000)]
)
def test_lengths_have_two_ticks_at_least(shortest: int, longest: int) -> None:
    chart = charts.histograms({"a": np.array([shortest, longest], dtype=float)}, "label", log=True)
    (axis,) = labels(chart.svg)
    assert len(set(axis)) == len(axis) >= 2


def test_no_line_crosses_the_names_of_a_forest() -> None:
    chart = charts.forest(
        [(f"name {row}", [("x", -0.1, 0.2, 0.3), ("y", -0.1, 0.0, 0.1)]) for row in range(4)], "label"
    )
    for svg in (chart.svg, chart.narrow):
        names = {float(y) for y in re.findall(r'<text [^>]*transform="translate\([\d.]+,([\d.]+)\)"[^>]*>name \d', svg)}
        upright = re.findall(r'<line transform="translate\([\d.]+,([\d.]+)\)" x2="0" y2="(-?[\d.]+)"', svg)
        spans = [sorted((float(y), float(y) + float(height))) for y, height in upright]
        assert len(names) == 4 == len(spans)
        assert all(end < name - 6 or start > name + 6 for name in names for start, end in spans)
