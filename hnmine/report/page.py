"""OUT/report.html: what a run found, as one page that needs nothing else; made of the files of OUT alone.

It asks no network for anything and runs no script but its own, whose digest the page's policy names. It can be read
without JavaScript, which adds a panel beside the scatter and a search. Texts are escaped by the template engine; what
does not fit into `MOST_BYTES` is left out from the queries that changed least, and it is said how many.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from hnmine.errors import DataError
from hnmine.ranking.measures import DEPTH, MAIN_METRIC, METRICS
from hnmine.ranking.rows import ROWS
from hnmine.report import charts, steps
from hnmine.report.outcome import EXTREMES, MOST_DOTS, Change, Outcome, may_be_chance
from hnmine.runs.files import whole_file
from hnmine.runs.folder import HOME_MARK
from hnmine.runs.manifest import MANIFEST, read_manifest
from hnmine.runs.printable import one_line
from hnmine.runs.progress import say

PAGE, NIGHTS = "report.html", "nights.json"
"""The page in OUT; the history that a night leaves there."""
MOST_BYTES = 1_000_000
_WIDTHS, _SAMPLE = (160, 120, 90, 60), 40
"""Of a text: the widest is taken with which all lists fit, else the narrowest and fewer lists; tried on a sample."""
_Lacking = list[tuple[str, str]]


def report(out: str | Path) -> Path:
    """Write OUT/report.html of what the steps left in OUT; return where it is.

    Raises:
        DataError: OUT has nothing that any step left, is a home of nights, or a file of it is not readable.
    """
    out = Path(out)
    if (out / HOME_MARK).is_file():
        raise DataError(f"{out} is a home of nights, where each night leaves {PAGE}; its run folder is {out / 'work'}")
    manifest, found = read_manifest(out), {}
    for name in ("audit.json", "compare.json", NIGHTS):
        found[name] = _read_json(out / name)
    if not manifest.keys() & {"mining", "training", "evaluation"} and not any(found.values()):
        raise DataError(f"{out} has nothing to report; run `hnmine run` with this --out first")
    lacking: _Lacking = []
    outcome = _outcome(out, manifest, lacking)
    context = _context(out, manifest, found, outcome, lacking)
    with whole_file(out / PAGE) as hidden:
        hidden.write_bytes(_fitting(context, outcome))
    return out / PAGE


def _read_json(path: Path) -> dict[str, Any]:
    """Return what a step left in a file of OUT, nothing if it left none."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(
            f"{path} is not what a step of hnmine leaves: {error}; remove it, or do the step again"
        ) from None
    if not isinstance(found, dict):
        raise DataError(f"{path} is not what a step of hnmine leaves; remove it, or do the step again")
    return found


def _outcome(out: Path, manifest: Mapping[str, Any], lacking: _Lacking) -> Outcome | None:
    """Return the evaluation, None if there is none that can be read."""
    if not manifest.get("evaluation"):
        commands = _stale(out, manifest) or [_command("evaluate")]
        lacking.append(("What became of the test queries", ", then ".join(commands)))
        return None
    try:
        return Outcome.read(out, manifest)
    except DataError as error:
        lacking.append((f"What became of the test queries ({one_line(str(error))})", _command("evaluate")))
        return None


def _command(step: str) -> str:
    return f"hnmine {step} --data DIR --out DIR"


