"""Which row of the table is deployed: the best on dev, the cheaper of equals, or the kind that is insisted on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from hnmine.models.folder import adapter_base
from hnmine.ranking.evaluate import Ranking, Reranker
from hnmine.ranking.measures import MAIN_METRIC
from hnmine.runs.progress import say

KINDS = ("first-stage", "blend", "re-ranker", "blend-with-re-ranker")
"""The cheaper first: what an encoder makes of a document can be computed ahead, what a re-ranker does cannot."""


def on_dev(ranking: Ranking) -> float:
    """Return the main metric on dev, equal means being equal whatever rounded them; dev has to be known."""
    assert ranking.dev is not None
    return round(float(ranking.dev[MAIN_METRIC].mean()), 12)


def deployable(rows: Sequence[Ranking], parts: Collection[str], rerankers: Mapping[str, Reranker]) -> list[Ranking]:
    """Return the rows that can score new texts from one folder; why others cannot is said.

    `parts` are those that can, the re-ranker among them; `rerankers` are by the names of rows.
    """
    found = []
    for row in rows:
        reranker = rerankers.get(row.name)
        if gone := sorted(row.weights.keys() - set(parts)):
            say("ranker", f"{row.name} is no ranker: {gone[0]} cannot score new texts", level="warning")
        elif reranker is not None and adapter_base(reranker.folder) is not None:
            message = "is an adapter, whose base lies elsewhere, and no ranker: set train.lora.keep=merged"
            say("ranker", f"{row.name} {message}")
        else:
            found.append(row)
    return found


def choose(rows: Sequence[Ranking], wanted: str = "auto") -> Ranking:
    """Return the best row on dev of the `wanted` kind, or of all; of equals the cheaper, then the earlier."""
    among = [row for row in rows if wanted in ("auto", row.kind)]
    if not among:
        say("ranker", f"{wanted}: dev has none of use; the best of all is taken", level="warning")
    return min(among or rows, key=lambda row: (-on_dev(row), KINDS.index(row.kind), len(row.weights)))
