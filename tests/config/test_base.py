"""Names of settings that become names of files."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hnmine.config.base import slug
from hnmine.config.load import load
from hnmine.errors import ConfigError

AWKWARD = [
    "",
    ".",
    "..",
    "...",
    "/",
    "a/../b",
    "../..",
    "con",
    "NUL",
    "com1.txt",
    "x" * 5000,
    "a\0b",
    "日本",
    "-",
    ".a",
    "a.",
    "\ud800",
]
NAMES = st.one_of(st.sampled_from(AWKWARD), st.text(max_size=200), st.text("./\\-aA0 \0~", max_size=12))


@given(NAMES)
def test_a_slug_is_one_part_of_a_path_and_stays_what_it_is(name: str) -> None:
    found = slug(name)
    assert re.fullmatch(r"[a-z0-9.]+(-[a-z0-9.]+)*", found)
    assert slug(found) == found
    assert len(found) <= 100
    assert os.path.normpath(f"/out/{found}") == f"/out/{found}"
    assert Path(found).stem not in ("con", "nul", "prn", "aux", "com1", "lpt1")


@given(NAMES, NAMES)
def test_names_that_differ_in_more_than_case_and_marks_have_other_slugs(one: str, other: str) -> None:
    def plain(name: str) -> str:
        return "".join(re.findall(r"[a-z0-9.]+", name.lower()))

    if slug(one) == slug(other) and one != other:
        assert one.isascii()
        assert other.isascii()
        assert plain(one).replace(".", "") == plain(other).replace(".", "")


@pytest.mark.parametrize("name", ["..", ".", "../x", "a/b", ".hidden", "x" * 61, "", "a b"])
def test_an_encoder_whose_name_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"encoders\.0\.name"):
        load(overrides=[f"encoders=[{{name: '{name}', lexical: {{}}}}]"])


@pytest.mark.parametrize("names", [("a.b", "A.B"), ("BM25", "x"), ("re-ranker", "x"), ("x", "run.trec")])
def test_encoders_that_would_take_the_place_of_another_part_are_refused(names: tuple[str, str]) -> None:
    listed = ", ".join(f"{{name: {name}, lexical: {{}}}}" for name in names)
    with pytest.raises(ConfigError, match=r"names must differ|another part of a blend"):
        load(overrides=[f"encoders=[{listed}]", "evaluate.first_stage=a/run.trec"])
