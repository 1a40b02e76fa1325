"""BM25 of a (query, text) pair by a corpus' statistics: the score that the first stage's index gives, to the bit.

    FOLDER/bm25.safetensors    terms, in how many documents each stands (T,); beside them N, lengths, k1 and b

A word is what the analyzer says; statistics of another analyzer are refused.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from hnmine.corpus.analyzer import STOP_WORDS, words
from hnmine.errors import ModelError
from hnmine.models.lexical import words_version
from hnmine.types import Float32


@dataclass(frozen=True, kw_only=True)
class Bm25Statistics:
    """What a corpus knows of its words: all that Lucene's variant of BM25 needs to score a text."""

    frequencies: Mapping[str, int]
    """In how many documents a term stands."""
    documents: int
    average_length: float
    """Terms a document."""
    k1: float
    b: float

    @classmethod
    def of(cls, documents: Iterable[str], *, k1: float, b: float) -> Bm25Statistics:
        """Count the words of a corpus."""
        frequencies: Counter[str] = Counter()
        lengths = []
        for text in documents:
            terms = words(text)
            lengths.append(len(terms))
            frequencies.update(set(terms))
        average = float(np.array(lengths).mean()) if lengths else 0.0
        return cls(frequencies=frequencies, documents=len(lengths), average_length=average, k1=k1, b=b)

    def scores(self, query: str, texts: Sequence[str]) -> Float32:
        """Return the score (n,) of each text; 0 where it has no term of the query that the corpus knows."""
        asked = _asked(query)
        idf = {term: self._idf(term) for term in asked if term in self.frequencies}
        scores = np.zeros(len(texts), dtype=np.float32)
        for at, text in enumerate(texts):
            shares = self._shares(text)
            for term in asked:  # one after the other: the order of a sum decides its last bit
                if term in idf and (share := shares.get(term)):
                    scores[at] += np.float32(idf[term] * share)
        return scores

    def vectors(self, texts: Sequence[str], *, queries: bool) -> list[dict[int, float]]:
        """Return sparse vectors, weight by number of the term: the product of a query's and a text's is its score."""
        number = {term: at for at, term in enumerate(self.frequencies)}
        weights = [
            {term: self._idf(term) * count for term, count in Counter(_asked(text)).items() if term in number}
            if queries
            else self._shares(text)
            for text in texts
        ]
        return [{number[term]: weight for term, weight in each.items() if term in number} for each in weights]

    def _shares(self, text: str) -> dict[str, float]:
        """Return what of a term's idf a text gets."""
        counts = Counter(of_text := words(text))
        length = (1 - self.b) + self.b * len(of_text) / (self.average_length or 1.0)
        return {term: count / (self.k1 * length + count) for term, count in counts.items()}

    def save(self, path: Path) -> None:
        """Write the statistics."""
        terms = sorted(self.frequencies)
        counts = np.array([self.frequencies[term] for term in terms], dtype=np.int64)
        letters = np.frombuffer("\n".join(terms).encode(), dtype=np.uint8)
        facts = {"documents": self.documents, "average_length": self.average_length, "k1": self.k1, "b": self.b}
        known = json.dumps({"words": words_version()} | facts)  # one entry: several come in any order
        save_file({"terms": letters, "frequencies": counts}, path, {"facts": known})

    @classmethod
    def load(cls, path: Path) -> Bm25Statistics:
        """Read what `save` wrote; a ModelError says that the words of a text are others today."""
        with safe_open(path, framework="numpy") as file:
            known, terms, counts = (
                json.loads(file.metadata()["facts"]),
                file.get_tensor("terms"),
                file.get_tensor("frequencies"),
            )
        if (made_by := known.pop("words")) != words_version():
            raise ModelError(
                f"{path} counts words of analyzer {made_by}, but here is {words_version()}; run `hnmine "
                "evaluate` again, or install the versions that made it"
            )
        names = terms.tobytes().decode().split("\n") if len(counts) else []
        return cls(frequencies=dict(zip(names, counts.tolist(), strict=True)), **known)

    def _idf(self, term: str) -> float:
        frequency = self.frequencies[term]
        return float(np.float32(math.log(1 + (self.documents - frequency + 0.5) / (frequency + 0.5))))


def _asked(query: str) -> list[str]:
    terms = words(query)
    return [term for term in terms if term not in STOP_WORDS] or terms
