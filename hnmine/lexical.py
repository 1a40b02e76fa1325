"""The lexical encoder: TF-IDF and a truncated SVD, fitted on the corpus before encoding."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from hnmine.config import LexicalConfig
from hnmine.errors import DataError
from hnmine.store import PLAIN, Fingerprint, Reading, keys_of
from hnmine.types import Float32, Texts

_TERM = r"(?u)\b\w\w+\b"


def fitted(config: LexicalConfig, corpus: Texts, store: Path) -> tuple[Fingerprint, Path]:
    """Return the fingerprint and the folder of the encoder fitted on `corpus`; fit it if the store lacks it."""
    corpus_digest = hashlib.sha256(np.sort(keys_of(corpus.texts), axis=0).tobytes()).hexdigest()
    fingerprint = Fingerprint.of(
        kind="lexical", corpus=corpus_digest, scikit_learn=version("scikit-learn"), **config.model_dump()
    )
    folder = store / fingerprint.digest / "fitted"
    if not folder.exists():
        _fit(config, corpus, folder)
    return fingerprint, folder


def _fit(config: LexicalConfig, corpus: Texts, folder: Path) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.utils.extmath import randomized_svd

    vectorizer = TfidfVectorizer(
        sublinear_tf=True, max_features=config.max_terms, token_pattern=_TERM, dtype=np.float32
    )
    try:
        matrix = vectorizer.fit_transform(corpus.texts)
    except ValueError as error:
        raise DataError(f"the lexical encoder finds no terms in the corpus: {error}; remove it from encoders") from None
    width = max(1, min(config.width, min(matrix.shape) - 1))
    _, _, components = randomized_svd(matrix, n_components=width, random_state=config.seed)
    hidden = folder.with_name(f"{folder.name}.{np.random.SeedSequence().entropy:x}.tmp")
    hidden.mkdir(parents=True)
    vocabulary = {term: int(column) for term, column in vectorizer.vocabulary_.items()}
    (hidden / "vocabulary.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    np.save(hidden / "idf.npy", vectorizer.idf_.astype(np.float32))
    np.save(hidden / "components.npy", components.astype(np.float32))
    try:
        hidden.rename(folder)
    except OSError:  # another run fitted the same corpus meanwhile: its files are the same
        if not folder.exists():
            raise


class LexicalEncoder:
    """TF-IDF rows times the components of a truncated SVD; a text without a known term is the zero vector."""

    def __init__(self, folder: Path) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        vocabulary = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
        self._vectorizer = TfidfVectorizer(
            sublinear_tf=True, vocabulary=vocabulary, token_pattern=_TERM, dtype=np.float32
        )
        self._vectorizer.idf_ = np.load(folder / "idf.npy", allow_pickle=False)
        self._components = np.load(folder / "components.npy", allow_pickle=False)

    def encode(self, texts: Sequence[str], reading: Reading = PLAIN) -> Float32:
        """Return one row a text."""
        rows = self._vectorizer.transform([reading.prompt + text for text in texts]) @ self._components.T
        return np.ascontiguousarray(rows, dtype=np.float32)
