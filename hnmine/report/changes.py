"""The queries that a training changed most, with texts: OUT/evaluation/changes-<preset>.md."""

from __future__ import annotations

import numpy as np

from hnmine.ranking.evaluate import Evaluation, Ranking
from hnmine.ranking.first_stage import NO_ROW
from hnmine.ranking.measures import MAIN_METRIC
from hnmine.ranking.task import Task
from hnmine.report.examples import shortened
from hnmine.runs.folder import Run
from hnmine.types import Float32

_SHOWN = 10  # queries of those that gained most, and of those that lost most


def write_changes(evaluation: Evaluation, run: Run) -> list[str]:
    """Write a page for each training, remove those of trainings that are gone; return the pages' paths in OUT."""
    paths = []
    for ranking in evaluation.after:
        paths.append(f"evaluation/changes-{ranking.name.removeprefix('after: ')}.md")
        run.write_text(paths[-1], changes_page(evaluation, ranking))
    for page in (run.out / "evaluation").glob("changes-*.md"):
        if page.relative_to(run.out).as_posix() not in paths:
            page.unlink()
    return paths


def changes_page(evaluation: Evaluation, after: Ranking) -> str:
    """Return the queries that gained and lost most from the start to this ranking, for people."""
    before, task = evaluation.before, evaluation.task
    assert before is not None
    change_Q = after.values[MAIN_METRIC] - before.values[MAIN_METRIC]
    order = np.argsort(-change_Q, kind="stable").tolist()
    gained = [query for query in order if change_Q[query] > 0]
    lost = [query for query in reversed(order) if change_Q[query] < 0]
    lines = [
        f"# What changed from *{before.name}* to *{after.name}*\n",
        f"{len(gained):,} of {len(task):,} queries gained in {MAIN_METRIC}, {len(lost):,} lost, the others stayed.",
    ]
    for title, queries in (("Gained most", gained[:_SHOWN]), ("Lost most", lost[:_SHOWN])):
        lines.append(f"\n## {title}\n")
        lines += [_one_query(task, query, before.scores_QK, after.scores_QK) for query in queries] or ["None."]
    return "\n".join(lines) + "\n"


def _one_query(task: Task, query: int, before_QK: Float32, after_QK: Float32) -> str:
    """Describe one query: the ranks of its right document, and the documents that stood first."""
    # Rank the query's documents before and after.
    doc_rows_K, relevant = task.doc_rows_QK[query], task.relevant[query]
    ranked = [
        [row for row in doc_rows_K[np.argsort(-scores_QK[query], kind="stable")].tolist() if row != NO_ROW]
        for scores_QK in (before_QK, after_QK)
    ]
    ranks = [next((rank for rank, row in enumerate(rows, 1) if row in relevant), None) for rows in ranked]
    # Show the texts.
    lines = [f"**{shortened(task.queries.texts[query])}**: right document from {ranks[0]} to {ranks[1]}"]
    for when, rows in zip(("before", "after"), ranked, strict=True):
        judgement = "right" if rows[0] in relevant else "not judged right"
        lines.append(f"- first {when} ({judgement}): {shortened(task.document_texts[rows[0]])}")
    answer = next((row for row in ranked[0] if row in relevant), None)
    if answer is not None:
        lines.append(f"- right: {shortened(task.document_texts[answer])}")
    return "\n".join(lines) + "\n"
