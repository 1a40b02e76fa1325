"""Tables of rankings: the metrics of each, what training changed, the parts of the blends, short and long documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hnmine.errors import DataError
from hnmine.ranking.evaluate import Evaluation, Ranking, metrics_of, read_metrics
from hnmine.ranking.measures import LONG_WORDS, MAIN_METRIC, METRICS, PerQuery, Task, means, paired, reach
from hnmine.runs.tables import text_table

_FEWEST_QUERIES = 10  # of a length, that are worth a mean


def evaluation_text(evaluation: Evaluation, *, start: str = "", distilled: bool = True) -> str:
    """Return the table of an evaluation, before or after training, and what has to be known to read it.

    `start` says what has to be known of the model that all trainings began with.
    `distilled`: whether first stage and encoders have taught one of the re-rankers; if not, it may be advised.
    """
    task, count = evaluation.task, f"{len(evaluation.task):,}"
    queries = count if len(task) == evaluation.split_queries else f"{count} of {evaluation.split_queries:,}"
    asked = f"queries ({evaluation.split})" if " " in evaluation.split else f"{evaluation.split} queries"
    tested = "\nIn brackets the 95 % interval and the p-value of a paired randomisation test against the start."
    parts = [
        f"{queries} {asked}, the first {task.doc_rows_QK.shape[1]} documents re-ranked",
        metrics_table(evaluation),
        _reach_text(reach(task)) + (tested if evaluation.tests else ""),
        start,
        blends_text(evaluation.rankings),
        "" if distilled else distillation_advice(evaluation.rankings),
        length_table(task, metrics_of(evaluation.rankings)),
    ]
    return "\n\n".join(filter(None, parts))


def _reach_text(found: float) -> str:
    if found == 1:
        return "The first stage has all of the right documents."
    return f"The first stage has {found:.1%} of the right documents; re-ranking cannot bring back the others."


def metrics_table(evaluation: Evaluation) -> str:
    """Return one line a ranking, metrics as columns, and the change where it was tested."""
    cells = []
    for name, values in metrics_of(evaluation.rankings).items():
        cells.append([name, *(f"{value:.3f}" for value in means(values).values())])
        if tests := evaluation.tests.get(name):
            test = tests[MAIN_METRIC]
            cells[-1].append(f"{test.difference:+.3f} ({test.low:+.3f} to {test.high:+.3f}, p = {test.p:.2g})")
    headers = ["", *METRICS, *([f"{MAIN_METRIC} against the start"] if evaluation.tests else [])]
    return text_table(cells, headers, left=(0, len(METRICS) + 1))


def blends_text(rankings: Sequence[Ranking]) -> str:
    """Return the parts of each blend and their weights; nothing where there are no blends."""
    lines = []
    for ranking in rankings:
        parts = "  ".join(f"{weight:.2f} {part}" for part, weight in ranking.weights.items())
        if parts and not ranking.gains_parts:
            parts = f"nothing: on dev no sum has a higher {MAIN_METRIC} than this alone"
        lines += [[f"  {ranking.name}", parts]] if parts else []
    if not lines:
        return ""
    return (
        "blended: the sum of several scores, each with mean 0 and standard deviation 1 over a query's documents;\n"
        "the weights are chosen on dev:\n" + text_table(lines, (), left=(0, 1))
    )


def distillation_advice(rankings: Sequence[Ranking]) -> str:
    """Return an advice where first stage and encoders together beat all of the re-rankers; else nothing."""
    first_stage, *rerankers = rankings
    blend = means(first_stage.blended)[MAIN_METRIC]
    best = max((means(ranking.values)[MAIN_METRIC] for ranking in rerankers), default=blend)
    if not first_stage.gains_parts or blend <= best:
        return ""
    return (
        f"First stage and encoders together ({MAIN_METRIC} {blend:.3f}) know more than any re-ranker here:\n"
        "`hnmine train --preset distilled` lets one learn from them, on queries that need no judgement."
    )


def length_table(task: Task, rows: Mapping[str, PerQuery], fewest: int = _FEWEST_QUERIES) -> str:
    """Return the main metric of queries with short and with long right documents; nothing with too few of either."""
    long_Q = np.isin(np.arange(len(task)), sorted(task.long))
    parts = {"short": ~long_Q, "long": long_Q}
    if min(part_Q.sum() for part_Q in parts.values()) < fewest:
        return ""
    headers = ["", *(f"{name} ({part_Q.sum():,})" for name, part_Q in parts.items())]
    cells = [
        [name, *(f"{values[MAIN_METRIC][part_Q].mean():.3f}" for part_Q in parts.values())]
        for name, values in rows.items()
    ]
    title = f"{MAIN_METRIC} by the length of the right document (long: over {LONG_WORDS:,} words and marks)"
    return f"{title}\n\n{text_table(cells, headers)}"


def paired_table(after: Path, before: Path) -> str:
    """Compare two files of OUT/evaluation, of one run or of two, over the queries that both have."""
    (after_ids, after_values), (before_ids, before_values) = read_metrics(after), read_metrics(before)
    shared, after_rows, before_rows = np.intersect1d(after_ids, before_ids, return_indices=True)
    if not len(shared):
        raise DataError(f"{after} and {before} have no query in common")
    cells = []
    for metric in METRICS:
        after_Q, before_Q = after_values[metric][after_rows], before_values[metric][before_rows]
        test = paired(after_Q, before_Q)
        figures = [f"{after_Q.mean():.3f}", f"{before_Q.mean():.3f}", f"{test.difference:+.3f}"]
        cells.append([metric, *figures, f"{test.low:+.3f} to {test.high:+.3f}", f"{test.p:.2g}"])
    table = text_table(cells, ["", "after", "before", "change", "95 % interval", "p"])
    return f"{after} against {before}, {len(shared):,} queries\n\n{table}"
