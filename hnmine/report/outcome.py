"""What became of the test queries: how many got better or worse, by how much, how sure, and which, with both lists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hnmine.ranking.measures import DEPTH, MAIN_METRIC, METRICS, Paired, paired
from hnmine.ranking.rows import Row, read_rows
from hnmine.report.charts import Interval
from hnmine.report.texts import DOCUMENTS, QUERIES, SHOWN, shortened
from hnmine.types import Float64

EXTREMES = 10
"""Queries of those that lost most, and of those that gained most, that are shown first."""
MOST_DOTS = 1500
"""Queries of a scatter; of more it shows a sample."""
_RESAMPLES, _AT_ONCE = 4000, 500
_SURE = 0.05  # a p-value from which on a difference may be chance
_STAYED = "deployed-before"  # the slug of the row that an earlier evaluation left in OUT/ranker
_BEFORE = "before: "  # the re-ranker that was given, or its warmed-up body
_SPREAD, _APART = 0.42, 0.11  # of a place's width: over which its dots are spread at most; how far they lie apart
_GOLDEN_ANGLE = np.pi * (3 - np.sqrt(5))


@dataclass(frozen=True)
class Listed:
    """One of the first documents of a list."""

    id: str
    text: str
    is_right: bool


@dataclass(frozen=True, kw_only=True)
class Change:
    """A query, and where its first right document was before and after; None: not among the first `DEPTH`."""

    number: int
    query_id: str
    text: str
    was: int | None
    now: int | None
    change: float
    """Of the main metric."""
    right: int
    """How many documents are judged right."""
    before: Sequence[Listed] = ()
    after: Sequence[Listed] = ()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """An evaluation, read from its files: every row of the table, and the two that the page sets against each other."""

    rows: Sequence[Row]
    before: Row
    after: Row
    deployed: str
    """The name of the row that OUT/ranker holds; empty where there is none."""
    tables: Mapping[str, pa.Table]
    """By slug."""
    is_dev: bool = False
    """Whether the queries are those of dev, which chose."""
    seed: int = 0
    texts: Mapping[str, str] = field(default_factory=dict)
    """The beginnings of documents by id."""
    queries: pa.Table | None = None

    @classmethod
    def read(cls, out: Path, manifest: Mapping[str, Any]) -> Outcome:
        """Read what `evaluate` left in OUT.

        Raises:
            DataError: nothing was evaluated, or a file is not as the manifest says.
        """
        # Read the rows.
        rows, training = read_rows(out), manifest.get("training") or {}
        deployed = held(rows, manifest.get("ranker") or {})
        before, after = opposed(rows, deployed, is_warmed_up=bool((training.get("start") or {}).get("warmed_up")))

        # Read the texts, which an evaluation of an earlier release lacks.
        texts: dict[str, str] = {}
        queries = pq.read_table(out / QUERIES) if (out / QUERIES).is_file() else None
        if (out / DOCUMENTS).is_file():
            table = pq.read_table(out / DOCUMENTS)
            texts = dict(zip(table["document_id"].to_pylist(), table["text"].to_pylist(), strict=True))
        tables = {row.slug: row.test_table() for row in rows}
        first = rows[0]
        return cls(
            rows=rows,
            before=before,
            after=after,
            deployed=deployed,
            tables=tables,
            is_dev=bool(first.dev) and first.dev_table()["query_id"].equals(tables[first.slug]["query_id"]),
            seed=manifest["evaluation"]["config"]["seed"],
            texts=texts,
            queries=queries,
        )

    def values(self, row: Row, metric: str = MAIN_METRIC) -> Float64:
        """Return a metric of every query (Q,)."""
        return np.asarray(self.tables[row.slug][metric].to_numpy(), dtype=np.float64)

    @cached_property
    def change_Q(self) -> Float64:
        """The change of the main metric, query by query; what is rounding is none."""
        change_Q: Float64 = np.round(self.values(self.after) - self.values(self.before), 9)
        return change_Q

    @cached_property
    def test(self) -> Paired:
        """The gain of the main metric, and how sure it is."""
        return paired(self.values(self.after), self.values(self.before), self.seed)

    @cached_property
    def free(self) -> Row | None:
        """The blend of first stage and encoders, without a re-ranker; None if it is one of the two, or not there."""
        blends = [row for row in self.rows if row.kind == "blend" and row.slug != _STAYED]
        return blends[0] if blends and blends[0] not in (self.before, self.after) else None

    @cached_property
    def against_free(self) -> Paired | None:
        """The gain of the main metric over `free`."""
        return None if self.free is None else paired(self.values(self.after), self.values(self.free), self.seed)

    @property
    def free_would_do(self) -> bool:
        """Whether OUT/ranker holds a re-ranker, and `free` is not surely worse."""
        test, is_held = self.against_free, self.after.name == self.deployed
        return test is not None and is_held and "re-ranker" in self.after.weights and may_be_chance(test, or_loss=True)

    def counts(self) -> tuple[int, int, int]:
        """Return how many queries got better, stayed equal and got worse."""
        return tuple(int((np.sign(self.change_Q) == sign).sum()) for sign in (1, 0, -1))  # type: ignore[return-value]

    def references(self) -> list[Row]:
        """Return the first stage and the re-ranker before training, as far as there are rows of them."""
        starts = [row for row in self.rows if row.name.startswith(_BEFORE) and row.kind == "re-ranker"]
        return [row for row in self.rows if row.kind == "first-stage"][:1] + starts[:1]

    def gains(self) -> dict[str, list[tuple[str, list[Interval]]]]:
        """Return by metric and row its gain over each reference, between the ends of the 95 % interval."""
        references = self.references()
        compared = [
            (row, each) for row in self.rows if row is not references[0] for each in references if each is not row
        ]
        if not compared:
            return {}
        keys = [(metric, row.name, each.name) for metric in METRICS for row, each in compared]
        values = [self.values(row, metric) - self.values(each, metric) for metric in METRICS for row, each in compared]
        low, high = interval_of_means(np.stack(values, axis=1), self.seed)
        found: dict[str, dict[str, list[Interval]]] = {metric: {} for metric in METRICS}
        for at, (metric, row, reference) in enumerate(keys):
            found[metric].setdefault(row, []).append((reference, low[at], float(values[at].mean()), high[at]))
        return {metric: list(rows.items()) for metric, rows in found.items()}

    def places(self, row: Row) -> list[int | None]:
        """Return the place of each query's first right document; None: not among the first `DEPTH`."""
        return [round(1 / value) if value else None for value in self.values(row)]

    def changes(self, width: int, most: int) -> list[Change]:
        """Return every query, those that lost most first, with its lists, in texts of `width`, or without.

        `most` have lists: `EXTREMES` that lost most, as many that gained most, then the others that changed most.
        """
        # Order the queries, and choose those with lists.
        ids = self.tables[self.before.slug]["query_id"].to_pylist()
        known = {} if self.queries is None else {row["query_id"]: row for row in self.queries.to_pylist()}
        was, now = self.places(self.before), self.places(self.after)
        order = np.argsort(self.change_Q, kind="stable").tolist()
        others = sorted(order, key=lambda query: -abs(self.change_Q[query]))
        with_lists = set([*dict.fromkeys([*order[:EXTREMES], *order[-EXTREMES:], *others])][:most])
        # Tell of each where its first right document was, and what stood first.
        found = []
        for query in order:
            facts = known.get(ids[query], {"text": "", "right_ids": [], "right": 0})
            right = set(facts["right_ids"])
            shown = [
                [Listed(each, shortened(self.texts.get(each, ""), width), each in right) for each in ids_of[query]]
                if query in with_lists and known
                else []
                for ids_of in self._lists
            ]
            found.append(
                Change(
                    number=query,
                    query_id=ids[query],
                    text=shortened(facts["text"], 2 * width),
                    was=was[query],
                    now=now[query],
                    change=float(self.change_Q[query]),
                    right=facts["right"],
                    before=shown[0],
                    after=shown[1],
                )
            )
        return found

    @cached_property
    def _lists(self) -> list[list[list[str]]]:
        """The ids of the first `SHOWN` documents of each query, before and after."""
        found = []
        for table in (self.tables[row.slug] for row in (self.before, self.after)):
            both = zip(table["document_ids"].to_pylist(), table["scores"].to_pylist(), strict=True)
            orders = ((ids, np.argsort(-np.array(scores), kind="stable")[:SHOWN].tolist()) for ids, scores in both)
            found.append([[ids[place] for place in order] for ids, order in orders])
        return found

    def dots(self) -> Iterator[tuple[float, float, float, str]]:
        """Yield a dot a query for `charts.ranks`; those of one place are spread as the seeds of a sunflower."""
        was, now = self.places(self.before), self.places(self.after)
        cells: dict[tuple[int, int], list[int]] = {}
        for query in np.linspace(0, len(was) - 1, min(MOST_DOTS, len(was))).astype(int).tolist():
            x, y = (0 if place is None else DEPTH + 1 - place for place in (was[query], now[query]))
            cells.setdefault((x, y), []).append(query)
        for (x, y), queries in cells.items():
            apart = min(_APART, _SPREAD / np.sqrt(len(queries)))
            for turn, query in enumerate(queries):
                radius, angle = apart * np.sqrt(turn), turn * _GOLDEN_ANGLE
                x_shift, y_shift = float(radius * np.cos(angle)), float(radius * np.sin(angle))
                yield x + x_shift, y + y_shift, float(self.change_Q[query]), f"#q{query}"


