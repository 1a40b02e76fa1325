"""The steps as a user calls them: embed, mine, train, evaluate, run (these three), compare, audit and rank.

The command line, `jobs/` and `import hnmine` call these. Each reads a collection and works in a run folder. Vectors are
reused text by text; re-rankers and scores are reused where inputs, settings and versions have not changed, and it is
said. Fusing, reducing and selecting are done anew each time.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hnmine.arms.arm import compared_arms, preset_arms
from hnmine.config.root import Config
from hnmine.errors import DataError
from hnmine.mining.mine import denoise_model
from hnmine.project import Project, open_project
from hnmine.ranking.evaluate import KeptScores, Ranking, scores_file, trained_rerankers
from hnmine.report.examples import examples, write_changes
from hnmine.report.rankings import evaluation_text


def embed(data: str | Path, out: str | Path, config: Config | None = None) -> dict[str, int]:
    """Encode the documents and queries whose vectors the store lacks, and nothing else; return how many texts.

    The texts of all encoders are counted: `encoded` here, `reused` from the store. Later steps find all vectors.
    """
    with open_project(data, out, config) as project:
        project.fuse(project.collection.judged)
        return {"encoded": project.ensemble.encoded, "reused": project.ensemble.reused}


def mine(data: str | Path, out: str | Path, config: Config | None = None) -> dict[str, Any]:
    """Mine the hard negatives of the train pairs; return the manifest.

    Writes OUT/negatives.parquet, OUT/triplets.parquet, OUT/quarantine.jsonl and OUT/manifest.json.

    Raises:
        HnmineError: the data, the configuration, a model or a device is not usable; the message says what to do.
    """
    with open_project(data, out, config) as project:
        mine_step(project)
        return project.run.manifest


def train(data: str | Path, out: str | Path, config: Config | None = None) -> dict[str, Any]:
    """Fine-tune the re-ranker on the negatives that `mine` left in OUT; return the manifest.

    Writes OUT/rerankers/<preset> for every preset of `train.presets`, and OUT/reranker, which points to the best of
    these and of the start by MRR@10 on the dev queries.
    """
    arms = preset_arms(config or Config())  # an unknown one is said before the collection is read
    with open_project(data, out, config) as project:
        if any(arm.mined for arm in arms.values()):
            project.run.require_mined()
        train_step(project)
        return project.run.manifest


def evaluate(data: str | Path, out: str | Path, config: Config | None = None) -> dict[str, Any]:
    """Re-rank the test queries with every re-ranker in OUT; return the manifest, with the table in it."""
    with open_project(data, out, config) as project:
        evaluate_step(project)
        return project.run.manifest


def run(
    data: str | Path, out: str | Path, config: Config | None = None, show: Callable[[str], Any] = lambda _text: None
) -> dict[str, Any]:
    """Mine, fine-tune and evaluate; return the manifest.

    `show` gets some mined triplets, and what first stage and encoders are worth, before the training begins.
    """
    preset_arms(config or Config())  # an unknown one is said before the collection is read
    with open_project(data, out, config) as project:
        _ = project.splits  # data that cannot be divided are refused before the work
        mine_step(project)
        triplets, negatives = (project.run.out / f"{name}.parquet" for name in ("triplets", "negatives"))
        show(examples(triplets, negatives, count=5))
        show(evaluation_text(project.evaluator.evaluation()))
        train_step(project)
        evaluate_step(project)
        return project.run.manifest


def compare(data: str | Path, out: str | Path, config: Config | None = None) -> dict[str, Any]:
    """Train one re-ranker an arm (a way to choose negatives) from one start at one budget; return what each is worth.

    Writes OUT/compare.md and OUT/compare.json; what was trained before is reused.
    """
    from hnmine.comparison.compare import compare as compare_arms  # imports torch

    compared_arms(config or Config())  # an unknown arm is said before the collection is read
    with open_project(data, out, config) as project:
        return compare_arms(project)


def audit(data: str | Path, out: str | Path, config: Config | None = None) -> dict[str, Any]:
    """Measure how often each rule would choose a right answer that is not labelled; return what was measured.

    Of queries with several judged positives all but one are hidden in turn. Beside the rules, the two conditions are
    mined with some guards, and with the configured `guards` and `select.negatives`. Writes OUT/audit.json.
    """
    from hnmine.comparison.audit import audit as audit_project  # imports torch

    with open_project(data, out, config) as project:
        return audit_project(project)


def rank(
    data: str | Path,
    out: str | Path,
    config: Config | None = None,
    *,
    model: str,
    split: str | None = None,
    max_tokens: int | None = None,
    dtype: str = "auto",
) -> dict[str, Any]:
    """Re-rank the first stage's documents with any model, and write the order to OUT, a TREC run; return its facts.

    The first stage and its depth are those of `evaluate`. The queries are those of a judged split, on which first stage
    and model are then measured, or all of the collection. `max_tokens` are read of query and document together, by
    default as many as the model's makers say; `dtype` is of the computation. A name that ends in .gz is compressed.
    What a call that is stopped has scored is in the folder OUT.work, and the same call goes on from there.

    Raises:
        HnmineError: the model cannot rank, the data or the configuration is not usable; the message says what to do.
    """
    from hnmine.ranking.rank import find_model, rank_queries

    config, out = config or Config(), Path(out)
    if out.is_dir():
        raise DataError(f"--out {out} is a folder; give the name of the run file, such as {out / 'run.trec.gz'}")
    ranking_model = find_model(model, config, max_tokens=max_tokens, dtype=dtype)
    with open_project(data, out.with_name(f"{out.name}.work"), config) as project:
        queries = project.collection.queries
        return rank_queries(
            project.collection, split, lambda: project.open_first_stage(queries), ranking_model, project.run, out
        )


def mine_step(project: Project) -> None:
    """Mine the train pairs."""
    denoise_model(project.config.guards)  # its absence is said before hours of encoding
    judged = project.judge()
    fused = project.fuse(judged.queries)
    project.mine(judged, fused)


def train_step(project: Project) -> None:
    """Train on what was mined into the run, and record it."""
    from hnmine.arms.tune import train_presets  # imports torch and Ray Train, which mining does without
    from hnmine.training.lists import TrainingData
    from hnmine.training.trainer import Trainer

    run, config = project.run, project.config
    with run.timed("train"):
        inputs = run.sha256_of("negatives.parquet")
        data = TrainingData.of(project.splits, config.train, config.seed)
        found, files = train_presets(Trainer(data, config, run), project.splits, project.ensemble)
    run.commit("training", inputs=inputs, files=files | run.sha256_of("quarantine.jsonl"), data=project.data, **found)


def evaluate_step(project: Project) -> None:
    """Measure first stage, start and trained re-rankers on the test queries, and record it."""
    run = project.run
    with run.timed("evaluate"):
        folders, inputs = trained_rerankers(run)
        training, evaluator = run.manifest["training"], project.evaluator
        kept = KeptScores(run, training["kind"], training["max_tokens"])
        rankings: list[Ranking] = []
        names: list[str] = []
        for name, folder in folders.items():
            tasks = evaluator.tasks(name)
            rankings.append(evaluator.ranking(name, *kept.of_folder(tasks, folder)))
            names += tasks
        kept.remove_all_but(names)
        evaluation = evaluator.evaluation(rankings)
        pages = write_changes(evaluation, run)
    run.commit(
        "evaluation",
        inputs=inputs,
        files=run.sha256_of(*map(scores_file, names), *pages, "quarantine.jsonl"),
        data=project.data,
        max_tokens=training["max_tokens"],
        **evaluation.facts(),
        table=evaluation_text(evaluation, distilled="distilled" in training),
    )
