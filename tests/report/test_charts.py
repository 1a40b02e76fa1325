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
    "outcome": lambda: charts.outcome((3, 4, 5), (-0.1, 0.2, 0.3), "label"),
    "outcome of nothing": lambda: charts.outcome((0, 7, 0), (0.0, 0.0, 0.0), "label"),
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
