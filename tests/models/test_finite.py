"""Vectors that one number type cannot hold are those of the next, text by text."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from hnmine.errors import ModelError
from hnmine.models.finite import FiniteEncoder
from hnmine.models.plan import Plan
from tests.builders.models import WORD_VOCABULARY, encoder_plan, spoil_weights, tiny_decoder, tiny_word_encoder

TEXTS = ["deploy postgres", "mysql in the cloud", "on premises", "", "mysql", "a b c " * 20]
LARGE = ["mysql" in text for text in TEXTS]


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Plan:
    """A model in whose float16 the embedding of one word is infinite, which LayerNorm would bring back."""
    folder = tiny_word_encoder(tmp_path_factory.mktemp("large") / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["embeddings.word_embeddings.weight"][WORD_VOCABULARY.index("mysql")] *= 1e8
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return encoder_plan(folder, engine="torch")


def test_texts_that_float16_cannot_hold_are_computed_in_bfloat16_and_it_is_said_once(plan, capfd):
    expected = [replace(plan, dtype=dtype).build().encode(TEXTS) for dtype in ("float16", "bfloat16")]
    assert np.isfinite(expected[0]).all(axis=1).tolist() == [not large for large in LARGE]
    encoder = FiniteEncoder(replace(plan, dtype="float16"))
    found = encoder.encode(TEXTS)
    assert found[~np.array(LARGE)] == pytest.approx(expected[0][~np.array(LARGE)], abs=1e-2)
    assert found[LARGE] == pytest.approx(expected[1][LARGE], abs=1e-1)
    assert encoder.encode(TEXTS[1:2]) == pytest.approx(found[1:2], abs=1e-1)
    said = capfd.readouterr().err
    assert said.count("(float16) gives NaN or infinity for 2 texts; such texts are computed in bfloat16") == 1


def test_what_is_finite_is_what_the_encoder_gives(plan):
    assert (FiniteEncoder(plan).encode(TEXTS) == plan.build().encode(TEXTS)).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_what_no_number_type_holds_is_an_error(dtype, plan, tmp_path):
    broken = replace(plan, folder=spoil_weights(Path(shutil.copytree(plan.folder, tmp_path / "nan"))), dtype=dtype)
    with pytest.raises(ModelError, match=r"\(float32\) gives NaN or infinity for 6 texts, first 'deploy"):
        FiniteEncoder(broken).encode(TEXTS)


def test_a_text_without_a_token_is_read_as_the_end(tmp_path):
    encoder = encoder_plan(tiny_decoder(tmp_path / "model")).build()
    found = encoder.encode(["", "mysql", "b"])
    assert np.isfinite(found).all()
    assert found[0] == pytest.approx(found[2], abs=1e-6)
    assert encoder.encode([""])[0] == pytest.approx(found[0], abs=1e-6)
