"""Bi-encoders as re-rankers: the score of a (query, document) is the cosine of their vectors.

The paper tunes these on the same triplets (arXiv 2505.18366, Table 4), with the distance d = 1 - cosine (Eq. 8).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers.utils import logging

from hnmine.errors import ModelError
from hnmine.models.folder import declared_prompts
from hnmine.models.scoring_network import refuse_not_finite
from hnmine.models.strict import load
from hnmine.types import Float32, Role

Row = dict[str, Any]  # a pair: its texts, by role

_CHARACTERS_PER_TOKEN = 4  # decides batches only, never what is read
_TEXTS_PER_BATCH = 64


class _Cosine(torch.nn.Module):
    """Both encodings in one forward pass, as distributed training wants it."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, queries: dict[str, Tensor], documents: dict[str, Tensor], query_of_document: Tensor) -> Tensor:
        """Return the cosine of each document with its query."""
        vectors = [self.encoder(features)["sentence_embedding"].float() for features in (queries, documents)]
        return functional.cosine_similarity(vectors[0][query_of_document], vectors[1], dim=1)


class BiEncoder:
    """A loaded SentenceTransformer on one device; a `Reranker`."""

    def __init__(
        self,
        folder: Path,
        *,
        max_tokens: int,
        device: str,
        dtype: str,
        seed: int = 0,
        prompts: Mapping[Role, str] | None = None,
    ) -> None:
        """Load the model, whose weights are float32; `dtype` is of the computation.

        Of a text at most `max_tokens` are read, special ones included. With `seed` weights are drawn that the folder
        lacks. `prompts` stand before the texts of a role; None: those that the model declares.
        """
        from sentence_transformers import SentenceTransformer

        # Load the model.
        logging.disable_progress_bar()
        torch.manual_seed(seed)
        self._prompts = declared_prompts(folder) if prompts is None else prompts
        try:
            self._encoder: Any = load(SentenceTransformer, folder, device=device).float()
        except ModelError as error:
            raise ModelError(f"bi-encoder {error}") from None

        # Set what it reads, and how passes are cut: each encodes its queries beside its documents.
        self._encoder.max_seq_length = min(max_tokens, self._encoder.max_seq_length or max_tokens)
        self.model = _Cosine(self._encoder).to(device).eval()
        self.device, self._dtype = device, dtype
        self.tokens_per_pass, self.pass_cost = (2048, 256) if device == "cpu" else (16_384, 2048)

    def tokenize(self, queries: Sequence[str], documents: Sequence[str]) -> list[Row]:
        """Return a row a pair; `forward` tokenises the texts, a query that stands in several rows once."""
        return [{"query": query, "document": text} for query, text in zip(queries, documents, strict=True)]

    def length(self, row: Row) -> int:
        """Return about how many tokens of the document are read."""
        return int(min(self._encoder.max_seq_length, 2 + len(row["document"]) // _CHARACTERS_PER_TOKEN))

    def forward(self, rows: Sequence[Row], network: Any = None) -> Tensor:
        """Return the scores (n,) of the rows, with gradients; `network` computes in the place of `model`."""
        position = {query: i for i, query in enumerate(dict.fromkeys(row["query"] for row in rows))}
        queries = self._features(list(position), "query")
        documents = self._features([row["document"] for row in rows], "document")
        query_of_document = torch.tensor([position[row["query"]] for row in rows], device=self.device)
        with _autocast(self.device, self._dtype):
            scores: Tensor = (network or self.model)(queries, documents, query_of_document)
        return scores

    def scores(
        self, queries: Sequence[str], documents: Sequence[str], done: Callable[[int], None] = lambda _count: None
    ) -> Float32:
        """Return the score (n,) of each (query, document), every text encoded once; `done` gets the number of pairs."""
        with torch.inference_mode():
            cosines = (self.vectors(queries, "query") * self.vectors(documents, "document")).sum(dim=1)
        scores: Float32 = cosines.cpu().numpy()
        refuse_not_finite("bi-encoder", scores)
        done(len(scores))
        return scores

    raw_scores = scores  # a cosine has no activation

    def vectors(self, texts: Sequence[str], role: Role) -> Tensor:
        """Return the unit vector of each text (n, R), with gradients; equal texts are encoded once."""
        unique = sorted(set(texts), key=lambda text: (-len(text), text))
        position = {text: i for i, text in enumerate(unique)}
        parts = []
        for start in range(0, len(unique), _TEXTS_PER_BATCH):
            with _autocast(self.device, self._dtype):
                rows = self._encoder(self._features(unique[start : start + _TEXTS_PER_BATCH], role))
            parts.append(functional.normalize(rows["sentence_embedding"].float(), dim=1))
        return torch.cat(parts)[[position[text] for text in texts]]

    def train_mode(self) -> None:
        """Prepare for a training step: nothing is to be done, and dropout stays off."""

    def save(self, folder: Path) -> None:
        """Write the model; `SentenceTransformer(folder)` gives these vectors."""
        self._encoder.save_pretrained(str(folder), safe_serialization=True)

    def _features(self, texts: list[str], role: Role) -> dict[str, Tensor]:
        features = self._encoder.preprocess(texts, prompt=self._prompts[role] or None)
        return {name: value.to(self.device) if isinstance(value, Tensor) else value for name, value in features.items()}


def _autocast(device: str, dtype: str) -> AbstractContextManager[Any]:
    return torch.autocast(device, dtype=getattr(torch, dtype), enabled=dtype != "float32")
