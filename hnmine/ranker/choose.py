"""Which row of the table is deployed: the best on dev, the cheaper of equals, or the kind that is insisted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hnmine.ranking.blend import blended
from hnmine.ranking.evaluate import Ranking
from hnmine.ranking.measures import MAIN_METRIC, Task, means, measure
from hnmine.runs.progress import say
from hnmine.types import Float32

RERANKER = "re-ranker"
"""The name of this part in all blends."""
KINDS = ("first-stage", "blend", "re-ranker", "blend-with-re-ranker")
"""The cheaper first: what an encoder makes of a document can be computed ahead, what a re-ranker does cannot."""


@dataclass(frozen=True, kw_only=True)
class Deployable:
    """A row of the table as a ranker."""

    name: str
    kind: str
    weights: Mapping[str, float]
    dev: Mapping[str, float]
    test: Mapping[str, float]
    folder: Path | None
    """Of the re-ranker, if it has one."""


def deployable(
    rankings: Sequence[Ranking],
    dev: Task,
    dev_scores: Mapping[str, Float32],
    parts_on_dev: Mapping[str, Float32],
    folders: Mapping[str, Path],
    lacking: frozenset[str] = frozenset(),
) -> list[Deployable]:
    """Return the rankings and their blends with what they are worth on dev, those without a part that is `lacking`.

    The first ranking is the first stage's. `dev_scores` (Q, K) are by the ranking's name, `folders` of re-rankers.
    """
    # Alone.
    rows = []
    for ranking in rankings:
        scores, folder = dev_scores[ranking.name], folders.get(ranking.name)
        part, kind = (next(iter(parts_on_dev)), "first-stage") if folder is None else (RERANKER, RERANKER)
        alone = {"weights": {part: 1.0}, "dev": means(measure(dev, scores)), "test": means(ranking.values)}
        rows.append(Deployable(name=ranking.name, kind=kind, folder=folder, **alone))
        # Its blend, in which dev may want no re-ranker.
        if ranking.gains_parts:
            summed = blended(dev, {**parts_on_dev, part: scores}, ranking.weights)
            has_reranker = RERANKER in ranking.weights
            rows.append(
                Deployable(
                    name=f"{ranking.name}, blended",
                    kind="blend-with-re-ranker" if has_reranker else "blend",
                    weights=ranking.weights,
                    dev=means(measure(dev, summed)),
                    test=means(ranking.blended),
                    folder=folder if has_reranker else None,
                )
            )
    for row in rows:
        if gone := sorted(row.weights.keys() & lacking):
            say("ranker", f"{row.name} is no ranker: {gone[0]} cannot score new texts", level="warning")
    return [row for row in rows if not row.weights.keys() & lacking]


def choose(rows: Sequence[Deployable], wanted: str = "auto") -> Deployable:
    """Return the best row on dev of the `wanted` kind, or of all; of equals the cheaper, then the earlier."""
    among = [row for row in rows if wanted in ("auto", row.kind)]
    if not among:
        say("ranker", f"{wanted}: dev has none of use; the best of all is taken", level="warning")
    return min(
        among or rows, key=lambda row: (-round(row.dev[MAIN_METRIC], 12), KINDS.index(row.kind), len(row.weights))
    )
