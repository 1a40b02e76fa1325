"""docs/images/*.svg, made of the tables in benchmarks/: `python docs/tools/figures.py` draws them anew."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import vl_convert

REPOSITORY = Path(__file__).parents[2]
IMAGES = REPOSITORY / "docs" / "images"
BLUE, INK, SOFT = "#2456b3", "#222222", "#8a8a8a"
CONFIG = {
    "background": "white",
    "font": "sans-serif",
    "view": {"stroke": None},
    "axis": {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "labelLimit": 300},
}
SHORT = {
    "distillation, mistakes of the start": "lessons, mistakes of the start",
    "the paper": "the paper's triplets",
    "first stage": "BM25",
}
"""Names of the tables that are words of the code, as the page calls them."""

Spec = dict[str, Any]


def unseen_arms() -> list[dict[str, Any]]:
    """Return each way to choose negatives with its MRR@10, gain over the start and interval."""
    text = (REPOSITORY / "benchmarks" / "compare" / "aws_docs-unseen.md").read_text(encoding="utf-8")
    found, start = [], float(re.findall(r"^no fine-tuning +[\d.]+ +([\d.]+)", text, re.MULTILINE)[0])
    row = (
        r"^(\S.*?) +[\d.]+ +([\d.]+) +[\d.]+ +[\d.]+ +[\d.]+ +[\d.]+ .*? ([+-][\d.]+) \(([+-][\d.]+) to ([+-][\d.]+)\)"
    )
    for name, mrr, _, low, high in re.findall(row, text, re.MULTILINE):
        plain = re.sub(r" \(\d seeds?\)$", "", name)
        found.append({"way": SHORT.get(plain, plain), "mrr": float(mrr)})
        found[-1] |= {"low": round(start + float(low), 3), "high": round(start + float(high), 3)}
    return sorted(found, key=lambda each: -each["mrr"])


def marks() -> list[dict[str, Any]]:
    """Return what stands to be beaten on the same queries: the start, BM25, and the sum without a re-ranker."""
    text = (REPOSITORY / "benchmarks" / "compare" / "aws_docs-unseen.md").read_text(encoding="utf-8")
    first, blended = re.findall(r"^first stage +[\d.]+ +([\d.]+) +[\d.]+ +[\d.]+ +([\d.]+)", text, re.MULTILINE)[0]
    start = re.findall(r"^no fine-tuning +[\d.]+ +([\d.]+)", text, re.MULTILINE)[0]
    names = ("no fine-tuning", "BM25", "BM25 and encoders, no re-ranker")
    return [
        {"name": f"{name} {value}", "mrr": float(value)}
        for name, value in zip(names, (start, first, blended), strict=True)
    ]


def hidden() -> list[dict[str, Any]]:
    """Return of each rule and set the share of hidden right answers and the yield, both in per cent."""
    text = (REPOSITORY / "benchmarks" / "audit.md").read_text(encoding="utf-8")
    number, found = r"\**([\d.]+) % \([^)]*\)\** \| \**([\d.]+) %\** \|", []
    for name, *values in re.findall(rf"^\| ([^|]+?) \| {number} {number}$", text, re.MULTILINE):
        for at, data in enumerate(("climate_fever", "fiqa_subset")):
            share, kept = (float(each) for each in values[2 * at : 2 * at + 2])
            found.append({"rule": name, "set": data, "hidden": share, "yield": kept})
    return found


def pairs() -> list[dict[str, Any]]:
    """Return MRR@10 of each way by number of judged train pairs."""
    text = (REPOSITORY / "benchmarks" / "compare" / "aws_docs-sizes.md").read_text(encoding="utf-8")
    (header, *rows) = re.findall(r"^MRR@10 .*pairs\n(?:.+\n)+", text, re.MULTILINE)[0].splitlines()
    sizes = [int(each.replace(",", "")) for each in re.findall(r"([\d,]+) pairs", header)]
    cells = [re.split(r" {2,}", row.strip()) for row in rows]
    return [
        {"way": SHORT.get(name, name), "pairs": size, "mrr": float(value)}
        for name, *values in cells
        for size, value in zip(sizes, values, strict=True)
    ]


def arms_chart() -> Spec:
    """Draw what each way is worth, with what there is to beat."""
    x = {
        "field": "mrr",
        "type": "quantitative",
        "scale": {"domain": [0.3, 0.56]},
        "title": "MRR@10, with the 95 % interval of its gain",
    }
    y = {"field": "way", "type": "nominal", "sort": None, "title": None}
    rules = [
        {
            "data": {"values": marks()},
            "mark": {"type": "rule", "color": SOFT, "strokeDash": [4, 3]},
            "encoding": {"x": x},
        },
        {
            "data": {"values": [mark | {"at": at} for at, mark in enumerate(marks())]},
            "mark": {"type": "text", "align": "center", "dy": -8, "color": INK, "fontSize": 11},
            "encoding": {"x": x, "y": {"value": 0}, "text": {"field": "name"}},
        },
    ]
    drawn = [
        {
            "mark": {"type": "rule", "color": BLUE},
            "encoding": {"x": {"field": "low", "type": "quantitative"}, "x2": {"field": "high"}, "y": y},
        },
        {"mark": {"type": "point", "filled": True, "size": 70, "color": BLUE}, "encoding": {"x": x, "y": y}},
        {
            "mark": {"type": "text", "dy": -10, "color": BLUE},
            "encoding": {"x": x, "y": y, "text": {"field": "mrr", "format": ".3f"}},
        },
    ]
    return {"width": 560, "height": {"step": 34}, "data": {"values": unseen_arms()}, "layer": [*rules, *drawn]}


def hidden_chart() -> Spec:
    """Draw how many right answers a rule takes for negatives, against how many pairs get one."""
    x = {
        "field": "yield",
        "type": "quantitative",
        "title": "pairs that get a negative, %",
        "scale": {"domain": [20, 105]},
    }
    y = {"field": "hidden", "type": "quantitative", "title": "negatives that are right answers, %"}
    y["scale"] = {"domain": [-6, 80], "nice": False}
    colour = {
        "field": "set",
        "type": "nominal",
        "title": None,
        "scale": {"range": [BLUE, "#b35a1f"]},
        "legend": {"orient": "top"},
    }
    shape = {"field": "set", "type": "nominal", "title": None}
    left = {"filter": {"field": "rule", "oneOf": ["two conditions", "PercPos 0.95"]}}
    above = {"filter": {"field": "rule", "equal": "two conditions, margin 0.02, first_rank 5"}}
    text = {"x": x, "y": y, "text": {"field": "rule"}}
    guarded = text | {"text": {"value": "margin 0.02, first_rank 5"}}
    return {
        "width": 560,
        "height": 300,
        "data": {"values": hidden()},
        "layer": [
            {
                "mark": {"type": "point", "filled": True, "size": 60},
                "encoding": {"x": x, "y": y, "color": colour, "shape": shape},
            },
            {"transform": [left], "mark": {"type": "text", "align": "right", "dx": -8}, "encoding": text},
            {"transform": [above], "mark": {"type": "text", "align": "center", "dy": 14}, "encoding": guarded},
        ],
    }


def pairs_chart() -> Spec:
    """Draw what more judged pairs bring."""
    x = {
        "field": "pairs",
        "type": "quantitative",
        "scale": {"type": "log", "domain": [90, 2000]},
        "axis": {"values": [100, 300, 1000]},
        "title": "judged train pairs",
    }
    y = {"field": "mrr", "type": "quantitative", "scale": {"domain": [0.3, 0.5]}, "title": "MRR@10"}
    by_way = {"x": x, "y": y, "detail": {"field": "way"}}
    last = {"filter": "datum.pairs == 1000"}
    return {
        "width": 560,
        "height": 260,
        "data": {"values": pairs()},
        "layer": [
            {"mark": {"type": "line", "color": BLUE, "point": {"color": BLUE}}, "encoding": by_way},
            {
                "transform": [last],
                "mark": {"type": "text", "align": "left", "dx": 8},
                "encoding": by_way | {"text": {"field": "way"}},
            },
        ],
    }


CHARTS = {"arms": arms_chart, "hidden": hidden_chart, "pairs": pairs_chart}


def draw(folder: Path) -> None:
    """Write every figure into a folder."""
    folder.mkdir(exist_ok=True)
    for name, chart in CHARTS.items():
        svg = vl_convert.vegalite_to_svg({"config": CONFIG} | chart())
        (folder / f"{name}.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    draw(IMAGES)
