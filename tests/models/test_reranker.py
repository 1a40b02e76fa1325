"""Re-rankers of both kinds through one interface, and against sentence-transformers; models that are refused."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder as PeerCrossEncoder
from sentence_transformers import SentenceTransformer

from hnmine.errors import ModelError
from hnmine.models.folder import resolve
from hnmine.models.reranker import BiEncoder, CrossEncoder, has_ranking_head, load_reranker
from tests.builders.models import (
    load_cross_encoder,
    spoil_weights,
    tiny_cross_encoder,
    tiny_letter_encoder,
    tiny_word_encoder,
)
from tests.builders.texts import LETTERS, SENTENCES, random_text_pairs

QUERIES = ["deploy mysql", "in the cloud", "deploy mysql", "a", "premises", "b c", "deploy mysql"]
KINDS = {"cross-encoder": (tiny_cross_encoder, CrossEncoder), "bi-encoder": (tiny_letter_encoder, BiEncoder)}


def test_a_saved_model_scores_in_cross_encoder_as_it_does_here(tmp_path: Path) -> None:
    reranker = load_cross_encoder(tiny_cross_encoder(tmp_path / "given"), max_tokens=64)
    queries, documents = random_text_pairs(300)
    scores = reranker.scores(queries, documents)
    reranker.save(tmp_path / "saved")
    theirs = PeerCrossEncoder(str(tmp_path / "saved"), device="cpu").predict(
        list(zip(queries, documents, strict=True)), show_progress_bar=False
    )
    np.testing.assert_allclose(scores, theirs, atol=1e-5)
    assert scores.std() > 0.01
    np.testing.assert_array_equal(
        load_cross_encoder(tmp_path / "saved", max_tokens=64).scores(queries, documents), scores
    )


def test_a_body_gets_a_head_by_its_seed_and_the_saved_model_has_it(tmp_path: Path) -> None:
    body = tiny_cross_encoder(tmp_path / "body", head=False)
    queries, documents = random_text_pairs(20)
    first, again, other = (load_cross_encoder(body, seed=seed) for seed in (1, 1, 2))
    scores = first.scores(queries, documents)
    np.testing.assert_array_equal(scores, again.scores(queries, documents))
    assert np.abs(scores - other.scores(queries, documents)).max() > 1e-3
    first.save(tmp_path / "saved")
    assert not has_ranking_head(body)
    assert has_ranking_head(tmp_path / "saved")
    np.testing.assert_array_equal(load_cross_encoder(tmp_path / "saved", seed=9).scores(queries, documents), scores)


def test_minilm_gets_a_head_and_its_saved_scores_are_those_of_cross_encoder(tmp_path: Path) -> None:
    reranker = load_cross_encoder(resolve("all-MiniLM-L6-v2"), max_tokens=64)
    queries = ["how to cut an array", "what is a socket", "draw a line"] * 4
    documents = ["Slice the array with a colon. " * repeats for repeats in range(12)]
    reranker.save(tmp_path / "saved")
    theirs = PeerCrossEncoder(str(tmp_path / "saved"), device="cpu").predict(
        list(zip(queries, documents, strict=True)), show_progress_bar=False
    )
    np.testing.assert_allclose(reranker.scores(queries, documents), theirs, atol=1e-5)


def test_a_score_does_not_depend_on_order_or_company(tmp_path: Path) -> None:
    reranker = load_cross_encoder(tiny_cross_encoder(tmp_path / "model"))
    queries, documents = random_text_pairs(1100, letters=60)  # more than are tokenised at a time
    scores = reranker.scores(queries, documents)
    order = np.random.default_rng(1).permutation(1100)
    shuffled = reranker.scores([queries[i] for i in order], [documents[i] for i in order])
    np.testing.assert_allclose(shuffled, scores[order], atol=1e-5)
    alone = [reranker.scores([queries[i]], [documents[i]])[0] for i in range(0, 1100, 100)]
    np.testing.assert_allclose(alone, scores[::100], atol=1e-5)


def test_every_finished_pair_is_told(tmp_path: Path) -> None:
    reported: list[int] = []
    load_cross_encoder(tiny_cross_encoder(tmp_path / "model")).scores(
        *random_text_pairs(1100, letters=60), reported.append
    )
    assert sum(reported) == 1100
    assert len(reported) > 5


def test_a_document_of_a_whole_book_takes_no_longer_than_a_page_and_scores_the_same(tmp_path: Path) -> None:
    reranker = load_cross_encoder(tiny_cross_encoder(tmp_path / "model"), max_tokens=64)
    page = "so it was " * 100
    reranker.scores(["was it"], [page])  # compiled, if it is
    start = time.monotonic()
    scores = reranker.scores(["was it"] * 8, [page, *["so it was " * 70_000] * 7])
    assert time.monotonic() - start < 2
    np.testing.assert_allclose(scores, scores[0], atol=1e-6)


def test_a_document_that_begins_with_blanks_is_read_on_until_its_words(tmp_path: Path) -> None:
    reranker = load_cross_encoder(tiny_cross_encoder(tmp_path / "model"), max_tokens=64)
    plain, blank = reranker.scores(["query"] * 2, ["words at last", " " * 50_000 + "words at last"])
    assert plain == pytest.approx(blank, abs=1e-6)


def test_a_long_query_leaves_the_pair_within_what_the_model_reads(tmp_path: Path) -> None:
    reranker = load_cross_encoder(tiny_cross_encoder(tmp_path / "model"), max_tokens=500)
    assert reranker.max_tokens == 128
    rows = reranker.tokenize(["q" * 30 + " w" * 400], ["d " * 400])
    assert len(rows[0]["input_ids"]) == 128


def test_has_head_tells_a_re_ranker_from_a_body(tmp_path: Path) -> None:
    assert has_ranking_head(tiny_cross_encoder(tmp_path / "ranker"))
    assert not has_ranking_head(tiny_cross_encoder(tmp_path / "body", head=False))


@pytest.mark.parametrize("labels", [2, 3])
def test_a_classifier_of_several_labels_is_refused(tmp_path: Path, labels: int) -> None:
    model = tiny_cross_encoder(tmp_path / "model", labels=labels)
    with pytest.raises(ModelError, match=f"is a classifier with {labels} labels; a re-ranker has one"):
        load_cross_encoder(model)


@pytest.mark.parametrize("content", ["{broken", "", "[1]", None])
def test_an_unusable_config_is_a_clear_error(tmp_path: Path, content: str | None) -> None:
    model = tiny_cross_encoder(tmp_path / "model")
    (model / "config.json").unlink()
    if content is not None:
        (model / "config.json").write_text(content)
    for attempt in (load_cross_encoder, has_ranking_head):
        with pytest.raises(ModelError, match=r"config\.json.* give a Hugging Face model folder"):
            attempt(model)


@pytest.mark.parametrize("changes", [{"model_type": "nonsense"}, {"hidden_size": 64}, {"num_hidden_layers": "two"}])
def test_a_config_that_does_not_fit_is_a_model_error(tmp_path: Path, changes: dict[str, object]) -> None:
    model = tiny_cross_encoder(tmp_path / "model")
    config = json.loads((model / "config.json").read_text()) | changes
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=f"re-ranker {model} (cannot be loaded|does not hold exactly the weights)"):
        load_cross_encoder(model)


def test_damaged_weights_are_a_model_error(tmp_path: Path) -> None:
    model = tiny_cross_encoder(tmp_path / "model")
    whole = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_cross_encoder(model)


def test_weights_of_nan_are_a_model_error_not_a_ranking(tmp_path: Path) -> None:
    reranker = load_cross_encoder(spoil_weights(tiny_cross_encoder(tmp_path / "model")))
    with pytest.raises(ModelError, match="gives NaN or infinity for 2 of 2 pairs"):
        reranker.scores(["a", "b"], ["c", "d"])


def test_dropout_is_off_in_training(tmp_path: Path) -> None:
    reranker = load_cross_encoder(tiny_cross_encoder(tmp_path / "model"))
    queries, documents = random_text_pairs(10)
    before = reranker.scores(queries, documents)
    reranker.train_mode()
    rows = reranker.tokenize(queries, documents)
    scores = reranker.forward(rows)
    assert scores.requires_grad
    np.testing.assert_allclose(scores.detach().numpy(), before, atol=1e-6)


def maxp_by_hand(reranker: CrossEncoder, query: str, document: str) -> float:
    """Every passage built token by token and scored alone."""
    tokenizer, most = reranker.tokenizer, reranker.max_tokens
    asked = tokenizer(query, add_special_tokens=False)["input_ids"]
    words = tokenizer(document, add_special_tokens=False)["input_ids"]
    room = most - len(asked) - 3
    best, start = -np.inf, 0
    while True:
        passage = words[start : start + room]
        ids = [tokenizer.cls_token_id, *asked, tokenizer.sep_token_id, *passage, tokenizer.sep_token_id]
        types = [0] * (len(asked) + 2) + [1] * (len(passage) + 1)
        with torch.inference_mode():
            logits = reranker.library.transformers_model(
                input_ids=torch.tensor([ids]),
                token_type_ids=torch.tensor([types]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            ).logits
        best = max(best, float(logits.squeeze()))
        if start + room >= len(words):
            return best
        start += room - most // 8


def test_passages_are_scored_one_by_one_and_the_best_counts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folder = tiny_cross_encoder(tmp_path / "model")
    reranker = CrossEncoder(folder, max_tokens=32, device="cpu", dtype="float32", passages=True)
    words = ["".join(rng.choice(list(LETTERS), size=rng.integers(1, 4))) for _ in range(400)]
    documents = [" ".join(rng.choice(words, size=size)) for size in (0, 1, 5, 12, 13, 20, 60, 200)]
    queries = [" ".join(rng.choice(words, size=size)) for size in (1, 2, 3, 1, 2, 3, 1, 2)]
    reported: list[int] = []
    scores = reranker.scores(queries, documents, reported.append)
    expected = [maxp_by_hand(reranker, *pair) for pair in zip(queries, documents, strict=True)]
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert sum(reported) == len(documents)
    first = CrossEncoder(folder, max_tokens=32, device="cpu", dtype="float32").scores(queries, documents)
    assert (scores >= first - 1e-5).all()
    assert scores[-1] > first[-1] + 1e-3


def test_beside_a_query_of_any_length_there_is_room_for_a_passage(tmp_path: Path) -> None:
    reranker = CrossEncoder(
        tiny_cross_encoder(tmp_path / "model"), max_tokens=32, device="cpu", dtype="float32", passages=True
    )
    long, cut = "a b c d " * 50, " ".join(("a b c d " * 50).split()[:16])
    assert reranker.scores([long], ["e f g " * 30]) == pytest.approx(reranker.scores([cut], ["e f g " * 30]), abs=1e-5)


def test_code_in_a_models_folder_never_runs_and_nothing_is_asked(tmp_path: Path) -> None:
    model = tiny_cross_encoder(tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    config |= {"model_type": "of-its-own", "auto_map": {"AutoConfig": "wrong.Config"}}
    (model / "config.json").write_text(json.dumps(config))
    (model / "wrong.py").write_text("raise SystemExit('it ran')\n")
    with pytest.raises(ModelError, match="names code in 'auto_map'"):
        load_cross_encoder(model)


@pytest.mark.parametrize("kind", KINDS)
def test_either_kind_scores_trains_and_is_saved_through_one_interface(kind: str, tmp_path: Path) -> None:
    build, expected_class = KINDS[kind]
    settings = {"max_tokens": 64, "device": "cpu", "dtype": "float32"}
    reranker = load_reranker(kind, build(tmp_path / "model"), **settings)
    assert isinstance(reranker, expected_class)
    queries, documents = random_text_pairs(20)
    finished: list[int] = []
    before = reranker.scores(queries, documents, finished.append)
    assert sum(finished) == 20
    rows = reranker.tokenize(queries, documents)
    assert len(rows) == 20
    assert all(0 < reranker.length(row) <= 64 for row in rows)
    assert 0 < reranker.pass_cost < reranker.tokens_per_pass
    reranker.train_mode()
    scores = reranker.forward(rows)
    np.testing.assert_allclose(scores.detach().numpy(), before, atol=1e-5)
    scores.sum().backward()
    assert any(weight.grad is not None and weight.grad.abs().max() > 0 for weight in reranker.model.parameters())
    reranker.save(tmp_path / "saved")
    again = load_reranker(kind, tmp_path / "saved", **settings)
    np.testing.assert_allclose(again.scores(queries, documents), before, atol=1e-6)


def load(folder: Path, max_tokens: int = 64, dtype: str = "float32") -> BiEncoder:
    return BiEncoder(folder, max_tokens=max_tokens, device="cpu", dtype=dtype)


def with_prompts(folder: Path) -> Path:
    path = folder / "config_sentence_transformers.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"prompts": {"query": "query : ", "document": "passage : "}}))
    return folder


def cosines(folder: Path, max_tokens: int = 64) -> np.ndarray:
    model = SentenceTransformer(str(folder), device="cpu")
    model.max_seq_length = min(max_tokens, model.max_seq_length)
    q, d = model.encode(QUERIES, prompt="query : "), model.encode(SENTENCES, prompt="passage : ")
    return (q * d).sum(axis=1) / np.linalg.norm(q, axis=1) / np.linalg.norm(d, axis=1)


@pytest.mark.parametrize("max_tokens", [64, 12])
def test_the_score_is_the_cosine_of_the_library_with_the_models_prompts(max_tokens: int, tmp_path: Path) -> None:
    folder, reported = with_prompts(tiny_word_encoder(tmp_path / "model")), []
    scores = load(folder, max_tokens).scores(QUERIES, SENTENCES, reported.append)
    np.testing.assert_allclose(scores, cosines(folder, max_tokens), atol=1e-5)
    assert sum(reported) == len(QUERIES)
    assert scores.std() > 0.01


def test_prompts_that_are_given_stand_instead_of_the_models_own(tmp_path: Path) -> None:
    folder = tiny_word_encoder(tmp_path / "model")
    prompts = {"query": "query : ", "document": "passage : "}
    given = BiEncoder(folder, max_tokens=64, device="cpu", dtype="float32", prompts=prompts)
    np.testing.assert_allclose(given.scores(QUERIES, SENTENCES), cosines(folder), atol=1e-5)
    assert not np.allclose(given.scores(QUERIES, SENTENCES), load(folder).scores(QUERIES, SENTENCES), atol=1e-4)


def test_in_training_the_scores_are_the_same_and_a_query_is_encoded_once(tmp_path: Path) -> None:
    encoder = load(with_prompts(tiny_word_encoder(tmp_path / "model")))
    seen: list[int] = []
    handle = encoder.model.encoder.register_forward_pre_hook(lambda _, given: seen.append(len(given[0]["input_ids"])))
    rows = encoder.tokenize(QUERIES, SENTENCES)
    scores = encoder.forward(rows)
    handle.remove()
    assert seen == [5, 7]
    np.testing.assert_allclose(scores.detach(), encoder.scores(QUERIES, SENTENCES), atol=1e-5)
    assert all(encoder.length(row) >= 2 for row in rows)


def test_what_is_broken_is_a_model_error(tmp_path: Path) -> None:
    folder = tiny_word_encoder(tmp_path / "model")
    with pytest.raises(ModelError, match="gives NaN or infinity for 7 of 7 pairs"):
        load(spoil_weights(folder)).scores(QUERIES, SENTENCES)
    (folder / "model.safetensors").write_bytes(b"garbage")
    with pytest.raises(ModelError, match=r"bi-encoder .*model cannot be loaded"):
        load(folder)
