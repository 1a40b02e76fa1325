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
from hnmine.types import Float32, Int64, Pairs, Role, Space, Texts

Encode = Callable[[Path, Texts, Role], Float32]
"""Returns a unit vector a text, by the model in a folder."""

Done = Callable[[int, float], None]
"""Hears, after every step, how many queries it had, and their mean loss."""


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


def load_encoder(start: Path, recipe: Recipe, prompts: Mapping[Role, str] | None) -> BiEncoder:
    """Load the model that a training begins with; `prompts` as in `TrainingSet`.

    Raises:
        ModelError: the folder cannot be loaded.
    """
    return BiEncoder(
        start,
        max_tokens=recipe.max_tokens,
        device=recipe.device,
        dtype=recipe.dtype,
        seed=recipe.seed,
        prompts=prompts,
    )


def star(
    start: Path,
    space: Space,
    given: TrainingSet,
    recipe: Recipe,
    out: Path,
    *,
    encode: Encode,
    device: Choice,
    depth: int = 200,
    rounds: int = 1,
    in_batch: bool = True,
    done: Done = lambda _queries, _loss: None,
) -> Space:
    """Train both towers of a bi-encoder; the module says with which arguments this is STAR or ANCE.

    All documents are encoded once a round: after it.

    Args:
        start: model folder.
        space: all documents and queries as `start` encodes them.
        given: what is trained on.
        recipe: its epochs are those of one round and go over queries, one of whose positives is drawn. The learning
            rate rises and falls once over all rounds. A step keeps the activations of two documents a query.
        out: model folder to be written; `encode` is asked for it.
        encode: see `Encode`.
        device: where documents are searched.
        depth: nearest documents from which hard negatives are drawn.
        rounds: times that hard negatives are found.
        in_batch: whether the documents of the other queries in a batch are negatives too.
        done: hears of every step.

    Returns:
        all documents and queries as the model in `out` encodes them.

    Raises:
        ModelError: the start cannot be loaded, or the gradient is not finite.
    """
    rows, positives = given.query_rows(), given.pairs.positives_of()
    whole, steps_per_round = replace(recipe, epochs=recipe.epochs * rounds), recipe.steps(len(rows))
    encoder, loss_of = load_encoder(start, recipe, given.prompts), losses.make(recipe.loss, recipe.margin, recipe.scale)
    optimizer = Optimizer(encoder.model, recipe, whole.steps(len(rows)))
    for step, (batch, _) in enumerate(whole.batches(len(rows))):
        # Find the hard negatives of the round.
        if step % steps_per_round == 0:
            if step:
                space = _saved(encoder, out, given, encode)
            nearest = nearest_unknown(space, given, depth, device)
        # Draw the documents of the step, and do it.
        rng = np.random.default_rng([recipe.seed, step])
        lists = _drawn([int(rows[i]) for i in batch], positives, nearest, given, rng, in_batch=in_batch)
        done(len(batch), optimizer.step(step, [_loss(encoder, lists, loss_of)]))
    return _saved(encoder, out, given, encode)


def nearest_unknown(space: Space, given: TrainingSet, depth: int, device: Choice) -> dict[int, Int64]:
    """Return by query row up to `depth` nearest documents that are not known to be right, nearest first."""
    rows = given.query_rows()
    most = max(len(given.known[row]) for row in rows.tolist())
    found, _ = Searcher(space.docs_NR, device).nearest(space.queries_QR[rows], depth + most)
    return {
        row: docs[~np.isin(docs, list(given.known[row]))][:depth]
        for row, docs in zip(rows.tolist(), found, strict=True)
    }


@dataclass(frozen=True)
class _Lists:
    """One step: B queries; D documents, first the positive of each query, then hard negatives."""

    queries: list[str]
    documents: list[str]
    negative_BD: Tensor
    """Which documents are negatives of which query."""


def _drawn(
    batch: list[int],
    positives: Mapping[int, list[int]],
    nearest: Mapping[int, Int64],
    given: TrainingSet,
    rng: np.random.Generator,
    *,
    in_batch: bool,
) -> _Lists:
    """Draw a positive of every query row and, if it has any, one of its hard negatives."""
    docs = [int(rng.choice(positives[row])) for row in batch]
    owners = list(range(len(batch)))
    for at, row in enumerate(batch):
        if len(nearest[row]):
            docs.append(int(rng.choice(nearest[row])))
            owners.append(at)
    negative_BD = np.array([[doc not in given.known[row] for doc in docs] for row in batch])
    if not in_batch:
        negative_BD &= np.arange(len(batch))[:, None] == np.array(owners)
    return _Lists(
        queries=[given.queries.texts[row] for row in batch],
        documents=[given.documents.texts[doc] for doc in docs],
        negative_BD=torch.from_numpy(negative_BD),
    )


def _loss(encoder: BiEncoder, lists: _Lists, loss_of: losses.Loss) -> Tensor:
    scores_BD = encoder.vectors(lists.queries, "query") @ encoder.vectors(lists.documents, "document").T
    negative_BD = lists.negative_BD.to(scores_BD.device)
    positive_B1 = scores_BD.diagonal()[:, None]
    mask_BL = torch.cat([torch.ones_like(positive_B1, dtype=torch.bool), negative_BD], dim=1)
    return loss_of(torch.cat([positive_B1, scores_BD], dim=1), mask_BL).mean()


def _saved(encoder: BiEncoder, out: Path, given: TrainingSet, encode: Encode) -> Space:
    """Write the model; return all documents and queries as it encodes them."""
    encoder.save(out)
    return Space(
        docs_NR=encode(out, given.documents, "document"),
        queries_QR=encode(out, given.queries, "query"),
    )
