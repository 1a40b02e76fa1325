"""The model card says what a model is, and how to load it."""

from __future__ import annotations

import pytest

from hnmine.training.card import model_card


@pytest.mark.parametrize(
    ("kind", "loads"),
    [("cross-encoder", "CrossEncoder('path of this folder')"), ("bi-encoder", "SentenceTransformer('path of")],
)
def test_the_card_says_data_settings_metrics_versions_and_how_to_load_it(kind: str, loads: str) -> None:
    card = model_card("paper", kind, "Data: 30 documents.", {"0": 0.25, "2": 0.5}, {"loss": "margin"})
    for part in (
        "`paper`",
        "Data: 30 documents.",
        "| 0 | 0.2500 |",
        "| 2 | 0.5000 |",
        '"loss": "margin"',
        '"torch": "',
    ):
        assert part in card
    assert loads in card
