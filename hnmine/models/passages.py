"""Long documents: cut into passages, each encoded, and their vectors made one.

An encoder reads the first `max_tokens` tokens of a text. Here the text is read on: a passage is what the model reads
of the rest, the prompt before it, and the next passage begins `max_tokens // 8` tokens before its end, as in
`reranker`. One vector a text comes out, so all that follows stays as it is:

    mean   The mean of the passages' unit vectors. Its inner product with a query is the mean of the passages' cosines:
           SumP of Dai and Callan (SIGIR 2019, there of a re-ranker's scores) over their number. As every vector is
           brought to length 1 later, a document whose passages differ gains on this.
    max    The elementwise maximum of the unit vectors, as PARADE-Max (Li et al., arXiv 2008.09093) pools a document's
           passages inside a trained re-ranker. It is not MaxP: the best passage's cosine is no inner product with one
           vector. MiniLM, which was not trained for it, loses by it: maxima of many passages grow alike.

A text that one passage holds has the vector it has without this, at length 1. A short last passage counts as much as
a full one. Queries are read likewise, since a vector is filed under the text and the prompt, not the role; they hold
one passage. What each pooling does to retrieval is in `benchmarks/passages.json`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hnmine.corpus.text_keys import PLAIN, Reading
from hnmine.errors import ModelError
from hnmine.types import Float32, unit_rows

if TYPE_CHECKING:
    from tokenizers import Encoding

Pooling = Literal["mean", "max"]
Span = tuple[int, int]
"""Where something begins and ends in a text, in characters."""

OVERLAP = 8
"""The share of a passage that the next repeats is one over this."""

_CHARACTERS_PER_TOKEN = 8  # tokenised first; only where that is too little is the whole rest
_LONGEST_WORD = 128  # in characters; where a text is cut a word may be, and its tokens are others then
_CHARACTERS_AT_ONCE = 2**20
_UNLIMITED = 10**20  # from here on transformers means that a tokenizer states no limit


class PassageEncoder:
    """An encoder that reads texts passage by passage; an `encoders.Encoder` around another's `encode`."""

    def __init__(
        self,
        encode: Callable[[Sequence[str], Reading], Float32],
        tokenizer: Any,
        *,
        name: str,
        max_tokens: float | None,
        pooling: Pooling,
        max_passages: int,
    ) -> None:
        """Cut by the tokens of a model that reads `max_tokens` of them, special ones included.

        At most `max_passages` of a text are read.

        Raises:
            ModelError: the model has no limit of tokens, or its tokenizer does not say where in the text tokens are.
        """
        if max_tokens is None or max_tokens >= _UNLIMITED:
            raise ModelError(
                f"encoder {name}: long_documents: {pooling} cuts by the tokens that a model reads, and this one has no "
                "limit; set max_tokens or, for a static model, which reads texts to their end, long_documents: truncate"
            )
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(
                f"encoder {name}: long_documents: {pooling} needs a tokenizer that says where in the text its tokens "
                f"are, a fast one (tokenizer.json); this is {type(tokenizer).__name__}; use long_documents: truncate"
            )
        self._encode, self._tokenizer, self._name = encode, tokenizer, name
        self._pooling, self._max_passages = pooling, max_passages
        self._max_tokens = int(max_tokens)
        self._overlap = self._max_tokens // OVERLAP
        self._room = self._max_tokens - tokenizer.num_special_tokens_to_add(pair=False)

    def encode(self, texts: Sequence[str], reading: Reading = PLAIN) -> Float32:
        """Return one row a text, the pooled unit vectors of its passages.

        Raises:
            ModelError: the prompt leaves too little room for the text.
        """
        spans = self.cut(texts, reading.prompt)
        passages = [text[begin:end] for text, own in zip(texts, spans, strict=True) for begin, end in own]
        rows = unit_rows(self._encode(passages, reading))
        counts = np.array([len(own) for own in spans])
        pool = np.maximum if self._pooling == "max" else np.add
        pooled: Float32 = pool.reduceat(rows, np.cumsum(counts) - counts, axis=0)
        if self._pooling == "mean":
            pooled /= counts[:, None]
        return pooled

    def cut(self, texts: Sequence[str], prompt: str = "") -> list[list[Span]]:
        """Return the passages of each text, in order: parts of which the model reads, after the prompt, all it can.

        The first begins where the text does, each next inside what is read of the one before, and the last ends where
        the text does, unless that takes more than the most passages. A text has at least one. A passage ends with the
        word that its last token is of (or 128 characters of it): a word cut short can have other tokens, and so can
        the one before it.

        Raises:
            ModelError: the prompt takes more than half of what the model reads.
        """
        taken = len(self._tokenized([prompt])[0])
        if 2 * taken > self._room:
            raise ModelError(
                f"encoder {self._name}: the prompt {prompt[:80]!r} takes {taken} of the {self._room} tokens that a "
                "passage has; shorten it, raise max_tokens, or use long_documents: truncate"
            )
        some = max(1, _CHARACTERS_AT_ONCE // (_CHARACTERS_PER_TOKEN * self._max_tokens))
        return [spans for at in range(0, len(texts), some) for spans in self._cut(texts[at : at + some], prompt)]

    def _cut(self, texts: Sequence[str], prompt: str) -> list[list[Span]]:
        spans: list[list[Span]] = [[] for _ in texts]
        begins = dict.fromkeys(range(len(texts)), 0)  # of the next passage, by the row of a text that has one
        while begins:
            left, begins = begins, {}
            tokens = self._tokens_of([texts[row][begin:] for row, begin in left.items()], prompt)
            for (row, begin), of_rest in zip(left.items(), tokens, strict=True):
                if len(of_rest) <= self._room:
                    spans[row].append((begin, len(texts[row])))
                    continue
                offsets, origin = of_rest.offsets, begin - len(prompt)
                end, word = offsets[self._room - 1][1], of_rest.token_to_word(self._room - 1)
                if word is not None and (of_word := of_rest.word_to_chars(word)) is not None:
                    end = max(end, min(of_word[1], end + _LONGEST_WORD))
                spans[row].append((begin, origin + end))
                if len(spans[row]) < self._max_passages:  # more than one token may be of one character
                    begins[row] = max(begin + 1, origin + offsets[self._room - self._overlap][0])
        return spans

    def _tokens_of(self, rests: list[str], prompt: str) -> list[Encoding]:
        """Return the tokens of each, prompt included; of a long rest only more than a passage of them."""
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
            verbose=False,  # that there are more than the model reads is the point
        )
        found: list[Encoding] = encoded.encodings
        return found
