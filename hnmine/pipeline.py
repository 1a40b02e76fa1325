"""The steps as a user calls them: embed, mine, train, evaluate, run (these three), compare, audit and rank.

The command line, `jobs/` and `import hnmine` call these. Each takes the address of a collection, or a `Collection`, and
works in a run folder. `vectors` that were made elsewhere take the place of the configured encoders. Vectors are
reused text by text; re-rankers and scores are reused where inputs, settings and versions have not changed, and it is
said. Fusing, reducing and selecting are done anew each time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hnmine.arms.arm import compared_arms, preset_arms
from hnmine.arms.choose import negatives_by_rule
from hnmine.arms.rules import Rule, rule_of
from hnmine.config.root import Config
from hnmine.config.steps import GuardsConfig
from hnmine.embedding.vectors import GivenVectors
from hnmine.errors import ConfigError, DataError
from hnmine.mining.mine import Judged, denoise_model
from hnmine.mining.pca import Basis, Fused
from hnmine.project import Data, Project, open_project
from hnmine.ranker.answer import answer
from hnmine.ranker.cost import Costs
from hnmine.ranker.place import is_ranker
from hnmine.ranker.ranker import Ranker
from hnmine.ranker.write import RANKER, choose_ranker, ranker_files, write_ranker
from hnmine.ranking.evaluate import KeptScores, Rerankers, rerankers_of, write_evaluation
from hnmine.ranking.first_stage import say_lacking
from hnmine.ranking.splits import FIRST_DOCUMENTS
from hnmine.report.card import head_ranker_card, write_reranker_cards
from hnmine.report.examples import examples, write_changes
from hnmine.report.page import leave_page, renew_page
from hnmine.report.rankings import evaluation_text
from hnmine.report.texts import write_texts
from hnmine.runs.folder import Run, refuse_source
from hnmine.runs.manifest import read_manifest
from hnmine.runs.progress import say, track

Vectors = Mapping[str, GivenVectors] | None
"""By name of an encoder its vectors of documents and queries, see `embedding.vectors.write_given`."""


def embed(data: Data, out: str | Path, config: Config | None = None, *, vectors: Vectors = None) -> dict[str, int]:
    """Encode the documents and queries whose vectors the store lacks, and nothing else; return how many texts.

    The texts of all encoders are counted: `encoded` here, `reused` from the store. Later steps find all vectors.
    """
    with open_project(data, out, config, vectors) as project:
        project.check_models()
        project.fuse(project.collection.judged)
        return {"encoded": project.ensemble.encoded, "reused": project.ensemble.reused}


def mine(
    data: Data, out: str | Path, config: Config | None = None, *, rule: Rule | None = None, vectors: Vectors = None
) -> dict[str, Any]:
    """Mine the hard negatives of the train pairs; return the manifest.

    Writes OUT/negatives.parquet, OUT/triplets.parquet, OUT/quarantine.jsonl and OUT/manifest.json; `negatives(out)`
    returns the table. A `rule` of the user's takes the place of the two conditions: it maps a `View` of one pair and
    select.negatives to positions in the view, the best first (`hnmine.arms.rules`).

    Raises:
        HnmineError: the data, the configuration, a model or a device is not usable; the message says what to do.
    """
    with open_project(data, out, config, vectors) as project:
        project.check_models("mine")
        mine_step(project, rule)
        renew_page(project.run.out)
        return project.run.manifest


def negatives(out: str | Path, *, texts: bool = False) -> pa.Table:
    """Return what was mined into OUT, a row a negative, sorted by pair and rank; `.to_pandas()` makes a DataFrame.

    Columns: query_id, positive_id, negative_id; rank, 1 the nearest; d_query_positive, d_query_negative and
    d_positive_negative, cosine distances from 0 to 2; certificate, why no better one was missed. With `texts` also
    query, positive and negative.

    Raises:
        DataError: nothing was mined into OUT, or it is not as it was left.
    """
    run = Run(out=Path(out), config=Config(), manifest=read_manifest(Path(out)))
    run.require_mined()
    table = pq.read_table(run.out / "negatives.parquet")
    if texts:
        triplets = pq.read_table(run.out / "triplets.parquet")
        for name in ("query", "positive", "negative"):
            table = table.append_column(name, triplets[name])
    return table


def train(data: Data, out: str | Path, config: Config | None = None, *, vectors: Vectors = None) -> dict[str, Any]:
    """Fine-tune the re-ranker on the negatives that `mine` left in OUT; return the manifest.

    Writes OUT/rerankers/<preset> for every preset of `train.presets`, and OUT/reranker, which points to the best of
    these and of the start by MRR@10 on the dev queries.
    """
    arms = preset_arms(config or Config())  # an unknown one is said before the collection is read
    with open_project(data, out, config, vectors) as project:
        if any(arm.mined for arm in arms.values()):
            project.run.require_mined()
        project.check_models("train")
        train_step(project)
        renew_page(project.run.out)
        return project.run.manifest


def evaluate(data: Data, out: str | Path, config: Config | None = None, *, vectors: Vectors = None) -> dict[str, Any]:
    """Re-rank the test queries with every re-ranker in OUT; return the manifest, with table and answer in it.

    Where nothing was trained, train.model is measured as it is. Writes OUT/evaluation, whose rows `read_rows` returns,
    and OUT/ranker, what dev chooses.
    """
    with open_project(data, out, config, vectors) as project:
        found = rerankers_of(project.run)  # what is missing is said before encoders are loaded
        project.check_models()
        evaluate_step(project, found)
        leave_page(project.run.out)
        return project.run.manifest


def run(
    data: Data,
    out: str | Path,
    config: Config | None = None,
    show: Callable[[str], Any] = lambda _text: None,
    *,
    vectors: Vectors = None,
) -> dict[str, Any]:
    """Mine, fine-tune and evaluate; return the manifest.

    `show` gets some mined triplets, and what first stage and encoders are worth, before the training begins.
    """
    preset_arms(config or Config())  # an unknown one is said before the collection is read
    with open_project(data, out, config, vectors) as project:
        project.check_models("mine", "train")
        _ = project.splits  # data that cannot be divided are refused before the work
        mine_step(project)
        triplets, negatives = (project.run.out / f"{name}.parquet" for name in ("triplets", "negatives"))
        show(examples(triplets, negatives, count=5))
        show(f"Before training:\n\n{evaluation_text(project.evaluator.evaluation())}")
        train_step(project)
        evaluate_step(project)
        leave_page(project.run.out)
        return project.run.manifest


def compare(data: Data, out: str | Path, config: Config | None = None, *, vectors: Vectors = None) -> dict[str, Any]:
    """Train one re-ranker an arm (a way to choose negatives) from one start at one budget; return what each is worth.

    Writes OUT/compare.md and OUT/compare.json; what was trained before is reused.
    """
    from hnmine.comparison.compare import compare as compare_arms  # imports torch

    compared_arms(config or Config())  # an unknown arm is said before the collection is read
    with open_project(data, out, config, vectors) as project:
        project.check_models("compare")
        found = compare_arms(project)
        leave_page(project.run.out)
        return found


def audit(data: Data, out: str | Path, config: Config | None = None, *, vectors: Vectors = None) -> dict[str, Any]:
    """Measure how often each rule would choose a right answer that is not labelled; return what was measured.

    Of queries with several judged positives all but one are hidden in turn. Beside the rules, the two conditions are
    mined with some guards, and with the configured `guards` and `select.negatives`. Writes OUT/audit.json.
    """
    from hnmine.comparison.audit import audit as audit_project  # imports torch

    with open_project(data, out, config, vectors) as project:
        project.check_models("mine")
        found = audit_project(project)
        leave_page(project.run.out)
        return found


def rank(
    data: Data,
    out: str | Path,
    config: Config | None = None,
    *,
    model: str,
    split: str | None = None,
    max_tokens: int | None = None,
    dtype: str = "auto",
) -> dict[str, Any]:
    """Re-rank the first stage's documents with a ranker or any model; write the order to OUT, a TREC run; return facts.

    The first stage and its depth are those of `evaluate`; a ranker has its own depth where none is set. The queries are
    those of a judged split, on which first stage and model are then measured, or all of the collection. `max_tokens`
    are read of query and document together, by default as many as the model's makers say; `dtype` is of the
    computation. A name that ends in .gz is compressed. What a call that is stopped has scored is in the folder
    OUT.work, and the same call goes on from there.

    Raises:
        HnmineError: the model cannot rank, the data or the configuration is not usable; the message says what to do.
    """
    from hnmine.ranking.rank import Ranks, find_model, rank_queries

    # Refuse what cannot end well before the collection is read.
    refuse_source(data, out)
    config, out = config or Config(), Path(out)
    if out.is_dir():
        raise DataError(f"--out {out} is a folder; give the name of the run file, such as {out / 'run.trec.gz'}")
    if not is_ranker(model):
        ranking_model: Ranks = find_model(model, config, max_tokens=max_tokens, dtype=dtype)
    elif max_tokens is not None or dtype != "auto":
        raise ConfigError(f"{model} is a ranker and reads as it was evaluated; leave out max_tokens and dtype")
    else:
        ranking_model = ranker = Ranker.load(model, device=config.device)
        config = _at_depth_of(ranker, config)

    # What can be gone on from lies beside the file.
    with open_project(data, out.with_name(f"{out.name}.work"), config) as project:
        queries = project.collection.queries
        return rank_queries(
            project.collection, split, lambda: project.open_first_stage(queries), ranking_model, project.run, out
        )


def _at_depth_of(ranker: Ranker, config: Config) -> Config:
    """Return settings by which as many documents are ranked as the ranker was chosen for; evaluate.depth is kept."""
    depth, evaluate = ranker.spec.depth, config.evaluate
    if "depth" not in evaluate.model_fields_set:
        say("rank", f"the first {depth} documents of each query, for which the ranker was chosen; see --depth")
        return config.model_copy(update={"evaluate": evaluate.model_copy(update={"depth": depth})})
    if evaluate.depth != depth:
        say("rank", f"the first {evaluate.depth} documents of each query, as evaluate.depth says; chosen for {depth}")
    return config


def mine_step(project: Project, rule: Rule | None = None) -> None:
    """Mine the train pairs by the configured rule, or by one of the user's."""
    rule_to_follow(project.config, rule)
    denoise_model(project.config.guards)  # its absence is said before hours of encoding
    judged = project.judge()
    select_step(project, judged, project.fuse(judged.queries), rule=rule)


