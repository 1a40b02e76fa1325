"""Charts of the page: data for the Vega-Lite specifications of `templates/charts.yaml`, which become SVG here.

Colours are variables of the page's style sheet, so a chart follows the light and the dark theme. One colour carries
the meaning; what it is set against is ink. Names stand above what they name, so no margin cuts them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from markupsafe import Markup

from hnmine.report import drawing
from hnmine.report.texts import shortened
from hnmine.types import Float64

Datum = dict[str, Any]
Interval = tuple[str, float, float, float]
"""What is set against the others, and the lower end, the value and the upper end of the difference."""
TEMPLATES = Path(__file__).parent / "templates"
"""Where the page's own files lie."""
WIDE, NARROW, FIGURE = 918, 334, 400
"""Widths of a chart in CSS pixels: of one that fills a wide page, or a narrow one, and of one beside another."""
INK, SOFT, FILL, ACCENT, PAPER = (f"var(--{name})" for name in ("ink", "soft", "fill", "accent", "paper"))
_NAME, _BAR, _INTERVAL, _PANEL = 15, 40, 13, 110  # pixels of a name, a named bar, an interval, a histogram
_LEAST = 0.01  # what a scale of gains reaches at least: its labels have two decimals
_BINS, _LETTER = 40, 8  # of a histogram; pixels of a letter
_LINKS = "https://vega.github.io/vega-datasets/"  # what the library puts before an address inside the page
_NUMBERS = re.compile(r' (?:d|transform|x[12]?|y[12]?|width|height|viewBox)="[^"]*"')
_LONG_NUMBER = re.compile(r"\d+\.\d{2,}")


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart as SVG; `label` says for people who do not see it what it shows."""

    label: str
    svg: Markup
    narrow: Markup | None = None
    """The same for a narrow page; None: one serves both."""


@cache
def _specifications() -> dict[str, Any]:
    return dict(yaml.safe_load((TEMPLATES / "charts.yaml").read_text("utf-8")))


def _svg(
    name: str,
    width: int,
    datasets: Mapping[str, Sequence[Datum]],
    height: int | None = None,
    ticks: Sequence[float] = (),
) -> Markup:
    """Return the SVG of a specification and its data, which the library escapes; numbers have one decimal.

    `height` is that of the last of several views; `ticks` are for the axis that asks for them.
    """
    specifications = _specifications()
    sized = {"width": width} | ({} if height is None else {"height": height})
    spec = sized | specifications[name] | {"datasets": {key: list(rows) for key, rows in datasets.items()}}
    spec["params"] = [{"name": "ticks", "value": [*ticks]}]
    if "vconcat" in spec:
        *views, last = spec["vconcat"]
        spec["vconcat"] = [*({"width": width} | view for view in views), sized | last]
    config = specifications["config"] | {
        "axisX": {"tickCount": width // 110, "labelOverlap": "parity", "labelSeparation": 12},
        "aria": False,
    }
    drawn = drawing.svg(spec, config).replace(f'<a xlink:href="{_LINKS}#', '<a tabindex="-1" href="#')
    drawn = _NUMBERS.sub(lambda found: _LONG_NUMBER.sub(lambda number: f"{float(number[0]):.1f}", found[0]), drawn)
    return Markup(drawn)  # noqa: S704


def _both(name: str, label: str, datasets: Mapping[str, Sequence[Datum]], height: int | None = None) -> Chart:
    """Return a chart that fills the page, whether it is wide or narrow; names are cut to its width."""
    drawn = []
    for width in (WIDE, NARROW):
        cut = {key: [_cut(row, width // _LETTER) for row in rows] for key, rows in datasets.items()}
        drawn.append(_svg(name, width, cut, height))
    return Chart(label=label, svg=drawn[0], narrow=drawn[1])


def _cut(row: Datum, letters: int) -> Datum:
    return row | {"name": shortened(row["name"], letters)} if "name" in row else row


def outcome(counts: tuple[int, int, int], gains: Sequence[tuple[float, float, float]], label: str) -> Chart:
    """Return how many queries got better, stayed and got worse; below it low end, mean and high end of each gain.

    The first gain is in colour, the others are hollow, in ink.
    """
    ends = np.cumsum([0, *counts]).tolist()
    rows = zip(ends, ends[1:], (ACCENT, FILL, INK), strict=False)
    span = 1.35 * max(_LEAST, *(abs(end) for gain in gains for end in gain))
    datasets: dict[str, list[Datum]] = {
        "parts": [{"from": start, "to": end, "colour": colour} for start, end, colour in rows],
        "span": [{"value": -span}, {"value": span}],
        "zero": [{"value": 0}],
        "gain": [
            {"low": low, "value": value, "high": high, "at": 13 + 20 * place}
            | dict(zip(("colour", "inside"), (INK, PAPER) if place else (ACCENT, ACCENT), strict=True))
            for place, (low, value, high) in enumerate(gains)
        ],
    }
    return _both("outcome", label, datasets, 6 + 20 * len(gains))


def forest(rows: Sequence[tuple[str, Sequence[Interval]]], label: str) -> Chart:
    """Return named rows of intervals, one below the other; the first kind in colour, the second hollow, in ink."""
    kinds = list(dict.fromkeys(kind for _, intervals in rows for kind, *_ in intervals))
    height = _NAME + 10 + _INTERVAL * len(kinds)
    colours = {kind: (INK, PAPER) if place else (ACCENT, ACCENT) for place, kind in enumerate(kinds)}
    marks = [
        {"at": place * height + _NAME + 9 + _INTERVAL * kinds.index(kind), "low": low, "value": value, "high": high}
        | dict(zip(("colour", "inside"), colours[kind], strict=True))
        for place, (_, intervals) in enumerate(rows)
        for kind, low, value, high in intervals
    ]
    names: list[Datum] = [{"at": place * height + 8, "name": name} for place, (name, _) in enumerate(rows)]
    # The lines of the axis pause where the names stand.
    zero = [{"value": 0, "at": each["at"] + _NAME - 4, "to_at": each["at"] + height - 8} for each in names]
    span = [{"value": end} for end in (-_LEAST, _LEAST)]
    datasets: dict[str, list[Datum]] = {"rows": marks, "names": names, "zero": zero, "span": span}
    return _both("forest", label, datasets, height * len(rows))


def bars(rows: Sequence[tuple[str, float, str]], label: str, intervals: Sequence[tuple[float, float]] = ()) -> Chart:
    """Return named bars, each with its figure in words at the right; with intervals, points on these instead."""
    most = max([value for _, value, _ in rows] + [high for _, high in intervals], default=1) or 1
    data: list[Datum] = [
        {"at": place * _BAR + 9, "bar_at": place * _BAR + 27, "name": name, "share": value / most, "text": text}
        for place, (name, value, text) in enumerate(rows)
    ]
    for each, (low, high) in zip(data, intervals, strict=False):
        each |= {"low": low / most, "high": high / most}
    shown = {"bars": [], "points": data} if intervals else {"bars": data, "points": []}
    return _both("bars", label, {"rows": data, **shown}, _BAR * len(rows))


def histograms(columns: Mapping[str, Float64], label: str, *, log: bool = False) -> Chart:
    """Return histograms below each other on one axis, each with its name and median above it."""
    every = np.concatenate([*columns.values()])
    low, high = max(1.0, every.min()) if log else float(every.min()), float(every.max())
    high = high if high > low * (1 + 1e-6) + 1e-9 else 2 * low if log else low + 1
    edges = np.geomspace(low, high, _BINS + 1) if log else np.linspace(low, high, _BINS + 1)
    bins, medians, names = [], [], []
    for place, (name, column) in enumerate(columns.items()):
        floor, median = (place + 1) * _PANEL - 4, float(np.median(column))
        counts, _ = np.histogram(np.maximum(column, edges[0]), edges)
        tops = floor - counts / max(1, counts.max()) * (_PANEL - 30)
        colour = SOFT if place else ACCENT
        bins += [
            {"from": start, "to": end, "at": top, "to_at": floor, "colour": colour}
            for start, end, top in zip(edges.tolist(), edges[1:].tolist(), tops.tolist(), strict=False)
            if top < floor
        ]
        medians.append({"value": max(median, edges[0]), "at": place * _PANEL + 20, "to_at": floor})
        names.append(
            {
                "at": place * _PANEL + 9,
                "name": f"{name}, median {median:,.0f}" if log else f"{name}, median {median:.3f}",
            }
        )
    datasets = {"columns": bins, "medians": medians, "names": names}
    ticks = _ticks(low, high) if log else []
    svg = _svg("lengths" if log else "histograms", FIGURE - 10, datasets, _PANEL * len(columns), ticks)
    return Chart(label=label, svg=svg)


def _ticks(low: float, high: float) -> list[float]:
    """Return the ticks of a logarithmic axis: powers of ten; with 2 and 5 between if these are few; else its ends."""
    for steps, enough in (((1,), 4), ((1, 2, 5), 2)):
        ticks = [step * 10.0**power for power in range(7) for step in steps]
        found = [tick for tick in ticks if low <= tick <= high]
        if len(found) >= enough:
            return found
    return [float(np.ceil(low)), float(np.floor(high))]


def distances(positive_M: Float64, negative_M: Float64, label: str) -> Chart:
    """Return d(Q,PD) against d(Q,D) of negatives, with the line on which they would be equal."""
    points = [{"x": x, "y": y} for x, y in zip(positive_M.tolist(), negative_M.tolist(), strict=True)]
    both = np.concatenate([positive_M, negative_M])
    equal = [{"x": end, "y": end} for end in (float(both.min()), float(both.max()))]
    return Chart(label=label, svg=_svg("distances", FIGURE - 60, {"points": points, "equal": equal}, 3 * _PANEL - 20))


def space(documents: Sequence[Datum], triplets: Sequence[tuple[Datum, Datum, Datum]], label: str) -> Chart:
    """Return documents and some triplets (query, positive, negative) by their first two coordinates, x and y."""
    datasets: dict[str, Sequence[Datum]] = {"document": documents, "query": [query for query, _, _ in triplets]}
    for place, kind in ((1, "positive"), (2, "negative")):
        datasets[kind] = [{**each[place], "to_x": each[0]["x"], "to_y": each[0]["y"]} for each in triplets]
    return Chart(label=label, svg=_svg("space", FIGURE, datasets, 3 * _PANEL))


def ranks(points: Sequence[tuple[float, float, float, str]], label: str) -> Chart:
    """Return queries by the place of their first right document before and after; then their change, and a link.

    Places run from 0, not among the first ten, to 10, the first; they may lie a little beside a whole number.
    """
    dots = [
        {"x": x, "y": y, "href": link, "colour": ACCENT if change > 0 else INK if change < 0 else SOFT}
        for x, y, change, link in points
    ]
    equal = [{"x": end, "y": end} for end in (-0.5, 10.5)]
    return Chart(label=label, svg=_svg("ranks", 360, {"points": dots, "equal": equal}, 360))


def lines(curves: Mapping[str, Sequence[tuple[float, float]]], main: str, label: str) -> Chart:
    """Return curves, `main` in colour, each named at its end; names that would touch are moved up."""
    colours = {name: ACCENT if name == main else SOFT for name in curves}
    points = [
        {"name": name, "x": x, "y": y, "colour": colours[name]} for name, curve in curves.items() for x, y in curve
    ]
    values = [y for curve in curves.values() for _, y in curve]
    gap, last, ends = (max(values) - min(values) or 1) / 11, -np.inf, []
    for name, curve in sorted(curves.items(), key=lambda each: each[1][-1][1]):
        last = max(curve[-1][1], last + gap)
        ends.append({"name": name, "x": curve[-1][0], "y": last, "colour": colours[name]})
    room = min(170, 16 + _LETTER * max(map(len, curves)))
    ends = [_cut(end, room // _LETTER) for end in ends]
    wide, narrow = (_svg("lines", width - 40 - room, {"points": points, "ends": ends}) for width in (WIDE, NARROW))
    return Chart(label=label, svg=wide, narrow=narrow)
