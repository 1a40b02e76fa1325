"""`hnmine explain`: why a document is a negative of a query, or is none; and samples that people judge."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hnmine.errors import ConfigError
from hnmine.runs import streams
from hnmine.runs.progress import is_json

if TYPE_CHECKING:
    from hnmine.project import Data
    from hnmine.report.explain import Scorer
    from hnmine.report.explained import Explanation

ABOUT = "say why documents are negatives of a query, or are none; or draw a sample of what was mined to judge by eye"
EXAMPLES = """\
examples:
  hnmine explain --out out/ QUERY_ID                          the nearest documents, and what decided over each
  hnmine explain --out out/ QUERY_ID --document DOCUMENT_ID   one document, wherever it stands
  hnmine explain --out out/ --sample 20 > review.md           tick right or wrong in it, then
  hnmine mine --data my-search/ --out out/ --set sources.verdicts=review.md
"""


def explain(
    data: Data | None,
    out: str | Path,
    query: str,
    *,
    document: str | None = None,
    positive: str | None = None,
    top: int = 20,
) -> Explanation:
    """Return why documents are negatives of a query, or are none, as OUT was mined; printed it is text.

    For each positive, or the one that is named: the nearest `top` documents up to the positive and all negatives, or
    the one `document`, wherever it stands. BM25 and the ranker score them where OUT has a ranker; a sum of several
    scores compares the documents of one list. `data` None: the collection that OUT names.

    Raises:
        DataError: nothing was mined, an id is not known, or the query has no right document.
    """
    from hnmine.ranker.bm25 import Bm25Statistics
    from hnmine.ranker.ranker import Ranker
    from hnmine.report.explain import explain_query, open_mined

    # See what can score texts.
    scorers: dict[str, Scorer] = {}
    project = open_mined(data, Path(out))
    folder = project.run.out / "ranker"
    if "ranker" in project.run.manifest:
        ranker = Ranker.load(folder, device=project.config.device)
        parts = ranker.spec.parts.values()
        if bm25 := next((part for part in parts if part.kind == "bm25"), None):
            scorers["BM25"] = Bm25Statistics.load(bm25.place(folder)).scores
        if all(part.kind != "given" for part in parts):
            scorers["ranker"] = lambda text, documents: ranker.score([text], [documents])[0]

    # Explain.
    return explain_query(project, query, document_id=document, positive_id=positive, top=top, scorers=scorers)


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    command.add_argument(
        "query", nargs="?", metavar="QUERY_ID", help="a train query, or any other with a right document"
    )
    command.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder that was mined into")
    command.add_argument("--data", metavar="DATA", help="the collection (default: where it was when OUT was mined)")
    command.add_argument("--document", metavar="ID", help="explain this document alone")
    command.add_argument("--positive", metavar="ID", help="of several right documents, this one alone")
    command.add_argument("--top", type=int, default=20, metavar="N", help="documents of a list (default 20)")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    about = "print N mined triplets as Markdown, with boxes to tick; the page goes back as sources.verdicts"
    command.add_argument("--sample", type=int, metavar="N", help=about)
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of the sample (default 0)")


def explained(options: argparse.Namespace) -> str:
    """Return what the command prints."""
    if (options.query is None) == (options.sample is None):
        raise ConfigError("expected the id of a query, or --sample N; `hnmine explain --help` has examples")
    if options.top < 1 or (options.sample is not None and options.sample < 1):
        raise ConfigError("expected 1 or more for --sample and --top")
    if options.sample is not None:
        from hnmine.report.explain import mined_run
        from hnmine.report.review import review_page

        return review_page(mined_run(options.out), options.sample, options.seed)
    how: dict[str, Any] = {name: vars(options)[name] for name in ("document", "positive", "top")}
    found = explain(options.data, options.out, options.query, **how)
    if options.json:
        return json.dumps(found, indent=1)
    next_line = f"Next: hnmine explain --out {shlex.quote(str(options.out))} --sample 20 > review.md"
    if sys.stdout.isatty() and not is_json() and not os.environ.get("NO_COLOR"):
        streams.write(f"{found.text(bold=True)}\n", sys.stdout)  # a printed message would lose what makes it bold
        return next_line
    return f"{found.text()}\n\n{next_line}"
