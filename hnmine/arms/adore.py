"""ADORE: the query encoder alone is trained, against the documents it ranks first at that very step.

Zhan et al., SIGIR 2021, arXiv 2104.08051. Documents keep the vectors they have, so the true nearest of them can be
searched in every step. The loss is LambdaRank's: of each pair (right document, other document) the logistic loss of
their scores, weighted by how much the reciprocal rank would change if the two changed places.

Letters: B queries in the batch, K documents in the live list, P the most right documents any of the queries has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from hnmine.arms.star import StepDone, TrainingSet, train_encoder
from hnmine.mining.search import Searcher
from hnmine.models.bi_encoder import BiEncoder
from hnmine.runs.device import Choice
from hnmine.training.recipe import Recipe
from hnmine.types import Float32, Int64


def adore(
    start: Path,
    docs_NR: Float32,
    given: TrainingSet,
    recipe: Recipe,
    out: Path,
    *,
    device: Choice,
    depth: int = 200,
    done: StepDone = lambda _queries, _loss: None,
) -> None:
    """Train the query encoder in the folder `start` into the folder `out`; no document is encoded.

    Args:
        start: model folder.
        docs_NR: unit vectors of all documents; after STAR, as its model encodes them.
        given: what is trained on; its document texts are not read.
        recipe: how; epochs go over queries, the loss is always LambdaRank's of the cosine times `scale`.
        out: folder of the query encoder, to be written.
        device: where documents are searched.
        depth: length K of the live list; beyond it the reciprocal rank counts as 0.
        done: hears of every step.
    """
    positives, searcher = given.pairs.positives_of(), Searcher(docs_NR, device)

    def loss_of(encoder: BiEncoder, _step: int, batch: list[int]) -> Tensor:
        # Search what the queries find now, and sort it into right documents and negatives.
        queries_BR = encoder.vectors([given.queries.texts[row] for row in batch], "query")
        found_BK, _ = searcher.nearest(queries_BR.detach().cpu().numpy(), depth)
        live = live_lists(found_BK, [positives[row] for row in batch], [given.known[row] for row in batch])

        # Score both with the queries' gradient.
        def scores(rows_Bn: Int64) -> Tensor:
            docs_BnR = torch.from_numpy(docs_NR[rows_Bn]).to(queries_BR.device)
            return torch.einsum("br,bnr->bn", queries_BR, docs_BnR)

        return lambda_loss(recipe.scale * scores(live.right_BP), recipe.scale * scores(live.found_BK), live).mean()

    train_encoder(start, given, recipe, out, loss_of, done)


@dataclass(frozen=True, kw_only=True)
class Live:
    """What each query of a batch finds now, and its right documents with the reciprocal ranks they have there."""

    found_BK: Int64
    negative_BK: NDArray[np.bool_]
    right_BP: Int64
    """Filled up with row 0."""
    takes_part_BP: NDArray[np.bool_]
    """Those that were found; where none was, all of them."""
    gain_BP: Float32
    """1 / rank, 0 if not found."""


def live_lists(found_BK: Int64, positives: Sequence[Sequence[int]], known: Sequence[set[int]]) -> Live:
    """Sort what was found into right documents and negatives; what is known but not judged is neither.

    Args:
        found_BK: document rows, nearest first.
        positives: judged document rows of each query.
        known: document rows of each query that are never negatives.
    """
    most = max(map(len, positives))
    right_BP = np.zeros((len(positives), most), dtype=np.int64)
    gain_BP, there_BP = np.zeros(right_BP.shape, dtype=np.float32), np.zeros(right_BP.shape, dtype=bool)
    for at, (found_K, docs) in enumerate(zip(found_BK, positives, strict=True)):
        rank: Mapping[int, int] = {doc: place for place, doc in enumerate(found_K.tolist(), 1)}
        right_BP[at, : len(docs)], there_BP[at, : len(docs)] = docs, True
        gain_BP[at, : len(docs)] = [1 / rank[doc] if doc in rank else 0 for doc in docs]
    any_found_B1 = (gain_BP > 0).any(axis=1, keepdims=True)
    return Live(
        found_BK=found_BK,
        negative_BK=np.stack([~np.isin(found_K, list(docs)) for found_K, docs in zip(found_BK, known, strict=True)]),
        right_BP=right_BP,
        takes_part_BP=np.where(any_found_B1, gain_BP > 0, there_BP),
        gain_BP=gain_BP,
    )


def lambda_loss(right_BP: Tensor, found_BK: Tensor, live: Live) -> Tensor:
    """Return the LambdaRank loss of each query (B,): the weighted mean over its pairs of right document and negative.

    Args:
        right_BP: scores of `live.right_BP`.
        found_BK: scores of `live.found_BK`.
        live: ranks and roles; they carry no gradient.
    """
    takes_part_BP, negative_BK, gain_BP = (
        torch.from_numpy(array).to(right_BP.device) for array in (live.takes_part_BP, live.negative_BK, live.gain_BP)
    )
    gain_K = 1 / torch.arange(1, found_BK.shape[1] + 1, device=right_BP.device)
    pair_BPK = takes_part_BP[:, :, None] & negative_BK[:, None, :]
    weight_BPK = pair_BPK * (gain_BP[:, :, None] - gain_K).abs()
    loss_BPK = weight_BPK * functional.softplus(found_BK[:, None, :] - right_BP[:, :, None])
    return loss_BPK.sum(dim=(1, 2)) / pair_BPK.sum(dim=(1, 2)).clamp(min=1)
