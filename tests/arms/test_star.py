"""STAR, in-batch negatives and refreshed ones against loops that spell them out; a model small enough for seconds."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from hnmine.arms.star import TrainingSet, nearest_unknown, star
from hnmine.config.training import TrainConfig
from hnmine.errors import ModelError
from hnmine.runs.device import Choice
from hnmine.training.worker import Recipe
from hnmine.types import Float32, Pairs, Role, Space, Texts
from tests.models.test_cross_encoder import spoil
from tests.models.test_cross_encoder import tiny_model as body_of_letters

CPU = Choice(kind="cpu", reason="test")
TRANSLATED = dict(zip("abcdefgh", "stuvwxyz", strict=True))


def tiny_model(folder: Path) -> Path:
    """Save a random bi-encoder of two layers that reads letters."""
    body = body_of_letters(folder.with_name(f"{folder.name}-body"), head=False, spread=1)
    SentenceTransformer(modules=[Transformer(str(body)), Pooling(32, "mean")], device="cpu").save(str(folder))
    return folder


def training_set(seed: int = 0, queries: int = 24) -> TrainingSet:
    """Every query is a document in other letters; some have a second positive, and every fourth document has a copy."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(words) for words in combinations(TRANSLATED, 4)]
    texts += texts[::4]
    asked = rng.choice(len(texts) * 4 // 5, size=queries, replace=False)
    pairs = [(row, int(doc)) for row, doc in enumerate(asked)]
    pairs += [(row, int(rng.integers(len(texts)))) for row in range(0, queries, 5)]
    pairs = sorted(set(pairs))
    known = {
        row: {i for _, doc in pairs if _ == row for i, text in enumerate(texts) if text == texts[doc]}
        for row, _ in pairs
    }
    asking = [" ".join(TRANSLATED[word] for word in texts[doc].split()) for doc in asked]
    return TrainingSet(
        documents=Texts(ids=tuple(f"d{i}" for i in range(len(texts))), texts=tuple(texts)),
        queries=Texts(ids=tuple(f"q{i}" for i in range(queries)), texts=tuple(asking)),
        pairs=Pairs(query_rows_P=np.array([q for q, _ in pairs]), doc_rows_P=np.array([d for _, d in pairs])),
        known=known,
    )


def one_positive_each() -> TrainingSet:
    whole = training_set()
    first = np.unique(whole.pairs.query_rows_P, return_index=True)[1]
    return TrainingSet(
        documents=whole.documents, queries=whole.queries, pairs=whole.pairs.take(first), known=whole.known
    )


def encode(folder: Path, texts: Texts, role: Role) -> Float32:
    return np.asarray(SentenceTransformer(str(folder), device="cpu").encode(texts.texts, normalize_embeddings=True))


def space_of(folder: Path, given: TrainingSet) -> Space:
    return Space(docs_NR=encode(folder, given.documents, "document"), queries_QR=encode(folder, given.queries, "query"))


def recipe(**changes: object) -> Recipe:
    settings = {"kind": "bi-encoder", "loss": "logistic", "epochs": 12, "learning_rate": 4e-3, "pairs_per_batch": 8}
    return Recipe.of(TrainConfig(**(settings | {"dropout": 0.0, "max_tokens": 32} | changes)), CPU, "float32")


def mrr(space: Space, given: TrainingSet) -> float:
    """Mean reciprocal rank of the first positive of the train queries among what is not known to be right."""
    values = []
    for query, docs in given.pairs.positives_of().items():
        scores_N = space.docs_NR @ space.queries_QR[query]
        others = [row for row in range(len(scores_N)) if row not in given.known[query]]
        values.append(1 / (1 + int((scores_N[others] >= scores_N[docs].max()).sum())))
    return float(np.mean(values))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "start")


