"""STAR, in-batch negatives and refreshed ones against loops that spell them out; a model small enough for seconds."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from hnmine.arms.star import TrainingSet, nearest_unknown, star
from hnmine.errors import ModelError
from hnmine.types import Float32, Space
from tests.builders.devices import CPU
from tests.builders.encoder_training import (
    LossRecorder,
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


def slow_loss(space: Space, given: TrainingSet, in_batch: bool) -> float:
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
def test_the_loss_of_a_step_is_pairwise_over_its_negatives(in_batch: bool, start: Path, tmp_path: Path) -> None:
    given, heard = single_positive_training_set(), LossRecorder()
    space = encoded_space(start, given)
    at_once = encoder_recipe(epochs=1, pairs_per_batch=100)
    options = {"space_of": partial(encoded_space, given=given), "device": CPU, "depth": 1, "in_batch": in_batch}
    star(start, space, given, at_once, tmp_path / "out", done=heard, **options)
    assert heard.losses == pytest.approx([slow_loss(space, given, in_batch)], rel=1e-4)


def test_every_round_finds_the_negatives_anew(start: Path, tmp_path: Path) -> None:
    given, heard = single_positive_training_set(), LossRecorder()
    spaces = [encoded_space(start, given)]

    def noted(folder: Path) -> Space:
        spaces.append(encoded_space(folder, given))
        return spaces[-1]

    at_once = encoder_recipe(epochs=5, pairs_per_batch=100)
    options = {"space_of": noted, "device": CPU, "depth": 1, "in_batch": False}
    star(start, spaces[0], given, at_once, tmp_path / "out", rounds=3, done=heard, **options)
    assert len(spaces) == 3, "the documents are encoded once between two rounds"
    assert heard.losses[::5] == pytest.approx([slow_loss(space, given, False) for space in spaces], rel=1e-4)
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


def test_the_same_seed_gives_the_same_weights(start: Path, tmp_path: Path) -> None:
    for noise, (name, seed) in enumerate([("one", 0), ("two", 0), ("other", 1)]):
        torch.manual_seed(noise)
        train(start, tmp_path / name, recipe=encoder_recipe(seed=seed, epochs=2))
    assert same_weights(tmp_path / "one", tmp_path / "two")
    assert not same_weights(tmp_path / "one", tmp_path / "other")
    assert not same_weights(tmp_path / "one", start)


def test_what_cannot_be_trained_is_a_model_error(start: Path, tmp_path: Path) -> None:
    broken, given = spoil_weights(tiny_letter_encoder(tmp_path / "broken")), letter_training_set()
    space_of = partial(encoded_space, given=given)
    with pytest.raises(ModelError, match="the gradient became nan at step 1; lower the learning rate"):
        star(broken, space_of(start), given, encoder_recipe(), tmp_path / "out", space_of=space_of, device=CPU)
    assert not (tmp_path / "out").exists()
