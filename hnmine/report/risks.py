"""The table of an audit, and what it means for the domain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hnmine.runs.tables import text_table

_SAFE, _USABLE = 0.03, 0.10  # shares of hidden positives


Risk = Mapping[str, Any]
"""`hidden`: the share of a rule's negatives that are hidden positives; `interval`: its 95 %, low and high; `yield`: the
share of the pairs that got a negative; `negatives`: how many."""


def risk_table(risks: Mapping[str, Risk]) -> str:
    """Return one line a rule."""
    rows = []
    for name, risk in risks.items():
        low, high = risk["interval"]
        shares = [f"{risk['hidden']:.1%}", f"{low:.1%} - {high:.1%}", f"{risk['yield']:.1%}"]
        rows.append([name, *shares, f"{risk['negatives']:,}"])
    return text_table(rows, ["rule", "hidden positives", "95 % interval", "yield", "negatives"])


def verdict(risks: Mapping[str, Risk], rule: str, configured: str | None = None) -> str:
    """Say what the measured risk of the rule, and of what is `configured`, means for this domain."""
    first = f"Of the {rule}' first negatives, {_judgement(risks[rule])}."
    return first if configured is None else f"{first}\nAs configured ({configured}), {_judgement(risks[configured])}."


def _judgement(risk: Risk) -> str:
    """Judge by the upper end of the interval: a small sample proves nothing safe."""
    (low, high), share = risk["interval"], risk["hidden"]
    if not risk["negatives"]:
        return "there is none: every pair is without"
    if high <= _SAFE:
        meaning = "safe here"
    elif high <= _USABLE:
        meaning = "usable with anchors (the default); look at some triplets by eye"
    elif share > _USABLE and low > _SAFE:
        meaning = (
            "dangerous here: several documents are right for a query and few are judged; use guards, or another rule"
        )
    else:
        meaning = "too few to tell; judge more right documents of the same queries, or look at triplets by eye"
    return f"{share:.1%} ({low:.1%} to {high:.1%}) are right answers that were hidden: {meaning}"
