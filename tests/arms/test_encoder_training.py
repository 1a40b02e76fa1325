"""STAR, in-batch negatives and refreshed ones against loops that spell them out; a model small enough for seconds."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given as drawn
from hypothesis import settings as effort
from hypothesis import strategies as st
from safetensors.torch import load_file

from hnmine.arms.encoder_training import TrainingSet, adore, adore_loss, live_lists, nearest_unknown, star
from hnmine.errors import ModelError
from hnmine.types import Float32, Space
from tests.builders.devices import CPU
from tests.builders.encoder_training import (
    LossRecorder,
    encode_texts,
    encoded_space,
    encoder_recipe,
    letter_training_set,
    single_positive_training_set,
    train_mrr,
)
from tests.builders.models import same_weights, spoil_weights, tiny_letter_encoder


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_letter_encoder(tmp_path_factory.mktemp("models") / "start")


@pytest.mark.parametrize("depth", [1, 7, 10_000])
def test_hard_negatives_are_the_nearest_documents_that_are_not_known(depth: int) -> None:
    given, rng = letter_training_set(), np.random.default_rng(1)
    docs, queries = (rng.normal(size=(count, 5)) for count in (len(given.documents), len(given.queries)))
    space = Space(docs_NR=unit(docs), queries_QR=unit(queries))
    found = nearest_unknown(space, given, depth, CPU)
    assert sorted(found) == sorted(given.known)
    for query, rows in found.items():
        order = np.argsort(-(space.docs_NR @ space.queries_QR[query])).tolist()
        assert rows.tolist() == [row for row in order if row not in given.known[query]][:depth]
        texts = {given.documents.texts[doc] for doc in given.pairs.positives_of()[query]}
        assert not texts & {given.documents.texts[row] for row in rows}


def unit(rows: np.ndarray) -> Float32:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def slow_star_loss(space: Space, given: TrainingSet, in_batch: bool) -> float:
    """RankNet of every query against every document of the step, all queries in one step, no choice to be drawn."""
    positive, hard = (
        {q: docs[0] for q, docs in given.pairs.positives_of().items()},
        nearest_unknown(space, given, 1, CPU),
    )
    per_query = []
    for query, right in positive.items():
        there = list(positive.items())
        there += [(other, int(docs[0])) for other, docs in hard.items()]
        terms = []
        for other, doc in there:
            if doc not in given.known[query] and (in_batch or other == query):
                lead = space.queries_QR[query] @ (space.docs_NR[right] - space.docs_NR[doc])
                terms.append(np.log1p(np.exp(-20 * lead)))
        per_query.append(np.mean(terms))
    return float(np.mean(per_query))


@pytest.mark.parametrize("in_batch", [True, False])
def test_the_loss_of_star_is_pairwise_over_its_negatives(in_batch: bool, start: Path, tmp_path: Path) -> None:
    given, heard = single_positive_training_set(), LossRecorder()
    space = encoded_space(start, given)
    at_once = encoder_recipe(epochs=1, pairs_per_batch=100)
    options = {"space_of": partial(encoded_space, given=given), "device": CPU, "depth": 1, "in_batch": in_batch}
    star(start, space, given, at_once, tmp_path / "out", done=heard, **options)
    assert heard.losses == pytest.approx([slow_star_loss(space, given, in_batch)], rel=1e-4)


LORA = {"rank": 8, "alpha": 16.0, "keep": "merged"}


@pytest.mark.parametrize("lora", [None, LORA], ids=["whole", "lora"])
def test_every_round_finds_the_negatives_anew(lora: dict | None, start: Path, tmp_path: Path) -> None:
    if lora:
        pytest.importorskip("peft", reason="pip install 'hnmine[adapters]'")
    given, heard = single_positive_training_set(), LossRecorder()
    spaces = [encoded_space(start, given)]

    def noted(folder: Path) -> Space:
        spaces.append(encoded_space(folder, given))
        return spaces[-1]

    at_once = encoder_recipe(epochs=5, pairs_per_batch=100, lora=lora)
    options = {"space_of": noted, "device": CPU, "depth": 1, "in_batch": False}
    star(start, spaces[0], given, at_once, tmp_path / "out", rounds=3, done=heard, **options)
    assert len(spaces) == 3, "the documents are encoded once between two rounds"
    assert heard.losses[::5] == pytest.approx([slow_star_loss(space, given, False) for space in spaces], rel=1e-4)
    stale, fresh = (nearest_unknown(space, given, 1, CPU) for space in spaces[:2])
    assert sum(fresh[query].tolist() != stale[query].tolist() for query in stale) > 5


def train(start: Path, out: Path, **options: object) -> LossRecorder:
    given, heard = letter_training_set(), LossRecorder()
    space_of = partial(encoded_space, given=given)
    options = {"recipe": encoder_recipe(), "space_of": space_of, "device": CPU, "depth": 20, "done": heard} | options
    star(start, encoded_space(start, given), given, out=out, **options)
    return heard


@pytest.mark.parametrize("options", [{}, {"in_batch": False, "rounds": 2}], ids=["star", "ance"])
def test_tuning_brings_the_positives_to_the_train_queries(
    options: dict[str, object], start: Path, tmp_path: Path
) -> None:
    given, heard = letter_training_set(), train(start, tmp_path / "out", **options)
    steps = 3 * 12 * options.get("rounds", 1)
    assert (len(heard.losses), heard.queries) == (steps, 8 * steps)
    assert np.mean(heard.losses[-5:]) < 0.5 * np.mean(heard.losses[:5])
    before, after = (encoded_space(folder, given) for folder in (start, tmp_path / "out"))
    assert train_mrr(after, given) > train_mrr(before, given) + 0.3


def test_the_same_seed_gives_star_the_same_weights(start: Path, tmp_path: Path) -> None:
    for noise, (name, seed) in enumerate([("one", 0), ("two", 0), ("other", 1)]):
        torch.manual_seed(noise)
        train(start, tmp_path / name, recipe=encoder_recipe(seed=seed, epochs=2))
    assert same_weights(tmp_path / "one", tmp_path / "two")
    assert not same_weights(tmp_path / "one", tmp_path / "other")
    assert not same_weights(tmp_path / "one", start)


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["star", "adore"])
def test_with_lora_narrow_matrices_are_trained_and_merged(
    method: str, weights: str, start: Path, tmp_path: Path
) -> None:
    pytest.importorskip("peft", reason="pip install 'hnmine[adapters]'")
    given, out = letter_training_set(), tmp_path / "out"
    recipe = encoder_recipe(lora=LORA, weights=weights, learning_rate=1e-2)
    before = encoded_space(start, given)
    if method == "adore":
        adore(start, before.docs_NR, given, recipe, out, device=CPU)
    else:
        train(start, out, recipe=recipe)
    after = encoded_space(out, given)
    assert train_mrr(after if method != "adore" else replace(before, queries_QR=after.queries_QR), given) > (
        train_mrr(before, given) + 0.2
    )

    # The folder has the start's layout and weights but for a change of rank 8 of each linear layer.
    old, new = (load_file(folder / "model.safetensors") for folder in (start, out))
    assert {(name, weight.shape, weight.dtype) for name, weight in old.items()} == {
        (name, weight.shape, weight.dtype) for name, weight in new.items()
    }
    rounding = {"float32": 1e-6, "bfloat16": 2**-8}[weights]
    for name, weight in old.items():
        change, largest = (new[name] - weight).double(), float(weight.abs().max())
        if "encoder.layer" in name and weight.ndim == 2:
            if weights == "float32":
                assert int((torch.linalg.svdvals(change) > 1e-5).sum()) == 8
        else:
            assert float(change.abs().max()) <= rounding * largest
    assert not same_weights(start, out)


def test_what_cannot_be_trained_is_a_model_error(start: Path, tmp_path: Path) -> None:
    broken, given = spoil_weights(tiny_letter_encoder(tmp_path / "broken")), letter_training_set()
    space_of = partial(encoded_space, given=given)
    with pytest.raises(ModelError, match="the gradient became nan at step 1; lower the learning rate"):
        star(broken, space_of(start), given, encoder_recipe(), tmp_path / "out", space_of=space_of, device=CPU)
    assert not (tmp_path / "out").exists()


def slow_adore_loss(scores_N: torch.Tensor, depth: int, positives: list[int], known: set[int]) -> torch.Tensor:
    """One query: its live list, every (right, other) of it weighted by the change of 1/rank, ranks beyond count 0."""
    order = sorted(range(len(scores_N)), key=lambda doc: (-float(scores_N[doc].detach()), doc))[:depth]
    if not any(doc in positives for doc in order):
        order += positives
    reciprocal = [1 / rank if rank <= depth else 0.0 for rank in range(1, len(order) + 1)]
    terms = []
    for i, right in enumerate(order):
        for j, other in enumerate(order):
            if right in positives and other not in known:
                change = abs(reciprocal[i] - reciprocal[j])
                terms.append(change * torch.log(1 + torch.exp(-(scores_N[right] - scores_N[other]))))
    return torch.stack(terms).mean() if terms else 0 * scores_N.sum()


@effort(max_examples=60, deadline=None)
@drawn(st.integers(0, 10_000), st.integers(1, 4), st.integers(2, 12), st.integers(1, 12), st.integers(1, 3))
def test_the_loss_of_adore_and_its_gradient_are_those_of_a_double_loop(
    seed: int, queries: int, documents: int, depth: int, most: int
) -> None:
    rng, depth = np.random.default_rng(seed), min(depth, documents)
    scores_BN = torch.tensor(rng.normal(size=(queries, documents)), requires_grad=True)
    positives = [rng.permutation(documents)[: rng.integers(1, most + 1)].tolist() for _ in range(queries)]
    known = [set(docs) | {int(rng.integers(documents))} for docs in positives]
    found_BK = np.argsort(-scores_BN.detach().numpy(), axis=1, kind="stable")[:, :depth]
    live = live_lists(found_BK, positives, known)
    right, found = (scores_BN.gather(1, torch.tensor(rows)) for rows in (live.right_BP, live.found_BK))
    fast = adore_loss(right, found, live)
    slow = torch.stack([slow_adore_loss(scores_BN[i], depth, positives[i], known[i]) for i in range(queries)])
    torch.testing.assert_close(fast, slow, check_dtype=False, rtol=1e-5, atol=1e-7)
    gradients = [torch.autograd.grad(loss_B.sum(), scores_BN)[0] for loss_B in (fast, slow)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("depth", [3, 20])
def test_a_step_of_adore_looks_at_what_the_queries_find_now(depth: int, start: Path, tmp_path: Path) -> None:
    """All queries in one step, two steps: the second by the weights that the first left."""
    given, heard = single_positive_training_set(), LossRecorder()
    first, docs_NR = tmp_path / "first", encoded_space(start, given).docs_NR
    options = {"device": CPU, "depth": depth}
    once = encoder_recipe(epochs=1, pairs_per_batch=100)
    adore(start, docs_NR, given, once, first, done=heard, **options)
    adore(first, docs_NR, given, once, tmp_path / "second", done=heard, **options)
    for loss, folder in zip(heard.losses, (start, first), strict=True):
        scores_QN = torch.tensor(20 * encode_texts(folder, given.queries, "query") @ docs_NR.T)
        by_query = [
            slow_adore_loss(scores_QN[query], depth, docs, given.known[query])
            for query, docs in given.pairs.positives_of().items()
        ]
        assert loss == pytest.approx(float(torch.stack(by_query).mean()), rel=1e-3)
    assert heard.losses[0] != heard.losses[1]


def test_documents_stay_and_the_query_encoder_learns(start: Path, tmp_path: Path) -> None:
    given, heard = letter_training_set(), LossRecorder()
    before = encoded_space(start, given)
    bytes_before = before.docs_NR.tobytes()
    adore(start, before.docs_NR, given, encoder_recipe(), tmp_path / "out", device=CPU, done=heard)
    assert before.docs_NR.tobytes() == bytes_before
    assert not same_weights(start, tmp_path / "out")
    assert np.mean(heard.losses[-5:]) < 0.9 * np.mean(heard.losses[:5])
    trained = encoded_space(tmp_path / "out", given)
    after = Space(docs_NR=before.docs_NR, queries_QR=trained.queries_QR)
    assert train_mrr(after, given) > train_mrr(before, given) + 0.3
    assert not np.allclose(
        trained.docs_NR, after.docs_NR, atol=1e-2
    )  # so the frozen vectors are what was learnt against


def test_the_same_seed_gives_adore_the_same_weights(start: Path, tmp_path: Path) -> None:
    given = letter_training_set()
    docs_NR = encoded_space(start, given).docs_NR
    for noise, (name, seed) in enumerate([("one", 0), ("two", 0), ("other", 1)]):
        torch.manual_seed(noise)
        settings = encoder_recipe(seed=seed, epochs=2)
        adore(start, docs_NR, given, settings, tmp_path / name, device=CPU)
    assert same_weights(tmp_path / "one", tmp_path / "two")
    assert not same_weights(tmp_path / "one", tmp_path / "other")


def test_where_nothing_right_is_found_the_right_documents_join_the_list() -> None:
    live = live_lists(np.array([[4, 2, 7], [0, 5, 1]]), [[9, 3], [5]], [{9, 3, 2}, {5}])
    assert live.right_BP.tolist() == [[9, 3], [5, 0]]
    assert live.takes_part_BP.tolist() == [[True, True], [True, False]]
    assert live.negative_BK.tolist() == [[True, False, True], [True, False, True]]
    assert live.gain_BP.tolist() == [[0, 0], [0.5, 0]]
    zero = torch.zeros(2, 2), torch.zeros(2, 3)
    expected = [math.log(2) * (1 + 1 / 3) / 2, math.log(2) * (1 / 2 + 1 / 6) / 2]
    assert adore_loss(*zero, live).tolist() == pytest.approx(expected)
