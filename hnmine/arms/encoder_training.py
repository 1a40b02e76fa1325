"""Bi-encoders trained with hard negatives: STAR's static ones, ANCE's refreshed ones, and ADORE's of every step.

    STAR      `depth` documents nearest to each query by the start, found once; a step takes of every query in the batch
              one positive and one of these, and all documents of the other queries as random negatives
              (Zhan et al., SIGIR 2021, arXiv 2104.08051)
    ANCE      in_batch=False and several rounds: a query sees its own hard negative only, and these are found anew by
              what was trained so far (Xiong et al., ICLR 2021, arXiv 2007.00808; here in turns, there side by side)
    ADORE     the query encoder alone, against the documents it ranks first at that very step: they keep the vectors
              they have, so the true nearest can be searched (arXiv 2104.08051 as well)

STAR's and ANCE's loss is that of the recipe over one list a query; `logistic` is what the authors of STAR publish:
pairwise, every negative alike, hard or random (their text weighs the random ones by alpha). They score by inner
products of long vectors; ours are unit vectors, so the recipe's `scale` multiplies the cosine.

Letters: B queries and D documents in a step, L = 1 + D, K documents in the live list of ADORE, P the most right
documents any of the queries has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from hnmine.mining.search import Searcher
from hnmine.models.reranker import BiEncoder
from hnmine.runs.device import Choice
from hnmine.training import losses
from hnmine.training.gradient import Optimizer, Recipe
from hnmine.training.lora import add_lora, merged
from hnmine.types import Float32, Int64, Pairs, Role, Space, Texts

StepDone = Callable[[int, float], None]
"""Hears, after every step, how many queries it had, and their mean loss."""
StepLoss = Callable[[BiEncoder, int, list[int]], Tensor]
"""Returns the loss of a step of this number with these query rows."""


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """What is trained on; rows are those of `documents` and `queries`."""

    documents: Texts
    queries: Texts
    pairs: Pairs
    known: Mapping[int, set[int]]
    """Of each query row in `pairs` the documents that are never negatives: its positives and their copies."""
    prompts: Mapping[Role, str] | None = None
    """What stands before a text of each role; None: the model's own."""

    def query_rows(self) -> Int64:
        """Return the rows of the queries with a judged document."""
        return np.unique(self.pairs.query_rows_P)


def train_encoder(
    start: Path, given: TrainingSet, recipe: Recipe, out: Path, loss_of: StepLoss, done: StepDone
) -> None:
    """Train the model in `start` on batches of queries, and write it to `out`, with LoRA merged.

    Raises:
        ModelError: the start cannot be loaded or takes no LoRA, or the gradient is not finite.
    """
    encoder = BiEncoder(
        start,
        max_tokens=recipe.max_tokens,
        device=recipe.device,
        dtype=recipe.dtype,
        seed=recipe.seed,
        prompts=given.prompts,
    )
    if (lora := recipe.lora) is not None:
        rank, alpha = lora["rank"], lora["alpha"]
        add_lora(encoder.model, rank=rank, alpha=alpha, seed=recipe.seed, frozen_dtype=recipe.weights)
    rows = given.query_rows().tolist()
    optimizer = Optimizer(encoder.model, recipe, recipe.steps(len(rows)))
    for step, (batch, _) in enumerate(recipe.batches(len(rows))):
        done(len(batch), optimizer.step(step, [loss_of(encoder, step, [rows[i] for i in batch])]))
    with merged(encoder.model):
        encoder.save(out)


