"""What the other steps left, as the page shows it: mining, training, arms, hidden positives, nights, cost, provenance.

Each function returns nothing where OUT lacks what it shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml

from hnmine.config.root import Config
from hnmine.corpus.analyzer import words
from hnmine.mining.mine import SPACE_SAMPLE
from hnmine.ranking.measures import MAIN_METRIC
from hnmine.report.charts import Chart, Interval, bars, distances, forest, histograms, lines, space
from hnmine.runs.printable import one_line

Facts = Mapping[str, Any]
_DISTANCES = {"d_query_positive": "d(Q, PD)", "d_query_negative": "d(Q, D)", "d_positive_negative": "d(PD, D)"}
_POINTS, _TRIPLETS = 400, 12  # that a chart shows
_CHARACTERS, _BATCH = 3_000_000, 16  # of texts whose lengths are taken; triplets that are read at once
_GIGA, _MEGA = 1e9, 1e6


def funnel(counts: Facts) -> Chart:
    """Return how many pairs are left after each condition, and after the guards."""
    pairs, dropped = counts["pairs"], dict(counts["dropped"])
    stages, left = [("Pairs of query and positive", pairs)], pairs
    for name, reason in (
        ("A document is nearer (condition 1)", "positive_is_nearest"),
        ("… and unlike the positive (condition 2)", "nearer_ones_resemble_positive"),
        ("… and kept by the guards", "guards_leave_none"),
    ):
        if reason in dropped:
            left -= dropped.pop(reason)
            stages.append((name, left))
    for reason, lost in dropped.items():
        left -= lost
        stages.append((one_line(reason.replace("_", " ")), left))
    stages.append(("Kept: pairs with a hard negative", counts["selected_pairs"]))
    rows = [(name, count, f"{count:,} ({count / max(1, pairs):.0%})") for name, count in stages]
    words_of = "; ".join(f"{name}: {text}" for name, _, text in rows)
    return bars(rows, f"The funnel from pairs to hard negatives. {words_of}")


def mined(out: Path, mining: Facts) -> dict[str, Any] | None:
    """Return the funnel, and the charts of the negatives if there are any."""
    if not mining or not (out / "negatives.parquet").is_file():
        return None
    # Count.
    counts, table = mining["counts"], pq.read_table(out / "negatives.parquet", columns=[*_DISTANCES])
    found = {"counts": counts, "funnel": funnel(counts), "figures": [], "space": mining["space"]}
    if not len(table):
        return found
    # Draw the distances.
    columns = {name: table[column].to_numpy() for column, name in _DISTANCES.items()}
    medians = ", ".join(f"{name} {np.median(values):.3f}" for name, values in columns.items())
    some = np.linspace(0, len(table) - 1, min(_POINTS, len(table))).astype(int)
    positive, negative = (columns[name][some] for name in ("d(Q, PD)", "d(Q, D)"))
    found["figures"] = [
        (histograms(columns, f"Histograms of the three distances; medians: {medians}"), "distances"),
        (distances(positive, negative, "Each negative is nearer to its query than the positive is"), "conditions"),
        *([(chart, "space")] if (chart := _space(out, mining)) else []),
        *([(chart, "lengths")] if (chart := _lengths(out)) else []),
    ]
    return found


def _space(out: Path, mining: Facts) -> Chart | None:
    """Return the first two principal components; None where there are none."""
    if not (out / SPACE_SAMPLE).is_file() or mining["space"]["variance_kept"] is None:
        return None
    rows = pq.read_table(out / SPACE_SAMPLE).to_pylist()
    points = [{"x": row["x"], "y": row["y"]} for row in rows if row["kind"] == "document"][:_POINTS]
    triplets: dict[int, dict[str, Any]] = {}
    for row in rows:
        if row["triplet"] is not None and row["triplet"] < _TRIPLETS:
            triplets.setdefault(row["triplet"], {})[row["kind"]] = {"x": row["x"], "y": row["y"]}
    shown = [(each["query"], each["positive"], each["negative"]) for each in triplets.values()]
    return space(points, shown, "Documents, and some triplets, by the first two principal components")


def _lengths(out: Path) -> Chart | None:
    """Return the lengths in words of the texts of the first triplets, as many as are read in a moment."""
    if not (out / "triplets.parquet").is_file():
        return None
    counts: dict[str, list[int]] = {"query": [], "positive": [], "negative": []}
    left = _CHARACTERS
    for batch in pq.ParquetFile(out / "triplets.parquet").iter_batches(_BATCH, columns=[*counts]):
        for name, lengths in counts.items():
            texts = batch[name].to_pylist()
            lengths += [len(words(text)) for text in texts]
            left -= sum(map(len, texts))
        if left < 0:
            break
    columns = {name: np.array(lengths, dtype=np.float64) for name, lengths in counts.items()}
    medians = ", ".join(f"{name} {np.median(values):,.0f}" for name, values in columns.items())
    return histograms(columns, f"Lengths of queries, positives and negatives; medians: {medians} words", log=True)


def learning(training: Facts) -> dict[str, Any] | None:
    """Return the curves of the main metric on dev over the steps of each training."""
    presets = {name: each for name, each in training.get("presets", {}).items() if "dev_by_step" in each}
    if not presets:
        return None
    curves = {
        one_line(name): sorted((float(step), value) for step, value in each["dev_by_step"].items())
        for name, each in presets.items()
    }
    ends = ", ".join(f"{name} {curve[-1][1]:.3f}" for name, curve in curves.items())
    chart = lines(curves, training["best"], f"{MAIN_METRIC} on dev over training steps; at the end: {ends}")
    return {"chart": chart, "best": training["best"], "presets": presets, "start": training["start"]}


def arms(record: Facts) -> dict[str, Any] | None:
    """Return what `compare` measured: a chart a table, and the curve over numbers of pairs if there are several."""
    blocks = [block for block in record.get("blocks", []) if block["arms"]]
    if not blocks:
        return None
    # Draw a chart of each table.
    charts: list[tuple[str, Chart | None]] = []
    sizes: dict[str, list[tuple[float, float]]] = {}
    for block in blocks:
        rows: list[tuple[str, Sequence[Interval]]] = []
        means = {
            name: float(np.mean([cell["metrics"][MAIN_METRIC] for cell in cells]))
            for name, cells in block["arms"].items()
        }
        for name in sorted(means, key=lambda each: -means[each]):
            test = block.get("against_start", {}).get(name)
            if test:
                rows.append((one_line(name), [("no fine-tuning", test["low"], test["difference"], test["high"])]))
            sizes.setdefault(one_line(name), []).append((float(block["pairs"]), means[name]))
        title = f"{block['model']}, {block['pairs']:,} pairs"
        best = ", ".join(f"{name} {means[name]:.3f}" for name in sorted(means, key=lambda each: -means[each]))
        label = f"Gain of each arm in {MAIN_METRIC} over no fine-tuning. {MAIN_METRIC}: {best}"
        charts.append((one_line(title), forest(rows, label) if rows else None))
    # Draw what more pairs give, where one model had several numbers of them.
    several = len({block["pairs"] for block in blocks}) > 1 and len({block["model"] for block in blocks}) == 1
    best_arm = max(sizes, key=lambda name: sizes[name][-1][1])
    label = f"{MAIN_METRIC} on test over the number of train pairs"
    curve = lines({name: sorted(curve) for name, curve in sizes.items()}, best_arm, label)
    return {
        "charts": charts,
        "curve": curve if several else None,
        "winner": record["winner"],
        "queries": record["queries"],
    }


def hidden(record: Facts) -> dict[str, Any] | None:
    """Return which share of each rule's negatives were right answers, as `audit` measured it."""
    if not record or not record["rules"]:
        return None
    risks = {one_line(name): risk for name, risk in record["rules"].items() if risk["negatives"]}
    rows = [(name, risk["hidden"], f"{risk['hidden']:.1%} of {risk['negatives']:,}") for name, risk in risks.items()]
    label = "Share of hidden right answers among the negatives of each rule: " + "; ".join(
        f"{name} {text}" for name, _, text in rows
    )
    chart = bars(rows, label, [tuple(risk["interval"]) for risk in risks.values()])
    return {"chart": chart if rows else None, "queries": record["queries"], "verdict": record.get("verdict", "")}


