"""The lexical encoder: TF-IDF of the analyzer's words and a truncated SVD, fitted on the documents before encoding.

    STORE/lexical/<documents and settings>-<sha256>.safetensors    terms, idf (T,), components (width, T)

The name holds the hash of the bytes, which is part of the encoder's fingerprint too: a damaged fit is noticed and made
anew, and vectors of two fits that differ in a bit never meet, whoever made them.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors.numpy import load, save

from hnmine.corpus.analyzer import ANALYZER_VERSION, words
from hnmine.corpus.text_keys import PLAIN, DistantTexts, Fingerprint, Reading, keys_of, lengths_of
from hnmine.errors import DataError, ModelError
from hnmine.runs.directory import Directory
from hnmine.runs.memory import give_free_memory_back
from hnmine.runs.progress import say
from hnmine.types import Float32, Texts

MAX_TERMS = 50_000  # of the vocabulary: the most frequent
FIT_DOCUMENTS, FIT_CHARACTERS = 100_000, 200_000_000
"""Of a larger corpus so much is fitted on, at most."""
_ENDING = ".safetensors"
_WEIGHTS: dict[str, Any] = {"analyzer": words, "sublinear_tf": True, "dtype": np.float32}  # beside scikit-learn's usual


@dataclass(frozen=True)
class Fit:
    """The address of a fit; small, and travels to actors."""

    store: str | Path
    name: str

    @classmethod
    def write(cls, store: str | Path, request: str, terms: Sequence[str], idf: Float32, components: Float32) -> Fit:
        """Write a fit and return its address; `request` is the digest of what it was made from."""
        letters = np.frombuffer("\n".join(terms).encode(), dtype=np.uint8)
        content = save({"terms": letters, "idf": idf, "components": components}, {"words": words_version()})
        fit = cls(store, f"{request}-{hashlib.sha256(content).hexdigest()}{_ENDING}")
        fit.directory.write(fit.name, content)
        return fit

    @property
    def directory(self) -> Directory:
        """The directory of all fits."""
        return Directory.at(self.store) / "lexical"

    @property
    def sha256(self) -> str:
        """The sha256 that its bytes must have."""
        return self.name.removesuffix(_ENDING).rpartition("-")[2]

    def read(self) -> pa.Buffer | None:
        """Return the bytes, or None if they are gone, damaged or of other words; a damaged file is set aside."""
        raw = self.directory.read(self.name)
        if raw is None:
            return None
        if hashlib.sha256(raw).hexdigest() == self.sha256:
            header = json.loads(memoryview(raw)[8 : 8 + int.from_bytes(memoryview(raw)[:8], "little")].tobytes())
            return raw if header.get("__metadata__") == {"words": words_version()} else None
        aside = self.directory.set_aside(self.name)
        say("store", f"lexical fit {self.name} is damaged; set aside as {aside}, the encoder is fitted again")
        return None


def fitted(documents: Texts, store: str | Path, *, width: int, seed: int, known: str | None = None) -> Fit:
    """Return the fit of the encoder on these documents, in whatever order; make it if the store lacks it.

    The truncated SVD keeps `width` dimensions, fewer where the documents have fewer; `seed` is of its randomness.
    `known` names the file of an earlier fit, which is taken whatever the documents. A large corpus is fitted on a
    sample, `FIT_DOCUMENTS` or `FIT_CHARACTERS`: those whose keys are the lowest, which are as good as drawn at random.
    """
    # Take the fit that is given.
    if known is not None:
        fit = Fit(store, known)
        if fit.read() is None:
            raise DataError(f"{fit.directory} has no whole lexical fit {fit.name} of today's words; fit anew")
        return fit

    # Look for a fit on the same documents with the same settings.
    keys = keys_of(documents.texts)
    order = np.lexsort((keys[:, 1], keys[:, 0]))  # neither the name nor the fit depends on the documents' order
    sizes = np.cumsum(lengths_of(documents.texts, order[:FIT_DOCUMENTS]))
    order = order[: max(1, int(np.searchsorted(sizes, FIT_CHARACTERS, side="right")))]
    request = Fingerprint.of(
        kind="lexical",
        corpus=hashlib.sha256(keys[order].tobytes()).hexdigest(),
        scikit_learn=version("scikit-learn"),
        words=words_version(),
        width=width,
        max_terms=MAX_TERMS,
        seed=seed,
    ).digest
    names = (Directory.at(store) / "lexical").files(_ENDING)
    for fit in (Fit(store, name) for name in names if name.startswith(f"{request}-")):
        if fit.read() is not None:
            return fit

    # Make it, where the texts are.
    if len(order) < len(documents):
        say("embed", f"a lexical encoder is fitted on {len(order):,} of {len(documents):,} documents")
    if isinstance(documents.texts, DistantTexts):
        return Fit.write(store, request, *documents.texts.work_on(order, fit_on, width, seed))
    return Fit.write(store, request, *fit_on(documents.texts_at(order.tolist()), width, seed))


def fit_on(texts: Sequence[str], width: int, seed: int) -> tuple[list[str], Float32, Float32]:
    """Return terms, idf and components; raise DataError if the texts have no terms."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.utils.extmath import randomized_svd
    from threadpoolctl import threadpool_limits

    vectorizer = TfidfVectorizer(max_features=MAX_TERMS, **_WEIGHTS)
    try:
        matrix = vectorizer.fit_transform(texts)
    except ValueError as error:
        raise DataError(f"the lexical encoder finds no terms in the corpus: {error}; remove it from encoders") from None
    rank = max(1, min(width, min(matrix.shape) - 1))
    with threadpool_limits(1):  # its last bits depend on the number of threads; this takes a third longer
        _, _, components = randomized_svd(matrix, n_components=rank, random_state=seed)
    del matrix
    give_free_memory_back()
    terms, idf = vectorizer.get_feature_names_out().tolist(), vectorizer.idf_.astype(np.float32)
    return terms, idf, np.ascontiguousarray(components, dtype=np.float32)


def words_version() -> str:
    """Return all that decides what the words of a text are."""
    return f"{ANALYZER_VERSION}, regex {version('regex')}, Unicode {unicodedata.unidata_version}"


class LexicalEncoder:
    """TF-IDF rows times the components of a truncated SVD; a text without a known term is the zero vector."""

    def __init__(self, fit: Fit) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        raw = fit.read()
        if raw is None:
            raise ModelError(f"the lexical fit {fit.directory}/{fit.name} was there and is gone or damaged; run again")
        arrays = load(raw.to_pybytes())
        self._vectorizer = TfidfVectorizer(vocabulary=arrays["terms"].tobytes().decode().split("\n"), **_WEIGHTS)
        self._vectorizer.idf_ = arrays["idf"]
        self._components = arrays["components"]

    def encode(self, texts: Sequence[str], reading: Reading = PLAIN) -> Float32:
        """Return one row a text (n, width)."""
        rows = self._vectorizer.transform([reading.prompt + text for text in texts]) @ self._components.T
        return np.ascontiguousarray(rows, dtype=np.float32)
