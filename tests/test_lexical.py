"""The lexical encoder against the library it wraps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hnmine.config import EncoderConfig, LexicalConfig
from hnmine.encoders import Plan, plan
from hnmine.errors import DataError
from tests.test_encoders import CPU, texts_of


def corpus_of(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(f"term{t}" for t in rng.zipf(1.3, 12) if t < 60) + f" doc{row % 9}" for row in range(count)]


def lexical(corpus: list[str], store: Path, **settings) -> Plan:
    config = EncoderConfig(name="lexical", lexical=LexicalConfig(**settings))
    return plan(config, texts_of(corpus), store, CPU, 8192)


def test_lexical_equals_tf_idf_and_a_truncated_svd_up_to_sign(tmp_path):
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    corpus, others = corpus_of(24), ["term1 term2 term2", "doc3 unknown", "Term5, TERM7!"]
    vectorizer = TfidfVectorizer(sublinear_tf=True)
    svd = TruncatedSVD(n_components=16, algorithm="arpack", random_state=0)
    svd.fit(vectorizer.fit_transform(corpus))
    expected = svd.transform(vectorizer.transform(corpus + others))
    encoded = lexical(corpus, tmp_path, width=16).build().encode(corpus + others)
    assert encoded.dtype == np.float32
    assert encoded.shape == expected.shape
    signs = np.sign((encoded * expected).sum(axis=0))
    assert encoded * signs == pytest.approx(expected, abs=1e-4)


def test_the_lexical_fit_is_reused_and_follows_the_corpus(tmp_path):
    corpus = corpus_of(24)
    first = lexical(corpus, tmp_path)
    written = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    again = lexical(corpus[::-1], tmp_path)  # the order of documents is not the corpus
    assert again.folder == first.folder
    assert {path: path.stat().st_mtime_ns for path in again.folder.iterdir()} == written
    others = [lexical([*corpus, "one more"], tmp_path), lexical(corpus, tmp_path, width=3)]
    assert len({first.fingerprint.digest, *(other.fingerprint.digest for other in others)}) == 3
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_text_without_a_known_term_is_the_zero_vector(tmp_path):
    encoded = lexical(corpus_of(24), tmp_path).build().encode(["nothing known here", "", "term1"])
    assert not encoded[:2].any()
    assert encoded[2].any()


def test_a_width_larger_than_the_corpus_allows_is_cut(tmp_path):
    assert lexical(corpus_of(6), tmp_path, width=256).build().encode(["term1"]).shape == (1, 5)
    assert lexical(["only", "only"], tmp_path, width=256).build().encode(["only"]).shape == (1, 1)


def test_a_corpus_without_terms_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="finds no terms in the corpus"):
        lexical(["a", "!", "? b"], tmp_path)
