"""Blends of rankings: a plain loop, that no other weights are likelier, and never worse on dev than the first alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnmine.ranking.blend import Rankings, best_weights, blended, likeliest, standardised
from hnmine.ranking.measures import Task, means, measure
from hnmine.types import NO_ROW, Texts

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
@given(st.integers(0, 10_000), st.floats(0.01, 4), st.floats(0, 4))
def test_a_blend_is_what_a_plain_loop_makes_of_it(seed: int, one: float, two: float):
    task, scores = task_of(seed)
    rankings = {"own": scores, "first": task.first_scores_QK, "encoder": task_of(seed, drawn=1)[1], "unused": scores}
    weights = {"own": 1.0, "first": one, "encoder": two}
    found = blended(task, rankings, weights)
    for query in range(QUERIES):
        there = task.doc_rows_QK[query] != NO_ROW
        assert (found[query][~there] == -np.inf).all()
        expected = np.zeros(there.sum())
        for name, weight in weights.items():
            values = rankings[name][query][there].astype(float)
            expected += weight * ((values - values.mean()) / values.std() if len(values) > 1 else 0)
        np.testing.assert_allclose(found[query][there], expected, rtol=1e-5, atol=1e-5)


def test_what_is_even_says_nothing_and_leaves_the_order_to_the_other():
    task, scores = task_of(3, even=True)
    there = task.doc_rows_QK != NO_ROW
    assert (standardised(scores, there)[there] == 0).all()
    rankings = {"own": scores, "first": task.first_scores_QK}
    for query, row in enumerate(blended(task, rankings, {"own": 0.5, "first": 0.5})):
        assert (np.diff(row[there[query]]) <= 0).all(), "the first stage's order"


def likelihood(task: Task, rankings: Rankings, weights: list[float]) -> float:
    """Minus what is minimised, as a loop."""
    there = task.doc_rows_QK != NO_ROW
    of_queries = []
    for query, docs in enumerate(task.relevant):
        rows = task.doc_rows_QK[query][there[query]].tolist()
        right = [at for at, row in enumerate(rows) if row in docs]
        if right:
            z = [standardised(scores, there)[query][there[query]] for scores in rankings.values()]
            sums = sum(weight * values for weight, values in zip(weights, z, strict=True))
            of_queries.append(np.mean([sums[at] for at in right]) - np.log(np.exp(sums).sum()))
    return float(np.mean(of_queries)) - 0.01 * sum(weight**2 for weight in weights)


@pytest.mark.parametrize("seed", range(20))
def test_no_other_weights_make_the_right_documents_of_dev_likelier(seed: int):
    task, scores = task_of(seed)
    rankings = {"own": scores, "first": task.first_scores_QK, "encoder": task_of(seed, drawn=1)[1]}
    found = likeliest(task, rankings)
    assert (found >= 0).all()
    best = likelihood(task, rankings, found.tolist())
    rng = np.random.default_rng(seed)
    for scale in (0.01, 0.1, 1.0):
        for _ in range(20):
            other = np.maximum(found + scale * rng.normal(size=3), 0)
            assert likelihood(task, rankings, other.tolist()) <= best + 1e-6


@pytest.mark.parametrize("seed", range(20))
def test_a_blend_is_never_worse_on_dev_than_what_comes_first(seed: int):
    task, scores = task_of(seed)
    rankings = {"own": scores, "first": task.first_scores_QK}
    chosen = best_weights(task, rankings)
    alone, both = (means(measure(task, values))["MRR@10"] for values in (scores, blended(task, rankings, chosen)))
    assert both > alone if chosen != {"own": 1.0} else both == alone
    assert sum(chosen.values()) == pytest.approx(1, abs=0.02)
    assert all(weight == round(weight, 2) > 0 for weight in chosen.values())


def test_a_ranking_that_knows_gets_the_weight_of_one_that_does_not():
    task, scores = task_of(1)
    knows = np.where(task.doc_rows_QK == NO_ROW, -np.inf, 0.0).astype(np.float32)
    for query, docs in enumerate(task.relevant):
        knows[query][np.isin(task.doc_rows_QK[query], list(docs))] = 1
    assert best_weights(task, {"own": scores, "knows": knows})["knows"] > 0.5
    nothing = replace(task, relevant=(frozenset(),) * QUERIES)
    assert best_weights(nothing, {"own": scores, "knows": knows}) == {"own": 1.0}
