"""What encoders are trained on in tests: queries that are documents in other letters."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

from hnmine.arms.encoder_training import TrainingSet
from hnmine.config.training import TrainConfig
from hnmine.training.gradient import Recipe
from hnmine.types import Float32, Pairs, Role, Space, Texts
from tests.builders.devices import CPU

_TRANSLATED = dict(zip("abcdefgh", "stuvwxyz", strict=True))


def letter_training_set(seed: int = 0, queries: int = 24) -> TrainingSet:
    """Every query is a document in other letters; some have a second positive, and every fourth document has a copy."""
    rng = np.random.default_rng(seed)
    texts = [" ".join(words) for words in combinations(_TRANSLATED, 4)]
    texts += texts[::4]
    asked = rng.choice(len(texts) * 4 // 5, size=queries, replace=False)
    pairs = [(row, int(doc)) for row, doc in enumerate(asked)]
    pairs += [(row, int(rng.integers(len(texts)))) for row in range(0, queries, 5)]
    pairs = sorted(set(pairs))
    known = {
        row: {i for _, doc in pairs if _ == row for i, text in enumerate(texts) if text == texts[doc]}
        for row, _ in pairs
    }
    asking = [" ".join(_TRANSLATED[word] for word in texts[doc].split()) for doc in asked]
    return TrainingSet(
        documents=Texts(ids=tuple(f"d{i}" for i in range(len(texts))), texts=tuple(texts)),
        queries=Texts(ids=tuple(f"q{i}" for i in range(queries)), texts=tuple(asking)),
        pairs=Pairs(query_rows_P=np.array([q for q, _ in pairs]), doc_rows_P=np.array([d for _, d in pairs])),
        known=known,
    )


def single_positive_training_set() -> TrainingSet:
    """Return the same queries, each with one positive."""
    whole = letter_training_set()
    first = np.unique(whole.pairs.query_rows_P, return_index=True)[1]
    return TrainingSet(
        documents=whole.documents, queries=whole.queries, pairs=whole.pairs.take(first), known=whole.known
    )


def encode_texts(folder: Path, texts: Texts, role: Role) -> Float32:
    """Encode texts with sentence-transformers."""
    return np.asarray(SentenceTransformer(str(folder), device="cpu").encode(texts.texts, normalize_embeddings=True))


def encoded_space(folder: Path, given: TrainingSet) -> Space:
    """Return the vectors of a training set's documents and queries."""
    return Space(
        docs_NR=encode_texts(folder, given.documents, "document"),
        queries_QR=encode_texts(folder, given.queries, "query"),
    )


def encoder_recipe(**changes: object) -> Recipe:
    """Return a recipe that trains an encoder in seconds, with changes."""
    settings = TrainConfig(kind="bi-encoder", loss="logistic", epochs=12, pairs_per_batch=8, max_tokens=32)
    recipe = Recipe.of(settings, CPU, learning_rate=4e-3, seed=0, engine="torch")
    return replace(recipe, **({"dtype": "float32"} | changes))


def train_mrr(space: Space, given: TrainingSet) -> float:
    """Mean reciprocal rank of the first positive of the train queries among what is not known to be right."""
    values = []
    for query, docs in given.pairs.positives_of().items():
        scores_N = space.docs_NR @ space.queries_QR[query]
        others = [row for row in range(len(scores_N)) if row not in given.known[query]]
        values.append(1 / (1 + int((scores_N[others] >= scores_N[docs].max()).sum())))
    return float(np.mean(values))


class LossRecorder:
    """Remembers the losses in the order of the steps, and how many queries they were of."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.queries = 0

    def __call__(self, queries: int, loss: float) -> None:
        self.queries += queries
        self.losses.append(loss)
