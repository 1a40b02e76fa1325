"""Losses over lists of scores: column 0 is the positive, the others its negatives.

Letters: B lists in the batch, L = 1 + the most negatives any of them has. `mask_BL` is true where a score counts.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

Loss = Callable[[Tensor, Tensor], Tensor]
"""Maps (scores_BL, mask_BL) to one loss a list (B,)."""


def margin(scores_BL: Tensor, mask_BL: Tensor, width: float) -> Tensor:
    """Triplet margin loss, the mean of max(0, d(Q,PD) - d(Q,D) + width) over the negatives, with d = -score.

    arXiv 2505.18366, Eq. 7; for a cross-encoder Eq. 9 is the same with its score as similarity.
    """
    hinge_BN = functional.relu(width - scores_BL[:, :1] + scores_BL[:, 1:]) * mask_BL[:, 1:]
    return hinge_BN.sum(dim=1) / mask_BL[:, 1:].sum(dim=1).clamp(min=1)


def infonce(scores_BL: Tensor, mask_BL: Tensor) -> Tensor:
    """Negative log of the positive's share of the softmax over its list (localized contrastive estimation)."""
    return -functional.log_softmax(scores_BL.masked_fill(~mask_BL, float("-inf")), dim=1)[:, 0]


def make(name: str, width: float) -> Loss:
    """Return the loss of this name; `width` is the margin's."""
    if name == "infonce":
        return infonce
    if name == "margin":
        return lambda scores_BL, mask_BL: margin(scores_BL, mask_BL, width)
    raise ValueError(f"unknown loss {name!r}; known: infonce, margin")
