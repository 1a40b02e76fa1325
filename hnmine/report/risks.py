"""The table of an audit, and what it means for the domain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hnmine.runs.tables import text_table

_SAFE, _USABLE = 0.03, 0.10  # shares of hidden positives


@dataclass(frozen=True, kw_only=True)
class Risk:
    """How often a rule takes a hidden positive for a negative."""

    hidden: float
    """Share of the negatives that are hidden positives."""
    interval: tuple[float, float]
    """Of that share, 95 %."""
    yield_rate: float
    """Share of the pairs that got a negative."""
    negatives: int


def risk_table(risks: Mapping[str, Risk]) -> str:
    """Return one line a rule."""
    rows = [
        [
            name,
            f"{risk.hidden:.1%}",
            f"{risk.interval[0]:.1%} - {risk.interval[1]:.1%}",
            f"{risk.yield_rate:.1%}",
            f"{risk.negatives:,}",
        ]
        for name, risk in risks.items()
    ]
    return text_table(rows, ["rule", "hidden positives", "95 % interval", "yield", "negatives"])


def verdict(risks: Mapping[str, Risk], rule: str, configured: str | None = None) -> str:
    """Say what the measured risk of the rule, and of what is `configured`, means for this domain."""
    first = f"Of the {rule}' first negatives, {_judgement(risks[rule])}."
    return first if configured is None else f"{first}\nAs configured ({configured}), {_judgement(risks[configured])}."


def _judgement(risk: Risk) -> str:
    """Judge by the upper end of the interval: a small sample proves nothing safe."""
    (low, high), share = risk.interval, risk.hidden
    if not risk.negatives:
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
