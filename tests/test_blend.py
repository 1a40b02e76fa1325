"""Blends of two rankings: a plain loop, what a weight of zero is, and that dev's weight is never worse than none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnmine.blend import WEIGHTS, best_weight, blended, standard
from hnmine.evaluation import Task, means, measure
from hnmine.first_stage import NO_ROW
from hnmine.types import Texts

QUERIES, DOCUMENTS = 6, 5


def task_of(seed: int, *, even: bool = False) -> tuple[Task, np.ndarray]:
    """Return a task with gaps, and a re-ranker's scores."""
    rng = np.random.default_rng(seed)
    rows = np.tile(np.arange(DOCUMENTS), (QUERIES, 1))
    there = np.arange(DOCUMENTS) < rng.integers(0, DOCUMENTS + 1, (QUERIES, 1))
    first = np.where(there, -np.sort(-rng.normal(5, 3, rows.shape), axis=1), -np.inf).astype(np.float32)
    scores = np.where(there, rng.normal(size=rows.shape), -np.inf).astype(np.float32)
    if even:
        scores = np.where(there, 0.1, -np.inf).astype(np.float32)
    task = Task(
        queries=Texts(ids=tuple(f"q{i}" for i in range(QUERIES)), texts=("",) * QUERIES),
        doc_rows_QK=np.where(there, rows, NO_ROW),
        first_scores_QK=first,
        document_texts=dict.fromkeys(range(DOCUMENTS), ""),
        relevant=tuple(frozenset({int(row)}) for row in rng.integers(0, DOCUMENTS, QUERIES)),
    )
    return task, scores


@settings(deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(WEIGHTS))
def test_a_blend_is_what_a_plain_loop_makes_of_it(seed: int, weight: float):
    task, scores = task_of(seed)
    found = blended(task, scores, weight)
    for query in range(QUERIES):
        there = task.doc_rows_QK[query] != NO_ROW
        assert (found[query][~there] == -np.inf).all()
        parts = []
        for values in (scores[query][there], task.first_scores_QK[query][there]):
            values = values.astype(float)
            spread = values.std() if len(values) else 0.0
            parts.append((values - values.mean()) / spread if len(values) > 1 else values * 0)
        np.testing.assert_allclose(found[query][there], parts[0] + weight * parts[1], rtol=1e-5, atol=1e-5)


def test_what_is_even_says_nothing_and_leaves_the_order_to_the_other():
    task, scores = task_of(3, even=True)
    there = task.doc_rows_QK != NO_ROW
    assert (standard(scores, there)[there] == 0).all()
    for query, row in enumerate(blended(task, scores, 1.0)):
        own = row[there[query]]
        assert (np.diff(own) <= 0).all(), "the first stage's order"


@pytest.mark.parametrize("seed", range(20))
def test_the_weight_of_dev_is_the_best_of_a_few_and_never_worse_than_none(seed: int):
    task, scores = task_of(seed)
    of = {weight: means(measure(task, blended(task, scores, weight)))["MRR@10"] for weight in WEIGHTS}
    chosen = best_weight(task, scores)
    assert of[chosen] == max(of.values())
    assert chosen == min(weight for weight in WEIGHTS if of[weight] == of[chosen])
    plain = means(measure(task, scores))["MRR@10"]
    assert of[0.0] == pytest.approx(plain)
    assert of[chosen] >= plain - 1e-12
