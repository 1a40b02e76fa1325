"""How a re-ranker reads pairs: as sentence-transformers' CrossEncoder does, but tokenised without padding.

The library puts prompts, instructions and chat templates around the texts and cuts what is too long. Batches are padded
here, so that they hold pairs of like length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from hnmine.errors import ModelError
from hnmine.models.scoring_network import Features
from hnmine.types import Int64

Row = dict[str, Any]  # a pair: its tokens, as the tokenizer names them, or, where it is read as text, its texts

_CLIP_CHARACTERS_PER_TOKEN = 16
_WHOLE_TOKENS = 8  # so many tokens at a clipped text's end may be others than those of the whole text
_CHARACTERS_PER_TOKEN = 4  # of a pair that is read as text: decides batches only, never what is read
_UNPADDED = {"text": {"padding": False}, "common": {"return_tensors": None}}


class PairReader:
    """Turns pairs into rows, and rows into the features that the network takes."""

    def __init__(self, library: Any, max_tokens: int) -> None:
        """Take a loaded CrossEncoder of sentence-transformers; of a pair it reads `max_tokens` at most."""
        self.as_tokens = True
        """Whether rows are tokens; else the library tokenises each batch and pads it."""
        self._library, self._max_tokens = library, max_tokens
        self._prompt = library.prompts.get(library.default_prompt_name)
        self._limit_length()
        settings = self._text_settings()
        self._padding = {name: value for name, value in settings.items() if name == "padding_side"}
        cuts_at_end = getattr(library.tokenizer, "truncation_side", "right") == "right"
        self._clips = cuts_at_end and settings.get("truncation", True) in (True, "longest_first")
        self._constant: Features = {}  # what the library adds to the features of any pair

    def rows(self, queries: Sequence[str], documents: Sequence[str]) -> list[Row]:
        """Return a row a pair; one without a token is read as the end token.

        Of a long document only the beginning is tokenised, if that is enough.

        Raises:
            ModelError: the library cannot read a pair; the message names it.
        """
        if not self.as_tokens:
            return [{"query": query, "document": text} for query, text in zip(queries, documents, strict=True)]
        pairs = [(query, self._clipped(text)) for query, text in zip(queries, documents, strict=True)]
        if not pairs:
            return []
        features = self._preprocess(pairs, processing_kwargs=_UNPADDED)
        by_row = {name: value for name, value in features.items() if isinstance(value, list)}
        self._constant = {name: value for name, value in features.items() if name not in by_row}
        rows = _by_row(by_row)
        end = self._library.tokenizer.eos_token_id
        for row in rows:
            if not row["input_ids"] and end is not None:
                row |= {name: [{"input_ids": end, "attention_mask": 1}.get(name, 0)] for name in row}
        return rows

    def length(self, row: Row) -> int:
        """Return the tokens of a row, about so many if it is text."""
        if "input_ids" in row:
            return len(row["input_ids"])
        return int(min(self._max_tokens, 2 + (len(row["query"]) + len(row["document"])) // _CHARACTERS_PER_TOKEN))

    def features(self, rows: Sequence[Row], device: str) -> Features:
        """Return the rows padded to the longest, as tensors on this device."""
        if self.as_tokens:
            padded = self._library.tokenizer.pad(list(rows), return_tensors="pt", **self._padding)
            features = self._constant | dict(padded)
        else:
            features = self.features_of_library([(row["query"], row["document"]) for row in rows])
        return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in features.items()}

    def features_of_library(self, pairs: Sequence[tuple[str, str]]) -> Features:
        """Return pairs as the library itself tokenises and pads them."""
        return dict(self._preprocess(list(pairs)))

    def _preprocess(self, pairs: list[tuple[str, str]], **settings: Any) -> Features:
        """Let the library read pairs; raise ModelError that names the first which it cannot read."""
        try:
            features: Features = self._library.preprocess(pairs, prompt=self._prompt, **settings)
        except MemoryError:
            raise
        except Exception as error:  # what is raised depends on the template and the tokenizer
            for pair in pairs if len(pairs) > 1 else ():
                self._preprocess([pair], **settings)
            query, document = pairs[0]
            raise ModelError(
                f"the re-ranker cannot read query {query[:80]!r} with document {document[:80]!r}: "
                f"{type(error).__name__}: {error}"
            ) from None
        return features

    def refuse_passages(self, folder: object) -> None:
        """Raise ModelError if the model reads a pair by a template, into which a passage cannot be put as tokens."""
        if not self.as_tokens or "message" in self._library.modalities:
            raise ModelError(
                f"{folder} reads query and document by a chat template or in a way of its own, which cannot be cut "
                "into passages; set evaluate.long_documents: truncate"
            )

    def passages(self, queries: Sequence[str], documents: Sequence[str]) -> tuple[list[Row], Int64]:
        """Return overlapping passages of each document beside its query as rows, and the pair that each belongs to."""
        encoded = self._library.tokenizer(
            [(self._prompt or "") + self._half(query) for query in queries],
            list(documents),
            truncation="only_second",
            max_length=self._max_tokens,
            stride=self._max_tokens // 8,
            return_overflowing_tokens=True,
        )
        pair_of_row = np.array(encoded.pop("overflow_to_sample_mapping"), dtype=np.int64)
        return _by_row(encoded), pair_of_row

    def _half(self, query: str) -> str:
        """Return a query cut to half of what is read, so that passages have room beside it."""
        tokenizer, most = self._library.tokenizer, self._max_tokens // 2
        tokens = tokenizer(query, add_special_tokens=False)["input_ids"]
        return query if len(tokens) <= most else str(tokenizer.decode(tokens[:most]))

    def _clipped(self, document: str) -> str:
        """Return the beginning of a document if no more of it can be read, else all."""
        beginning = document[: _CLIP_CHARACTERS_PER_TOKEN * self._max_tokens]
        if len(beginning) == len(document) or not self._clips:
            return document
        tokens = self._library.tokenizer(beginning, add_special_tokens=False)["input_ids"]
        return beginning if len(tokens) > self._max_tokens + _WHOLE_TOKENS else document

    def _text_settings(self) -> dict[str, Any]:
        """Return what the model's folder says of tokenising texts."""
        settings: dict[str, dict[str, Any]] = getattr(self._library[0], "processing_kwargs", {})
        return settings.get("common", {}) | settings.get("text", {}) | settings.get("chat_template", {})

    def _limit_length(self) -> None:
        self._library.max_seq_length = self._max_tokens
        for settings in getattr(self._library[0], "processing_kwargs", {}).values():
            if settings.get("max_length"):
                settings["max_length"] = min(settings["max_length"], self._max_tokens)


def _by_row(columns: Any) -> list[Row]:
    """Return by row what a tokenizer gives column by column."""
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
