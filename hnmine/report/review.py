"""A sample of what was mined, as a page of Markdown on which people tick what is right and what is wrong."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pyarrow.dataset as pads
import pyarrow.parquet as pq

from hnmine.corpus.verdicts import RIGHT, WRONG, marker, texts_digest, verdict_rows
from hnmine.errors import DataError
from hnmine.report.examples import drawn
from hnmine.report.marking import in_markdown, marked, terms_of
from hnmine.runs.folder import Run
from hnmine.runs.printable import markdown

_WIDTH = 1200
_HEADER = """\
# {count} of {all:,} mined negatives: is each of them wrong?

Tick **{right}** where the negative answers the query as well, **{wrong}** where it does not, and nothing where you
cannot say. Then mine again with this file as `sources.verdicts`: what is right becomes a right document, what is wrong
may be a negative whatever the guards say. Words of the query are bold; d is the cosine distance, 0 to 2.
"""


def review_page(run: Run, count: int, seed: int) -> str:
    """Return a page of `count` mined triplets, of each query's text one, drawn with this seed.

    Those that have a verdict in the files that were mined with are left out.

    Raises:
        DataError: none is left.
    """
    # Leave out what has a verdict.
    negatives = pq.read_table(run.out / "negatives.parquet")
    known = set[tuple[str, str]]()
    with suppress(DataError):  # the files may be gone
        read = [row.fields for row in verdict_rows(run.config.sources.verdicts) if row.fields.get("verdict")]
        known = {(str(fields.get("query")), str(fields.get("document"))) for fields in read}
    pairs = zip(negatives["query_id"].to_pylist(), negatives["negative_id"].to_pylist(), strict=True)
    open_rows = [row for row, pair in enumerate(pairs) if pair not in known]
    if not open_rows:
        raise DataError(f"{run.out} has no mined negative without a verdict; `dropped` in manifest.json says why")

    # Draw, and read no other text.
    path = run.out / "triplets.parquet"
    chosen = [open_rows[at] for at in drawn(pq.read_table(path, columns=["query"]).take(open_rows), count, seed)]
    facts, texts = negatives.take(chosen).to_pylist(), pads.dataset(path).take(chosen).to_pylist()
    blocks = [_HEADER.format(count=len(chosen), all=len(negatives), right=RIGHT, wrong=WRONG)]
    blocks += [_triplet(at, *each) for at, each in enumerate(zip(facts, texts, strict=True), 1)]
    return "\n".join(blocks)


def _triplet(number: int, facts: dict[str, Any], texts: dict[str, Any]) -> str:
    """Return one triplet: query, positive and negative side by side, and the boxes."""
    terms = terms_of(texts["query"])
    near = f"d(Q,D) {facts['d_query_negative']:.3f}, d(PD,D) {facts['d_positive_negative']:.3f}"
    rows = [
        [f"{role} {markdown(facts[f'{role}_id'])}" for role in ("query", "positive", "negative")],
        ["---"] * 3,
        ["", f"d(Q,PD) {facts['d_query_positive']:.3f}", near],
        [in_markdown(marked(texts[role], terms, _WIDTH)) for role in ("query", "positive", "negative")],
    ]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    about = marker(facts["query_id"], facts["negative_id"], texts_digest(texts["query"], texts["negative"]))
    boxes = [about, f"- [ ] {RIGHT}: the negative answers the query", f"- [ ] {WRONG}: it does not"]
    return "\n".join([f"## {number}", "", *lines, "", *boxes, ""])
