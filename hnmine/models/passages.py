"""Long documents: cut into passages, each encoded; the vector of a document is the mean of its passages' unit vectors.

An encoder reads the first `max_tokens` tokens of a text. Here the text is read on: a passage is what the model reads
of the rest, with the prompt before it, and the next passage begins `max_tokens // 8` tokens before its end, as in
`cross_encoder`. One vector a text comes out, so all that follows stays as it is.

The inner product of the mean with a query is the mean of the passages' cosines: SumP of Dai and Callan (SIGIR 2019,
there of a re-ranker's scores) over their number. As every vector is brought to length 1 later, a document whose
passages differ gains on this.

A text that one passage holds has the vector it has without this, at length 1. A short last passage counts as much as
a full one. Queries are read likewise, since a vector is filed under the text and the prompt, not the role; they hold
one passage. `benchmarks/passages.json` says what this does to retrieval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hnmine.corpus.text_keys import PLAIN, Reading
from hnmine.errors import ModelError
from hnmine.types import Float32, unit_rows

if TYPE_CHECKING:
    from tokenizers import Encoding

Span = tuple[int, int]
"""Where something begins and ends in a text, in characters."""

MAX_PASSAGES = 16
"""Passages read of a text; the rest of the text is not read."""
OVERLAP = 8
"""One eighth of a passage is repeated by the next."""
CHARACTERS_AT_ONCE = 2**20
"""Characters that are tokenised at a time."""

_CHARACTERS_PER_TOKEN = 8  # tokenised first; only where that is too little is the whole rest
_LONGEST_WORD = 128  # in characters; a word that is cut can have other tokens
_UNLIMITED = 10**20  # from here on transformers means that a tokenizer states no limit


class PassageEncoder:
    """An encoder that reads texts passage by passage; a `plan.Encoder` around another's `encode`."""

    def __init__(
        self,
        encode: Callable[[Sequence[str], Reading], Float32],
        tokenizer: Any,
        *,
        name: str,
        max_tokens: float | None,
        max_passages: int = MAX_PASSAGES,
        characters_at_once: int = CHARACTERS_AT_ONCE,
    ) -> None:
        """Cut by the tokens of a model that reads `max_tokens` of them, special ones included.

        Raises:
            ModelError: the model has no limit of tokens, or its tokenizer does not say where in the text tokens are.
        """
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
        self._max_passages, self._characters_at_once = max_passages, characters_at_once
        self._max_tokens = int(max_tokens)
        self._overlap = self._max_tokens // OVERLAP
        self._room = self._max_tokens - tokenizer.num_special_tokens_to_add(pair=False)

    def encode(self, texts: Sequence[str], reading: Reading = PLAIN) -> Float32:
        """Return one row a text (n, width), the mean of the unit vectors of its passages.

        Raises:
            ModelError: the prompt leaves too little room for the text.
        """
        spans = self.cut(texts, reading.prompt)
        passages = [text[begin:end] for text, cuts in zip(texts, spans, strict=True) for begin, end in cuts]
        rows = unit_rows(self._encode(passages, reading))
        counts = np.array([len(cuts) for cuts in spans])
        sums: Float32 = np.add.reduceat(rows, np.cumsum(counts) - counts, axis=0)
        sums /= counts[:, None]
        return sums

    def cut(self, texts: Sequence[str], prompt: str = "") -> list[list[Span]]:
        """Return the passages of each text, in order: parts of which the model reads, after the prompt, all it can.

        The first begins where the text does, each next inside what is read of the one before, and the last ends where
        the text does, unless that takes more than the most passages. A text has at least one. A passage ends with the
        word that its last token is of (or 128 characters of it): a word cut short can have other tokens, and so can
        the one before it.

        Raises:
            ModelError: the prompt takes more than half of what the model reads.
        """
        prompt_tokens = len(self._tokenized([prompt])[0])
        if 2 * prompt_tokens > self._room:
            raise ModelError(
                f"encoder {self._name}: the prompt {prompt[:80]!r} takes {prompt_tokens} of the {self._room} tokens "
                "that a passage has; shorten it, raise max_tokens, or use long_documents: truncate"
            )
        step = max(1, self._characters_at_once // (_CHARACTERS_PER_TOKEN * self._max_tokens))
        chunks = (texts[start : start + step] for start in range(0, len(texts), step))
        return [spans for chunk in chunks for spans in self._cut(chunk, prompt)]

    def _cut(self, texts: Sequence[str], prompt: str) -> list[list[Span]]:
        """Cut some texts, one passage of each at a time."""
        spans: list[list[Span]] = [[] for _ in texts]
        begins = dict.fromkeys(range(len(texts)), 0)  # of the next passage, by the row of a text that has one
        while begins:
            current, begins = begins, {}
            tokens = self._tokens([texts[row][begin:] for row, begin in current.items()], prompt)
            for (row, begin), encoding in zip(current.items(), tokens, strict=True):
                if len(encoding) <= self._room:
                    spans[row].append((begin, len(texts[row])))
                    continue
                origin = begin - len(prompt)
                spans[row].append((begin, origin + self._passage_end(encoding)))
                if len(spans[row]) < self._max_passages:
                    next_begin = origin + encoding.offsets[self._room - self._overlap][0]
                    begins[row] = max(begin + 1, next_begin)  # more than one token may be of one character
        return spans

    def _passage_end(self, encoding: Encoding) -> int:
        """Return where the passage that fills the room ends, in characters of prompt and rest."""
        end, word = encoding.offsets[self._room - 1][1], encoding.token_to_word(self._room - 1)
        if word is not None and (word_span := encoding.word_to_chars(word)) is not None:
            end = max(end, min(word_span[1], end + _LONGEST_WORD))
        return int(end)

    def _tokens(self, rests: list[str], prompt: str) -> list[Encoding]:
        """Return the tokens of each rest, prompt included; of a long rest only more than a passage of them."""
        most = _CHARACTERS_PER_TOKEN * self._max_tokens
        whole_words = len(prompt) + most - _LONGEST_WORD
        found = self._tokenized([prompt + rest[:most] for rest in rests])
        for i, rest in enumerate(rests):
            if len(rest) > most and (len(found[i]) <= self._room or found[i].offsets[self._room - 1][1] > whole_words):
                found[i] = self._tokenized([prompt + rest])[0]
        return found

    def _tokenized(self, texts: list[str]) -> list[Encoding]:
        encoded = self._tokenizer(
            texts,
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # the tokenizer warns of texts longer than the model reads, which is the point here
        )
        found: list[Encoding] = encoded.encodings
        return found
