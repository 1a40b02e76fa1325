"""Cross-encoders in every layout against the library that made them; how pairs are read, trained on and saved."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder as PeerCrossEncoder

from hnmine.errors import ModelError
from hnmine.models.cross_encoder import CrossEncoder
from hnmine.models.folder import resolve
from hnmine.models.ranking_head import has_ranking_head
from hnmine.models.scoring_network import Features, ScoringNetwork
from tests.builders.models import load_cross_encoder, spoil_weights, tiny_cross_encoder
from tests.builders.reranker_table import LOADS, LOADS_BARE, REFUSED, in_document, outcome, rows
from tests.builders.rerankers import BODY, LAYOUTS, POSITIONS, Layout
from tests.builders.texts import LETTERS, random_text_pairs

Built = Callable[[Layout], Path]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Return a function that builds a model in a layout, once."""
    folders: dict[str, Path] = {}

    def build(layout: Layout) -> Path:
        if layout.name not in folders:
            folders[layout.name] = layout.build(tmp_path_factory.mktemp("model") / "model")
        return folders[layout.name]

    return build


def load(folder: Path, dtype: str = "float32", **settings: Any) -> CrossEncoder:
    """Load a re-ranker on the CPU, computed by torch, which reads as much as the model declares."""
    return CrossEncoder(folder, max_tokens=512, device="cpu", dtype=dtype, **({"engine": "torch"} | settings))


def some_pairs() -> tuple[list[str], list[str]]:
    """Return short pairs, one of an empty document, one of an empty query, and three that are too long."""
    queries, documents = random_text_pairs(16, letters=80)
    queries += ["what is it", "", "a query of so many words " * 40, "long " * 60, "it"]
    documents += ["", "no query", "short", "and longer " * 60, f"one endless word {'x' * 99}{' tail' * 999} at last"]
    return queries, documents


def peer_of(folder: Path, **settings: Any) -> Any:
    """Load a folder by the library; a tokenizer without a padding token gets the end token, as its makers do."""
    peer = PeerCrossEncoder(str(folder), device="cpu", model_kwargs={"dtype": torch.float32}, **settings)
    if peer.tokenizer.pad_token is None:
        peer.tokenizer.pad_token = peer.tokenizer.eos_token
        peer.model.config.pad_token_id = peer.tokenizer.eos_token_id
    return peer


def library_scores(peer: Any, queries: list[str], documents: list[str], batch_size: int) -> np.ndarray:
    """Return what the library's `predict` gives, in batches or one by one."""
    pairs = list(zip(queries, documents, strict=True))
    parts = [pairs] if batch_size > 1 else [[pair] for pair in pairs]
    return np.concatenate([peer.predict(part, batch_size=batch_size, show_progress_bar=False) for part in parts])


def adapter_scores(folder: Path, queries: list[str], documents: list[str]) -> np.ndarray:
    """Return the scores of an adapter by peft itself, one by one."""
    from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification, PeftConfig
    from transformers import AutoTokenizer

    generates = PeftConfig.from_pretrained(str(folder)).task_type == "CAUSAL_LM"
    kind = AutoPeftModelForCausalLM if generates else AutoPeftModelForSequenceClassification
    network = kind.from_pretrained(str(folder), **({} if generates else {"num_labels": 1})).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
    scores = []
    for pair in zip(queries, documents, strict=True):
        with torch.inference_mode():
            tokens = tokenizer([pair], truncation=True, max_length=POSITIONS, return_tensors="pt")
            logits = network(**tokens).logits
        scores.append(float(logits[0, -1, yes] - logits[0, -1, no] if generates else logits))
    return torch.sigmoid(torch.tensor(scores)).numpy()