def cost(manifest: Facts) -> list[dict[str, Any]]:
    """Return seconds, amount, rate and peak memory of each step that the manifest has."""
    # Say what each step worked through.
    mining, training = manifest.get("mining") or {}, manifest.get("training") or {}
    counts = mining.get("counts", {})
    amounts: dict[str, tuple[int, str]] = {}
    if counts:
        amounts = {
            "read": (sum(counts["rows_read"].values()), "rows"),
            "embed": (counts["texts_encoded"], "texts"),
            "reduce": (counts["documents"] + counts["queries"], "texts"),
            "select": (counts["pairs"], "pairs"),
            "write": (counts["negatives"], "negatives"),
        }
    for name, each in {"start": training.get("start", {}), **training.get("presets", {})}.items():
        if "lists" in each:
            amounts[f"train: {name}"] = (each["lists"] * each["recipe"]["epochs"], "lists")
    # Sum what several sections have of one step; each reads the data anew, which is shown once.
    found: dict[str, dict[str, Any]] = {}
    for section in ("mining", "training", "evaluation", "ranker"):
        facts = manifest.get(section) or {}
        for step, seconds in facts.get("seconds", {}).items():
            if step == "read" and step in found:
                continue
            row = found.setdefault(step, {"step": one_line(step), "seconds": 0.0, "peak": 0})
            row["seconds"] += seconds
            row["peak"] = max(row["peak"], facts.get("peak_bytes", {}).get(step, 0))
    for step, row in found.items():
        amount, unit = amounts.get(step, (0, ""))
        row["amount"] = f"{amount:,} {unit}" if amount else ""
        row["rate"] = f"{_three(amount / row['seconds'])} {unit}/s" if amount and row["seconds"] else ""
        row["memory"] = _bytes(row["peak"])
    return list(found.values())


