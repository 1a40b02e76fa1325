"""The last lines of an evaluation: deploy it or not, what it gains, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from hnmine.ranker.choose import on_dev
from hnmine.ranker.write import Deployment
from hnmine.ranking.evaluate import DEV_ALONE, RERANKER, Evaluation, Ranking
from hnmine.ranking.measures import MAIN_METRIC, Paired
from hnmine.runs.tables import text_table, three_figures

QUESTION = "Deploy it or not?"
Tested = Callable[[Ranking, Ranking, tuple[str, ...]], Mapping[str, Paired]]


def answer(
    deployment: Deployment | None,
    evaluation: Evaluation,
    tested: Tested,
    costs: Mapping[str, float | None],
    target: Path,
) -> str:
    """Return the answer in a few lines; `costs` are milliseconds a query by the name of a row."""
    if deployment is None:
        return f"{QUESTION} Not decided: the first stage has no document for any dev query. {target} is not written."
    # Test what was chosen against what costs less.
    chosen, first, blend = deployment.chosen, evaluation.measured[0].alone, evaluation.measured[0].blend
    cheaper = [each for each in (first, blend) if each is not None and each is not chosen]
    tests = {row.name: tested(chosen, row, (MAIN_METRIC,))[MAIN_METRIC] for row in cheaper}
    on, names = evaluation.reported, {first.name, *(row.name for row in deployment.rows)}
    offered = {name: test for name, test in tests.items() if name in names}
    lines = [f"{QUESTION} {_verdict(deployment, first, offered, on, target)}"]
    # Show it beside these, with the costs.
    others = [] if evaluation.test_is_dev else ["on dev"]
    cells = [["", f"{MAIN_METRIC} on {on}", *others, f"gain on {on}", "ms a query"]]
    for row in [chosen, *cheaper]:
        test = tests.get(row.name)
        cost = costs.get(row.name)
        figures = [f"{row.values[MAIN_METRIC].mean():.3f}", *(f"{on_dev(row):.3f}" for _ in others)]
        figures.append("" if test is None else str(test))
        against = row.name if row is chosen else f"against {row.name}"
        cells.append([f"  {against}", *figures, "" if cost is None else three_figures(cost)])
    lines.append(text_table(cells[1:], cells[0], left=(0, 2 + len(others))))
    if evaluation.test_is_dev:
        lines.append(DEV_ALONE)
    # Name what would do as well for less.
    rival = offered.get(blend.name) if blend is not None and RERANKER in chosen.weights else None
    if blend is not None and rival is not None and not rival.is_gain:
        worth = f"better on {on}" if is_loss(rival) else "not surely worse"
        lines.append(
            f"{blend.name} needs no training and no re-ranker, and is {worth}: --set ranker.choose=blend deploys it."
        )
    return "\n".join(lines)


def _verdict(deployment: Deployment, first: Ranking, tests: Mapping[str, Paired], on: str, target: Path) -> str:
    """Return the answer in one line: no where what costs less is better, else by the gain over the first stage.

    `tests` are against what costs less and could be deployed, by name.
    """
    chosen, earlier, rival = deployment.chosen, deployment.earlier, max(deployment.rows, key=on_dev)
    is_best, holds = f"{chosen.name} is the best on dev", f"{target} holds it"
    if deployment.stays and earlier is not None:
        before = f"{earlier.spec.chosen}, {MAIN_METRIC} {on_dev(chosen):.3f} on dev"
        return (
            f"Not what is new: {target} stays what was deployed before ({before}), which is better than the best of "
            f"today, {rival.name} ({on_dev(rival):.3f})."
        )
    # Say what was insisted on.
    if earlier is not None:
        rival = earlier.ranking
    if on_dev(rival) > on_dev(chosen):
        is_best = f"ranker.choose insists on {chosen.name} ({rival.name} is better on dev)"
        if first.name not in tests:
            return f"As you say: {is_best}. {holds}."
    # A loss is a no, sure or not: what costs less is better.
    if (test := tests.get(first.name)) is None:
        return f"No: nothing that could be deployed beats {first.name} on dev. {target} holds that alone."
    if lost := [name for name, each in tests.items() if is_loss(each)]:
        return f"No: {is_best}, but on {on} it is worse than {' and than '.join(lost)}. {holds}."
    if test.is_gain:
        return f"Yes: {is_best}, and its gain over {first.name} on {on} is no chance. {holds}."
    if test.too_few:
        few = f"on {test.differing} {on} queries it differs from {first.name}: too few to prove anything"
        return f"Not proven: {is_best}, but {few}. {holds}."
    return f"Not proven: {is_best}, but its gain over {first.name} on {on} may be chance. {holds}."


def is_loss(test: Paired) -> bool:
    """Whether a difference is below 0, and not by rounding."""
    return round(test.difference, 12) < 0