def _stale(out: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Return the commands that evaluate what is in OUT now, where its evaluation is of an earlier state; else none."""
    if manifest.get("evaluation") or not (out / ROWS).is_file():
        return []
    untrained = not manifest.get("training") and (out / "rerankers").is_dir()
    return [_command(step) for step in (["train"] if untrained else []) + ["evaluate"]]


def _context(
    out: Path,
    manifest: Mapping[str, Any],
    found: Mapping[str, dict[str, Any]],
    outcome: Outcome | None,
    lacking: _Lacking,
) -> dict[str, Any]:
    """Return all that the template shows but the queries; note in `lacking` what there is no data for."""
    # Ask each step for its part.
    parts = {
        "mined": (steps.mined(out, manifest.get("mining") or {}), "The negatives, their distances", "mine"),
        "learning": (steps.learning(manifest.get("training") or {}), "The learning curve", "train"),
        "arms": (steps.arms(found["compare.json"]), "Every way to choose negatives, side by side", "compare"),
        "hidden": (steps.hidden(found["audit.json"]), "How many negatives are hidden right answers", "audit"),
    }
    for part, name, command in parts.values():
        if not part:
            lacking.append((name, _command(command)))
    # Say when, and of what.
    newest = max(path.stat().st_mtime for name in (MANIFEST, *found) if (path := out / name).is_file())
    evaluation = manifest.get("evaluation") or {}
    return {
        **{name: part for name, (part, _, _) in parts.items()},
        "nights": found[NIGHTS].get("nights", []),
        "cost": steps.cost(manifest),
        "provenance": steps.provenance(manifest),
        "lacking": lacking,
        "stale": _stale(out, manifest),
        "folder": one_line(out.resolve().name),
        "title": one_line("/".join(out.resolve().parts[-2:])),
        "when": datetime.fromtimestamp(newest, UTC).strftime("%-d %B %Y, %H:%M UTC"),
        "evaluation": evaluation,
        "answer": str(evaluation.get("answer", "")).partition("\n")[0],
        "metrics": [*METRICS],
        "main_metric": MAIN_METRIC,
        "depth": DEPTH,
        "most_dots": MOST_DOTS,
        **({} if outcome is None else _first_things(outcome)),
        "outcome": outcome,
    }


def _first_things(outcome: Outcome) -> dict[str, Any]:
    """Return the sentence and the picture at the top, the table with its intervals, and the scatter."""
    (better, equal, worse), test = outcome.counts(), outcome.test
    total = len(outcome.change_Q)
    against = {outcome.before.name: test}
    if outcome.free is not None and outcome.against_free is not None:
        against[outcome.free.name] = outcome.against_free
    label = f"{better} queries better, {equal} equal, {worse} worse; " + "; ".join(
        f"{MAIN_METRIC} {one} against {one_line(name)}" for name, one in against.items()
    )
    gains = [(one.low, one.difference, one.high) for one in against.values()]
    return {
        "counts": {"better": better, "equal": equal, "worse": worse, "total": total},
        "test": test,
        "against": [*against],
        "may_be_chance": may_be_chance,
        "picture": charts.outcome((better, equal, worse), gains, label),
        "references": [row.name for row in outcome.references()],
        "forests": {
            metric: charts.forest(rows, f"Gain in {metric} of each row, with 95 % intervals")
            for metric, rows in outcome.gains().items()
        },
        "scatter": charts.ranks([*outcome.dots()], "Queries by the place of their first right document"),
    }


def _fitting(context: dict[str, Any], outcome: Outcome | None) -> bytes:
    """Return the page with as many and as long texts as fit."""
    # Open the template; the page names the digest of its script, and no other runs.
    environment = Environment(
        loader=FileSystemLoader(charts.TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"line": lambda value: one_line(str(value)), "whole": "{:,}".format}
    template = environment.get_template("page.html")
    style, script = (Markup((charts.TEMPLATES / name).read_text("utf-8")) for name in ("page.css", "page.js"))  # noqa: S704
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()

    def made(width: int, most: int) -> bytes:
        changes = outcome.changes(width, most) if outcome else []
        text = template.render(context | _lists(changes), style=style, script=script, script_digest=digest)
        return text.encode("utf-8", "replace")

    # Find how much each query needs, without lists and with those of some.
    page, queries, fitting = made(0, 0), len(outcome.change_Q) if outcome else 0, 0
    room = MOST_BYTES - len(page)
    if room <= 0:
        raise DataError(f"the page would have {len(page):,} bytes without any query, {MOST_BYTES:,} at most")
    for width in _WIDTHS if queries else ():
        each = (len(made(width, _SAMPLE)) - len(page)) / min(_SAMPLE, queries)
        fitting = min(queries, int(room / each))
        if fitting == queries:
            break
    # Take as many as there is room for.
    while fitting and len(made_page := made(width, fitting)) >= MOST_BYTES:  # the sample was of shorter texts
        fitting = fitting * 9 // 10
    return made_page if fitting else page


def _lists(changes: list[Change]) -> dict[str, Any]:
    """Return the queries as the template shows them: worst losses, best gains, and the rest."""
    lost = [each for each in changes if each.change < 0]
    gained = [each for each in reversed(changes) if each.change > 0]
    rest = lost[EXTREMES:] + gained[EXTREMES:] + [each for each in changes if not each.change]
    return {
        "groups": [("lost", lost[:EXTREMES], len(lost)), ("gained", gained[:EXTREMES], len(gained))],
        "rest": [each for each in rest if each.before],
        "left_out": sum(not each.before for each in rest),
    }


def renew_page(out: Path) -> None:
    """Write the page anew after a step that makes no page, if there is one: it may show what holds no longer."""
    if (out / PAGE).is_file():
        leave_page(out)


def leave_page(out: Path) -> Path | None:
    """Write the page at the end of a step; what prevents it is said, since the step has left all else."""
    try:
        path = report(out)
    except Exception as error:
        say("report", f"no page: {error}; `hnmine report --out {out}` tries again", level="warning")
        return None
    say("report", f"{path}")
    return path
