"""Whether to deploy is answered by a test against the first stage, beside the free blend, with the cost of each."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from hnmine.ranker.answer import answer
from hnmine.ranker.choose import choose
from hnmine.ranker.write import Deployment
from hnmine.ranking.evaluate import Evaluation, Ranking, rows_of
from hnmine.ranking.measures import METRICS, Paired, paired
from tests.builders.ranking import evaluation_of, measured_of, task_of_rows

FIRST, PAPER = "first stage: BM25", "after: paper"
QUERIES = 30
TASK = task_of_rows([[1, 2]] * QUERIES, [{1}] * QUERIES)
OUT = Path("out/ranker")


def compared(after: Ranking, before: Ranking, metrics: tuple[str, ...]) -> dict[str, Paired]:
    return {metric: paired(after.values[metric], before.values[metric]) for metric in metrics}


def on_test(row: Ranking, values: np.ndarray) -> Ranking:
    return replace(row, values=dict.fromkeys(METRICS, values))


def evaluated(first: float, blend: float | None, paper: float) -> Evaluation:
    """An evaluation in which dev and test have these means, and test is about them by turns."""
    measured = [measured_of(FIRST, [first], None if blend is None else [blend]), measured_of(PAPER, [paper])]
    spread = np.where(np.arange(QUERIES) % 2, 0.05, -0.05)
    moved = []
    for at, each in enumerate(measured):
        alone = on_test(each.alone, each.alone.values["MRR@10"] + spread * at)
        sum_of = each.blend and on_test(each.blend, each.blend.values["MRR@10"] - spread)
        moved.append(replace(each, alone=alone, blend=sum_of))
    return replace(evaluation_of(TASK, *moved), rows=rows_of(moved))


def said(evaluation: Evaluation, chosen: Ranking | None = None, wanted: str = "auto") -> list[str]:
    rows = evaluation.rows
    deployment = Deployment(chosen or choose(rows, wanted), rows, None, None)
    costs = {row.name: 1.5 * at for at, row in enumerate(rows, 1)}
    return answer(deployment, evaluation, compared, costs, OUT).splitlines()


def test_a_sure_gain_is_a_yes_and_every_cheaper_row_stands_beside_it() -> None:
    question, header, chosen, *cheaper = said(evaluated(0.3, 0.5, 0.8))
    assert question.startswith("Deploy it or not? Yes: after: paper is the best on dev, and its gain over first stage")
    assert header.split() == ["MRR@10", "on", "test", "on", "dev", "gain", "on", "test", "ms", "a", "query"]
    assert chosen.split() == ["after:", "paper", "0.800", "0.800", "3"]
    assert [line.split("  ")[1] for line in cheaper] == [f"against {FIRST}", f"against {FIRST}, blended"]
    assert "+0.500 (" in cheaper[0]
    assert "+0.300 (" in cheaper[1]
    assert cheaper[0].split()[-1] == "1.5"


@pytest.mark.parametrize(
    ("first", "blend", "paper", "verdict"),
    [
        (0.5, None, 0.4, "No: nothing that could be deployed beats first stage: BM25 on dev."),
        (0.5, None, 0.501, "Not proven: after: paper is the best on dev, but its gain"),
        (0.3, 0.8, 0.5, "Yes: first stage: BM25, blended is the best on dev"),
        (0.3, 0.8, 0.8, "Yes: first stage: BM25, blended is the best on dev"),
    ],
)
def test_the_verdict_follows_dev_and_the_test(first: float, blend: float | None, paper: float, verdict: str) -> None:
    assert said(evaluated(first, blend, paper))[0].startswith(f"Deploy it or not? {verdict}")


def test_what_is_worse_on_test_is_a_no() -> None:
    found = evaluated(0.3, None, 0.5)
    worse = on_test(found.rows[1], np.full(QUERIES, 0.1) + 0.01 * np.arange(QUERIES) / QUERIES)
    found = replace(found, rows=[found.rows[0], worse])
    assert "No: after: paper is the best on dev, but on test it is worse than first stage: BM25." in said(found)[0]


def test_a_blend_that_would_do_as_well_for_less_is_named() -> None:
    found = evaluated(0.3, 0.8, 0.801)
    assert said(found)[-1].startswith(
        "first stage: BM25, blended needs no training and no re-ranker, and is not surely"
    )
    assert "ranker.choose=blend" in said(found)[-1]
    assert "ranker.choose=blend" not in said(evaluated(0.3, 0.5, 0.8))[-1]


def test_what_was_insisted_on_is_said() -> None:
    insisted = partial(said, evaluated(0.3, 0.5, 0.8))
    expected = f"As you say: ranker.choose insists on {FIRST} ({PAPER} is better on dev). {OUT} holds it."
    assert insisted(wanted="first-stage")[0] == f"Deploy it or not? {expected}"
    assert insisted(wanted="blend")[0].startswith(
        "Deploy it or not? Yes: ranker.choose insists on first stage: BM25, bl"
    )


@pytest.mark.parametrize("seed", range(40))
def test_a_loss_is_never_called_a_gain_and_few_queries_prove_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    found = evaluated(0.3, 0.4, 0.5)
    differing = int(rng.integers(0, 12))
    base = found.rows[0].values["MRR@10"]
    first, paper, blend = (
        on_test(row, base + np.where(np.arange(QUERIES) < differing, rng.normal(0, 0.2, QUERIES), 0) * at)
        for at, row in enumerate(found.rows)
    )
    measured = [replace(found.measured[0], alone=first, blend=blend), replace(found.measured[1], alone=paper)]
    found = replace(found, measured=measured, rows=[first, paper, blend], test_is_dev=bool(seed % 2))
    lines = said(found, wanted="re-ranker")
    on = "dev" if seed % 2 else "test"
    losses = [row.name for row in (first, blend) if (paper.values["MRR@10"] - row.values["MRR@10"]).mean() < -1e-12]
    if losses:
        assert f"No: after: paper is the best on dev, but on {on} it is worse than {losses[0]}" in lines[0]
        assert "gain" not in lines[0]
        assert f"worse than {' and than '.join(losses)}." in lines[0]
        assert (blend.name in losses) == (
            f"{blend.name} needs no training and no re-ranker, and is better on {on}" in lines[-1]
        )
    elif differing <= 5:
        assert f"Not proven: after: paper is the best on dev, but on {differing} {on} queries it differs" in lines[0]
    if differing <= 5:
        assert "p =" not in "\n".join(lines), "an interval would contradict it"
        assert f"({differing} differ: too few to prove anything)" in lines[3]
    assert ("There is no test split" in "\n".join(lines)) == (on == "dev") == ("on test" not in "\n".join(lines))


def test_a_blend_that_cannot_be_deployed_is_no_advice() -> None:
    found = evaluated(0.3, 0.8, 0.801)
    rows = [row for row in found.rows if row.kind != "blend"]
    shown = answer(Deployment(rows[-1], rows, None, None), found, compared, {}, OUT)
    assert "ranker.choose=blend" not in shown
    assert "against first stage: BM25, blended" in shown


def test_without_dev_nothing_is_decided() -> None:
    found = answer(None, evaluated(0.3, None, 0.5), compared, {}, OUT)
    assert found.startswith("Deploy it or not? Not decided: the first stage has no document for any dev query.")