def rule_to_follow(config: Config, given: Rule | None = None) -> tuple[str, Rule] | None:
    """Return name and rule that take the place of the two conditions: the given one, else select.rule; None: none does.

    Raises:
        ConfigError: guards are set, which would have no effect on it.
    """
    found = rule_of(config.select.rule)
    if given is not None:
        found = getattr(given, "__qualname__", type(given).__qualname__), given
    if found is not None and config.guards != GuardsConfig():
        named = "a rule that is given as an argument" if given else f"select.rule={config.select.rule}"
        raise ConfigError(f"guards would have no effect on {named}; remove one of them")
    return found


def select_step(
    project: Project, judged: Judged, fused: Fused, *, basis: Basis | None = None, rule: Rule | None = None
) -> None:
    """Select by the configured rule or the given one, on this basis or as configured; write and record it."""
    config, found_rule = project.config, rule_to_follow(project.config, rule)
    if found_rule is None:
        project.mine(judged, fused, basis)
        return

    # Show the rule each pair, in the reduced space and with the first stage's documents.
    space, (name, follow) = project.reduce(fused, basis), found_rule
    rows_Q = np.array([project.collection.queries.row_of[query] for query in judged.queries.ids], dtype=np.int64)
    first_QK, _ = project.open_first_stage()(rows_Q, FIRST_DOCUMENTS)
    say_lacking(judged.queries, first_QK)
    with project.run.timed("select"), track("select", name, len(judged.pairs), "pairs") as progress:
        how: dict[str, Any] = {
            "count": config.select.negatives,
            "seed": config.seed,
            "first_QK": first_QK,
            "done": progress.advance,
        }
        found = negatives_by_rule(space, judged.pairs, judged.known, follow, **how)
    project.write_mined(judged, found, fused, space, {"rule": name})


