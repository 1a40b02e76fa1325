"""Losses over lists of scores: column 0 is the positive, the others its negatives.

Letters: B lists in the batch, L = 1 + the most negatives any of them has. `mask_BL` is true where a score counts; it
always is for the positive. Every loss is a mean over what a list holds, so long lists weigh no more than short ones.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Loss = Callable[[Tensor, Tensor], Tensor]
"""Maps (scores_BL, mask_BL) to one loss a list (B,)."""


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


def margin_mse(excess_BL: Tensor, mask_BL: Tensor) -> Tensor:
    """Mean over the negatives of ((s(PD) - s(D)) - (t(PD) - t(D)))², t the scores of a teacher (MarginMSE).

    arXiv 2010.02666. Of its scores the loss is told s - t, all that it depends on.
    """
    return _over_negatives(_leads(excess_BL).square(), mask_BL)


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


LOSSES: dict[str, Loss] = {
    "infonce": infonce,
    "logistic": logistic,
    "bce": bce,
    "lambda": lambda_loss,
    "marginmse": margin_mse,
}
"""The losses that need nothing but scores, by their names in the configuration."""


def make(name: str, width: float, scale: float = 1.0) -> Loss:
    """Return the loss of this name; `width` is the margin's, `scale` multiplies the scores for all the others."""
    if name == "margin":
        return lambda scores_BL, mask_BL: margin(scores_BL, mask_BL, width)
    if name not in LOSSES:
        raise ValueError(f"unknown loss {name!r}; known: {', '.join(['margin', *LOSSES])}")
    loss = LOSSES[name]
    return loss if scale == 1 else lambda scores_BL, mask_BL: loss(scale * scores_BL, mask_BL)


def _leads(scores_BL: Tensor) -> Tensor:
    """Return s(PD) - s(D) for every negative (B, L - 1)."""
    return scores_BL[:, :1] - scores_BL[:, 1:]


def _over_negatives(values_BN: Tensor, mask_BL: Tensor) -> Tensor:
    mask_BN = mask_BL[:, 1:]
    return (values_BN * mask_BN).sum(dim=1) / mask_BN.sum(dim=1).clamp(min=1)
