"""Blends of two rankings: a plain loop, what a weight of zero is, and that dev's weight is never worse than none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnmine.blend import WEIGHTS, best_weights, blended, standard
from hnmine.evaluation import Task, means, measure
from hnmine.first_stage import NO_ROW
from hnmine.types import Texts

QUERIES, DOCUMENTS = 6, 5


def task_of(seed: int, *, even: bool = False, drawn: int = 0) -> tuple[Task, np.ndarray]:
    """Return a task with gaps, and a re-ranker's scores."""
    rng = np.random.default_rng(seed)
    rows = np.tile(np.arange(DOCUMENTS), (QUERIES, 1))
    there = np.arange(DOCUMENTS) < rng.integers(0, DOCUMENTS + 1, (QUERIES, 1))
    first = np.where(there, -np.sort(-rng.normal(5, 3, rows.shape), axis=1), -np.inf).astype(np.float32)
    relevant = tuple(frozenset({int(row)}) for row in rng.integers(0, DOCUMENTS, QUERIES))
    scores = np.where(there, rng.normal(size=(drawn + 1, *rows.shape))[drawn], -np.inf).astype(np.float32)
    if even:
        scores = np.where(there, 0.1, -np.inf).astype(np.float32)
    task = Task(
        queries=Texts(ids=tuple(f"q{i}" for i in range(QUERIES)), texts=("",) * QUERIES),
        doc_rows_QK=np.where(there, rows, NO_ROW),
        first_scores_QK=first,
        document_texts=dict.fromkeys(range(DOCUMENTS), ""),
        relevant=relevant,
    )
    return task, scores


@settings(deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(WEIGHTS), st.sampled_from(WEIGHTS))
def test_a_blend_is_what_a_plain_loop_makes_of_it(seed: int, one: float, two: float):
    task, scores = task_of(seed)
    others = {"first": task.first_scores_QK, "encoder": task_of(seed, drawn=1)[1], "unused": scores}
    found = blended(task, scores, others, {"first": one, "encoder": two})
    for query in range(QUERIES):
        there = task.doc_rows_QK[query] != NO_ROW
        assert (found[query][~there] == -np.inf).all()
        parts = []
        for values in (scores, others["first"], others["encoder"]):
            values = values[query][there].astype(float)
            parts.append((values - values.mean()) / values.std() if len(values) > 1 else values * 0)
        expected = parts[0] + one * parts[1] + two * parts[2]
        np.testing.assert_allclose(found[query][there], expected, rtol=1e-5, atol=1e-5)


def test_what_is_even_says_nothing_and_leaves_the_order_to_the_other():
    task, scores = task_of(3, even=True)
    there = task.doc_rows_QK != NO_ROW
    assert (standard(scores, there)[there] == 0).all()
    for query, row in enumerate(blended(task, scores, {"first": task.first_scores_QK}, {"first": 1.0})):
        assert (np.diff(row[there[query]]) <= 0).all(), "the first stage's order"


@pytest.mark.parametrize("seed", range(20))
def test_the_weights_of_dev_are_as_good_as_one_step_away_and_never_worse_than_none(seed: int):
    task, scores = task_of(seed)
    others = {"first": task.first_scores_QK, "encoder": task_of(seed, drawn=1)[1]}

    def value(weights: dict[str, float]) -> float:
        return means(measure(task, blended(task, scores, others, weights)))["MRR@10"]

    chosen = best_weights(task, scores, others)
    assert value({}) == pytest.approx(means(measure(task, scores))["MRR@10"])
    assert value(chosen) > value({}) if chosen else value(chosen) == value({})
    assert value(chosen) >= max(value(chosen | {name: weight}) for name in others for weight in WEIGHTS)
