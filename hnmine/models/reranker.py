"""What training and evaluation need of a model that scores a document for a query; either kind is loaded here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from hnmine.config.training import Kind
from hnmine.models.bi_encoder import BiEncoder
from hnmine.models.cross_encoder import CrossEncoder
from hnmine.types import Float32


class Reranker(Protocol):
    """A loaded model on one device: a cross-encoder or a bi-encoder."""

    model: Any
    """The torch module that is trained."""
    device: str
    """As torch names it."""
    tokens_per_pass: int
    """Most tokens of a forward and backward pass in training: on a CPU its activations stay in the caches."""
    pass_cost: int
    """What such a pass costs beside its tokens, in tokens."""

    def tokenize(self, queries: Sequence[str], documents: Sequence[str]) -> list[Any]:
        """Return a row for each (query, document), as `length` and `forward` take it; not padded."""

    def length(self, row: Any) -> int:
        """Return the tokens of a row; a bi-encoder estimates them."""

    def forward(self, rows: Sequence[Any], network: Any = None) -> Tensor:
        """Return the scores (n,) of rows, in float32, with gradients; `network` is the wrapped `model`, if it is."""

    def scores(self, queries: Sequence[str], documents: Sequence[str], done: Callable[[int], None] = ...) -> Float32:
        """Return the score (n,) of each (query, document); `done` gets the number of pairs finished since last.

        Raises:
            ModelError: a score is NaN or infinite.
        """

    def train_mode(self) -> None:
        """Prepare for a training step; dropout stays off."""

    def save(self, folder: Path) -> None:
        """Write the model; sentence-transformers' class of the same name loads it with these scores."""


def load_reranker(
    kind: Kind,
    folder: Path,
    *,
    max_tokens: int,
    device: str,
    dtype: str,
    engine: str = "auto",
    seed: int = 0,
    passages: bool = False,
) -> Reranker:
    """Load the re-ranker in this folder; `engine` and `passages` are a cross-encoder's.

    Raises:
        ModelError: the folder cannot be loaded.
    """
    if kind == "bi-encoder":
        return BiEncoder(folder, max_tokens=max_tokens, device=device, dtype=dtype, seed=seed)
    return CrossEncoder(
        folder, max_tokens=max_tokens, device=device, dtype=dtype, engine=engine, seed=seed, passages=passages
    )
