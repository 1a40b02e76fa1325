"""Losses over lists of scores: column 0 is the positive, the others its negatives.

Letters: B lists in the batch, L = 1 + the most negatives any of them has. `mask_BL` is true where a score counts; it
always is for the positive. Every loss is a mean over what a list holds, so long lists weigh no more than short ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional


class Loss(Protocol):
    """A loss of some name, scaled."""

    def __call__(
        self, scores_BL: Tensor, mask_BL: Tensor, teacher_BL: Tensor | None = None, lesson_B: Tensor | None = None
    ) -> Tensor:
        """Return one loss a list (B,); the losses of `TAUGHT` and lessons need the teacher's scores."""


def margin(scores_BL: Tensor, mask_BL: Tensor, width: float) -> Tensor:
    """Triplet margin loss, the mean of max(0, d(Q,PD) - d(Q,D) + width) over the negatives, with d = -score.

    arXiv 2505.18366, Eq. 7; for a cross-encoder Eq. 9 is the same with its score as similarity.
    """
    return _over_negatives(functional.relu(width - _leads(scores_BL)), mask_BL)


def logistic(scores_BL: Tensor, mask_BL: Tensor) -> Tensor:
    """Pairwise logistic loss, the mean of log(1 + exp(s(D) - s(PD))) over the negatives.

    RankNet (Burges et al., 2005), with one relevant document.
    """
    return _over_negatives(functional.softplus(-_leads(scores_BL)), mask_BL)


def bce(scores_BL: Tensor, mask_BL: Tensor) -> Tensor:
    """Binary cross-entropy, the positive as 1 and the negatives as 0; the positive weighs as much as all of these.

    Unlike the others it fixes the scores themselves, so that sigmoid(score) reads as a probability.
    """
    positive_B = functional.softplus(-scores_BL[:, 0])
    return (positive_B + _over_negatives(functional.softplus(scores_BL[:, 1:]), mask_BL)) / 2


def infonce(scores_BL: Tensor, mask_BL: Tensor) -> Tensor:
    """Negative log of the positive's share of the softmax over its list (localized contrastive estimation).

    arXiv 2101.08751; with one relevant document it is ListNet's top-one loss as well.
    """
    return -functional.log_softmax(scores_BL.masked_fill(~mask_BL, float("-inf")), dim=1)[:, 0]


def margin_mse(scores_BL: Tensor, mask_BL: Tensor, teacher_BL: Tensor) -> Tensor:
    """Mean over the negatives of ((s(PD) - s(D)) - (t(PD) - t(D)))², t the scores of a teacher (MarginMSE).

    arXiv 2010.02666.
    """
    return _over_negatives(_leads(scores_BL - teacher_BL).square(), mask_BL)


def kl(scores_BL: Tensor, mask_BL: Tensor, teacher_BL: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the student's softmax over its list from the teacher's; no place is special.

    Knowledge distillation (arXiv 1503.02531) at temperature 1, of whole lists.
    """
    student, teacher = (
        functional.log_softmax(each_BL.masked_fill(~mask_BL, float("-inf")), dim=1).masked_fill(~mask_BL, 0.0)
        for each_BL in (scores_BL, teacher_BL)
    )
    return (teacher.exp() * (teacher - student) * mask_BL).sum(dim=1)


def lambda_loss(scores_BL: Tensor, mask_BL: Tensor) -> Tensor:
    """Pairwise logistic loss with each pair weighted by what nDCG would lose if the two changed places.

    LambdaLoss framework (Wang et al., 2018), LambdaRank weights |1/D(rank) - 1/D(rank')|, D(r) = log2(1 + r), for one
    relevant document, whose ideal DCG is 1; ranks are those of the scores as they are, and carry no gradient.
    """
    filled_BL = scores_BL.detach().masked_fill(~mask_BL, float("-inf"))
    rank_BL = filled_BL.argsort(dim=1, descending=True, stable=True).argsort(dim=1) + 1
    gain_BL = 1 / torch.log2(1 + rank_BL.to(scores_BL.dtype))
    weight_BN = (gain_BL[:, :1] - gain_BL[:, 1:]).abs()
    return _over_negatives(weight_BN * functional.softplus(-_leads(scores_BL)), mask_BL)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "infonce": infonce,
    "logistic": logistic,
    "bce": bce,
    "lambda": lambda_loss,
}
"""The losses that need nothing but scores, by their names in the configuration."""

TAUGHT: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"marginmse": margin_mse, "kl": kl}
"""Those that need a teacher's scores as well, in the units of the student's."""


def make(name: str, width: float, scale: float = 1.0) -> Loss:
    """Return the loss of this name; `width` is the margin's, `scale` multiplies the scores for all the others.

    Of lessons it is `kl`, whatever the name.
    """
    if name not in {"margin", *LOSSES, *TAUGHT}:
        raise ValueError(f"unknown loss {name!r}; known: {', '.join(['margin', *LOSSES, *TAUGHT])}")

    def loss(
        scores_BL: Tensor, mask_BL: Tensor, teacher_BL: Tensor | None = None, lesson_B: Tensor | None = None
    ) -> Tensor:
        if name == "margin":
            loss_B = margin(scores_BL, mask_BL, width)
        elif name in LOSSES:
            loss_B = LOSSES[name](scale * scores_BL, mask_BL)
        else:
            assert teacher_BL is not None, f"{name} learns from a teacher"
            loss_B = TAUGHT[name](scale * scores_BL, mask_BL, scale * teacher_BL)
        if lesson_B is None or not lesson_B.any():
            return loss_B
        assert teacher_BL is not None, "lessons have a teacher"
        return torch.where(lesson_B, kl(scale * scores_BL, mask_BL, scale * teacher_BL), loss_B)

    return loss


def _leads(scores_BL: Tensor) -> Tensor:
    """Return s(PD) - s(D) for every negative (B, L - 1)."""
    return scores_BL[:, :1] - scores_BL[:, 1:]


def _over_negatives(values_BN: Tensor, mask_BL: Tensor) -> Tensor:
    mask_BN = mask_BL[:, 1:]
    return (values_BN * mask_BN).sum(dim=1) / mask_BN.sum(dim=1).clamp(min=1)
