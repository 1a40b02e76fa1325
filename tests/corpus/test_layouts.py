"""Every layout: a random collection that is written in it reads back equal."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hnmine.config.steps import SourcesConfig
from hnmine.corpus.layouts import read_collection
from tests.builders.layouts import LAYOUTS, facts, random_plain


@pytest.mark.parametrize("name", LAYOUTS)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(draw=st.randoms(use_true_random=False))
def test_a_random_collection_reads_back_equal(
    name: str, tmp_path_factory: pytest.TempPathFactory, draw: random.Random
) -> None:
    folder, layout = tmp_path_factory.mktemp("set"), LAYOUTS[name]
    expected = layout.fill(folder, random_plain(draw))
    collection = read_collection(folder, SourcesConfig())
    assert facts(collection, layout.ids) == expected.facts(layout.ids)
    assert not collection.quarantined
