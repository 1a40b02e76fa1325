"""OUT/ranker is written: what dev chose, with all that it needs, its figures and its cost.

What was deployed before, OUT/ranker of an earlier command or train.model if it is a ranker, stays if it is better on
dev than all rows of today, unless `ranker.choose` insists on a kind.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hnmine.errors import ModelError
from hnmine.models.folder import RANKER_FILE
from hnmine.project import Project
from hnmine.ranker.choose import choose, deployable, on_dev
from hnmine.ranker.cost import Costs
from hnmine.ranker.parts import Part
from hnmine.ranker.ranker import STANDARDISED, Figures, Ranker, RankerSpec
from hnmine.ranker.readme import readme
from hnmine.ranker.sources import copied, reranker_part, sources
from hnmine.ranking.evaluate import RERANKER, Evaluation, Ranking, Reranker
from hnmine.ranking.measures import MAIN_METRIC, Task, means
from hnmine.runs.files import write_json
from hnmine.runs.manifest import versions
from hnmine.runs.progress import say
from hnmine.types import Float32

RANKER = "ranker"
"""The folder in OUT."""


@dataclass(frozen=True)
class Earlier:
    """A ranker that was deployed before."""

    folder: Path
    spec: RankerSpec
    ranking: Ranking
    """Its row of today's table."""

    @property
    def milliseconds(self) -> float:
        """What it cost a query where it was written."""
        return self.spec.figures[self.spec.chosen].ms_per_query


@dataclass(frozen=True)
class Deployment:
    """What is to be deployed, and between which rows it was chosen."""

    chosen: Ranking
    rows: Sequence[Ranking]
    """Those that can be deployed."""
    earlier: Earlier | None
    """What was deployed before, if it is better on dev than today's rows."""
    reranker_QK: Float32 | None
    """The scores on dev of the chosen row's re-ranker by itself, if it has one."""

    @property
    def stays(self) -> bool:
        """Whether what was deployed before is what is chosen."""
        return self.earlier is not None and self.chosen is self.earlier.ranking


def choose_ranker(
    project: Project, evaluation: Evaluation, rerankers: Mapping[str, Reranker], margin: float = 0.0
) -> Deployment | None:
    """Return what dev chooses of the rows of an evaluation and of what was deployed before; None: no dev was asked.

    `rerankers` are by the names of rows. What was deployed before has to be better by more than `margin` to stay.
    """
    if project.evaluator.dev is None:
        say("ranker", f"{project.run.out / RANKER} is not written: no dev query could choose", level="warning")
        return None
    wanted = project.config.ranker.choose
    rows = deployable(evaluation.rows, {*sources(project), RERANKER}, rerankers)
    chosen = choose(rows, wanted)
    earlier = _earlier(project, max(map(on_dev, rows)) + margin)
    if earlier is not None and wanted == "auto":
        chosen = earlier.ranking
    alone = [each.alone.dev_QK for each in evaluation.measured if chosen in (each.alone, each.blend)]
    return Deployment(chosen, rows, earlier, alone[0] if alone and RERANKER in chosen.weights else None)


def _earlier(project: Project, best: float) -> Earlier | None:
    """Return what was deployed before, if it is better on the dev queries of today than the best of today's rows."""
    # Find it.
    out, model, evaluator = project.run.out / RANKER, Path(project.config.train.model).expanduser(), project.evaluator
    folder = next((each for each in (out, model) if (each / RANKER_FILE).is_file()), None)
    if folder is None or evaluator.dev is None:
        return None
    try:
        spec = RankerSpec.read(folder)
        known = round(spec.figures[spec.chosen].dev[MAIN_METRIC], 12)
        if spec.dev_identity == evaluator.dev.identity and known <= best:
            return None
        # Let it rank the queries of today.
        say("ranker", f"{folder} was deployed before, {spec.chosen}: it ranks the queries of today")
        ranker = Ranker.load(folder, device=project.config.device)
        scores = [ranker.scores_of_task(task) for task in project.evaluator.tasks("").values()]
    except ModelError as error:
        say("ranker", f"what was deployed before is not compared: {error}", level="warning")
        return None
    name = f"deployed before: {spec.chosen}"
    ranking = evaluator.ranking(name, "deployed-before", spec.kind, spec.weights, *scores)
    return Earlier(folder, spec, ranking) if on_dev(ranking) > best else None


