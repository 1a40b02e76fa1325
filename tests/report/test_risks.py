"""What is said of the hidden positives that rules choose."""

from __future__ import annotations

from hnmine.report.risks import Risk, risk_table, verdict

RULE = "two conditions"


def risk(hidden: float, low: float, high: float, negatives: int = 100) -> Risk:
    return {"hidden": hidden, "interval": (low, high), "yield": 1.0, "negatives": negatives}


def test_the_verdict_follows_the_upper_end_of_the_interval() -> None:
    assert "safe here" in verdict({RULE: risk(0.01, 0.005, 0.018)}, RULE)
    assert "anchors" in verdict({RULE: risk(0.08, 0.065, 0.099)}, RULE)
    assert "anchors" in verdict({RULE: risk(0.02, 0.005, 0.07)}, RULE), "2 % is not safe if it may be 7 %"
    assert "dangerous" in verdict({RULE: risk(0.3, 0.27, 0.33)}, RULE)
    assert "dangerous" in verdict({RULE: risk(0.5, 0.23, 0.77)}, RULE)
    for few in (risk(0, 0, 0.28), risk(0.125, 0.02, 0.47), risk(0.08, 0.04, 0.15), risk(0, 0, 1, negatives=1)):
        assert "too few to tell" in verdict({RULE: few}, RULE)
    assert verdict({RULE: risk(0.3, 0.272, 0.329)}, RULE).startswith(
        "Of the two conditions' first negatives, 30.0% (27.2% to 32.9%) are right answers"
    )
    assert "there is none" in verdict({RULE: risk(0, 0, 1, negatives=0)}, RULE)


def test_the_verdict_speaks_of_what_is_configured_too() -> None:
    first, second = verdict({RULE: risk(0.3, 0.27, 0.33), "mine": risk(0, 0, 0.004)}, RULE, "mine").splitlines()
    assert "dangerous" in first
    assert second == "As configured (mine), 0.0% (0.0% to 0.4%) are right answers that were hidden: safe here."


def test_the_table_shows_rate_interval_yield_and_sample() -> None:
    header, row = risk_table({RULE: risk(0.3, 0.272, 0.329, negatives=1000)}).splitlines()
    assert header.split() == ["rule", "hidden", "positives", "95", "%", "interval", "yield", "negatives"]
    assert row.split() == ["two", "conditions", "30.0%", "27.2%", "-", "32.9%", "100.0%", "1,000"]
    assert len(header) == len(row)
