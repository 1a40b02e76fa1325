"""The last lines of an evaluation: deploy it or not, what it gains, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from hnmine.ranker.choose import on_dev
from hnmine.ranker.write import Deployment
from hnmine.ranking.evaluate import Evaluation, Ranking
from hnmine.ranking.measures import MAIN_METRIC, Paired
from hnmine.runs.tables import text_table, three_figures

SURE = 0.05
"""A p-value from which on a difference may be chance."""
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
    lines = [f"{QUESTION} {_verdict(deployment, first, tests.get(first.name), target)}"]
    # Show it beside these, with the costs.
    cells = [["", MAIN_METRIC, "on dev", "gain on test", "ms a query"]]
    for row in [chosen, *cheaper]:
        test = tests.get(row.name)
        cost = costs.get(row.name)
        figures = [f"{row.values[MAIN_METRIC].mean():.3f}", f"{on_dev(row):.3f}", "" if test is None else str(test)]
        against = row.name if row is chosen else f"against {row.name}"
        cells.append([f"  {against}", *figures, "" if cost is None else three_figures(cost)])
    lines.append(text_table(cells[1:], cells[0], left=(0, 3)))
    if evaluation.test_is_dev:
        lines.append("There is no test split: these are the dev queries, which chose, and the figures flatter.")
    # Name what would do as well for less.
    if blend is not None and blend is not chosen and "re-ranker" in chosen.weights and not is_gain(tests[blend.name]):
        lines.append(
            f"{blend.name} needs no training and no re-ranker, and is not surely worse: --set ranker.choose=blend "
            "deploys it."
        )
    return "\n".join(lines)


def _verdict(deployment: Deployment, first: Ranking, test: Paired | None, target: Path) -> str:
    """Return the answer in one line."""
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
        if test is None:
            return f"As you say: {is_best}. {holds}."
    # Judge by test.
    if test is None:
        return f"No: nothing that could be deployed beats {first.name} on dev. {target} holds that alone."
    if is_gain(test):
        return f"Yes: {is_best}, and its gain over {first.name} on test is no chance. {holds}."
    if test.difference < 0 and test.p < SURE:
        return f"No: {is_best}, but on test it is worse than {first.name}. {holds}."
    return f"Not proven: {is_best}, but its gain over {first.name} on test may be chance. {holds}."


def is_gain(test: Paired) -> bool:
    """Whether a difference is above 0, and surely so."""
    return test.difference > 0 and test.p < SURE
