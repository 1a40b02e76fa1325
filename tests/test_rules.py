"""The rules against their definitions, document by document."""

from __future__ import annotations

import numpy as np
import pytest

from hnmine.rules import RULES, View


def view_of(seed: int, count: int = 40) -> View:
    rng = np.random.default_rng(seed)
    return View(
        d_query_n=np.sort(rng.choice(np.linspace(0, 1.2, 30), count)),
        d_positive_n=rng.choice(np.linspace(0, 1.2, 30), count),
        radius=float(rng.choice(np.linspace(0, 1.2, 30))),
        rng=rng,
    )


@pytest.mark.parametrize("seed", range(60))
def test_each_rule_chooses_the_first_document_that_satisfies_it(seed: int) -> None:
    view = view_of(seed)
    rows = list(enumerate(zip(view.d_query_n.tolist(), view.d_positive_n.tolist(), strict=True)))
    s_positive = 1 - view.radius

    def first(keep: object) -> int | None:
        return next((i for i, (d_q, d_p) in rows if keep(d_q, d_p)), None)  # type: ignore[operator]

    assert RULES["nearest document"](view) == 0
    assert RULES["condition 1"](view) == first(lambda d_q, d_p: d_q < view.radius)
    assert RULES["two conditions"](view) == first(lambda d_q, d_p: d_q < view.radius and d_q < d_p)
    assert RULES["PercPos 0.95"](view) == first(lambda d_q, d_p: 1 - d_q <= s_positive - 0.05 * abs(s_positive))
    assert RULES["just below the positive"](view) == first(lambda d_q, d_p: d_q >= view.radius)


def test_the_rank_window_stays_in_its_ranks_and_reaches_all_of_them() -> None:
    view = view_of(0, count=15)
    assert {RULES["random of ranks 10-110"](view) for _ in range(300)} == {10, 11, 12, 13, 14}


def test_without_documents_no_rule_chooses() -> None:
    empty = View(d_query_n=np.empty(0), d_positive_n=np.empty(0), radius=0.5, rng=np.random.default_rng(0))
    assert {rule(empty) for rule in RULES.values()} == {None}
