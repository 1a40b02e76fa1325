"""Long documents: cut into passages, each encoded; the vector of a document is the mean of its passages' unit vectors.

The inner product of the mean with a query is the mean of the passages' cosines: SumP of Dai and Callan (SIGIR 2019,
there of a re-ranker's scores) over their number. As every vector is brought to length 1 later, a document whose
passages differ gains on this. A short last passage counts as much as a full one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hnmine.corpus.text_keys import PLAIN, Reading
from hnmine.errors import ModelError
from hnmine.types import Float32, unit_rows

Span = tuple[int, int]  # where a passage or a token begins and ends in its text, in characters

MAX_PASSAGES = 16  # of a text; the rest of it is not read
OVERLAP = 8  # one eighth of what the model reads is repeated in the next passage
_CHARACTERS_PER_TOKEN = 16  # more than texts have on average
_UNLIMITED = 10**20  # from here on transformers means that a tokenizer states no limit


class PassageEncoder:
    """An encoder that reads texts, queries too, passage by passage; a `plan.Encoder` around another's `encode`."""

    def __init__(
        self,
        encode: Callable[[Sequence[str], Reading], Float32],
        tokenizer: Any,
        *,
        name: str,
        max_tokens: float | None,
        max_passages: int = MAX_PASSAGES,
    ) -> None:
        """Cut by the tokens of a model that reads `max_tokens` of them, special ones included."""
        if max_tokens is None or max_tokens >= _UNLIMITED:
            raise ModelError(
                f"encoder {name}: long_documents: mean cuts by the tokens that a model reads, and this one has no "
                "limit; set max_tokens or, for a static model, which reads texts to their end, long_documents: truncate"
            )
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(
                f"encoder {name}: long_documents: mean needs a tokenizer that says where in the text its tokens "
                f"are, a fast one (tokenizer.json); this is {type(tokenizer).__name__}; use long_documents: truncate"
            )
        self._encode, self._tokenizer, self._name = encode, tokenizer, name
        self._max_tokens, self._max_passages = int(max_tokens), max_passages

    def encode(self, texts: Sequence[str], reading: Reading = PLAIN) -> Float32:
        """Return one row a text (n, width), the mean of the unit vectors of its passages."""
        spans = self.cut(texts, reading.prompt)
        passages = [text[begin:end] for text, cuts in zip(texts, spans, strict=True) for begin, end in cuts]
        rows = unit_rows(self._encode(passages, reading))
        counts = np.array([len(cuts) for cuts in spans])
        means: Float32 = np.add.reduceat(rows, np.cumsum(counts) - counts, axis=0)
        means /= counts[:, None]
        return means

    def cut(self, texts: Sequence[str], prompt: str = "") -> list[list[Span]]:
        """Return the passages of each text, at least one; they overlap and, up to the most passages, cover the text."""
        room = self._max_tokens - self._tokenizer.num_special_tokens_to_add(pair=False)
        prompt_tokens = len(self._tokenizer(prompt, add_special_tokens=False)["input_ids"])
        if 2 * prompt_tokens > room:
            raise ModelError(
                f"encoder {self._name}: the prompt {prompt[:80]!r} takes {prompt_tokens} of the {room} tokens "
                "that a passage has; shorten it, raise max_tokens, or use long_documents: truncate"
            )
        return [self._cut(text, room - prompt_tokens) for text in texts]

    def _cut(self, text: str, window: int) -> list[Span]:
        """Cut a text into passages of so many tokens; of a book only the beginning is tokenised, if that suffices."""
        clip = _CHARACTERS_PER_TOKEN * self._max_tokens * self._max_passages
        windows = self._windows(text[:clip], window)
        if len(text) > clip and len(windows) <= self._max_passages:
            windows = self._windows(text, window)
        spans = [(offsets[0][0], offsets[-1][1]) for offsets in windows[: self._max_passages] if offsets]
        if len(windows) <= self._max_passages:  # include what is no token, such as blanks at the end
            spans[-1:] = [(spans[-1][0] if spans else 0, len(text))]
        return [(0, spans[0][1]), *spans[1:]]

    def _windows(self, text: str, window: int) -> list[list[Span]]:
        """Return where the tokens of each window are."""
        encoded = self._tokenizer(
            text,
            add_special_tokens=False,
            truncation=True,
            max_length=window,
            stride=self._max_tokens // OVERLAP,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        return list(encoded["offset_mapping"])
