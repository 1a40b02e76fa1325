"""A run folder with all that the page shows, written without any model: the texts are the caller's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from hnmine.config.root import Config
from hnmine.mining.mine import SPACE_SAMPLE
from hnmine.ranking.measures import METRICS, Task, means, measure
from hnmine.ranking.rows import Row, RowKind, write_rows
from hnmine.report.page import NIGHTS
from hnmine.report.texts import write_texts
from hnmine.runs.files import write_json
from hnmine.runs.folder import Run, open_run
from hnmine.types import Float32, Texts

TextOf = Callable[[str], str]
"""From the name of a text, such as `query 3` or `data`, to the text."""
ROWS: dict[str, tuple[RowKind, dict[str, float]]] = {
    "first stage: BM25": ("first-stage", {"BM25": 1.0}),
    "before: as given": ("re-ranker", {"re-ranker": 1.0}),
    "after: paper": ("re-ranker", {"re-ranker": 1.0}),
    "after: paper, blended": ("blend-with-re-ranker", {"BM25": 0.3, "re-ranker": 0.7}),
}
DEPLOYED = "after: paper, blended"
WITH_BLEND = ROWS | {"first stage: BM25, blended": ("blend", {"BM25": 0.5, "minilm": 0.5})}
"""The same, and a blend that needs no re-ranker, which is the best of all."""


def reported_run(
    out: Path,
    *,
    queries: int = 40,
    depth: int = 12,
    seed: int = 0,
    warmed_up: bool = False,
    text_of: TextOf = str.title,
    rows: Mapping[str, tuple[RowKind, dict[str, float]]] = ROWS,
    deployed: str = DEPLOYED,
    test_is_dev: bool = False,
    reach: float = 0.8,
) -> Path:
    """Write OUT as mine, train, evaluate, audit, compare and a night leave it; `rows` are in the order of the table."""
    rng = np.random.default_rng(seed)
    with open_run(out, Config()) as run:
        _mine(run, rng, text_of)
        _train(run, text_of, warmed_up)
        _evaluate(run, rng, text_of, queries, depth, rows, test_is_dev, reach)
        run.commit("ranker", inputs={}, files={}, data=text_of("data"), chosen=deployed)
    _audit(out, text_of)
    _compare(out, text_of)
    night = {"when": "2026-01-02 03:04", "version": "0001", "added": 3, "changed": 0, "removed": 1, "pairs": 9}
    night |= {"negatives_changed": 2, "mrr": None, "mrr_trained": 0.5, "decision": text_of("decision")}
    write_json(out / NIGHTS, {"nights": [night]})
    return out


def scored_task(
    rng: np.random.Generator, queries: int, depth: int, text_of: TextOf, names: Iterable[str] = ROWS
) -> tuple[Task, dict[str, Float32]]:
    """Return a task with one right document a query, or two, or none in its list; scores by row, later ones better."""
    rows_QK = np.array([rng.permutation(4 * depth)[:depth] for _ in range(queries)], dtype=np.int64)
    right = [
        {int(rows[place])} | ({int(rows[0])} if place % 5 == 0 else set())
        for rows, place in zip(rows_QK, rng.integers(0, depth, queries), strict=True)
    ]
    right = [{1000} if query % 9 == 0 else docs for query, docs in enumerate(right)]
    docs = range(4 * depth)
    task = Task(
        queries=Texts(
            ids=tuple(text_of(f"query id {at}") + str(at) for at in range(queries)),
            texts=tuple(text_of(f"query {at}") for at in range(queries)),
        ),
        doc_rows_QK=rows_QK,
        first_scores_QK=-np.arange(depth, dtype=np.float32)[None].repeat(queries, 0),
        document_texts={row: text_of(f"document {row}") for row in docs},
        document_ids={row: text_of(f"document id {row}") + str(row) for row in docs},
        relevant=tuple(map(frozenset, right)),
    )
    scores = {
        name: (rng.normal(size=rows_QK.shape) + at * task.relevant_QK).astype(np.float32)
        for at, name in enumerate(names)
    }
    return task, scores | {"first stage: BM25": task.first_scores_QK}


def _mine(run: Run, rng: np.random.Generator, text_of: TextOf) -> None:
    count = 20
    d_positive = rng.uniform(0.3, 0.9, count)
    ids = {
        f"{side}_id": [text_of(f"{side} id {row}") for row in range(count)]
        for side in ("query", "positive", "negative")
    }
    facts = {
        "rank": [1] * count,
        "d_query_positive": d_positive,
        "d_query_negative": d_positive * rng.uniform(0.5, 1, count),
    }
    run.write_table(
        "negatives.parquet",
        pa.table(ids | facts | {"d_positive_negative": d_positive + 0.1, "certificate": ["found"] * count}),
    )
    texts = {side: [text_of(f"{side} {row}") for row in range(count)] for side in ("query", "positive", "negative")}
    run.write_table("triplets.parquet", pa.table(texts | ids))
    kinds = ["document"] * 30 + [kind for kind in ("query", "positive", "negative") for _ in range(5)]
    sample = {
        "kind": kinds,
        "id": [text_of(f"id {row}") for row in range(45)],
        "triplet": pa.array([None] * 30 + [*range(5)] * 3, pa.int32()),
    }
    run.write_table(SPACE_SAMPLE, pa.table(sample | {"x": rng.normal(size=45), "y": rng.normal(size=45)}))
    counts = {
        "documents": 48,
        "queries": 30,
        "pairs": 30,
        "selected_pairs": 20,
        "negatives": 20,
        "distinct_documents": 18,
        "texts_encoded": 78,
        "dropped": {"positive_is_nearest": 6, "nearer_ones_resemble_positive": 3, "guards_leave_none": 1},
        "guarded": {text_of("guard"): 4},
        "rows_read": {text_of("file"): 108},
    }
    for step in ("read", "embed", "reduce", "select", "write"):
        with run.timed(step):
            pass
    space = {"fused_width": 9, "width": 5, "variance_kept": 0.951}
    files = run.sha256_of("negatives.parquet", "triplets.parquet", SPACE_SAMPLE)
    run.commit(
        "mining",
        inputs={},
        files=files,
        data=text_of("data"),
        digests={text_of("split"): "0" * 20},
        counts=counts,
        space=space,
    )


def _train(run: Run, text_of: TextOf, warmed_up: bool) -> None:
    training = {"lists": 20, "steps": 8, "best_step": 8, "dev": 0.6, "dev_by_step": {"0": 0.4, "4": 0.5, "8": 0.6}}
    recipe = {"epochs": 1, "loss": "margin"}
    start = {"model": text_of("model"), "warmed_up": warmed_up}
    presets = {name: training | {"recipe": recipe} for name in ("paper", "anchored")}
    with run.timed("train: paper"):
        pass
    run.commit(
        "training",
        inputs={},
        files={},
        data=text_of("data"),
        start=start,
        kind="cross-encoder",
        max_tokens=64,
        presets=presets,
        best="paper",
    )


def _evaluate(
    run: Run,
    rng: np.random.Generator,
    text_of: TextOf,
    queries: int,
    depth: int,
    kinds: Mapping[str, tuple[RowKind, dict[str, float]]],
    test_is_dev: bool,
    reach: float,
) -> None:
    task, scores = scored_task(rng, queries, depth, text_of, kinds)
    dev_ids = tuple(f"dev {each}" for each in task.queries.ids)
    dev = task if test_is_dev else replace(task, queries=Texts(ids=dev_ids, texts=task.queries.texts))
    rows, tables = [], {}
    for name, (kind, weights) in kinds.items():
        worth, slug = means(measure(task, scores[name])), name.replace(": ", "-").replace(", ", "-").replace(" ", "-")
        rows.append(
            Row(name=name, slug=slug, kind=kind, weights=weights, dev=worth, test=worth, milliseconds_per_query=12.5)
        )
        tables |= {slug: (task, scores[name]), f"dev: {slug}": (dev, scores[name])}
    files = [*write_rows(run.out, rows, tables), *write_texts(task, scores.values(), run)]
    with run.timed("evaluate"):
        pass
    answer = f"Deploy it or not? {text_of('answer')}\nmore"
    run.commit(
        "evaluation",
        inputs={},
        files=run.sha256_of(*files),
        data=text_of("data"),
        split=text_of("test"),
        first_stage_reach=reach,
        answer=answer,
    )


def _audit(out: Path, text_of: TextOf) -> None:
    risk = {"hidden": 0.1, "interval": [0.05, 0.2], "yield": 0.5, "negatives": 40}
    rules = {"two conditions": risk, text_of("rule"): risk | {"hidden": 0.3, "interval": [0.2, 0.4]}}
    write_json(out / "audit.json", {"queries": 9, "pairs": 20, "rules": rules, "verdict": text_of("verdict")})


def _compare(out: Path, text_of: TextOf) -> None:
    cell = {"metrics": dict.fromkeys(METRICS, 0.5), "seed": 0}
    test = {"difference": 0.1, "low": 0.02, "high": 0.18, "p": 0.01}
    arms = {text_of("arm"): [cell, cell | {"seed": 1}], "BM25": [cell]}
    block = {"model": text_of("model"), "arms": arms, "against_start": dict.fromkeys(arms, test)}
    blocks = [block | {"pairs": pairs} for pairs in (10, 20)]
    write_json(
        out / "compare.json",
        {"blocks": blocks, "queries": 40, "winner": f"Best on dev: {text_of('arm')}\nhnmine train"},
    )