class Heard:
    """Losses in the order of the steps."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.queries = 0

    def __call__(self, queries: int, loss: float) -> None:
        self.queries += queries
        self.losses.append(loss)


@pytest.mark.parametrize("depth", [1, 7, 10_000])
def test_hard_negatives_are_the_nearest_documents_that_are_not_known(depth: int) -> None:
    given, rng = training_set(), np.random.default_rng(1)
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


def slow_loss(space: Space, given: TrainingSet, depth: int, in_batch: bool) -> float:
    """RankNet of every query against every document of the step, all queries in one step, no choice to be drawn."""
    positive, hard = (
        {q: docs[0] for q, docs in given.pairs.positives_of().items()},
        nearest_unknown(space, given, 1, CPU),
    )
    per_query = []
    for query, right in positive.items():
        there = list(positive.items())
        there += [(other, int(docs[0])) for other, docs in hard.items()] if depth else []
        terms = []
        for other, doc in there:
            if doc not in given.known[query] and (in_batch or other == query):
                lead = space.queries_QR[query] @ (space.docs_NR[right] - space.docs_NR[doc])
                terms.append(np.log1p(np.exp(-20 * lead)))
        per_query.append(np.mean(terms))
    return float(np.mean(per_query))


@pytest.mark.parametrize(("depth", "in_batch"), [(1, True), (1, False), (0, True)])
def test_the_loss_of_a_step_is_pairwise_over_its_negatives(
    depth: int, in_batch: bool, start: Path, tmp_path: Path
) -> None:
    given, heard = one_positive_each(), Heard()
    space = space_of(start, given)
    at_once = recipe(epochs=1, pairs_per_batch=100)
    options = {"encode": encode, "device": CPU, "depth": depth, "in_batch": in_batch}
    star(start, space, given, at_once, tmp_path / "out", done=heard, **options)
    assert heard.losses == pytest.approx([slow_loss(space, given, depth, in_batch)], rel=1e-4)


def test_every_round_finds_the_negatives_anew_and_encodes_the_documents_once(start: Path, tmp_path: Path) -> None:
    given, heard = one_positive_each(), Heard()
    seen: list[tuple[Role, Float32]] = []

    def noted(folder: Path, texts: Texts, role: Role) -> Float32:
        seen.append((role, encode(folder, texts, role)))
        return seen[-1][1]

    before = space_of(start, given)
    at_once = recipe(epochs=5, pairs_per_batch=100)
    options = {"encode": noted, "device": CPU, "depth": 1, "in_batch": False}
    after = star(start, before, given, at_once, tmp_path / "out", rounds=3, done=heard, **options)
    assert [role for role, _ in seen] == ["document", "query"] * 3
    spaces = [Space(docs_NR=seen[at][1], queries_QR=seen[at + 1][1]) for at in (0, 2)]
    expected = [slow_loss(space, given, 1, False) for space in (before, *spaces)]
    assert heard.losses[::5] == pytest.approx(expected, rel=1e-4)
    stale = nearest_unknown(before, given, 1, CPU)
    fresh = nearest_unknown(spaces[0], given, 1, CPU)
    assert sum(fresh[query].tolist() != stale[query].tolist() for query in stale) > 5
    assert after.docs_NR is seen[4][1]


def trained(start: Path, out: Path, **options: object) -> tuple[Space, Heard]:
    given, heard = training_set(), Heard()
    space = star(
        start, space_of(start, given), given, recipe(), out, encode=encode, device=CPU, **({"done": heard} | options)
    )
    return space, heard


@pytest.mark.parametrize(
    "options",
    [{"depth": 20}, {"depth": 0}, {"depth": 20, "in_batch": False, "rounds": 2}],
    ids=["star", "batch", "ance"],
)
def test_tuning_brings_the_positives_to_the_train_queries(
    options: dict[str, object], start: Path, tmp_path: Path
) -> None:
    given = training_set()
    space, heard = trained(start, tmp_path / "out", **options)
    steps = 3 * 12 * options.get("rounds", 1)
    assert (len(heard.losses), heard.queries) == (steps, 8 * steps)
    assert np.mean(heard.losses[-5:]) < 0.5 * np.mean(heard.losses[:5])
    assert mrr(space, given) > mrr(space_of(start, given), given) + 0.3
    np.testing.assert_array_equal(space.docs_NR, space_of(tmp_path / "out", given).docs_NR)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(a: Path, b: Path) -> bool:
    return all(torch.equal(value, weights(b)[name]) for name, value in weights(a).items())


def test_the_same_seed_gives_the_same_weights(start: Path, tmp_path: Path) -> None:
    given = training_set()
    space = space_of(start, given)
    for noise, (name, seed) in enumerate([("one", 0), ("two", 0), ("other", 1)]):
        torch.manual_seed(noise)
        settings = recipe(seed=seed, epochs=2, dropout=0.1)
        star(start, space, given, settings, tmp_path / name, encode=encode, device=CPU, depth=20)
    assert same(tmp_path / "one", tmp_path / "two")
    assert not same(tmp_path / "one", tmp_path / "other")
    assert not same(tmp_path / "one", start)


def test_what_cannot_be_trained_is_a_model_error(start: Path, tmp_path: Path) -> None:
    broken, given = spoil(tiny_model(tmp_path / "broken")), training_set()
    with pytest.raises(ModelError, match="the gradient became nan at step 1; lower the learning rate"):
        star(broken, space_of(start, given), given, recipe(), tmp_path / "out", encode=encode, device=CPU)
    assert not (tmp_path / "out").exists()
