"""Bi-encoders trained with hard negatives of their own: STAR's static ones, and ANCE's refreshed ones.

    STAR      `depth` documents nearest to each query by the start, found once; a step takes of every query in the batch
              one positive and one of these, and all documents of the other queries as random negatives
              (Zhan et al., SIGIR 2021, arXiv 2104.08051)
    ANCE      in_batch=False and several rounds: a query sees its own hard negative only, and these are found anew by
              what was trained so far (Xiong et al., ICLR 2021, arXiv 2007.00808; here in turns, there side by side)

Queries and documents share the weights. The loss is that of the recipe over one list a query; `logistic` is what the
authors of STAR publish: pairwise, every negative alike, hard or random (their text weighs the random ones by alpha).
They score by inner products of long vectors; ours are unit vectors, so the recipe's `scale` multiplies the cosine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hnmine.mining.search import Searcher
from hnmine.models.bi_encoder import BiEncoder
from hnmine.runs.device import Choice
from hnmine.training import losses
from hnmine.training.gradient import Optimizer
from hnmine.training.recipe import Recipe
from hnmine.types import Int64, Pairs, Role, Space, Texts

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
    """Train the model in `start` on batches of queries, and write it to `out`.

    Raises:
        ModelError: the start cannot be loaded, or the gradient is not finite.
    """
    encoder = BiEncoder(
        start,
        max_tokens=recipe.max_tokens,
        device=recipe.device,
        dtype=recipe.dtype,
        seed=recipe.seed,
        prompts=given.prompts,
    )
    rows = given.query_rows().tolist()
    optimizer = Optimizer(encoder.model, recipe, recipe.steps(len(rows)))
    for step, (batch, _) in enumerate(recipe.batches(len(rows))):
        done(len(batch), optimizer.step(step, [loss_of(encoder, step, [rows[i] for i in batch])]))
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

    Args:
        start: model folder.
        space: all documents and queries as `start` encodes them.
        given: what is trained on.
        recipe: its epochs are those of one round and go over queries, one of whose positives is drawn. The learning
            rate rises and falls once over all rounds. A step keeps the activations of two documents a query.
        out: model folder to be written.
        space_of: returns all documents and queries as a model folder encodes them; asked between rounds.
        device: where documents are searched.
        depth: nearest documents from which hard negatives are drawn.
        rounds: times that hard negatives are found.
        in_batch: whether the documents of the other queries in a batch are negatives too.
        done: hears of every step.
    """
    positives, steps_per_round = given.pairs.positives_of(), recipe.steps(len(given.query_rows()))
    scaled_loss = losses.make(recipe.loss, recipe.margin, recipe.scale)
    nearest = nearest_unknown(space, given, depth, device)

    def loss_of(encoder: BiEncoder, step: int, batch: list[int]) -> Tensor:
        # Find the hard negatives of a new round.
        nonlocal nearest
        if step and step % steps_per_round == 0:
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
