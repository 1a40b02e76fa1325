"""The audit on a space small enough to count by hand, and on random ones against a plain loop."""

from __future__ import annotations

import numpy as np

from hnmine.auditing import Audited, audit, several_positives, table, verdict
from hnmine.fuse import unit_rows
from hnmine.rules import RULES
from hnmine.types import Pairs, Space, distance


def pairs_of(rows: list[tuple[int, int]]) -> Pairs:
    array = np.array(rows, dtype=np.int64)
    return Pairs(query_rows_P=array[:, 0].copy(), doc_rows_P=array[:, 1].copy())


def test_a_hidden_positive_that_is_nearest_is_counted_for_the_other_pair_only() -> None:
    # by angle from the query: document 0 at 10 degrees, 1 at 20, 2 at 60, 3 at 90; 0 and 1 are both right
    angles = np.radians([10, 20, 60, 90])
    docs = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    space = Space(docs_NR=docs, queries_QR=np.array([[1, 0]], np.float32))
    results = audit(space, pairs_of([(0, 0), (0, 1)]), np.arange(4), seed=0)
    # PD = 0: the nearest other is 1, hidden. PD = 1: the nearest other is 0, hidden, and satisfies condition 1 ...
    assert results["nearest document"] == Audited(pairs=2, chosen=2, hidden=2)
    assert results["condition 1"] == Audited(pairs=2, chosen=1, hidden=1)
    # ... but it is as near to PD as to the query (10 degrees both), so condition 2 lets it not pass
    assert results["two conditions"].chosen in (0, 1)  # decided by rounding of cos 10°, and only by that
    assert results["just below the positive"] == Audited(pairs=2, chosen=2, hidden=1)


def test_the_audit_equals_a_plain_loop() -> None:
    rng = np.random.default_rng(4)
    unit = unit_rows(rng.normal(size=(90, 5)).astype(np.float32))
    space = Space(docs_NR=unit[:80], queries_QR=unit[80:])
    near = np.argsort(-(unit[80:] @ unit[:80].T), axis=1)[:, :15]
    judged = pairs_of(
        [(query, int(doc)) for query in range(10) for doc in rng.permutation(near[query])[: 1 + query % 5]]
    )
    results = audit(space, judged, np.arange(80), seed=1)
    chosen = hidden = offered = 0
    for query, positives in judged.positives_of().items():
        if len(positives) < 2:
            continue
        for positive in positives:
            offered += 1
            radius = distance(space.queries_QR[[query]], space.docs_NR[[positive]])[0]
            best = None
            for doc in range(80):
                d_q = distance(space.queries_QR[[query]], space.docs_NR[[doc]])[0]
                d_p = distance(space.docs_NR[[positive]], space.docs_NR[[doc]])[0]
                if doc != positive and d_q < radius and d_q < d_p and (best is None or d_q < best[0]):
                    best = (d_q, doc)
            chosen += best is not None
            hidden += best is not None and best[1] in positives
    assert results["two conditions"] == Audited(pairs=offered, chosen=chosen, hidden=hidden)
    assert 0 < hidden < chosen < offered
    assert set(results) == set(RULES)


def test_copies_of_one_text_are_one_positive() -> None:
    groups = np.array([0, 0, 1, 2])
    assert several_positives(pairs_of([(0, 0), (0, 1)]), groups) == {}
    assert several_positives(pairs_of([(0, 0), (0, 1), (0, 2)]), groups) == {0: [0, 2]}


def test_the_verdict_follows_the_measured_rate() -> None:
    def said(hidden: int) -> str:
        return verdict({"two conditions": Audited(pairs=100, chosen=100, hidden=hidden)})

    assert "safe" in said(2)
    assert "anchors" in said(8)
    assert "dangerous" in said(30)
    assert "30.0%" in table({"two conditions": Audited(pairs=100, chosen=100, hidden=30)})
