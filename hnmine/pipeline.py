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
    refuse_unknown_presets(config or Config())
    with open_project(data, out, config) as project:
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
    from hnmine.arms.arm import preset_arms  # imports torch

    preset_arms(config)


def compare(data: str | Path, out: str | Path, config: Config | None = None) -> dict[str, Any]:
    """Train one re-ranker an arm (a way to choose negatives) from one start at one budget; return what each is worth.

    Writes OUT/compare.md and OUT/compare.json; what was trained before is reused.

    Raises:
        ConfigError: an arm is not known.
    """
    from hnmine.comparison import cells as comparison  # imports torch

    config = config or Config()
    comparison.refuse_unknown(config)
    with open_project(data, out, config) as project:
        return comparison.compare(project.splits, config, project.run)


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
    from hnmine.arms.tune import tune  # imports torch and Ray Train, which mining does without

    run = project.run
    with run.timed("train"):
        inputs = run.sha256_of("negatives.parquet")
        found, files = tune(project.splits, project.config, run)
    run.commit("training", inputs=inputs, files=files | run.sha256_of("quarantine.jsonl"), data=project.data, **found)


def evaluate_step(project: Project) -> None:
    """Measure first stage, start and trained re-rankers on the test queries, and record it."""
    from hnmine.ranking.evaluate import compare as compare_rerankers

    run = project.run
    with run.timed("evaluate"):
        found, inputs, files = compare_rerankers(project.splits, project.config, run)
    run.commit("evaluation", inputs=inputs, files=files | run.sha256_of("quarantine.jsonl"), data=project.data, **found)


def show_before_training(project: Project, show: Show) -> None:
    """Show some mined triplets, and the test metrics of first stage and free blend."""
    from hnmine.report.examples import examples

    out = project.run.out
    show(examples(out / "triplets.parquet", out / "negatives.parquet", count=5))


def audit(data: str | Path, out: str | Path, config: Config | None = None) -> dict[str, Any]:
    """Measure how often each rule would choose a right answer that is not labelled; return what was measured.

    Of queries with several judged positives all but one are hidden in turn. Beside the rules, the two conditions are
    mined with some guards, and with the configured `guards` and `select.negatives`. Writes OUT/audit.json.
    """
    from hnmine.comparison import audit as auditing

    config = config or Config()
    refuse_unusable(config.guards)
    with open_run(Path(out), config) as run:
        collection = read_collection(data, config, run)
        pairs = collection.pairs(config.sources.train_split)
        trials = auditing.hide(pairs, groups_of_equal_text(collection.documents))
        if not len(trials.pairs):
            raise DataError(
                f"no query of {config.sources.train_split} has two judged positives, so none can be hidden; judge a "
                "second right document for some 50 queries, or look at triplets by eye"
            )
        rows, at = np.unique(trials.pairs.query_rows_P, return_inverse=True)
        trials = replace(trials, pairs=Pairs(query_rows_P=at.astype(np.int64), doc_rows_P=trials.pairs.doc_rows_P))
        texts: dict[Role, Texts] = {"document": collection.documents, "query": collection.queries.take(rows.tolist())}
        ensemble = encode(texts, config, run)
        what = f"{len(rows):,} queries with several positives"
        bm25 = Bm25(collection.documents, k1=config.evaluate.k1, b=config.evaluate.b)
        first_QK, _ = bm25.first(texts["query"], _AUDITED_DEPTH)
        with track("audit", what, len(trials.pairs), "pairs") as progress:
            results = auditing.audit(ensemble.space, trials, seed=config.seed, first_QK=first_QK, done=progress.advance)
        settings, configured = _audited_settings(config)
        with searcher(ensemble.space, config.search, config.device, config.seed) as (search, _):
            for name, its in settings.items():
                found = select_negatives(trials.pairs, trials.known, search, ensemble, texts, its, run, name)
                results[name] = auditing.Audited.of(trials, found.pair_M, found.doc_rows_M)
        record = {
            "queries": len(rows),
            "pairs": len(trials.pairs),
            "rules": {
                name: {
                    "hidden": result.hidden_rate,
                    "interval": result.interval,
                    "yield": result.yield_rate,
                    "negatives": result.negatives,
                }
                for name, result in results.items()
            },
            "config": config.model_dump(mode="json"),
            "versions": versions(),
        }
        write_json(run.out / "audit.json", record)
        verdict = auditing.verdict(results, configured)
        return record | {"table": auditing.table(results), "verdict": verdict}


def _audited_settings(config: Config) -> tuple[dict[str, Config], str | None]:
    """Return what is mined for the audit, by name, and the name of what is configured, if that is more than a rule."""
    tried = {
        name: config.model_copy(update={"select": SelectConfig(), "guards": guards})
        for name, guards in TRIED_GUARDS.items()
    }
    wanted = config.select.negatives
    if config.guards == GuardsConfig() and wanted == 1:
        return tried, None
    guarded = ", guarded" if config.guards != GuardsConfig() else ""
    name = f"two conditions{guarded}" + (f", {wanted} a pair" if wanted > 1 else "")
    return tried | {name: config}, name
