"""ADORE against a double loop over documents, and trained with a model small enough for seconds."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings as effort
from hypothesis import strategies as st

from hnmine.arms.adore import adore, lambda_loss, live_lists
from hnmine.types import Space
from tests.builders.devices import CPU
from tests.builders.encoder_training import (
    LossRecorder,
    encode_texts,
    encoded_space,
    encoder_recipe,
    letter_training_set,
    single_positive_training_set,
    train_mrr,
)
from tests.builders.models import same_weights, tiny_letter_encoder


def slow_loss(scores_N: torch.Tensor, depth: int, positives: list[int], known: set[int]) -> torch.Tensor:
    """One query: its live list, every (right, other) of it weighted by the change of 1/rank, ranks beyond count 0."""
    order = sorted(range(len(scores_N)), key=lambda doc: (-float(scores_N[doc].detach()), doc))[:depth]
    if not any(doc in positives for doc in order):
        order += positives
    reciprocal = [1 / rank if rank <= depth else 0.0 for rank in range(1, len(order) + 1)]
    terms = []
    for i, right in enumerate(order):
        for j, other in enumerate(order):
            if right in positives and other not in known:
                change = abs(reciprocal[i] - reciprocal[j])
                terms.append(change * torch.log(1 + torch.exp(-(scores_N[right] - scores_N[other]))))
    return torch.stack(terms).mean() if terms else 0 * scores_N.sum()


@effort(max_examples=60, deadline=None)
@drawn(st.integers(0, 10_000), st.integers(1, 4), st.integers(2, 12), st.integers(1, 12), st.integers(1, 3))
def test_the_loss_and_its_gradient_are_those_of_a_double_loop(
    seed: int, queries: int, documents: int, depth: int, most: int
) -> None:
    rng, depth = np.random.default_rng(seed), min(depth, documents)
    scores_BN = torch.tensor(rng.normal(size=(queries, documents)), requires_grad=True)
    positives = [rng.permutation(documents)[: rng.integers(1, most + 1)].tolist() for _ in range(queries)]
    known = [set(docs) | {int(rng.integers(documents))} for docs in positives]
    found_BK = np.argsort(-scores_BN.detach().numpy(), axis=1, kind="stable")[:, :depth]
    live = live_lists(found_BK, positives, known)
    right, found = (scores_BN.gather(1, torch.tensor(rows)) for rows in (live.right_BP, live.found_BK))
    fast = lambda_loss(right, found, live)
    slow = torch.stack([slow_loss(scores_BN[i], depth, positives[i], known[i]) for i in range(queries)])
    torch.testing.assert_close(fast, slow, check_dtype=False, rtol=1e-5, atol=1e-7)
    gradients = [torch.autograd.grad(loss_B.sum(), scores_BN)[0] for loss_B in (fast, slow)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_letter_encoder(tmp_path_factory.mktemp("models") / "start")


@pytest.mark.parametrize("depth", [3, 20])
def test_a_step_looks_at_what_the_queries_find_now(depth: int, start: Path, tmp_path: Path) -> None:
    """All queries in one step, two steps: the second by the weights that the first left."""
    given, heard = single_positive_training_set(), LossRecorder()
    first, docs_NR = tmp_path / "first", encoded_space(start, given).docs_NR
    options = {"device": CPU, "depth": depth}
    once = encoder_recipe(epochs=1, pairs_per_batch=100)
    adore(start, docs_NR, given, once, first, done=heard, **options)
    adore(first, docs_NR, given, once, tmp_path / "second", done=heard, **options)
    for loss, folder in zip(heard.losses, (start, first), strict=True):
        scores_QN = torch.tensor(20 * encode_texts(folder, given.queries, "query") @ docs_NR.T)
        by_query = [
            slow_loss(scores_QN[query], depth, docs, given.known[query])
            for query, docs in given.pairs.positives_of().items()
        ]
        assert loss == pytest.approx(float(torch.stack(by_query).mean()), rel=1e-3)
    assert heard.losses[0] != heard.losses[1]


def test_documents_stay_and_the_query_encoder_learns(start: Path, tmp_path: Path) -> None:
    given, heard = letter_training_set(), LossRecorder()
    before = encoded_space(start, given)
    bytes_before = before.docs_NR.tobytes()
    adore(start, before.docs_NR, given, encoder_recipe(), tmp_path / "out", device=CPU, done=heard)
    assert before.docs_NR.tobytes() == bytes_before
    assert not same_weights(start, tmp_path / "out")
    assert np.mean(heard.losses[-5:]) < 0.9 * np.mean(heard.losses[:5])
    trained = encoded_space(tmp_path / "out", given)
    after = Space(docs_NR=before.docs_NR, queries_QR=trained.queries_QR)
    assert train_mrr(after, given) > train_mrr(before, given) + 0.3
    assert not np.allclose(
        trained.docs_NR, after.docs_NR, atol=1e-2
    )  # so the frozen vectors are what was learnt against


def test_the_same_seed_gives_the_same_weights(start: Path, tmp_path: Path) -> None:
    given = letter_training_set()
    docs_NR = encoded_space(start, given).docs_NR
    for noise, (name, seed) in enumerate([("one", 0), ("two", 0), ("other", 1)]):
        torch.manual_seed(noise)
        settings = encoder_recipe(seed=seed, epochs=2)
        adore(start, docs_NR, given, settings, tmp_path / name, device=CPU)
    assert same_weights(tmp_path / "one", tmp_path / "two")
    assert not same_weights(tmp_path / "one", tmp_path / "other")


def test_where_nothing_right_is_found_the_right_documents_join_the_list() -> None:
    live = live_lists(np.array([[4, 2, 7], [0, 5, 1]]), [[9, 3], [5]], [{9, 3, 2}, {5}])
    assert live.right_BP.tolist() == [[9, 3], [5, 0]]
    assert live.takes_part_BP.tolist() == [[True, True], [True, False]]
    assert live.negative_BK.tolist() == [[True, False, True], [True, False, True]]
    assert live.gain_BP.tolist() == [[0, 0], [0.5, 0]]
    zero = torch.zeros(2, 2), torch.zeros(2, 3)
    expected = [math.log(2) * (1 + 1 / 3) / 2, math.log(2) * (1 / 2 + 1 / 6) / 2]
    assert lambda_loss(*zero, live).tolist() == pytest.approx(expected)
