"""The lexical encoder against the library it wraps."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hnmine.config.encoders import EncoderConfig, LexicalConfig
from hnmine.corpus.text_keys import keys_of
from hnmine.errors import DataError, ModelError
from hnmine.models import lexical as lexical_encoder
from hnmine.models.lexical import Fit
from hnmine.models.plan import Plan, plan
from tests.builders.commands import REPOSITORY
from tests.builders.devices import CPU
from tests.builders.texts import as_texts


def corpus_of(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(f"term{t}" for t in rng.zipf(1.3, 12) if t < 60) + f" doc{row % 9}" for row in range(count)]


def lexical(corpus: list[str], store: str | Path, width: int = 256, **settings) -> Plan:
    config = EncoderConfig(name="lexical", lexical=LexicalConfig(width=width))
    return plan(config, as_texts(corpus), store, CPU, **settings)


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


def test_the_lexical_fit_is_reused_and_follows_the_corpus(root, monkeypatch):
    corpus = corpus_of(24)
    first = lexical(corpus, root)
    others = [lexical([*corpus, "one more"], root), lexical(corpus, root, width=3)]
    assert len({first.fingerprint.digest, *(other.fingerprint.digest for other in others)}) == 3
    assert len(first.fit.directory.files()) == 3
    monkeypatch.setattr("sklearn.feature_extraction.text.TfidfVectorizer.fit_transform", None)
    assert lexical(corpus[::-1], root) == first  # the order of documents is not the corpus
    assert len(first.fit.directory.files()) == 3


def test_the_fit_does_not_depend_on_the_order_of_documents(tmp_path):
    corpus = corpus_of(24)
    first, second = lexical(corpus, tmp_path / "1"), lexical(corpus[::-1], tmp_path / "2")
    assert first.fingerprint == second.fingerprint
    encoded = [each.build().encode(corpus) for each in (first, second)]
    assert np.array_equal(*encoded)


@pytest.mark.parametrize(("limit", "most"), [("FIT_DOCUMENTS", 20), ("FIT_CHARACTERS", 900), ("FIT_CHARACTERS", 1)])
def test_a_large_corpus_is_fitted_on_a_sample_whatever_its_order(limit, most, tmp_path, monkeypatch, capsys):
    corpus = corpus_of(200)
    monkeypatch.setattr(lexical_encoder, limit, most)
    first = lexical(corpus, tmp_path / "1", width=4)
    said = capsys.readouterr().err
    fitted_on = int(re.search(r"fitted on (\d+) of 200 documents", said)[1])
    rows = sorted(range(200), key=lambda row: keys_of(corpus)[row].tolist())[:fitted_on]
    sample = [corpus[row] for row in rows]
    assert fitted_on == {20: 20, 1: 1}.get(most, fitted_on)
    if most == 900:
        assert sum(map(len, sample)) <= 900 < sum(len(corpus[row]) for row in rows) + 90
    # The order of documents does not matter, nor does a document outside the sample.
    assert lexical(corpus[::-1], tmp_path / "2", width=4).fingerprint == first.fingerprint
    outside = next(row for row in range(200) if row not in rows)
    assert lexical(corpus[:outside] + corpus[outside + 1 :], tmp_path / "3", width=4).fingerprint == first.fingerprint
    # The fit is that of the sample alone.
    monkeypatch.undo()
    assert np.array_equal(lexical(sample, tmp_path / "4", width=4).build().encode(corpus), first.build().encode(corpus))


@pytest.mark.parametrize("how", [lambda raw: raw[:-9], lambda raw: b"", lambda raw: raw[:40] + b"?" + raw[41:]])
def test_a_damaged_fit_is_said_set_aside_and_made_again(how, root, capsys):
    corpus = corpus_of(24)
    first = lexical(corpus, root)
    expected = first.build().encode(corpus)
    raw = first.fit.read().to_pybytes()
    first.fit.directory.write(first.fit.name, how(raw))
    assert lexical(corpus, root) == first
    said = capsys.readouterr().err
    assert f"lexical fit {first.fit.name} is damaged" in said
    assert first.fit.directory.files() == [f"{Path(first.fit.name).stem}.corrupt", first.fit.name]
    assert np.array_equal(first.build().encode(corpus), expected)


_FIT = """
import sys
from pathlib import Path
from hnmine.models.lexical import fit_on
from tests.builders.texts import random_texts
Path(sys.argv[1]).write_bytes(fit_on(random_texts(6000, "more", 60).texts, 16, 0)[2].tobytes())
"""


def test_the_fit_does_not_depend_on_the_number_of_threads(tmp_path):
    for threads in ("1", "2"):
        command = [sys.executable, "-c", _FIT, str(tmp_path / threads)]
        subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": threads}, check=True, cwd=REPOSITORY)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_the_fit_follows_the_seed(tmp_path):
    corpus = corpus_of(24)
    first, second = (lexical(corpus, tmp_path, width=3, seed=seed) for seed in (0, 1))
    assert first.fit.name.partition("-")[0] != second.fit.name.partition("-")[0]


def test_every_byte_of_a_fit_is_checked(tmp_path, capsys):
    fit = lexical(corpus_of(6), tmp_path).fit
    raw = fit.read().to_pybytes()
    for at in range(0, len(raw), 7):
        fit.directory.write(fit.name, raw[:at] + bytes([raw[at] ^ (1 << at % 8)]) + raw[at + 1 :])
        assert fit.read() is None, at


def test_an_actor_that_finds_its_fit_gone_says_so(root):
    planned = lexical(corpus_of(24), root)
    planned.fit.directory.set_aside(planned.fit.name)
    with pytest.raises(ModelError, match=r"lexical fit .*\.safetensors was there and is gone or damaged; run again"):
        planned.build()


def test_fits_that_differ_never_share_vectors(tmp_path):
    """Two runs at once may fit the same corpus a bit differently, on two machines: each keeps to its own."""
    corpus = corpus_of(24)
    first = lexical(corpus, tmp_path)
    request = first.fit.name.partition("-")[0]
    other = Fit.write(tmp_path, request, ["term1"], np.ones(1, np.float32), np.ones((1, 1), np.float32))
    again = lexical(corpus, tmp_path)  # one of both, and its vectors go where its bits say
    assert other != first.fit
    assert again.fit in (first.fit, other)
    assert (again.fit == first.fit) == (again.fingerprint == first.fingerprint)
    assert first.build().encode(["term1"]).shape == (1, 23)


def test_a_text_without_a_known_term_is_the_zero_vector(tmp_path):
    encoded = lexical(corpus_of(24), tmp_path).build().encode(["nothing known here", "", "term1"])
    assert not encoded[:2].any()
    assert encoded[2].any()


def test_a_width_larger_than_the_corpus_allows_is_cut(tmp_path):
    assert lexical(corpus_of(6), tmp_path, width=256).build().encode(["term1"]).shape == (1, 5)
    assert lexical(["only", "only"], tmp_path, width=256).build().encode(["only"]).shape == (1, 1)


def test_a_corpus_without_terms_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="finds no terms in the corpus"):
        lexical(["...", "!", "? ;"], tmp_path)


def test_a_fit_that_is_given_is_taken_whatever_the_corpus_and_gives_the_same_vectors(tmp_path):
    corpus = corpus_of(24)
    first = lexical(corpus, tmp_path)
    pinned = lexical(["other words altogether"], tmp_path, fit=first.fit.name)
    assert (pinned.fit, pinned.fingerprint) == (first.fit, first.fingerprint)
    (tmp_path / "lexical" / first.fit.name).unlink()
    with pytest.raises(DataError, match=r"lexical has no whole lexical fit .* of today"):
        lexical(corpus, tmp_path, fit=first.fit.name)


def test_the_fit_follows_the_analyzer_and_none_of_other_words_is_taken(tmp_path, monkeypatch):
    corpus = corpus_of(24)
    first = lexical(corpus, tmp_path)
    monkeypatch.setattr("hnmine.models.lexical.ANALYZER_VERSION", 0)
    assert first.fit.read() is None
    assert lexical(corpus, tmp_path).fingerprint != first.fingerprint
    with pytest.raises(DataError, match=r"has no whole lexical fit .* of today's words; fit anew"):
        lexical(corpus, tmp_path, fit=first.fit.name)
    assert (tmp_path / "lexical" / first.fit.name).is_file(), "it is not damaged"


def test_texts_of_a_script_without_spaces_have_words_too(tmp_path):
    corpus = [f"{thing}{how}的步骤" for thing in ("数据库", "消息队列", "对象存储") for how in ("部署", "备份", "升级")]
    encoder = lexical(corpus, tmp_path).build()
    near = encoder.encode(["如何备份数据库"]) @ encoder.encode(corpus).T
    assert near.argmax() == 1
