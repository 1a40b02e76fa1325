"""The steps as a user calls them: `embed`, `mine`, `train`, `evaluate`, `run` (these three), `compare` and `audit`.

The command line, `jobs/` and `import hnmine` call these. Each reads a collection and works in a run folder. Vectors are
reused text by text; re-rankers and scores are reused where inputs, settings and versions have not changed, and it is
said. Fusing, reducing and selecting are done anew each time.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hnmine.config.root import Config
from hnmine.mining.mine import denoise_model
from hnmine.project import Project, open_project
from hnmine.ranking.evaluate import evaluate_first_stage, evaluate_rerankers, trained_rerankers
from hnmine.ranking.rescoring import KeptScores, Reading, scores_file
from hnmine.report.changes import write_changes
from hnmine.report.examples import examples
from hnmine.report.rankings import evaluation_text

Show = Callable[[str], object]
"""Shows a person a text as soon as it is known."""


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
    from hnmine.arms.arm import preset_arms

    arms = preset_arms(config or Config())  # an unknown one is said before the collection is read
    with open_project(data, out, config) as project:
        if any(arm.mined for arm in arms.values()):
            project.run.require_mined()
        train_step(project)
        return project.run.manifest


def evaluate(data: str | Path, out: str | Path, config: Config | None = None) -> dict[str, Any]:
    """Re-rank the test queries with every re-ranker in OUT; return the manifest, with the table in it."""
    with open_project(data, out, config) as project:
        project.run.require_trained()
        evaluate_step(project)
        return project.run.manifest


def run(
    data: str | Path, out: str | Path, config: Config | None = None, show: Show = lambda _text: None
) -> dict[str, Any]:
    """Mine, fine-tune and evaluate; return the manifest.

    `show` gets some mined triplets, and what first stage and encoders are worth, before the training begins.
    """
    refuse_unknown_presets(config or Config())
    with open_project(data, out, config) as project:
        project.divide()  # the data may be refused here, so before the work
        mine_step(project)
        show_before_training(project, show)
        train_step(project)
        evaluate_step(project)
        return project.run.manifest


def refuse_unknown_presets(config: Config) -> None:
    """Raise ConfigError if a preset is not known; called before the collection is read."""
    from hnmine.arms.arm import preset_arms

    preset_arms(config)


def compare(data: str | Path, out: str | Path, config: Config | None = None) -> dict[str, Any]:
    """Train one re-ranker an arm (a way to choose negatives) from one start at one budget; return what each is worth.

    Writes OUT/compare.md and OUT/compare.json; what was trained before is reused.

    Raises:
        ConfigError: an arm is not known.
    """
    from hnmine.arms.arm import compared_arms
    from hnmine.comparison.compare import compare as compare_arms  # imports torch

    compared_arms(config or Config())  # an unknown arm is said before the collection is read
    with open_project(data, out, config) as project:
        return compare_arms(project)


def mine_step(project: Project) -> None:
    """Mine the train pairs: embed, fit the basis, project, select, write."""
    denoise_model(project.config.guards)  # its absence is said before hours of encoding
    judged = project.judge()
    fused = project.fuse(judged.queries)
    space = project.project(fused, project.choose_basis(fused))
    negatives, search_facts = project.select(judged, fused, space)
    project.write_mined(judged, negatives, fused, space, search_facts)


def train_step(project: Project) -> None:
    """Train on what was mined into the run, and record it."""
    from hnmine.arms.tune import train_presets  # imports torch and Ray Train, which mining does without
    from hnmine.training.data import TrainingData
    from hnmine.training.trainer import Trainer

    run, config = project.run, project.config
    with run.timed("train"):
        inputs = run.sha256_of("negatives.parquet")
        data = TrainingData.of(project.splits, config.train, config.seed)
        trainer = Trainer(
            data, config.train, run, seed=config.seed, device=config.device, engine=config.engine, ray=config.ray
        )
        found, files = train_presets(trainer, project.splits, project.ensemble, config)
    run.commit("training", inputs=inputs, files=files | run.sha256_of("quarantine.jsonl"), data=project.data, **found)


def evaluate_step(project: Project) -> None:
    """Measure first stage, start and trained re-rankers on the test queries, and record it."""
    run, config = project.run, project.config
    with run.timed("evaluate"):
        trained = trained_rerankers(run, config.train.max_tokens)
        kept = KeptScores(Reading.of(config, trained.kind, trained.max_tokens), run)
        evaluation = evaluate_rerankers(project.evaluator, trained, kept, config.seed)
        pages = write_changes(evaluation, run)
    run.commit(
        "evaluation",
        inputs=dict(trained.files),
        files=run.sha256_of(*map(scores_file, trained.names), *pages, "quarantine.jsonl"),
        data=project.data,
        max_tokens=trained.max_tokens,
        **evaluation.facts(),
        table=evaluation_text(evaluation, distilled="distilled" in run.manifest["training"]),
    )


def show_before_training(project: Project, show: Show) -> None:
    """Show some mined triplets, and the test metrics of first stage and free blend."""
    out = project.run.out
    show(examples(out / "triplets.parquet", out / "negatives.parquet", count=5))
    show(evaluation_text(evaluate_first_stage(project.evaluator)))


def audit(data: str | Path, out: str | Path, config: Config | None = None) -> dict[str, Any]:
    """Measure how often each rule would choose a right answer that is not labelled; return what was measured.

    Of queries with several judged positives all but one are hidden in turn. Beside the rules, the two conditions are
    mined with some guards, and with the configured `guards` and `select.negatives`. Writes OUT/audit.json.
    """
    from hnmine.comparison.audit import audit as audit_project  # imports torch

    with open_project(data, out, config) as project:
        return audit_project(project)
