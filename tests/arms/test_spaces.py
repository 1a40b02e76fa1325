"""The spaces in which arms look, against the mining that makes one of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hnmine.arms.arm import known_arms
from hnmine.arms.spaces import Spaces
from hnmine.config.load import load
from hnmine.embedding.ensemble import Ensemble
from hnmine.mining.fuse import Fused
from hnmine.mining.space import choose_basis, project_space
from hnmine.types import Space, Texts

WORDS = ("wash", "it", "gently", "keep", "dry", "and", "cold", "in", "winter", "snow", "ice")


def texts(count: int, seed: int) -> Texts:
    rng = np.random.default_rng(seed)
    rows = tuple(" ".join(rng.choice(WORDS, 5)) for _ in range(count))
    return Texts(ids=tuple(map(str, range(count))), texts=rows)


def assert_equal(one: Space, other: Space) -> None:
    np.testing.assert_array_equal(one.docs_NR, other.docs_NR)
    np.testing.assert_array_equal(one.queries_QR, other.queries_QR)


def test_each_arm_looks_in_its_own_space_and_a_space_is_made_once(tmp_path: Path) -> None:
    encoders = "encoders=[{name: wide, lexical: {width: 8}}, {name: narrow, lexical: {width: 3}}]"
    config = load(overrides=[encoders, "reduce.variance=0.8"])
    documents, queries = texts(30, 0), texts(6, 1)
    ensemble = Ensemble(config.encoders, documents, store=tmp_path / "store", embed=config.embed)
    spaces, arms = Spaces(ensemble, queries, config.reduce, device="cpu", seed=0), known_arms(config)
    fused = Fused(encoders=ensemble.vectors(queries), weights=ensemble.weights)
    basis = choose_basis(fused, config.reduce, device="cpu", seed=0)
    assert basis is not None
    assert_equal(spaces.of_arm(arms["two conditions"]), project_space(fused, basis))
    assert_equal(spaces.of_arm(arms["two conditions, X_concat"]), project_space(fused, None))
    assert_equal(spaces.of_arm(arms["two conditions, 80% of the variance"]), project_space(fused, basis))
    assert spaces.of_arm(arms["two conditions, narrow"]).width == 3
    assert spaces.of_arm(arms["BM25"]) is spaces.of_arm(arms["two conditions"])
    basis.save(tmp_path / "basis.safetensors")
    given = Spaces(
        ensemble,
        queries,
        config.reduce.model_copy(update={"basis": tmp_path / "basis.safetensors", "variance": 0.5}),
        device="cpu",
        seed=0,
    )
    assert_equal(given.of_arm(arms["two conditions"]), project_space(fused, basis))
