"""Every night of random histories against a selection from scratch."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnmine.corpus.text_keys import keys_of
from hnmine.mining.conditions import Known, select
from hnmine.mining.search import Searcher
from hnmine.nights.incremental import Night, Work, identities, renew
from hnmine.types import Negatives, Pairs, Space, unit_rows
from tests.builders.devices import CPU

WIDTH = 3


def index(docs_NR: np.ndarray) -> Searcher:
    return Searcher(docs_NR, CPU)


def vectors_of(numbers: list[int], basis: int) -> np.ndarray:
    """Of each text a vector on a coarse grid: many texts have the same, and many distances are equal."""
    grid = [np.random.default_rng([number, basis]).integers(-2, 3, size=WIDTH) for number in numbers]
    return unit_rows(np.array(grid, dtype=np.float32).reshape(len(numbers), WIDTH))


@dataclass
class World:
    """A collection that changes: texts are numbers, a document or a query is a place in a list."""

    rng: np.random.Generator
    docs: list[int]
    queries: list[int]
    judged: list[tuple[int, int]]
    """(text of a query, text of a document), so that they hold whatever the rows are."""
    basis: int = 0
    gone: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, seed: int, texts: int) -> World:
        rng = np.random.default_rng(seed)
        docs = rng.integers(0, texts, size=int(rng.integers(4, 30))).tolist()
        world = cls(rng, docs, list(range(int(rng.integers(2, 8)))), [])
        for _ in range(12):
            world.judge(texts)
        return world

    def judge(self, _texts: int) -> None:
        self.judged.append((int(self.rng.choice(self.queries)), int(self.rng.choice(self.docs))))

    def add(self, texts: int) -> None:
        self.docs.insert(int(self.rng.integers(0, len(self.docs) + 1)), int(self.rng.integers(0, texts)))

    def delete(self, _texts: int) -> None:
        if len(self.docs) > 3:
            self.gone.append(self.docs.pop(int(self.rng.integers(0, len(self.docs)))))

    def edit(self, texts: int) -> None:
        self.docs[int(self.rng.integers(0, len(self.docs)))] = int(self.rng.integers(0, texts))

    def re_add(self, _texts: int) -> None:
        if self.gone:
            self.docs.append(self.gone.pop())

    def copy(self, _texts: int) -> None:
        self.docs.append(int(self.rng.choice(self.docs)))

    def shuffle(self, _texts: int) -> None:
        self.rng.shuffle(self.docs)

    def forget(self, _texts: int) -> None:
        if len(self.judged) > 1:
            self.judged.pop(int(self.rng.integers(0, len(self.judged))))

    def ask(self, _texts: int) -> None:
        self.queries.append(int(self.rng.choice(self.queries)) if self.rng.random() < 0.5 else len(self.queries))
        self.judged.append((self.queries[-1], int(self.rng.choice(self.docs))))

    def refit(self, _texts: int) -> None:
        self.basis += 1

    def tonight(self) -> Tonight | None:
        rows = {text: [row for row, each in enumerate(self.docs) if each == text] for text in set(self.docs)}
        positives = {
            query: {row for asked, text in self.judged if asked == of for row in rows.get(text, [])[-1:]}
            for query, of in enumerate(self.queries)
        }
        order = self.rng.permutation([(query, doc) for query, docs in positives.items() for doc in docs])
        if not len(order):
            return None
        pairs = Pairs(query_rows_P=order[:, 0].astype(np.int64), doc_rows_P=order[:, 1].astype(np.int64))
        space = Space(
            docs_NR=vectors_of(self.docs, self.basis),
            queries_QR=vectors_of([-q % 97 for q in self.queries], self.basis),
        )
        _, groups = np.unique(self.docs, return_inverse=True)
        return Tonight(
            space=space,
            pairs=pairs,
            positives=[positives[query] for query in pairs.query_rows_P.tolist()],
            groups_N=groups.astype(np.int64),
            docs_N=identities(keys_of([str(text) for text in self.docs]), space.docs_NR),
            queries_Q=identities(keys_of([f"q{text}" for text in self.queries]), space.queries_QR),
        )


@dataclass(frozen=True, kw_only=True)
class Tonight:
    space: Space
    pairs: Pairs
    positives: list[set[int]]
    groups_N: np.ndarray
    docs_N: np.ndarray
    queries_Q: np.ndarray

    def renewed(self, last: Night, negatives: int, reserve: int = 2) -> tuple[Negatives, Night, Work]:
        return renew(
            last,
            self.space,
            self.pairs,
            self.positives,
            self.groups_N,
            self.docs_N,
            self.queries_Q,
            index,
            negatives=negatives,
            reserve=reserve,
            candidates=3,
        )

    def from_scratch(self, negatives: int) -> Negatives:
        known = Known.of(self.positives, self.groups_N)
        return select(self.space, self.pairs, known, index(self.space.docs_NR), negatives=negatives, candidates=3)


def assert_same(got: Negatives, want: Negatives) -> None:
    for name in ("pair_M", "doc_rows_M", "rank_M", "d_query_positive_M", "d_query_negative_M"):
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name), err_msg=name)
    np.testing.assert_array_equal(got.d_positive_negative_M, want.d_positive_negative_M)
    assert got.certificate_M.tolist() == want.certificate_M.tolist()
    assert got.dropped == want.dropped
    np.testing.assert_array_equal(got.nearer_P < 0, want.nearer_P < 0)


CHANGES = ["add", "delete", "edit", "re_add", "copy", "shuffle", "judge", "forget", "ask", "refit"]


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([5, 40, 1000]),
    st.integers(1, 3),
    st.integers(0, 4),
    st.lists(st.lists(st.sampled_from(CHANGES[:-1]), max_size=6), min_size=1, max_size=6),
)
def test_every_night_of_a_history_equals_a_selection_from_scratch(seed, texts, negatives, reserve, history):
    world = World.of(seed, texts)
    last = Night.first()
    for changes in [[], *history]:
        for change in changes:
            getattr(world, change)(texts)
        tonight = world.tonight()
        if tonight is None:
            continue
        got, last, work = tonight.renewed(last, negatives, reserve)
        assert_same(got, tonight.from_scratch(negatives))
        assert work.kept + work.mended + work.searched == len(tonight.pairs)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.sampled_from(CHANGES), max_size=4))
def test_another_basis_makes_every_pair_new(seed, changes):
    world = World.of(seed, 40)
    _, last, _ = world.tonight().renewed(Night.first(), 1)
    for change in [*changes, "refit"]:
        getattr(world, change)(40)
    tonight = world.tonight()
    if tonight is not None:
        got, _, work = tonight.renewed(last, 1)
        assert_same(got, tonight.from_scratch(1))
        assert work.searched == len(tonight.pairs)


def in_general_position(docs: int, queries: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(docs, 8)).astype(np.float32)
    asked = vectors[:queries] + rng.normal(size=(queries, 8)).astype(np.float32)
    return unit_rows(vectors), unit_rows(asked)


def collection(docs: list[int], vectors: np.ndarray, asked: np.ndarray) -> Tonight:
    """Queries whose positive is the document of their own number."""
    row_of = {doc: row for row, doc in enumerate(docs)}
    queries = [query for query in range(len(asked)) if query in row_of]
    positives = np.array([row_of[query] for query in queries], dtype=np.int64)
    space = Space(docs_NR=vectors[docs], queries_QR=asked[queries])
    return Tonight(
        space=space,
        pairs=Pairs(query_rows_P=np.arange(len(queries), dtype=np.int64), doc_rows_P=positives),
        positives=[{int(row)} for row in positives],
        groups_N=np.arange(len(docs), dtype=np.int64),
        docs_N=identities(keys_of([str(doc) for doc in docs]), space.docs_NR),
        queries_Q=identities(keys_of([f"q{query}" for query in queries]), space.queries_QR),
    )


def test_the_work_is_as_large_as_the_change():
    vectors, asked = in_general_position(2000, 150, 0)
    before = list(range(1900))
    first = collection(before, vectors, asked)
    _, last, work = first.renewed(Night.first(), 1, reserve=8)
    assert work == Work(kept=0, mended=0, searched=150, new_documents=1900)
    _, last, work = first.renewed(last, 1, reserve=8)
    assert work == Work(kept=150, mended=0, searched=0, new_documents=0)
    after = [*range(1000, 1990), *range(200), *range(215, 1000)]  # 15 gone, 90 came, and all in another order
    tonight = collection(after, vectors, asked)
    got, _, work = tonight.renewed(last, 1, reserve=8)
    assert_same(got, tonight.from_scratch(1))
    assert work.new_documents == 90
    assert work.searched == 0
    assert 0 < work.mended < 150


def test_a_pair_is_searched_in_full_only_when_its_reserve_runs_out():
    vectors, asked = in_general_position(500, 40, 1)
    docs = list(range(500))
    found, last, _ = collection(docs, vectors, asked).renewed(Night.first(), 1, reserve=2)
    assert (last.count_p <= 3).all()
    used = {docs[row] for row in found.doc_rows_M.tolist()} - set(range(40))
    searched = []
    for _ in range(3):
        docs = [doc for doc in docs if doc not in used]
        tonight = collection(docs, vectors, asked)
        found, last, work = tonight.renewed(last, 1, reserve=2)
        assert_same(found, tonight.from_scratch(1))
        searched.append(work.searched)
        used = {docs[row] for row in found.doc_rows_M.tolist()} - set(range(40))
    assert 0 < max(searched) < 40


def test_equal_texts_with_different_vectors_are_selected_from_scratch():
    """Precomputed vectors may be so; the farther copy stands behind the nearer, and comes forth when that one goes."""
    docs = unit_rows(np.array([[1, 0, 0], [1, 0.5, 0], [1, 0.6, 0], [1, 5, 0]], dtype=np.float32))
    space = Space(docs_NR=docs, queries_QR=unit_rows(np.array([[1, 0, 0.1]], dtype=np.float32)))
    texts = ["near", "copy", "copy", "positive"]

    def night(rows: list[int]) -> Tonight:
        chosen = [texts[row] for row in rows]
        part = Space(docs_NR=space.docs_NR[rows], queries_QR=space.queries_QR)
        return Tonight(
            space=part,
            pairs=Pairs(query_rows_P=np.array([0]), doc_rows_P=np.array([len(rows) - 1])),
            positives=[{len(rows) - 1}],
            groups_N=np.unique(chosen, return_inverse=True)[1].astype(np.int64),
            docs_N=identities(keys_of(chosen), part.docs_NR),
            queries_Q=identities(keys_of(["q"]), part.queries_QR),
        )

    _, last, _ = night([0, 1, 2, 3]).renewed(Night.first(), 2)
    got, _, _ = night([0, 2, 3]).renewed(last, 2)
    assert_same(got, night([0, 2, 3]).from_scratch(2))
    assert got.doc_rows_M.tolist() == [0, 1]


def test_an_identity_is_of_text_and_vector():
    keys, vectors = keys_of(["a", "b"]), np.ones((2, 3), dtype=np.float32)
    one, two = identities(keys, vectors).tolist()
    assert one != two
    assert identities(keys, vectors * np.float32(1 + 1e-6)).tolist()[0] != one
    assert identities(keys[::-1], vectors).tolist() == [two, one]


@pytest.mark.parametrize("cells", [1, 7])
def test_the_scan_of_new_documents_may_be_cut(cells, monkeypatch):
    monkeypatch.setattr("hnmine.nights.incremental._SCANNED_CELLS", cells)
    monkeypatch.setattr("hnmine.nights.incremental._FLAT_NUMBERS", cells)
    vectors, asked = in_general_position(120, 20, 2)
    _, last, _ = collection(list(range(100)), vectors, asked).renewed(Night.first(), 2)
    tonight = collection(list(range(120)), vectors, asked)
    got, _, work = tonight.renewed(last, 2)
    assert_same(got, tonight.from_scratch(2))
    assert work.mended
