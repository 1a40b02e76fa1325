"""OUT/ranker is written: what dev chose, with all that it needs, its figures and its cost."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from hnmine.config.training import Kind
from hnmine.errors import DataError
from hnmine.models.folder import OTHER_RUNTIMES, adapter_base, resolve
from hnmine.models.lexical import Fit
from hnmine.project import Project
from hnmine.ranker.bm25 import Bm25Statistics
from hnmine.ranker.choose import RERANKER, Deployable, choose, deployable
from hnmine.ranker.parts import Part
from hnmine.ranker.ranker import RANKER_FILE, STANDARDISED, Figures, RankerSpec
from hnmine.ranker.readme import readme
from hnmine.ranking.evaluate import Ranking
from hnmine.ranking.measures import MAIN_METRIC, Task
from hnmine.runs.device import choose_device
from hnmine.runs.files import settle, write_json
from hnmine.runs.manifest import versions
from hnmine.runs.progress import say
from hnmine.types import NO_ROW, Float32

RANKER = "ranker"
"""The folder in OUT."""
_TIMED_QUERIES = 8
_NOT_COPIED = shutil.ignore_patterns("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt", ".*", *OTHER_RUNTIMES)


@dataclass(frozen=True)
class Rerankers:
    """The re-rankers of a run: how they read, where they are, and their scores (Q, K) on dev, by ranking."""

    kind: Kind
    max_tokens: int
    folders: Mapping[str, Path]
    dev_scores: Mapping[str, Float32]


def write_ranker(
    project: Project, rankings: Sequence[Ranking], rerankers: Rerankers, wanted: str = "auto"
) -> dict[str, Any]:
    """Write OUT/ranker, the best on dev of these rankings and their blends; return what the manifest says of it.

    The first ranking is the first stage's, the others are re-rankers'. `wanted` insists on a kind of `KINDS`.
    """
    # Choose.
    evaluator, run = project.evaluator, project.run
    dev, sources = evaluator.dev, _sources(project, rerankers)
    assert dev is not None, "without a blend nothing is known of dev"
    on_dev = dict(evaluator.parts[1])
    scores = {rankings[0].name: dev.first_scores_QK, **rerankers.dev_scores}
    folders = {name: folder for name, folder in rerankers.folders.items() if _is_whole(name, folder)}
    whole = [rankings[0], *(each for each in rankings[1:] if each.name in folders)]
    rows = deployable(whole, dev, scores, on_dev, folders, frozenset(on_dev) - frozenset(sources))
    chosen = choose(rows, wanted)

    # Take its re-ranker, or the first one to measure what a re-ranker costs.
    if shown := [name for name, folder in folders.items() if chosen.folder in (folder, None)][:1]:
        sources[RERANKER] = sources[RERANKER].model_copy(update={"path": str(folders[shown[0]].absolute())})
        on_dev[RERANKER] = scores[shown[0]]

    # Write the folder beside the old one, and put it into the place of that.
    hidden, target = run.out / f".{RANKER}.tmp", run.out / RANKER
    with run.timed("ranker"):
        costs = {
            name: _milliseconds(sources[name], dev, project, name)
            for name in sorted({name for row in rows for name in row.weights})
        }
        shutil.rmtree(hidden, ignore_errors=True)
        hidden.mkdir()
        parts = {}
        for name in chosen.weights:
            copied, (mean, deviation) = _copied(sources[name], project, name, hidden), _spread(on_dev[name], dev)
            found = {"sha256": copied.hashes(hidden), "mean": mean, "deviation": deviation}
            parts[name] = copied.model_copy(update=found)
        spec = _spec(project, chosen, parts, rows, costs)
        write_json(hidden / RANKER_FILE, spec.model_dump(mode="json"))
        (hidden / "README.md").write_text(readme(spec), encoding="utf-8")
        for path in hidden.rglob("*"):
            settle(path)
        shutil.rmtree(target, ignore_errors=True)
        hidden.rename(target)
    line = _line(spec, rankings[0].name, target)
    say("ranker", line)
    recorded = {"figures", "weights", "chosen", "kind", "ms_per_part"}
    return {"line": line, **spec.model_dump(mode="json", include=recorded)}


def _spec(
    project: Project,
    chosen: Deployable,
    parts: dict[str, Part],
    rows: Sequence[Deployable],
    costs: dict[str, float],
) -> RankerSpec:
    evaluator = project.evaluator
    return RankerSpec(
        chosen=chosen.name,
        kind=chosen.kind,
        weights=dict(chosen.weights),
        parts=parts,
        standardised=STANDARDISED if chosen.kind.startswith("blend") else None,
        depth=project.config.evaluate.depth,
        dev_queries=len(evaluator.dev or ()),
        test_queries=len(evaluator.test),
        figures={row.name: _figures(row, costs) for row in rows},
        ms_per_part=costs,
        versions=versions(),
    )


def ranker_files(out: Path) -> list[str]:
    """Return the files of OUT/ranker that are what was evaluated, by path in OUT; the README is for people."""
    paths = sorted((out / RANKER).rglob("*"))
    return [path.relative_to(out).as_posix() for path in paths if path.is_file() and path.name != "README.md"]


def _sources(project: Project, rerankers: Rerankers) -> dict[str, Part]:
    """Return the parts that can score new texts, with the places where they are now."""
    config, first = project.config, next(iter(project.evaluator.parts[1]))
    bm25 = config.evaluate.first_stage == "bm25"
    parts = {first: Part(kind="bm25" if bm25 else "given")}
    for encoder in config.encoders if config.evaluate.blend == "encoders" else ():
        if encoder.precomputed is None:
            path = project.ensemble.fits.get(encoder.name) or str(
                resolve(encoder.model or "", dense_head=encoder.dense_head).absolute()
            )
            parts[encoder.name] = Part(kind="encoder", path=path, encoder=encoder, engine=config.engine)
    reading = {"max_tokens": rerankers.max_tokens, "dtype": config.train.dtype}
    if rerankers.kind == "cross-encoder":
        reading["passages"] = config.evaluate.long_documents == "maxp"
    parts[RERANKER] = Part(kind="re-ranker", reranker=rerankers.kind, reading=reading, engine=config.engine)
    return parts


def _is_whole(name: str, folder: Path) -> bool:
    """Whether a re-ranker has all in its folder; an adapter's base lies elsewhere."""
    if adapter_base(folder) is None:
        return True
    say("ranker", f"{name} is an adapter, whose base lies elsewhere, and no ranker: set train.lora.keep=merged")
    return False