def _three(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _bytes(count: int) -> str:
    if not count:
        return ""
    return f"{count / _GIGA:.1f} GB" if count >= _GIGA else f"{count / _MEGA:.0f} MB"


def provenance(manifest: Facts) -> dict[str, Any] | None:
    """Return data, models, versions, settings and digests; those of a later step where steps differ."""
    sections = [facts for name in ("mining", "training", "evaluation", "ranker") if (facts := manifest.get(name))]
    if not sections:
        return None
    # Compare the settings with the defaults.
    config: dict[str, Any] = {}
    for section in sections:
        config |= section["config"]
    default, changed = dict(_leaves(Config().model_dump(mode="json"))), {}
    for key, value in _leaves(config):
        if key in default and default[key] != value:
            changed[key] = one_line(
                yaml.safe_dump(value, allow_unicode=True, default_flow_style=True).removesuffix("...\n")
            )
    models = {
        one_line(each["name"]): one_line(str(each["model"] or each["precomputed"] or "lexical"))
        for each in config.get("encoders", [])
    }
    if training := manifest.get("training"):
        models["re-ranker"] = one_line(training["start"]["model"])
    # Say what they were made with.
    versions = [section["versions"] for section in sections]
    return {
        "data": one_line(sections[-1]["data"]),
        "digests": (manifest.get("mining") or {}).get("digests", {}),
        "models": models,
        "versions": versions[-1],
        "same_versions": all(one == other for one, other in pairwise(versions)),
        "changed": changed,
        "settings": yaml.safe_dump(config, allow_unicode=True, sort_keys=False),
        "files": manifest.get("files", {}),
    }


def _leaves(tree: Facts, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
