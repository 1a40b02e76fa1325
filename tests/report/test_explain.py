"""What is said of every document against the mined table and against the rules as a person reads them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from hnmine.config.load import load
from hnmine.config.root import Config
from hnmine.config.steps import SourcesConfig
from hnmine.corpus.identity import identity
from hnmine.corpus.objects import Collection
from hnmine.pipeline import mine
from hnmine.project import DENOISE_TOKENS
from hnmine.report.explain import explain_query, open_mined
from hnmine.types import distance, unit_rows
from tests.builders.models import load_cross_encoder, tiny_cross_encoder

ENCODERS = ("one", "two")


@dataclass(frozen=True, kw_only=True)
class World:
    """A random collection, what was judged, and vectors on a coarse grid: many ties, copies, queries as documents."""

    documents: dict[str, str]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]
    verdicts: dict[tuple[str, str], str]
    vectors: dict[str, tuple[np.ndarray, np.ndarray]]

    @classmethod
    def random(cls, seed: int) -> World:
        rng = np.random.default_rng(seed)
        names = [f"d{row}" for row in range(30)]
        texts = [f"text {row if rng.random() < 0.8 else rng.integers(0, 30)}" for row in range(30)]
        asked = [f"question {row % 6}" if rng.random() < 0.8 else texts[row] for row in range(8)]
        queries = dict(zip([*(f"q{row}" for row in range(7)), "d3"], asked, strict=True))
        qrels = {query: {doc: int(rng.integers(0, 3)) for doc in rng.choice(names, 3, False)} for query in queries}
        for judged in qrels.values():
            judged[str(rng.choice(names))] = 2
        pairs = [(str(rng.choice(list(queries))), str(rng.choice(names))) for _ in range(30)]
        verdicts = {pair: str(rng.choice(["right", "wrong"], p=[0.2, 0.8])) for pair in pairs}
        vectors = {}
        for name, width in zip(ENCODERS, (4, 3), strict=True):
            grid = rng.integers(-2, 3, size=(38, width)).astype(np.float32)
            grid[~grid.any(axis=1)] = 1
            vectors[name] = grid[:30], grid[30:]
        return cls(
            documents=dict(zip(names, texts, strict=True)),
            queries=queries,
            qrels=qrels,
            verdicts=verdicts,
            vectors=vectors,
        )

    def collection(self, folder: Path, **sources: Any) -> Collection:
        folder.mkdir(parents=True, exist_ok=True)
        lines = [f"{query}\t{doc}\t{verdict}\n" for (query, doc), verdict in self.verdicts.items()]
        (folder / "verdicts.tsv").write_text("query_id\tdocument_id\tverdict\n" + "".join(lines))
        settings = SourcesConfig(verdicts=str(folder / "verdicts.tsv"), **sources)
        return Collection.of(self.documents, self.queries, {"train": self.qrels}, settings)


class Reader:
    """The rules as a person applies them, a document at a time, with names and texts alone."""

    def __init__(self, world: World, least: float, score: Callable[[str, str], float], config: Config) -> None:
        self.world, self.least, self.score, self.config = world, least, score, config
        self.rows = {name: row for row, name in enumerate(world.documents)}
        self.same = {name: identity(text) for name, text in (world.documents | world.queries).items()}
        self.same |= {f"Q{name}": identity(text) for name, text in world.queries.items()}

    def graded(self, query: str, keep: Callable[[float], bool]) -> set[str]:
        twins = [name for name in self.world.queries if self.same[f"Q{name}"] == self.same[f"Q{query}"]]
        return {doc for twin in twins for doc, grade in self.world.qrels[twin].items() if keep(grade)}

    def said(self, query: str, verdict: str) -> set[str]:
        twins = [name for name in self.world.queries if self.same[f"Q{name}"] == self.same[f"Q{query}"]]
        pairs = self.world.verdicts.items()
        return {doc for (name, doc), each in pairs if name in twins and each == verdict}

    def right(self, query: str) -> set[str]:
        return self.graded(query, lambda grade: grade >= self.least) | self.said(query, "right")

    def wrong(self, query: str) -> set[str]:
        return self.said(query, "wrong") - self.right(query)

    def text(self, doc: str) -> str:
        return identity(self.world.documents[doc])

    @cache  # noqa: B019
    def d(self, query: str, doc: str, other: str | None = None, encoders: tuple[str, ...] = ENCODERS) -> float:
        """Return the distance of a document to the query, or to another document."""

        def fused(of_query: bool, row: int) -> np.ndarray:
            blocks = [unit_rows(self.world.vectors[name][int(of_query)][[row]]) for name in encoders]
            return unit_rows(np.concatenate(blocks, axis=1))

        row = fused(True, list(self.world.queries).index(query)) if other is None else fused(False, self.rows[other])
        return float(distance(row, fused(False, self.rows[doc]))[0])

    @cache  # noqa: B019
    def never(self, query: str, doc: str) -> str:
        right, wrong = self.right(query), self.wrong(query)
        lower = self.graded(query, lambda grade: 0 < grade < self.least) - right - wrong
        if doc in right:
            return "right"
        if self.text(doc) in map(self.text, right):
            return "same_text_as_right"
        itself = {identity(self.world.queries[query])} | (
            {self.text(query)} if query in self.world.documents else set()
        )
        if self.text(doc) in itself:
            return "is_the_query"
        return "lower_grade" if self.text(doc) in map(self.text, lower) else ""

    def guard(self, query: str, positive: str, doc: str, rank: int) -> str:
        guards, radius = self.config.guards, self.d(query, positive)
        if self.text(doc) in map(self.text, self.wrong(query)):
            return ""
        if not (guards.first_rank or 1) <= rank <= (guards.last_rank or math.inf):
            return "rank_window"
        if guards.margin is not None and radius - self.d(query, doc) > guards.margin:
            return "margin"
        if guards.near_duplicate is not None and self.d(query, doc, positive) < guards.near_duplicate:
            return "near_duplicate"
        if guards.agreement is not None:
            votes = 0
            for name in ENCODERS:
                near = self.d(query, doc, None, (name,))
                votes += near < self.d(query, positive, None, (name,)) and near < self.d(query, doc, positive, (name,))
            if votes < guards.agreement:
                return "agreement"
        if guards.denoise is not None:
            p, best = (1 / (1 + math.exp(-self.score(query, each))) for each in (doc, positive))
            if p > best - (guards.denoise.margin or 0):
                return "denoise"
        return ""

    def verdicts(self, query: str, positive: str) -> tuple[dict[str, str], list[str]]:
        """Return what decides over each document, and the negatives."""
        found, negatives, texts, rank, radius = {}, list[str](), set[str](), 0, self.d(query, positive)
        for d_query, _, doc in sorted((self.d(query, doc), row, doc) for doc, row in self.rows.items()):
            never, is_nearer = self.never(query, doc), d_query < radius
            rank += is_nearer and not never
            if doc == positive:
                found[doc] = "positive"
            elif never:
                found[doc] = never
            elif not is_nearer:
                found[doc] = "condition_1"
            elif not d_query < self.d(query, doc, positive):
                found[doc] = "condition_2"
            elif self.text(doc) in texts:
                found[doc] = "same_text"
            elif guard := self.guard(query, positive, doc, rank):
                is_over = guard == "denoise" and len(negatives) == self.config.select.negatives
                found[doc] = "beyond or denoise" if is_over else guard
            elif len(negatives) < self.config.select.negatives:
                found[doc] = "negative"
                negatives.append(doc)
            else:
                found[doc] = "beyond"
            if found[doc] in ("negative", "beyond", "beyond or denoise", *GUARDS):
                texts.add(self.text(doc))
        return found, negatives


GUARDS = ("rank_window", "margin", "near_duplicate", "agreement", "denoise")
SETTINGS = [
    [],
    ["select.negatives=3", "guards.first_rank=2", "guards.last_rank=12"],
    ["select.negatives=2", "guards.margin=0.4", "guards.near_duplicate=0.3"],
    ["select.negatives=2", "guards.agreement=2"],
    ["select.negatives=2", "guards.first_rank=2", "guards.margin=0.6", "guards.agreement=1", "DENOISE"],
]


@pytest.fixture(scope="session")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_cross_encoder(tmp_path_factory.mktemp("scorer") / "model")


@pytest.mark.parametrize(
    ("seed", "settings"),
    [(seed, each) for seed in range(2) for each in SETTINGS if seed or "DENOISE" not in each],
    ids=lambda each: str(each),
)
def test_every_verdict_is_that_of_the_table_and_of_a_person(
    seed: int, settings: list[str], scorer: Path, tmp_path: Path
) -> None:
    # Mine.
    denoise = [f"guards.denoise.model={scorer}", "guards.denoise.margin=0.001"] * ("DENOISE" in settings)
    world, least = World.random(seed), (2.0 if seed % 2 else 1.0)
    overrides = [each for each in settings if each != "DENOISE"] + denoise
    overrides += ["reduce.variance=null", "engine=torch", "device=cpu"]
    config = load(overrides=overrides)
    sources = {"min_score": least if least > 1 else None}
    collection, out = world.collection(tmp_path / "judged", **sources), tmp_path / "out"
    mine(collection, out, config, vectors=world.vectors)
    model = load_cross_encoder(scorer, DENOISE_TOKENS)

    @cache
    def score(query: str, doc: str) -> float:
        return float(model.raw_scores([world.queries[query]], [world.documents[doc]])[0])

    # Ask about every pair.
    reader, project = Reader(world, least, score, config), open_mined(collection, out)
    table = pq.read_table(out / "negatives.parquet").to_pylist()
    seen = set[str]()
    for query in world.queries:
        right = {doc for doc, grade in world.qrels[query].items() if grade >= least}
        right |= {doc for (name, doc), each in world.verdicts.items() if name == query and each == "right"}
        found = explain_query(project, query, top=30)
        assert found["notes"] == []
        assert {pair["positive"] for pair in found["pairs"]} == right
        for pair in found["pairs"]:
            expected, negatives = reader.verdicts(query, pair["positive"])
            mined = [r for r in table if r["query_id"] == query and r["positive_id"] == pair["positive"]]
            assert pair["negatives"] == negatives == [row["negative_id"] for row in mined]
            shown = {each["id"]: each["verdict"] for each in pair["documents"]}
            assert all(verdict in expected[doc].split(" or ") for doc, verdict in shown.items()), (shown, expected)
            assert {row["certificate"] for row in mined} <= {pair["certificate"]}
            assert bool(pair["no_negative"]) == (not negatives)
            seen |= set(shown.values())
            # A document alone, wherever it stands.
            for doc in list(world.documents)[len(seen) % 7 :: 7]:
                alone = explain_query(project, query, document_id=doc, positive_id=pair["positive"])["pairs"][0]
                (fact,) = [each for each in alone["documents"] if each["id"] == doc]
                assert fact["verdict"] in expected[doc].split(" or ")
                assert fact["d_query"] == reader.d(query, doc)
                assert fact["d_positive"] == reader.d(query, doc, pair["positive"])
                assert fact["because"]
                seen.add(fact["verdict"])
    assert {"positive", "negative", "right", "condition_1", "condition_2"} <= seen