def _copied(part: Part, project: Project, name: str, root: Path) -> Part:
    """Put what a part needs into a ranker's folder; return the part as it is there."""
    if part.kind == "given":
        return part
    if part.kind == "bm25":
        evaluate, path = project.config.evaluate, "bm25.safetensors"
        Bm25Statistics.of(project.collection.documents.texts, k1=evaluate.k1, b=evaluate.b).save(root / path)
    elif part.encoder and part.encoder.lexical:
        content = Fit(project.store, part.path).read()
        if content is None:
            raise DataError(f"the lexical fit {part.path} is gone from {project.store}; run again")
        path = f"lexical/{part.path}"
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_bytes(content.to_pybytes())
    elif pinned := _pinned(Path(part.path)):
        return part.model_copy(update={"path": pinned})
    else:
        path = RERANKER if part.kind == "re-ranker" else f"encoders/{name}"
        shutil.copytree(part.path, root / path, ignore=_NOT_COPIED)
    update: dict[str, Any] = {"path": path}
    if part.encoder and part.encoder.model:  # names no folder of this machine
        update["encoder"] = part.encoder.model_copy(update={"model": path})
    return part.model_copy(update=update)


def _pinned(folder: Path) -> str | None:
    """Return name@commit of a folder in the hub's cache; None of any other."""
    cached = folder.parent.parent.name
    if folder.parent.name != "snapshots" or not cached.startswith("models--"):
        return None
    return f"{cached.removeprefix('models--').replace('--', '/')}@{folder.name}"


def _milliseconds(part: Part, dev: Task, project: Project, name: str) -> float:
    """Return the milliseconds that a part takes for a query's documents, after a first query."""
    if part.kind == "given":
        return 0.0
    if part.kind == "bm25" or (part.encoder and part.encoder.lexical):
        folder = project.run.out / f".{RANKER}.part"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            return _timed(_copied(part, project, name, folder), folder, dev, project, name)
        finally:
            shutil.rmtree(folder)
    return _timed(part, project.run.out, dev, project, name)


def _timed(part: Part, root: Path, dev: Task, project: Project, name: str) -> float:
    score = part.load(root.absolute(), choose_device(project.config.device), name)
    seconds = []
    answered = np.flatnonzero(dev.exists_QK.any(1))
    for at in [answered[0], *answered[:_TIMED_QUERIES]]:
        texts = [dev.document_texts[row] for row in dev.doc_rows_QK[at].tolist() if row != NO_ROW]
        start = time.perf_counter()
        score([dev.queries.texts[at]], [texts])
        seconds.append(time.perf_counter() - start)
    return round(1000 * median(seconds[1:]), 3)


def _spread(scores_QK: Float32, dev: Task) -> tuple[float, float]:
    """Return mean and standard deviation of a query's scores, the mean over the queries."""
    there = [scores[exists] for scores, exists in zip(scores_QK, dev.exists_QK, strict=True) if exists.any()]
    return float(np.mean([scores.mean() for scores in there])), float(np.mean([scores.std() for scores in there]))


def _figures(row: Deployable, costs: Mapping[str, float]) -> Figures:
    cost = round(sum(costs[part] for part in row.weights), 3)
    return Figures(kind=row.kind, dev=dict(row.dev), test=dict(row.test), ms_per_query=cost)


def _line(spec: RankerSpec, first_stage: str, target: Path) -> str:
    """Return what was chosen, in one line."""
    figures, first = spec.figures[spec.chosen], spec.figures.get(first_stage)
    beside = "" if first is None or spec.chosen == first_stage else f" ({first_stage} {first.test[MAIN_METRIC]:.3f})"
    dev, test = figures.dev[MAIN_METRIC], figures.test[MAIN_METRIC]
    return (
        f"Deploy {target}: {spec.chosen}, {MAIN_METRIC} {dev:.3f} on dev, {test:.3f} on test{beside}, "
        f"{figures.ms_per_query:.3g} ms a query."
    )
