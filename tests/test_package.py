"""What `import hnmine` gives, and what it does not load."""

from __future__ import annotations

import pytest

import hnmine
from tests.builders.commands import modules_loaded_by

HEAVY = ("torch", "ray", "transformers", "sentence_transformers", "sklearn", "pyarrow", "faiss", "cuml", "bm25s")


def test_everything_the_package_names_can_be_had_and_nothing_else() -> None:
    assert dir(hnmine) == sorted(hnmine.__all__)
    for name in hnmine.__all__:
        assert getattr(hnmine, name).__module__.startswith("hnmine."), name
    with pytest.raises(AttributeError, match="module 'hnmine' has no attribute 'minne'"):
        _ = hnmine.minne
    assert issubclass(hnmine.HnmineError, ValueError)
    assert hnmine.load_config(overrides=["select.negatives=4"]).select.negatives == 4


def test_the_package_itself_loads_nothing_heavy_and_runs_nothing() -> None:
    loaded = modules_loaded_by("import hnmine")
    assert "hnmine" in loaded
    assert not loaded & {*HEAVY, "numpy", "pydantic", "yaml"}


def test_the_settings_load_nothing_heavy() -> None:
    assert not modules_loaded_by("import hnmine; hnmine.load_config(); hnmine.HnmineError") & {*HEAVY, "numpy"}


def test_the_numerics_and_mining_load_neither_torch_nor_ray() -> None:
    loaded = modules_loaded_by(
        "import hnmine.mining.mine, hnmine.mining.conditions, hnmine.mining.search, hnmine.mining.pca, hnmine.pipeline"
    )
    assert "pyarrow" in loaded
    assert not loaded & {"torch", "ray", "transformers", "sentence_transformers"}