def train_step(project: Project, *, earlier: bool = True) -> None:
    """Train on what was mined into the run, and record it; the best may be one that an `earlier` command trained."""
    from hnmine.arms.tune import train_presets  # imports torch and Ray Train, which mining does without
    from hnmine.training.lists import TrainingData
    from hnmine.training.trainer import Trainer

    run, config = project.run, project.config
    with run.timed("train"):
        inputs = run.sha256_of("negatives.parquet")
        data = TrainingData.of(project.splits, config.train, config.seed)
        found, files = train_presets(Trainer(data, config, run), project.splits, project.ensemble, earlier=earlier)
    run.commit("training", inputs=inputs, files=files | run.sha256_of("quarantine.jsonl"), data=project.data, **found)
    write_reranker_cards(run)


def evaluate_step(project: Project, found: Rerankers | None = None, *, margin: float = 0.0) -> None:
    """Measure first stage and re-rankers on the test queries, record it, and leave what dev chooses as OUT/ranker.

    `found` are the re-rankers of the run, if somebody has looked already.
    What was deployed before stays there if it is better on dev, by more than `margin` of MRR@10.
    """
    # Measure.
    run, evaluator = project.run, project.evaluator
    with run.timed("evaluate"):
        rerankers, inputs = found or rerankers_of(run)
        measured = []
        for name, reranker in rerankers.items():
            kept = KeptScores(run, reranker.kind, reranker.max_tokens)
            measured.append(evaluator.measured(name, *kept.of_folder(evaluator.tasks(name), reranker.folder)))
        evaluation = evaluator.evaluation(measured)
        pages = write_changes(evaluation, run)

    # Choose, and tell what each row costs.
    with run.timed("ranker"):
        of_row = {row.name: rerankers[each.alone.name] for each in measured for row in (each.alone, each.best)}
        deployment, costs = choose_ranker(project, evaluation, of_row, margin), Costs(project, of_row)
        milliseconds = {row.name: costs.of_row(row) for row in evaluation.rows}
        if deployment is not None and deployment.earlier is not None:
            earlier = deployment.earlier
            evaluation = replace(evaluation, rows=[*evaluation.rows, earlier.ranking])
            milliseconds[earlier.ranking.name] = earlier.milliseconds

    # Record.
    training = run.manifest.get("training") or {}
    start = _start_text(training.get("start", {}))
    files = write_evaluation(evaluation, evaluator.dev, milliseconds, run)
    files += write_texts(evaluation.task, [row.scores_QK for row in evaluation.rows], run)
    run.commit(
        "evaluation",
        inputs=inputs,
        files=run.sha256_of(*files, *pages, "quarantine.jsonl"),
        data=project.data,
        **evaluation.facts(),
        table=evaluation_text(evaluation, milliseconds, start=start),
        answer=answer(deployment, evaluation, evaluator.tested, milliseconds, run.out / RANKER),
    )
    if training:
        write_reranker_cards(run)
    if deployment is not None:
        with run.timed("ranker"):
            facts = write_ranker(project, deployment, of_row, costs)
        run.commit("ranker", inputs=inputs, files=run.sha256_of(*ranker_files(run.out)), data=project.data, **facts)
        if not deployment.stays:  # else its card tells of the evaluation that it comes from
            head_ranker_card(run)


def _start_text(start: dict[str, Any]) -> str:
    """Return what has to be known of the model before training; nothing of one that came with a head."""
    return f"before: {start['model']} {start['head']}." if start.get("warmed_up") and "head" in start else ""