def write_ranker(
    project: Project, deployment: Deployment, rerankers: Mapping[str, Reranker], costs: Costs
) -> dict[str, Any]:
    """Write what is to be deployed to OUT/ranker; return what the manifest says of it."""
    run, chosen, earlier = project.run, deployment.chosen, deployment.earlier
    hidden, target = run.out / f".{RANKER}.tmp", run.out / RANKER
    if earlier is not None and deployment.stays and earlier.folder == target:
        return _facts(earlier.spec)

    # Write the folder beside the old one.
    shutil.rmtree(hidden, ignore_errors=True)
    if earlier is not None and deployment.stays:
        shutil.copytree(earlier.folder, hidden)
        spec = earlier.spec
    else:
        hidden.mkdir()
        spec = _write(project, deployment, hidden, rerankers.get(chosen.name), costs)

    # Put it into the place of the old one.
    run.claim(RANKER)
    run.place(hidden, RANKER)
    say("ranker", f"{target}: {spec.chosen}")
    return _facts(spec)


def _facts(spec: RankerSpec) -> dict[str, Any]:
    return spec.model_dump(mode="json", include={"figures", "weights", "chosen", "kind", "ms_per_part"})


def _write(
    project: Project, deployment: Deployment, folder: Path, reranker: Reranker | None, costs: Costs
) -> RankerSpec:
    """Write parts, ranker.json and README.md."""
    # Copy the parts.
    evaluator, chosen = project.evaluator, deployment.chosen
    assert evaluator.dev is not None
    places = sources(project) | ({} if reranker is None else {RERANKER: reranker_part(project.config, reranker)})
    scores = dict(evaluator.parts[1])
    if deployment.reranker_QK is not None:
        scores[RERANKER] = deployment.reranker_QK
    parts: dict[str, Part] = {}
    for name in chosen.weights:
        part = copied(places[name], project, name, folder)
        mean, deviation = _spread(scores[name], evaluator.dev)
        found = {"sha256": part.hashes(folder), "mean": mean, "deviation": deviation}
        parts[name] = part.model_copy(update=found)

    # Describe them.
    spec = RankerSpec(
        chosen=chosen.name,
        kind=chosen.kind,
        weights=dict(chosen.weights),
        parts=parts,
        standardised=STANDARDISED if chosen.kind.startswith("blend") else None,
        depth=project.config.evaluate.depth,
        dev_queries=len(evaluator.dev),
        dev_identity=evaluator.dev.identity,
        test_queries=len(evaluator.test),
        test_is_dev=evaluator.test_is_dev,
        figures={row.name: _figures(row, costs) for row in deployment.rows},
        ms_per_part={name: costs.of_part(name, reranker) for name in parts},
        versions=versions(),
    )
    write_json(folder / RANKER_FILE, spec.model_dump(mode="json"))
    (folder / "README.md").write_text(readme(spec, folder), encoding="utf-8", errors="backslashreplace")
    return spec


def ranker_files(out: Path) -> list[str]:
    """Return the files of OUT/ranker that are what was evaluated, by path in OUT; the README is for people."""
    paths = sorted((out / RANKER).rglob("*"))
    return [path.relative_to(out).as_posix() for path in paths if path.is_file() and path.name != "README.md"]


def _spread(scores_QK: Float32, dev: Task) -> tuple[float, float]:
    """Return mean and standard deviation of a query's scores, the mean over the queries."""
    there = [scores[exists] for scores, exists in zip(scores_QK, dev.exists_QK, strict=True) if exists.any()]
    return float(np.mean([scores.mean() for scores in there])), float(np.mean([scores.std() for scores in there]))


def _figures(row: Ranking, costs: Costs) -> Figures:
    assert row.dev is not None
    cost: dict[str, Any] = {"ms_per_query": costs.of_row(row)}
    return Figures(kind=row.kind, dev=means(row.dev), test=means(row.values), **cost)
