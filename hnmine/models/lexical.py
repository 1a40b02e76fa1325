"""The lexical encoder: TF-IDF and a truncated SVD, fitted on the corpus before encoding.

    STORE/lexical/<corpus and settings>-<sha256>.safetensors    terms, idf (T,), components (width, T)

The name of a fit holds the hash of its bytes, which is part of the encoder's fingerprint too: a fit that is damaged is
noticed and made anew, and vectors of two fits that differ in a bit never meet, whoever made them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
from safetensors.numpy import load, save

from hnmine.config.root import LexicalConfig
from hnmine.corpus.text_keys import PLAIN, Reading, keys_of
from hnmine.errors import DataError, ModelError
from hnmine.models.fingerprint import Fingerprint
from hnmine.runs.directory import Directory
from hnmine.runs.progress import say
from hnmine.types import Float32, Texts

_TERM = r"(?u)\b\w\w+\b"
_ENDING = ".safetensors"


@dataclass(frozen=True)
class Fit:
    """The address of a fit; small, and travels to actors."""

    store: str | Path
    name: str

    @classmethod
    def write(cls, store: str | Path, asked: str, terms: Sequence[str], idf: Float32, components: Float32) -> Fit:
        """Write a fit and return its address; `asked` names what was asked for."""
        letters = np.frombuffer("\n".join(terms).encode(), dtype=np.uint8)
        content = save({"terms": letters, "idf": idf, "components": components})
        fit = cls(store, f"{asked}-{hashlib.sha256(content).hexdigest()}{_ENDING}")
        fit.place.write(fit.name, content)
        return fit

    @property
    def place(self) -> Directory:
        """The folder of all fits."""
        return Directory.at(self.store) / "lexical"

    @property
    def sha256(self) -> str:
        """What the bytes must hash to."""
        return self.name.removesuffix(_ENDING).rpartition("-")[2]

    def read(self) -> pa.Buffer | None:
        """Return the bytes; None, and the file is set aside, if they are not what was written; None if it is gone."""
        raw = self.place.read(self.name)
        if raw is None or hashlib.sha256(raw).hexdigest() == self.sha256:
            return raw
        aside = self.place.set_aside(self.name)
        say("store", f"lexical fit {self.name} is damaged; set aside as {aside}, the encoder is fitted again")
        return None


def fitted(config: LexicalConfig, corpus: Texts, store: str | Path) -> tuple[Fingerprint, Fit]:
    """Return the fingerprint and the fit of the encoder on `corpus`; fit it if the store lacks it.

    The fit that is configured, if one is, is taken whatever the corpus.

    Raises:
        DataError: the corpus has no terms, the configured fit is not there, or the store cannot be used.
    """
    if config.fit is not None:
        fit = Fit(store, config.fit)
        if fit.read() is None:
            raise DataError(f"lexical.fit: {fit.place} has no {fit.name} that is whole; leave it out to fit anew")
        return _fingerprint(fit), fit
    keys = keys_of(corpus.texts)
    order = np.lexsort((keys[:, 1], keys[:, 0]))  # neither the name nor the fit shall depend on the documents' order
    facts = {
        "kind": "lexical",
        "corpus": hashlib.sha256(keys[order].tobytes()).hexdigest(),
        "scikit_learn": version("scikit-learn"),
        **config.model_dump(exclude={"fit"}),
    }
    asked = Fingerprint.of(**facts).digest
    names = (Directory.at(store) / "lexical").files(_ENDING)
    earlier = (Fit(store, name) for name in names if name.startswith(f"{asked}-"))
    known = next((fit for fit in earlier if fit.read() is not None), None)
    fit = known or _fit(config, [corpus.texts[row] for row in order], store, asked)
    return _fingerprint(fit), fit


def _fingerprint(fit: Fit) -> Fingerprint:
    return Fingerprint.of(kind="lexical", fit=fit.sha256, scikit_learn=version("scikit-learn"))


def _fit(config: LexicalConfig, texts: Sequence[str], store: str | Path, asked: str) -> Fit:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.utils.extmath import randomized_svd

    vectorizer = TfidfVectorizer(
        sublinear_tf=True, max_features=config.max_terms, token_pattern=_TERM, dtype=np.float32
    )
    try:
        matrix = vectorizer.fit_transform(texts)
    except ValueError as error:
        raise DataError(f"the lexical encoder finds no terms in the corpus: {error}; remove it from encoders") from None
    width = max(1, min(config.width, min(matrix.shape) - 1))
    _, _, components = randomized_svd(matrix, n_components=width, random_state=config.seed)
    return Fit.write(
        store,
        asked,
        vectorizer.get_feature_names_out().tolist(),
        vectorizer.idf_.astype(np.float32),
        np.ascontiguousarray(components, dtype=np.float32),
    )


class LexicalEncoder:
    """TF-IDF rows times the components of a truncated SVD; a text without a known term is the zero vector."""

    def __init__(self, fit: Fit) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        raw = fit.read()
        if raw is None:
            raise ModelError(f"the lexical fit {fit.place}/{fit.name} was there and is gone or damaged; run again")
        arrays = load(raw.to_pybytes())
        terms = arrays["terms"].tobytes().decode().split("\n")
        self._vectorizer = TfidfVectorizer(
            sublinear_tf=True,
            vocabulary={term: column for column, term in enumerate(terms)},
            token_pattern=_TERM,
            dtype=np.float32,
        )
        self._vectorizer.idf_ = arrays["idf"]
        self._components = arrays["components"]

    def encode(self, texts: Sequence[str], reading: Reading = PLAIN) -> Float32:
        """Return one row a text."""
        rows = self._vectorizer.transform([reading.prompt + text for text in texts]) @ self._components.T
        return np.ascontiguousarray(rows, dtype=np.float32)