def train(reranker: CrossEncoder, steps: int = 3) -> None:
    """Raise the scores of some pairs, and lower those of others."""
    queries, documents = random_text_pairs(8, seed=5, letters=40)
    weights = [weight for weight in reranker.model.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(weights, lr=1e-2)
    signs = torch.tensor([1.0, -1.0] * 4)
    for _ in range(steps):
        reranker.train_mode()
        (reranker.forward(reranker.tokenize(queries, documents)) * signs).sum().backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()


def files_in(folder: Path) -> set[str]:
    """Return the names of the files that say what layout a folder has."""
    names = ("modules.json", "config_sentence_transformers.json", "chat_template.jinja", "adapter_config.json")
    return {name for name in (*names, "config.json") if (folder / name).is_file()}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_scores_as_the_library_and_so_does_what_was_trained_and_saved(
    name: str, built: Built, tmp_path: Path
) -> None:
    layout = LAYOUTS[name]
    folder = built(layout)
    reranker = load(folder)
    queries, documents = some_pairs()
    scores = reranker.scores(queries, documents)
    assert scores.std() > 0.005
    # What comes in.
    if layout.bare_adapter:
        np.testing.assert_allclose(scores, adapter_scores(folder, queries, documents), atol=1e-4)
    else:
        peer = peer_of(folder)
        np.testing.assert_allclose(scores, library_scores(peer, queries, documents, 1), atol=1e-4)
        if layout.batches:
            np.testing.assert_allclose(scores, library_scores(peer, queries, documents, 8), atol=1e-4)
    # What goes out.
    train(reranker)
    trained = reranker.scores(queries, documents)
    assert np.abs(trained - scores).max() > 1e-3
    reranker.save(tmp_path / "saved")
    assert layout.bare_adapter or files_in(tmp_path / "saved") >= files_in(folder)
    again = library_scores(PeerCrossEncoder(str(tmp_path / "saved"), device="cpu"), queries, documents, 1)
    np.testing.assert_allclose(again, trained, atol=1e-4)
    np.testing.assert_allclose(load(tmp_path / "saved").scores(queries, documents), trained, atol=1e-5)


HALF = ("Bert", "DebertaV2", "Qwen3", "Gemma2", "modules: mean, dense", "Qwen3 of yes and no, with a chat template")


@pytest.mark.parametrize("engine", ["torch", "openvino"])
@pytest.mark.parametrize("name", HALF)
def test_in_half_precision_the_order_stays_and_no_scores_are_tied(name: str, engine: str, built: Built) -> None:
    if (engine == "openvino" and "Qwen" in name) or "Gemma" in name:
        pytest.skip("decoders are computed by torch")
    folder = built(LAYOUTS[name])
    queries, documents = random_text_pairs(120, letters=80)
    exact = load(folder).raw_scores(queries, documents)
    half = load(folder, "bfloat16", engine=engine).raw_scores(queries, documents)
    assert len(np.unique(half)) > 0.97 * len(np.unique(exact))
    far = np.abs(exact[:, None] - exact[None]) > 0.25 * exact.std()
    assert (np.sign(half[:, None] - half[None])[far] == np.sign(exact[:, None] - exact[None])[far]).all()


@pytest.mark.parametrize("name", ["Bert", "Roberta", "ModernBert", "modules: first token, dense, norm, dense"])
def test_openvino_gives_the_librarys_scores(name: str, built: Built) -> None:
    queries, documents = some_pairs()
    scores = load(built(LAYOUTS[name]), engine="openvino").scores(queries, documents)
    np.testing.assert_allclose(scores, library_scores(peer_of(built(LAYOUTS[name])), queries, documents, 8), atol=1e-4)


def test_the_table_in_the_documentation_says_what_loads_and_why_others_do_not(built: Built) -> None:
    def say(layout: Layout) -> str:
        if layout.name in LAYOUTS:  # which is tested above
            return LOADS_BARE if layout.bare_adapter else LOADS
        return outcome(built(layout))

    assert in_document() == list(rows(say)), "write it anew by `python -m tests.builders.reranker_table`"


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_re_ranker_is_refused_by_name(name: str, built: Built) -> None:
    assert outcome(built(REFUSED[name])).startswith("refused: MODEL")


def test_where_tokens_cannot_be_batched_the_library_reads_and_computes(
    built: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    reranker = load(built(LAYOUTS["ConvBert, padded to all it reads"]))
    assert "is read and computed batch by batch as sentence-transformers does it" in capsys.readouterr().err
    assert reranker.tokenize(["a"], ["b"]) == [{"query": "a", "document": "b"}]
    with pytest.raises(ModelError, match="cannot be cut into passages"):
        load(built(LAYOUTS["ConvBert, padded to all it reads"]), passages=True)


def test_learned_positions_of_a_decoder_are_scored_as_one_by_one(built: Built) -> None:
    reranker = load(built(LAYOUTS["GPT2 of yes and no"]))
    queries, documents = random_text_pairs(40, letters=60)
    alone = [reranker.raw_scores([query], [text])[0] for query, text in zip(queries, documents, strict=True)]
    np.testing.assert_allclose(reranker.raw_scores(queries, documents), alone, atol=1e-5)


def test_max_tokens_cuts_as_the_library_does_at_this_length(built: Built) -> None:
    queries, documents = some_pairs()
    for name in ("Bert", "Qwen3 with a chat template", "Qwen3 of yes and no, with a prompt, without a template"):
        folder = built(LAYOUTS[name])
        reranker = CrossEncoder(folder, max_tokens=40, device="cpu", dtype="float32", engine="torch")
        assert max(reranker.length(row) for row in reranker.tokenize(queries, documents)) == 40
        peer = peer_of(folder, max_length=40)
        np.testing.assert_allclose(
            reranker.scores(queries, documents), library_scores(peer, queries, documents, 8), atol=1e-4
        )


def test_a_body_of_an_adapter_stays_as_it_was(built: Built) -> None:
    reranker = load(built(LAYOUTS["LoRA of a Bert body"]))
    before = {name: weight.clone() for name, weight in reranker.model.named_parameters()}
    train(reranker)
    changed = {name for name, weight in reranker.model.named_parameters() if not torch.equal(weight, before[name])}
    assert changed
    assert all("lora_" in name or "modules_to_save" in name for name in changed)


def test_an_adapter_of_a_model_of_the_hub_is_saved_with_its_name(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    name = "sentence-transformers/all-MiniLM-L6-v2"
    base = AutoModelForSequenceClassification.from_pretrained(resolve(name), num_labels=1)
    adapted = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"]))
    adapted.peft_config["default"].base_model_name_or_path = name
    adapted.save_pretrained(tmp_path / "adapter")
    AutoTokenizer.from_pretrained(resolve(name)).save_pretrained(tmp_path / "adapter")
    reranker = load(tmp_path / "adapter")
    reranker.save(tmp_path / "saved")
    settings = json.loads((tmp_path / "saved" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == name
    pair = ["how to cut an array"], ["Slice it with a colon."]
    np.testing.assert_allclose(load(tmp_path / "saved").scores(*pair), reranker.scores(*pair), atol=1e-6)


def test_an_adapter_without_any_head_is_refused(built: Built, tmp_path: Path) -> None:
    from peft import LoraConfig

    peer = PeerCrossEncoder(str(built(BODY)), device="cpu")
    peer.add_adapter(LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"]))
    peer.save_pretrained(str(tmp_path / "adapter"))
    with pytest.raises(ModelError, match=r"2 tensors are missing: classifier\.bias"):
        load(tmp_path / "adapter")


def test_a_pair_that_a_number_type_cannot_hold_is_computed_in_the_next_safer_one(
    built: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    reranker = load(built(LAYOUTS["Qwen3"]), "float16")
    with torch.no_grad():
        reranker.library.transformers_model.model.layers[0].mlp.up_proj.weight[:] *= 1e5
    queries, documents = ["a b"] * 3, ["c d", "z z z", "e f"]
    scores = reranker.raw_scores(queries, documents)
    assert np.isfinite(scores).all()
    assert capsys.readouterr().err.count("pairs that float16 cannot hold are computed in bfloat16") == 1
    alone = [reranker.raw_scores([query], [text])[0] for query, text in zip(queries, documents, strict=True)]
    np.testing.assert_allclose(scores, alone, rtol=1e-3)


@pytest.mark.parametrize("name", ["Qwen3 with a chat template", "Qwen3 of yes and no, with an instruction"])
def test_passages_of_a_chat_template_are_refused(name: str, built: Built) -> None:
    with pytest.raises(ModelError, match=r"chat template .*; set evaluate\.long_documents: truncate"):
        load(built(LAYOUTS[name]), passages=True)


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


def test_minilm_gets_a_head_and_its_saved_scores_are_those_of_cross_encoder(tmp_path: Path) -> None:
    reranker = load_cross_encoder(resolve("all-MiniLM-L6-v2"), max_tokens=64)
    queries = ["how to cut an array", "what is a socket", "draw a line"] * 4
    documents = ["Slice the array with a colon. " * repeats for repeats in range(12)]
    reranker.save(tmp_path / "saved")
    theirs = PeerCrossEncoder(str(tmp_path / "saved"), device="cpu").predict(
        list(zip(queries, documents, strict=True)), show_progress_bar=False
    )
    np.testing.assert_allclose(reranker.scores(queries, documents), theirs, atol=1e-5)


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


def test_a_score_does_not_depend_on_order_or_company(tmp_path: Path) -> None:
    reranker = load_cross_encoder(tiny_cross_encoder(tmp_path / "model"))
    queries, documents = random_text_pairs(1100, letters=60)  # more than are tokenised at a time
    scores = reranker.scores(queries, documents)
    order = np.random.default_rng(1).permutation(1100)
    shuffled = reranker.scores([queries[i] for i in order], [documents[i] for i in order])
    np.testing.assert_allclose(shuffled, scores[order], atol=1e-5)
    alone = [reranker.scores([queries[i]], [documents[i]])[0] for i in range(0, 1100, 100)]
    np.testing.assert_allclose(alone, scores[::100], atol=1e-5)


def test_equal_pairs_are_tied_exactly(tmp_path: Path) -> None:
    reranker = load_cross_encoder(tiny_cross_encoder(tmp_path / "model"))
    queries, documents = random_text_pairs(60)
    reported: list[int] = []
    scores = reranker.scores(queries * 3, documents * 2 + documents, reported.append)
    np.testing.assert_array_equal(scores.reshape(3, -1), [scores[:60]] * 3)
    assert sum(reported) == 180


def test_a_batch_that_memory_does_not_hold_is_scored_in_halves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_cross_encoder(tiny_cross_encoder(tmp_path / "model"))
    queries, documents = ["how"] * 40, [f"document {i} " * (i % 5) for i in range(40)]
    expected, forward = model.scores(queries, documents), ScoringNetwork.forward

    def small(network: ScoringNetwork, features: Features, dtype: str | None = None) -> torch.Tensor:
        if len(features["input_ids"]) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(network, features, dtype)

    monkeypatch.setattr(ScoringNetwork, "forward", small)
    np.testing.assert_allclose(model.scores(queries, documents), expected, atol=1e-6)
    assert "texts at once; halves are computed" in capsys.readouterr().err


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


def test_a_pair_that_the_template_cannot_carry_is_named(tmp_path: Path) -> None:
    folder = LAYOUTS["Qwen3 of yes and no, with a chat template"].build(tmp_path / "model")
    path = folder / "chat_template.jinja"
    condition = "(messages | selectattr('role', 'eq', 'document') | first).content == 'a garden'"
    path.write_text(f"{{% if {condition} %}}{{{{ raise_exception('none') }}}}{{% endif %}}{path.read_text()}")
    reranker = load(folder)
    reranker.scores(["a", "b"], ["a house", "gardens"])
    with pytest.raises(ModelError, match="cannot read query 'b' with document 'a garden': TemplateError: none"):
        reranker.scores(["a", "b", "c"], ["a house", "a garden", "gardens"])


@pytest.mark.parametrize("name", ["Qwen2", "Qwen2, padded on the left", "Llama that generates"])
def test_a_pair_without_a_token_is_read_as_the_end_token(name: str, built: Built) -> None:
    reranker = load(built(LAYOUTS[name]))
    end = reranker.tokenizer.eos_token
    scores = reranker.scores(["", end, "a"], [" ", "", "b"])
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-6)
    np.testing.assert_allclose(scores[2], library_scores(peer_of(built(LAYOUTS[name])), ["a"], ["b"], 1)[0], atol=1e-6)


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


@pytest.mark.parametrize("name", ["Roberta", "Qwen3", "modules: mean, dense", "LoRA of a Bert body"])
def test_a_document_of_one_passage_scores_as_without_passages(name: str, built: Built) -> None:
    folder = built(LAYOUTS[name])
    queries, documents = random_text_pairs(12, letters=40)
    passages = load(folder, passages=True)
    np.testing.assert_allclose(passages.scores(queries, documents), load(folder).scores(queries, documents), atol=1e-5)
    best, first = passages.scores(["a b"], ["c d " * 200 + "e f"]), load(folder).scores(["a b"], ["c d " * 200 + "e f"])
    assert best >= first - 1e-5


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
