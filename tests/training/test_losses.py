"""The losses against plain loops, on lists of differing length."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hnmine.training import losses

Lists = list[list[float]]
ALL = ["margin", *losses.LOSSES, *losses.TAUGHT]


def margin_by_loop(lists: Lists, width: float) -> list[float]:
    """arXiv 2505.18366, Eq. 7, one negative at a time, with the distance d = -score."""
    values = []
    for positive, *negatives in lists:
        hinges = [max(0.0, -positive - -negative + width) for negative in negatives]
        values.append(sum(hinges) / len(hinges))
    return values


def infonce_by_loop(lists: Lists) -> list[float]:
    """-log of exp(positive) / sum of exp(score)."""
    return [-math.log(math.exp(scores[0]) / sum(map(math.exp, scores))) for scores in lists]


def logistic_by_loop(lists: Lists) -> list[float]:
    """log(1 + exp(negative - positive)), one negative at a time."""
    return [
        sum(math.log1p(math.exp(negative - positive)) for negative in negatives) / len(negatives)
        for positive, *negatives in lists
    ]


def bce_by_loop(lists: Lists) -> list[float]:
    """The mean of -log(p) of the positive and the mean of -log(1 - p) of the negatives."""

    def p(score: float) -> float:
        return 1 / (1 + math.exp(-score))

    return [
        (-math.log(p(positive)) + sum(-math.log(1 - p(negative)) for negative in negatives) / len(negatives)) / 2
        for positive, *negatives in lists
    ]


def lambda_by_loop(lists: Lists) -> list[float]:
    """The loss of nDCG by an exchange, measured by doing it."""

    def ndcg(scores: list[float]) -> float:
        return 1 / math.log2(2 + sum(score > scores[0] for score in scores))

    values = []
    for scores in lists:
        total = 0.0
        for i in range(1, len(scores)):
            exchanged = [scores[i], *scores[1:i], scores[0], *scores[i + 1 :]]
            lost = abs(ndcg(scores) - ndcg(exchanged))
            total += lost * math.log1p(math.exp(scores[i] - scores[0]))
        values.append(total / (len(scores) - 1))
    return values


def margin_mse_by_loop(lists: Lists, teachers: Lists) -> list[float]:
    """arXiv 2010.02666: the squared difference of the leads, one negative at a time."""
    values = []
    for (positive, *negatives), (best, *others) in zip(lists, teachers, strict=True):
        errors = [((positive - s) - (best - t)) ** 2 for s, t in zip(negatives, others, strict=True)]
        values.append(sum(errors) / len(errors))
    return values


def kl_by_loop(lists: Lists, teachers: Lists) -> list[float]:
    """The sum of p log(p / q), p the teacher's shares and q the student's."""

    def shares(scores: list[float]) -> list[float]:
        return [math.exp(score) / sum(map(math.exp, scores)) for score in scores]

    return [
        sum(p * math.log(p / q) for p, q in zip(shares(teacher), shares(student), strict=True))
        for student, teacher in zip(lists, teachers, strict=True)
    ]


def padded(lists: Lists, filler: float) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, lists))
    scores_BL = torch.tensor([[*scores, *[filler] * (longest - len(scores))] for scores in lists])
    mask_BL = torch.tensor([[i < len(scores) for i in range(longest)] for scores in lists])
    return scores_BL, mask_BL


def ragged(seed: int, count: int) -> Lists:
    rng = np.random.default_rng(seed)
    return [rng.normal(0, 3, size=rng.integers(2, 9)).astype(np.float32).tolist() for _ in range(count)]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.floats(0.1, 4), st.sampled_from([0.0, 100.0, -100.0]))
def test_the_losses_equal_the_plain_loops_whatever_fills_up_a_short_list(
    seed: int, count: int, width: float, filler: float
) -> None:
    lists = ragged(seed, count)
    scores_BL, mask_BL = padded(lists, filler)
    np.testing.assert_allclose(losses.margin(scores_BL, mask_BL, width), margin_by_loop(lists, width), atol=1e-5)
    np.testing.assert_allclose(losses.infonce(scores_BL, mask_BL), infonce_by_loop(lists), atol=1e-5)
    np.testing.assert_allclose(losses.logistic(scores_BL, mask_BL), logistic_by_loop(lists), atol=1e-5)
    np.testing.assert_allclose(losses.bce(scores_BL, mask_BL), bce_by_loop(lists), atol=1e-4)
    np.testing.assert_allclose(losses.lambda_loss(scores_BL, mask_BL), lambda_by_loop(lists), atol=1e-5)
    rng = np.random.default_rng(seed)
    teachers = [rng.normal(0, 3, size=len(scores)).astype(np.float32).tolist() for scores in lists]
    teacher_BL, _ = padded(teachers, filler)
    ours = losses.make("marginmse", 1.0)(scores_BL, mask_BL, teacher_BL)
    np.testing.assert_allclose(ours, margin_mse_by_loop(lists, teachers), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(losses.kl(scores_BL, mask_BL, teacher_BL), kl_by_loop(lists, teachers), atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(ALL), st.sampled_from([1.0, 3.0]))
def test_the_gradients_are_the_slopes(seed: int, name: str, scale: float) -> None:
    scores_BL, mask_BL = padded(ragged(seed, 3), 0.0)
    scores_BL = scores_BL.double().requires_grad_()
    teacher_BL = torch.randn(scores_BL.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    loss = partial(losses.make(name, 1.5, scale), teacher_BL=teacher_BL)
    loss(scores_BL, mask_BL).sum().backward()
    assert scores_BL.grad is not None
    for at in np.ndindex(*scores_BL.shape):
        step = torch.zeros_like(scores_BL)
        step[at] = 1e-6
        up, down = (loss(scores_BL.detach() + sign * step, mask_BL).sum() for sign in (1, -1))
        assert float(up - down) / 2e-6 == pytest.approx(float(scores_BL.grad[at]), rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_a_list_without_a_negative_teaches_what_the_positive_alone_can(name: str) -> None:
    for scores_BL, mask_BL in (padded([[0.7]], 0.0), padded([[0.7], [1.0, 2.0]], 0.0)):
        value = losses.make(name, 1.0)(scores_BL, mask_BL, -scores_BL)[0].item()
        assert value == pytest.approx(math.log1p(math.exp(-0.7)) / 2 if name == "bce" else 0.0)


@pytest.mark.parametrize("name", losses.TAUGHT)
def test_a_student_that_leads_as_its_teacher_does_has_nothing_to_learn(name: str) -> None:
    scores_BL, mask_BL = padded(ragged(0, 5), 0.0)
    loss = losses.make(name, 1.0, 20.0)
    assert loss(scores_BL, mask_BL, scores_BL + 3.0).abs().max() < 1e-3
    assert loss(scores_BL, mask_BL, -scores_BL).min() > 1


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_finite_and_none_reaches_the_filling(name: str) -> None:
    scores_BL, mask_BL = padded([[1.0, 2.0], [0.5, 3.0, -1.0, 4.0], [1e4, -1e4, 1e4]], 0.0)
    teacher_BL, _ = padded([[2.0, 1.0], [5.0, 3.0, -1.0, 3.0], [-1e4, 1e4, 1e4]], 7.0)
    scores_BL.requires_grad_()
    losses.make(name, 1.0)(scores_BL, mask_BL, teacher_BL).sum().backward()
    gradient = scores_BL.grad
    assert gradient is not None
    assert torch.isfinite(gradient).all()
    assert (gradient[~mask_BL] == 0).all()
    assert (gradient[:2, 0] < 0).all(), "the positive is pushed up"
    assert gradient[1, 3] > 0, "the hardest negative is pushed down"


def test_infonce_is_the_cross_entropy_with_the_positive_as_the_class() -> None:
    scores_BL = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    ours = losses.infonce(scores_BL, torch.ones(7, 5, dtype=torch.bool))
    theirs = torch.nn.functional.cross_entropy(scores_BL, torch.zeros(7, dtype=torch.long), reduction="none")
    torch.testing.assert_close(ours, theirs)


def test_the_margin_is_nothing_where_the_positive_leads_by_it_and_grows_by_what_lacks() -> None:
    scores_BL = torch.tensor([[3.0, 2.0], [3.0, 2.5], [0.0, 2.0]])
    ours = losses.margin(scores_BL, torch.ones(3, 2, dtype=torch.bool), 1.0)
    assert ours.tolist() == [0.0, 0.5, 3.0]


def test_make_gives_the_loss_of_that_name_and_width() -> None:
    scores_BL, mask_BL = padded(ragged(1, 4), 0.0)
    assert torch.equal(losses.make("infonce", 9.0)(scores_BL, mask_BL), losses.infonce(scores_BL, mask_BL))
    assert torch.equal(losses.make("margin", 2.5)(scores_BL, mask_BL), losses.margin(scores_BL, mask_BL, 2.5))
    with pytest.raises(ValueError, match="unknown loss 'hinge'; known: margin, infonce, logistic, bce, lambda"):
        losses.make("hinge", 1.0)
    with pytest.raises(AssertionError, match="kl learns from a teacher"):
        losses.make("kl", 1.0)(scores_BL, mask_BL)


@pytest.mark.parametrize("name", ALL)
def test_of_lessons_the_loss_is_the_divergence_from_their_teacher_and_of_others_what_it_is_called(name: str) -> None:
    scores_BL, mask_BL = padded(ragged(2, 6), 0.0)
    teacher_BL, _ = padded(ragged(2, 6)[::-1], 0.0)
    teacher_BL = torch.nn.functional.pad(teacher_BL, (0, scores_BL.shape[1] - teacher_BL.shape[1]))
    lesson_B = torch.tensor([True, False, False, True, False, True])
    loss = losses.make(name, 1.0, 3.0)
    ours = loss(scores_BL, mask_BL, teacher_BL, lesson_B)
    torch.testing.assert_close(ours[lesson_B], losses.kl(3 * scores_BL, mask_BL, 3 * teacher_BL)[lesson_B])
    torch.testing.assert_close(ours[~lesson_B], loss(scores_BL, mask_BL, teacher_BL)[~lesson_B])


def test_the_margin_of_cosines_is_that_of_distances() -> None:
    """arXiv 2505.18366, Eq. 7 with Eq. 8: max(0, d(Q,PD) - d(Q,D) + margin), d = 1 - cosine."""
    positive, negative = 0.71, 0.64
    loss = losses.make("margin", 0.2)(torch.tensor([[positive, negative]]), torch.ones(1, 2, dtype=torch.bool))
    assert loss.item() == pytest.approx(max(0, (1 - positive) - (1 - negative) + 0.2), abs=1e-6)


def test_scores_are_multiplied_before_every_loss_but_the_margin() -> None:
    scores, mask = torch.tensor([[0.3, 0.1, 0.5]]), torch.ones(1, 3, dtype=torch.bool)
    assert torch.equal(losses.make("infonce", 1.0, 20.0)(scores, mask), losses.infonce(20 * scores, mask))
    assert torch.equal(losses.make("margin", 0.2, 20.0)(scores, mask), losses.margin(scores, mask, 0.2))
