"""Several encoders of one corpus: planned once, looked for once, and their cosines as a plain loop has them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from hnmine.config.encoders import EncoderConfig, LexicalConfig
from hnmine.config.root import Config
from hnmine.embedding import ensemble as ensembles
from hnmine.embedding.ensemble import Ensemble
from hnmine.errors import DataError, ModelError
from hnmine.models.plan import plan
from hnmine.runs.directory import Directory
from hnmine.types import Texts
from tests.builders.devices import CPU
from tests.builders.embedding import TEXTS, all_rows
from tests.builders.models import tiny_word_encoder
from tests.builders.texts import as_texts, random_texts
from tests.builders.vectors import write_vectors

DOCUMENTS, QUERIES = TEXTS["document"], TEXTS["query"]
NO_TEXTS = Texts(ids=(), texts=())
LEXICAL = EncoderConfig(name="words", lexical=LexicalConfig(width=8), weight=0.5)


def ensemble(
    folder: Path, encoders: Sequence[EncoderConfig], documents: Texts = DOCUMENTS, fits: dict[str, str] | None = None
) -> Ensemble:
    config = Config(encoders=tuple(encoders), device="cpu", engine="torch", ray=False)
    return Ensemble(config, documents, folder / "store", fits)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_word_encoder(tmp_path_factory.mktemp("ensemble") / "model")


def transformer(model: Path, name: str = "tiny", **settings) -> EncoderConfig:
    return EncoderConfig(name=name, model=str(model), dtype="float32", **settings)


def precomputed(folder: Path, width: int, queries: Texts = QUERIES) -> EncoderConfig:
    """Write random vectors of every text."""
    rng = np.random.default_rng(width)
    folder.mkdir()
    for texts, name in ((DOCUMENTS, "documents.parquet"), (queries, "queries.parquet")):
        rows = rng.normal(size=(len(texts), width)).astype(np.float32)
        write_vectors(folder / name, dict(zip(texts.ids, rows.tolist(), strict=True)))
    return EncoderConfig(name=folder.name, precomputed=folder)


def slow_vectors(config: EncoderConfig, folder: Path) -> dict[str, np.ndarray]:
    """The vectors of all texts as the encoder alone gives them, one text at a time."""
    planned = plan(config, DOCUMENTS, folder / "slow", CPU, engine="torch")
    encoder = planned.build()
    return {
        role: np.concatenate([encoder.encode([text], planned.reading(role)) for text in texts.texts])
        for role, texts in TEXTS.items()
    }


def test_every_encoder_has_the_vectors_that_it_gives_alone(model, tmp_path):
    encoders = [transformer(model, query_prompt="query : "), precomputed(tmp_path / "given", 5), LEXICAL]
    found = ensemble(tmp_path, encoders)
    assert (found.names, found.weights) == (("tiny", "given", "words"), (1.0, 1.0, 0.5))
    tiny, given, words = found.vectors(QUERIES)
    assert (tiny.width, given.width, words.width) == (32, 5, 8)
    for config, vectors in ((encoders[0], tiny), (LEXICAL, words)):
        for role, expected in slow_vectors(config, tmp_path).items():
            assert all_rows(vectors, role) == pytest.approx(expected, abs=1e-5), role
    assert (all_rows(given, "document").shape, all_rows(given, "query").shape) == ((60, 5), (20, 5))


def test_what_is_encoded_and_reused_is_counted_over_encoders_and_calls(model, tmp_path):
    encoders = [transformer(model), LEXICAL]
    first = ensemble(tmp_path, encoders)
    first.vectors(QUERIES.take(range(5)))
    assert (first.encoded, first.reused) == (2 * 65, 0)
    first.vectors(QUERIES.take(range(8)))
    assert (first.encoded, first.reused) == (2 * 68, 2 * 5)
    first.vectors(NO_TEXTS)
    assert (first.encoded, first.reused) == (2 * 68, 2 * 5)
    second = ensemble(tmp_path, encoders)
    second.vectors(NO_TEXTS)
    assert (second.encoded, second.reused) == (0, 2 * 60)


def test_portions_of_queries_have_the_vectors_of_all_at_once(model, tmp_path):
    encoders = [transformer(model), LEXICAL]
    at_once = ensemble(tmp_path / "once", encoders).vectors(QUERIES)
    portioned = ensemble(tmp_path / "portions", encoders)
    for start in range(0, 20, 7):
        rows = np.arange(start, min(start + 7, 20))
        for whole, part in zip(at_once, portioned.vectors(QUERIES.take(rows)), strict=True):
            assert all_rows(part, "query") == pytest.approx(whole.take("query", rows), abs=1e-5)
            assert all_rows(part, "document") == pytest.approx(all_rows(whole, "document"), abs=1e-5)
            assert part.identity == whole.identity


def test_weights_are_hashed_once_however_many_encoders_and_queries_there_are(tmp_path, monkeypatch):
    model, hashed, file_digest = tiny_word_encoder(tmp_path / "model"), [], hashlib.file_digest
    time.sleep(0.2)  # a file of this very moment might still change unseen, so it is hashed again

    def counting(stream, name):
        hashed.append(Path(stream.name).name)
        return file_digest(stream, name)

    monkeypatch.setattr(hashlib, "file_digest", counting)
    encoders = [transformer(model), transformer(model, "again", query_prompt="query : ")]
    for _ in range(2):
        found = ensemble(tmp_path, encoders)
        for rows in (range(5), range(20)):
            found.vectors(QUERIES.take(rows))
    assert hashed.count("model.safetensors") == 1


def test_documents_are_looked_for_once_and_no_block_is_opened_twice(model, tmp_path, monkeypatch):
    """Later queries cost what they are: neither keys of documents nor blocks that were seen before."""
    encoders = [transformer(model), LEXICAL]
    ensemble(tmp_path, encoders).vectors(QUERIES.take(range(5)))
    keyed, opened, keys_of, read = [], [], ensembles.keys_of, Directory.read

    def counting_keys(texts, *reading):
        keyed.append(len(texts))
        return keys_of(texts, *reading)

    def counting_reads(self, name):
        opened.append(name)
        return read(self, name)

    monkeypatch.setattr(ensembles, "keys_of", counting_keys)
    monkeypatch.setattr(Directory, "read", counting_reads)
    found = ensemble(tmp_path, encoders)
    for count in (5, 8, 11):
        found.vectors(QUERIES.take(range(count)))
    assert sorted(keyed) == [5, 5, 8, 8, 11, 11, 60, 60]
    blocks = [name for name in opened if name.endswith(".parquet")]
    assert len(blocks) == len(set(blocks)) == 2  # those of the first call, of each encoder: it knows what it writes


def test_every_encoder_is_planned_before_the_first_encodes(model, tmp_path):
    encoders = [transformer(model, "a"), transformer(model, "b", query_adapter="none")]
    with pytest.raises(ModelError, match="has no adapter none"):
        ensemble(tmp_path, encoders)
    with pytest.raises(DataError, match=r"documents\.parquet does not exist"):
        ensemble(tmp_path, [encoders[0], EncoderConfig(name="given", precomputed=tmp_path / "nowhere")])
    assert not list(tmp_path.rglob("*.parquet"))


def test_queries_without_precomputed_vectors_are_told_before_anything_is_encoded(model, tmp_path):
    encoders = [transformer(model), precomputed(tmp_path / "given", 5, QUERIES.take(range(19)))]
    found = ensemble(tmp_path, encoders)
    with pytest.raises(DataError, match=r"encoder given: .*queries.parquet: 1 of 20 vectors are missing, first 'b19'"):
        found.vectors(QUERIES)
    assert found.encoded == 0
    assert not list((tmp_path / "store").rglob("*.parquet"))
    assert len(found.vectors(QUERIES.take(range(19)))) == 2


# Lexical fits


def test_a_lexical_encoder_that_keeps_its_fit_encodes_what_is_new_alone(tmp_path):
    first = ensemble(tmp_path, [LEXICAL])
    (before,) = first.vectors(QUERIES)
    more = random_texts(9, "more")
    grown = Texts(ids=DOCUMENTS.ids + more.ids, texts=DOCUMENTS.texts + more.texts)
    kept = ensemble(tmp_path, [LEXICAL], grown, fits=first.fits)
    (after,) = kept.vectors(QUERIES)
    assert kept.fits == first.fits
    assert (kept.encoded, kept.reused) == (9, 80)
    assert after.identity == before.identity
    assert np.array_equal(all_rows(after, "document")[:60], all_rows(before, "document"))
    anew = ensemble(tmp_path, [LEXICAL], grown, fits={"another": first.fits["words"]})
    (fitted,) = anew.vectors(QUERIES)
    assert anew.fits.keys() == {"words"}
    assert anew.fits != first.fits
    assert (anew.encoded, anew.reused) == (89, 0)
    assert fitted.identity != before.identity


def test_a_fit_that_is_gone_is_a_data_error(model, tmp_path):
    with pytest.raises(DataError, match=r"has no whole lexical fit gone\.safetensors of today"):
        ensemble(tmp_path, [LEXICAL], fits={"words": "gone.safetensors"})
    assert ensemble(tmp_path, [transformer(model)]).fits == {}


# Cosines


def test_cosines_against_a_plain_loop(model, tmp_path):
    encoders = [precomputed(tmp_path / "given", 3), LEXICAL, transformer(model)]
    found = ensemble(tmp_path, encoders)
    rng = np.random.default_rng(0)
    for query_rows in ([3, 0, 7], [7, 5]):
        queries, doc_rows_QK = QUERIES.take(query_rows), rng.integers(-1, 60, (len(query_rows), 4))
        doc_rows_QK[0, 3] = -1
        cosines = found.cosines(queries, doc_rows_QK)
        assert list(cosines) == ["given", "words", "tiny"]
        for name, vectors in zip(found.names, found.vectors(queries), strict=True):
            docs, asked = all_rows(vectors, "document"), all_rows(vectors, "query")
            assert cosines[name].dtype == np.float32
            for (row, column), doc in np.ndenumerate(doc_rows_QK):
                expected = -np.inf
                if doc >= 0:
                    expected = asked[row] @ docs[doc] / np.linalg.norm(asked[row]) / np.linalg.norm(docs[doc])
                assert cosines[name][row, column] == pytest.approx(expected, abs=1e-6)


def test_a_text_without_a_known_term_has_cosine_zero(tmp_path):
    found = ensemble(tmp_path, [LEXICAL])
    cosines = found.cosines(as_texts(["xylophone", "mysql"]), np.array([[0, 1], [0, 1]]))["words"]
    assert cosines[0].tolist() == [0, 0]
    assert np.isfinite(cosines).all()


@pytest.mark.parametrize("shape", [(0, 4), (2, 0), (2, 3)])
def test_cosines_where_there_are_no_documents(shape, model, tmp_path):
    found = ensemble(tmp_path, [LEXICAL, transformer(model)])
    cosines = found.cosines(QUERIES.take(range(shape[0])), np.full(shape, -1, dtype=np.int64))
    assert [values.shape for values in cosines.values()] == [shape, shape]
    assert all(np.isneginf(values).all() for values in cosines.values())
