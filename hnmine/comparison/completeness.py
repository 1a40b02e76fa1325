"""How many of the negatives that are really mined can be right answers that nobody judged.

The audit hides all but one of a query's right answers, as if nobody had judged them. Where everything is judged they
are known when one mines, and what it measures is no risk. Whether it is so can be told from what is mined with all of
them known: right answers resemble the positive. Hide one right answer at a time, of each pair another, and look at
d(PD, D) where a rule takes it. If a share s of the negatives that are really mined were right, and lay to their
positive as the hidden do, at least s · P(hidden nearer than t) of them would be nearer than t, whatever t. So

    s <= min over t of  P(mined nearer than t) / P(hidden nearer than t)

(a mixture's share is bounded by the ratio of the distributions: Blanchard et al., JMLR 2010). Each probability enters
with the end of its 95 % interval that makes s larger.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hnmine.corpus.never_negative import NeverNegative
from hnmine.mining.conditions import Known
from hnmine.types import Float64, Int64, Pairs

FEWEST = 20
"""Hidden answers that were taken, and negatives, of which something can be said."""
_LEVELS = np.linspace(0.1, 1.0, 10)
Interval = Callable[[Int64, Int64], tuple[float, float]]


def hide_one(pairs: Pairs, never_negative: NeverNegative, rows_Q: Int64, seed: int) -> tuple[Known, Known, Int64]:
    """Return what is no negative of each pair with one right answer hidden, what is none as one mines, and what is hid.

    `rows_Q` has the rows by which `never_negative` knows the queries of the pairs. Each query has right answers of two
    texts at least; of each pair a seeded one is hidden.
    """
    groups_N, rng = never_negative.groups_N, np.random.default_rng(seed)
    but_one, all_known, hidden = [], [], []
    for query, doc in zip(pairs.query_rows_P.tolist(), pairs.doc_rows_P.tolist(), strict=True):
        row = int(rows_Q[query])
        right, besides = never_negative.positives[row], never_negative.besides_positives(row)
        others = sorted(each for each in right if groups_N[each] != groups_N[doc])
        hid = others[rng.integers(len(others))]
        known = {doc, *right, *besides}
        all_known.append(known)
        but_one.append({each for each in known if groups_N[each] != groups_N[hid]})
        hidden.append(hid)
    return Known(but_one, groups_N), Known(all_known, groups_N), np.array(hidden, dtype=np.int64)


def most_that_are_right(
    hidden_M: Float64, hidden_query_M: Int64, mined_M: Float64, mined_query_M: Int64, interval: Interval
) -> float:
    """Return the largest share of what is mined that can be right, from 0 to 1; 1 where too little is known.

    Distances to the positive of right answers that were hidden and taken, and of what is mined, with their queries.
    `interval` gives that of Σ hits / Σ chosen, of counts by query.
    """
    if min(len(hidden_M), len(mined_M)) < FEWEST:
        return 1.0
    chosen = np.bincount(hidden_query_M), np.bincount(mined_query_M)
    most = 1.0
    for threshold in np.quantile(hidden_M, _LEVELS):
        of_hidden = np.bincount(hidden_query_M, hidden_M <= threshold).astype(np.int64)
        of_mined = np.bincount(mined_query_M, mined_M <= threshold).astype(np.int64)
        low, high = interval(chosen[0], of_hidden)[0], interval(chosen[1], of_mined)[1]
        if low > 0:
            most = min(most, high / low)
    return most
