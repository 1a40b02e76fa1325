"""Tables of rankings: the metrics of each, what training changed, the parts of the blends, short and long documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from hnmine.errors import DataError
from hnmine.ranking.evaluate import BEFORE, RERANKER, Evaluation, Measured
from hnmine.ranking.measures import LONG_WORDS, MAIN_METRIC, METRICS, PerQuery, Task, means, paired, reach
from hnmine.ranking.rows import Row, metrics_of_table, read_metrics, read_rows
from hnmine.runs.tables import text_table, three_figures

_FEWEST_QUERIES = 10  # of a length, that are worth a mean


Costs = Mapping[str, float | None]
"""Milliseconds a query, by the name of a row; None where they are not known."""
_NO_COSTS: Costs = MappingProxyType({})


def evaluation_text(evaluation: Evaluation, costs: Costs = _NO_COSTS, *, start: str = "") -> str:
    """Return the table of an evaluation, before or after training, and what has to be known to read it.

    `start` says what has to be known of the model that all trainings began with.
    """
    task, count = evaluation.task, f"{len(evaluation.task):,}"
    queries = count if len(task) == evaluation.split_queries else f"{count} of {evaluation.split_queries:,}"
    parts = [
        f"{queries} {asked(evaluation.split)}, the first {task.doc_rows_QK.shape[1]} documents re-ranked",
        metrics_table(evaluation, costs),
        _reach_text(reach(task)),
        start,
        changes_table(evaluation),
        blends_text(evaluation.measured),
        length_table(task, {row.name: row.values for row in evaluation.rows}),
    ]
    return "\n\n".join(filter(None, parts))


def asked(split: str) -> str:
    """Return the queries of a split in words, or of a share of one, such as `15% of train`."""
    return f"queries ({split})" if " " in split else f"{split} queries"


def _reach_text(found: float) -> str:
    if found == 1:
        return "The first stage has all of the right documents."
    return f"The first stage has {found:.1%} of the right documents; re-ranking cannot bring back the others."


def metrics_table(evaluation: Evaluation, costs: Costs = _NO_COSTS) -> str:
    """Return one line a ranking: metrics, the main one on dev too, and what a query costs where that is known."""
    cells = []
    for row in evaluation.rows:
        cells.append([row.name, *(f"{value:.3f}" for value in means(row.values).values())])
        cells[-1].append("" if row.dev is None else f"{means(row.dev)[MAIN_METRIC]:.3f}")
        cells[-1].append("" if (cost := costs.get(row.name)) is None else three_figures(cost))
    headers = ["", *METRICS, f"{MAIN_METRIC} on dev", *(["ms a query"] if costs else [])]
    return text_table([line[: len(headers)] for line in cells], headers)


def changes_table(evaluation: Evaluation) -> str:
    """Return how each row after training differs from the start, and from the best that needs no training."""
    if not evaluation.untrained_tests:
        return ""
    columns = {"the start": evaluation.tests, evaluation.untrained.name: evaluation.untrained_tests}
    if evaluation.untrained.name.startswith(BEFORE) or not evaluation.tests:
        del columns["the start"]
    cells = [
        [name, *(str(of_row[name][MAIN_METRIC]) for of_row in columns.values())] for name in evaluation.untrained_tests
    ]
    headers = [f"{MAIN_METRIC}, after training", *(f"against {name}" for name in columns)]
    best = f"{evaluation.untrained.name} is the best {'on dev ' if evaluation.untrained.dev else ''}"
    return (
        f"{text_table(cells, headers, left=range(len(headers)))}\n"
        f"{best}of all that needs no training; a blend is tested against the blend of the start.\n"
        "In brackets the 95 % interval and the p-value of a paired randomisation test."
    )


def blends_text(measured: Sequence[Measured]) -> str:
    """Return the parts of each blend and their weights; nothing where there are no blends."""
    lines = []
    for each in measured:
        parts = "  ".join(f"{weight:.2f} {part}" for part, weight in each.weights.items())
        if parts and each.blend is None:
            parts = f"nothing: on dev no sum has a higher {MAIN_METRIC} than this alone"
        elif parts and each.alone.kind == "re-ranker" and RERANKER not in each.weights:
            parts = f"no row: on dev the best sum is without it, {parts}"
        lines += [[f"  {each.alone.name}", parts]] if parts else []
    if not lines:
        return ""
    return (
        "blended: the sum of several scores, each with mean 0 and standard deviation 1 over a query's documents;\n"
        "the weights are chosen on dev:\n" + text_table(lines, (), left=(0, 1))
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


def paired_table(after: str | Path, before: str | Path, out: Path | None = None) -> str:
    """Compare two files of OUT/evaluation, of one run or of two, over the queries that both have.

    With `out` two rows of its table, each by its name there or by that of its file.
    """
    names = [str(after), str(before)]
    if out is None:
        found = [read_metrics(Path(name)) for name in names]
    else:
        rows = [_row_named(name, read_rows(out), out) for name in names]
        names, found = [row.name for row in rows], [metrics_of_table(row.test_table()) for row in rows]
    (after_ids, after_values), (before_ids, before_values) = found
    shared, after_rows, before_rows = np.intersect1d(after_ids, before_ids, return_indices=True)
    if not len(shared):
        raise DataError(f"{names[0]} and {names[1]} have no query in common")
    cells = []
    for metric in METRICS:
        after_Q, before_Q = after_values[metric][after_rows], before_values[metric][before_rows]
        test = paired(after_Q, before_Q)
        figures = [f"{after_Q.mean():.3f}", f"{before_Q.mean():.3f}", f"{test.difference:+.3f}"]
        cells.append([metric, *figures, f"{test.low:+.3f} to {test.high:+.3f}", f"{test.p:.2g}"])
    table = text_table(cells, ["", "after", "before", "change", "95 % interval", "p"])
    return f"{names[0]} against {names[1]}, {len(shared):,} queries\n\n{table}"


def _row_named(name: str, rows: Sequence[Row], out: Path) -> Row:
    found = next((row for row in rows if name in (row.name, row.slug)), None)
    if found is None:
        raise DataError(f"{out} has no row {name!r}; it has {', '.join(repr(row.slug) for row in rows)}")
    return found
