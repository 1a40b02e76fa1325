"""Texts to judge by eye: some mined triplets, and the queries that a training changed most."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hnmine.ranking.evaluate import Evaluation, Ranking
from hnmine.ranking.measures import MAIN_METRIC, Task
from hnmine.runs.folder import Run
from hnmine.types import NO_ROW

_WIDTH = 98  # of a text; with what stands before it, it fills a screen of 110
_SHOWN = 10  # queries of those that gained most, and of those that lost most


def examples(triplets: Path, negatives: Path, count: int, seed: int = 0) -> str:
    """Return `count` triplets, of each query's text one, drawn with `seed`; the rows of both files correspond."""
    texts, facts = pq.read_table(triplets), pq.read_table(negatives)
    if not len(texts):
        return "No hard negative was found; `dropped` in manifest.json says why."
    chosen = drawn(texts, count, seed)
    blocks = [f"{len(chosen)} of {len(texts):,} mined triplets (d is the cosine distance, 0 to 2):"]
    for text, fact in zip(texts.take(chosen).to_pylist(), facts.take(chosen).to_pylist(), strict=True):
        blocks.append(
            f"\n  query     {shortened(text['query'])}\n"
            f"  positive  {shortened(text['positive'])}\n"
            f"            {text['positive_id']}, d(Q,PD) = {fact['d_query_positive']:.3f}\n"
            f"  negative  {shortened(text['negative'])}\n"
            f"            {text['negative_id']}, d(Q,D) = {fact['d_query_negative']:.3f}, "
            f"d(PD,D) = {fact['d_positive_negative']:.3f}"
        )
    return "\n".join(blocks)


def drawn(triplets: pa.Table, count: int, seed: int) -> list[int]:
    """Return the rows of `count` triplets, of each query's text one, ascending."""
    _, first = np.unique(np.array(triplets.column("query").to_pylist(), dtype=object), return_index=True)
    rng = np.random.default_rng(seed)
    chosen: list[int] = np.sort(rng.choice(first, size=min(count, len(first)), replace=False)).tolist()
    return chosen


def shortened(text: str) -> str:
    """Return the beginning of a text, on one line, up to a word's end unless little would be left."""
    words = " ".join(text.split())
    if len(words) <= _WIDTH:
        return words
    cut = words[: _WIDTH - 2]
    whole = cut.rpartition(" ")[0]
    return f"{whole if len(whole) > _WIDTH // 2 else cut} …"


def write_changes(evaluation: Evaluation, run: Run) -> list[str]:
    """Write OUT/evaluation/changes-<preset>.md for each training, remove those of others; return the paths in OUT."""
    _, *rerankers = (each.alone for each in evaluation.measured)
    before, after = rerankers[:1], rerankers[1:]
    pages = {f"evaluation/changes-{each.name.removeprefix('after: ')}.md": each for each in after}
    for path, ranking in pages.items():
        run.write_text(path, _changes_page(evaluation.task, before[0], ranking))
    for page in (run.out / "evaluation").glob("changes-*.md"):
        if page.relative_to(run.out).as_posix() not in pages:
            page.unlink()
    return list(pages)


def _changes_page(task: Task, before: Ranking, after: Ranking) -> str:
    """Return the queries that gained and lost most from one ranking to the other."""
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
        lines += [_changed_query(task, query, before, after) for query in queries] or ["None."]
    return "\n".join(lines) + "\n"


def _changed_query(task: Task, query: int, before: Ranking, after: Ranking) -> str:
    """Describe one query: the ranks of its right document, and the documents that stood first."""
    doc_rows_K, relevant = task.doc_rows_QK[query], task.relevant[query]
    orders = [np.argsort(-ranking.scores_QK[query], kind="stable") for ranking in (before, after)]
    ranked = [[row for row in doc_rows_K[order].tolist() if row != NO_ROW] for order in orders]
    ranks = [next((rank for rank, row in enumerate(rows, 1) if row in relevant), None) for rows in ranked]
    lines = [f"**{shortened(task.queries.texts[query])}**: right document from {ranks[0]} to {ranks[1]}"]
    for when, rows in zip(("before", "after"), ranked, strict=True):
        judgement = "right" if rows[0] in relevant else "not judged right"
        lines.append(f"- first {when} ({judgement}): {shortened(task.document_texts[rows[0]])}")
    lines += [f"- right: {shortened(task.document_texts[row])}" for row in ranked[0] if row in relevant][:1]
    return "\n".join(lines) + "\n"
