"""Fields are found by any of their names, however these are spelled."""

from __future__ import annotations

import itertools

import pytest

from hnmine.corpus.fields import DOCUMENT, JUDGEMENT, QUERY, keys_by_field


@pytest.mark.parametrize("names", [DOCUMENT, QUERY, JUDGEMENT], ids=["document", "query", "judgement"])
def test_a_field_is_found_by_each_of_its_names_and_spellings(names):
    for field, known in names.items():
        for name in known:
            for spelled in (name, name.upper(), name.title(), name.replace("_", "-"), name.replace("_", " ")):
                assert keys_by_field(names, ["x", spelled])[field] == spelled


@pytest.mark.parametrize("names", [DOCUMENT, QUERY, JUDGEMENT], ids=["document", "query", "judgement"])
def test_of_two_names_the_first_of_the_table_is_taken_wherever_it_stands(names):
    for field, known in names.items():
        for first, second in itertools.combinations(known, 2):
            if first.replace("_", "") != second.replace("_", ""):
                assert keys_by_field(names, [second, first])[field] == first


def test_no_name_belongs_to_two_fields_of_a_row():
    for names in (DOCUMENT, QUERY, JUDGEMENT):
        all_names = [name for known in names.values() for name in known]
        assert len(set(all_names)) == len(all_names)


def test_a_name_spelled_as_in_the_table_comes_before_other_spellings():
    assert keys_by_field(DOCUMENT, ["ID", "id"])["id"] == "id"
    assert keys_by_field(DOCUMENT, ["id", "_id"])["id"] == "_id"
    assert keys_by_field(DOCUMENT, ["Text"]) == {"text": "Text"}
    assert keys_by_field(DOCUMENT, [1, None]) == {}
