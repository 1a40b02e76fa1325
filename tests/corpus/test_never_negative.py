"""What is never a negative, against a reading of it document by document."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnmine.corpus.identity import identity
from hnmine.types import Texts
from tests.builders.judged import collection_of

TEXTS = (
    "Deploy  it",
    "deploy it",
    "DEPLOY IT\u00a0",
    "back up",
    "back\u200b up",
    "secure",
    "ﬁle",
    "FILE",
    "x",
    "T\nfile",
    "U\nx",
)
IDS = st.lists(st.sampled_from([f"n{i}" for i in range(12)]), min_size=1, max_size=8, unique=True)
GRADES = st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0, 3.0])


@st.composite
def collections(draw: st.DrawFn) -> tuple[Texts, Texts, dict[str, list[tuple[int, int, float]]]]:
    """Few ids and few texts, so that documents are copies and queries are documents; grades in several splits."""
    documents, queries = (
        Texts(ids=tuple(ids), texts=tuple(draw(st.sampled_from(TEXTS)) for _ in ids)) for ids in (draw(IDS), draw(IDS))
    )
    rows = st.tuples(st.integers(0, len(queries) - 1), st.integers(0, len(documents) - 1))
    judged = st.dictionaries(rows, GRADES, max_size=5)
    splits = {name: [(*row, grade) for row, grade in draw(judged).items()] for name in ("train", "test", "validation")}
    return documents, queries, splits


@settings(max_examples=200, deadline=None)
@given(given=collections(), min_score=st.sampled_from([None, 0.5, 2.0]), lower_are_negatives=st.booleans())
def test_it_is_what_a_person_says_of_each_query_and_document(
    given: tuple, min_score: float | None, lower_are_negatives: bool
) -> None:
    documents, queries, splits = given
    collection = collection_of(documents, queries, splits, min_score=min_score, lower_are_negatives=lower_are_negatives)
    never = collection.never_negative
    judged = [row for rows in splits.values() for row in rows]

    def spared(query: int, doc: int) -> bool:
        """Whether the judgements, the texts or the ids say that this document itself is no negative."""
        same_question = [row for row in judged if identity(queries.texts[row[0]]) == identity(queries.texts[query])]
        grades = [grade for _, judged_doc, grade in same_question if judged_doc == doc]
        right = any(grade > 0 if min_score is None else grade >= min_score for grade in grades)
        lower = not lower_are_negatives and any(grade > 0 for grade in grades)
        text = documents.texts[doc]
        is_query = identity(queries.texts[query]) in {identity(text), identity(text.partition("\n")[2] or text)}
        return right or lower or is_query or documents.ids[doc] == queries.ids[query]

    for query, name in enumerate(queries.ids):
        named = {doc for doc in range(len(documents)) if spared(query, doc)}
        texts = {identity(documents.texts[doc]) for doc in named}
        expected = {doc for doc, text in enumerate(documents.texts) if identity(text) in texts}
        row = collection.queries.row_of[name]
        assert never[row] == expected
        assert never.same_as(row) <= expected
        assert never[row] == never.with_copies(never.positives.get(row, set())) | never.with_copies(
            never.besides_positives(row)
        )
    assert list(never) == list(range(len(queries)))


def test_a_positive_is_right_for_every_spelling_of_its_query_and_lower_grades_do_not_undo_it() -> None:
    documents = Texts(ids=("a", "b", "c"), texts=("one", "two", "three"))
    queries = Texts(ids=("p", "q"), texts=("What is it?", "what  IS it?"))
    splits = {"train": [(0, 0, 3), (0, 1, 1)], "challenge": [(1, 1, 3), (1, 2, 1)]}
    collection = collection_of(documents, queries, splits, min_score=2)
    assert collection.positives() == {0: {0, 1}, 1: {0, 1}}
    assert collection.lower_grades() == {0: {2}, 1: {2}}
    assert dict(collection.never_negative) == {0: {0, 1, 2}, 1: {0, 1, 2}}
    negatives = collection_of(documents, queries, splits, min_score=2, lower_are_negatives=True)
    assert dict(negatives.never_negative) == {0: {0, 1}, 1: {0, 1}}


@pytest.mark.parametrize("query_id", ["a", "other"])
def test_a_query_that_is_a_document_is_itself_by_id_or_by_text(query_id: str) -> None:
    documents = Texts(ids=("a", "b", "c"), texts=("Zoos are good.", "zoos are\ngood.", "Zoos are bad."))
    queries = Texts(ids=(query_id,), texts=("ZOOS are good.",))
    never = collection_of(documents, queries, {"train": [(0, 2)]}).never_negative
    assert never.same_as(0) == never.same_as_unjudged(0) == {0, 1}
    judged = collection_of(documents, queries, {"train": [(0, 0)]}).never_negative
    assert judged.same_as_unjudged(0) == {1}
    assert judged[0] == {0, 1}


def test_grades_are_compared_as_they_are_stored() -> None:
    documents, queries = Texts(ids=("a",), texts=("x",)), Texts(ids=("q",), texts=("y",))
    for grade in np.arange(1, 40) / 10:
        assert len(collection_of(documents, queries, {"train": [(0, 0, grade)]}, min_score=grade).pairs("train")) == 1