def star(
    start: Path,
    space: Space,
    given: TrainingSet,
    recipe: Recipe,
    out: Path,
    *,
    space_of: Callable[[Path], Space],
    device: Choice,
    depth: int = 200,
    rounds: int = 1,
    in_batch: bool = True,
    done: StepDone = lambda _queries, _loss: None,
) -> None:
    """Train both towers of a bi-encoder; the module says with which arguments this is STAR or ANCE.

    `space` has all documents and queries as `start` encodes them, and `space_of` returns them as a folder of the next
    round does. Of the nearest `depth` documents hard negatives are drawn; `in_batch` says whether the documents of the
    other queries in a batch are negatives too. The recipe's epochs are those of one of the `rounds`, and go over
    queries, one of whose positives is drawn; the learning rate rises and falls once over all rounds. A step keeps the
    activations of two documents a query.
    """
    positives, steps_per_round = given.pairs.positives_of(), recipe.steps(len(given.query_rows()))
    scaled_loss = losses.make(recipe.loss, recipe.margin, recipe.scale)
    nearest = nearest_unknown(space, given, depth, device)

    def loss_of(encoder: BiEncoder, step: int, batch: list[int]) -> Tensor:
        # Find the hard negatives of a new round.
        nonlocal nearest
        if step and step % steps_per_round == 0:
            with merged(encoder.model):
                encoder.save(out)
            nearest = nearest_unknown(space_of(out), given, depth, device)
        # Draw a positive of every query and, if it has any, one of its hard negatives.
        rng = np.random.default_rng([recipe.seed, step])
        docs = [int(rng.choice(positives[row])) for row in batch]
        hard = [(at, int(rng.choice(nearest[row]))) for at, row in enumerate(batch) if len(nearest[row])]
        docs += [doc for _, doc in hard]
        owners = [*range(len(batch)), *(at for at, _ in hard)]
        negative_BD = np.array([[doc not in given.known[row] for doc in docs] for row in batch])
        if not in_batch:
            negative_BD &= np.arange(len(batch))[:, None] == np.array(owners)
        # Compare them all; the positive of each query stands first in its list.
        queries_BR = encoder.vectors([given.queries.texts[row] for row in batch], "query")
        docs_DR = encoder.vectors([given.documents.texts[doc] for doc in docs], "document")
        scores_BD = queries_BR @ docs_DR.T
        positive_B1 = scores_BD.diagonal()[:, None]
        mask_BD = torch.from_numpy(negative_BD).to(scores_BD.device)
        mask_BL = torch.cat([torch.ones_like(positive_B1, dtype=torch.bool), mask_BD], dim=1)
        return scaled_loss(torch.cat([positive_B1, scores_BD], dim=1), mask_BL).mean()

    train_encoder(start, given, replace(recipe, epochs=recipe.epochs * rounds), out, loss_of, done)


def nearest_unknown(space: Space, given: TrainingSet, depth: int, device: Choice) -> dict[int, Int64]:
    """Return by query row up to `depth` nearest documents that are not known to be right, nearest first."""
    rows = given.query_rows()
    most = max(len(given.known[row]) for row in rows.tolist())
    found, _ = Searcher(space.docs_NR, device).nearest(space.queries_QR[rows], depth + most)
    return {
        row: docs[~np.isin(docs, list(given.known[row]))][:depth]
        for row, docs in zip(rows.tolist(), found, strict=True)
    }


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

    `docs_NR` are the unit vectors of all documents; after STAR, as its model encodes them. `depth` is the length K of
    the live list; beyond it the reciprocal rank counts as 0. The other arguments are those of `star`.
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

        return adore_loss(recipe.scale * scores(live.right_BP), recipe.scale * scores(live.found_BK), live).mean()

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
    """Sort document rows, nearest first, into right ones and negatives; what is known but not judged is neither."""
    right_BP = np.zeros((len(positives), max(map(len, positives))), dtype=np.int64)
    there_BP = np.zeros(right_BP.shape, dtype=bool)
    for at, docs in enumerate(positives):
        right_BP[at, : len(docs)], there_BP[at, : len(docs)] = docs, True
    is_found_BPK = there_BP[:, :, None] & (right_BP[:, :, None] == found_BK[:, None, :])
    gain_BP = (is_found_BPK / np.arange(1, 1 + found_BK.shape[1])).max(axis=2).astype(np.float32)
    any_found_B1 = (gain_BP > 0).any(axis=1, keepdims=True)
    return Live(
        found_BK=found_BK,
        negative_BK=np.stack([~np.isin(found_K, list(docs)) for found_K, docs in zip(found_BK, known, strict=True)]),
        right_BP=right_BP,
        takes_part_BP=np.where(any_found_B1, gain_BP > 0, there_BP),
        gain_BP=gain_BP,
    )


def adore_loss(right_BP: Tensor, found_BK: Tensor, live: Live) -> Tensor:
    """Return the LambdaRank loss of each query (B,): a mean over its pairs of right document and negative.

    Each pair has the logistic loss of its scores, weighted by how much the reciprocal rank would change if the two
    changed places. `right_BP` and `found_BK` are the scores of the documents of these names in `live`.
    """
    takes_part_BP, negative_BK, gain_BP = (
        torch.from_numpy(array).to(right_BP.device) for array in (live.takes_part_BP, live.negative_BK, live.gain_BP)
    )
    gain_K = 1 / torch.arange(1, found_BK.shape[1] + 1, device=right_BP.device)
    pair_BPK = takes_part_BP[:, :, None] & negative_BK[:, None, :]
    weight_BPK = pair_BPK * (gain_BP[:, :, None] - gain_K).abs()
    loss_BPK = weight_BPK * functional.softplus(found_BK[:, None, :] - right_BP[:, :, None])
    return loss_BPK.sum(dim=(1, 2)) / pair_BPK.sum(dim=(1, 2)).clamp(min=1)