def may_be_chance(test: Paired, *, or_loss: bool = False) -> bool:
    """Whether a difference is not surely one, or, with `or_loss`, not surely a gain."""
    return test.p >= _SURE or (test.difference <= 0 if or_loss else test.low <= 0 <= test.high)


def held(rows: Sequence[Row], ranker: Mapping[str, Any]) -> str:
    """Return the name of the row that OUT/ranker holds by this section of the manifest; empty: none is.

    What was deployed before is a row only where it is better on dev than all else; it stays unless another kind was
    insisted on. Its name says so, while the section has the name from the evaluation that it comes from.
    """
    insists = ranker.get("config", {}).get("ranker", {}).get("choose", "auto") != "auto"
    stayed = [row.name for row in rows if row.slug == _STAYED and ranker and not insists]
    return (stayed or [str(ranker.get("chosen", ""))])[0]


def opposed(rows: Sequence[Row], deployed: str, *, is_warmed_up: bool) -> tuple[Row, Row]:
    """Return the rows that the page sets against each other: what was there before, and what OUT/ranker holds.

    Before is the re-ranker that was given. A body that was only warmed up was never deployed: there it is the first
    stage. Where that itself is deployed, it is set against the best of the others on dev.
    """
    starts = [row for row in rows if row.name.startswith(_BEFORE) and row.kind == "re-ranker"]
    before = starts[0] if starts and not is_warmed_up else rows[0]
    others = [row for row in rows if row is not before] or [before]
    named = [row for row in others if row.name == deployed]
    return before, (named or [max(others, key=lambda row: row.dev.get(MAIN_METRIC, row.test[MAIN_METRIC]))])[0]


def interval_of_means(values_QK: Float64, seed: int = 0) -> tuple[list[float], list[float]]:
    """Return the ends (K,) of the 95 % intervals of the means over queries, by percentile bootstrap.

    All columns see the same resamples of the queries, as numbers of how often each is drawn.
    """
    rng, queries = np.random.default_rng(seed), len(values_QK)
    shares_Q = np.full(queries, 1 / queries)
    means = [
        rng.multinomial(queries, shares_Q, size=_AT_ONCE) @ values_QK / queries for _ in range(_RESAMPLES // _AT_ONCE)
    ]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975], axis=0).tolist()
    return low, high
