"""The steps as a user calls them: `embed`, `mine`, `train`, `evaluate`, and `run`, which is all of these.

The command line, `jobs/` and `import hnmine` call these. Each reads a collection and works in a run folder. Vectors
are reused text by text; re-rankers and scores where inputs, settings and versions have not changed, and it is said.
Fusing, reducing and selecting are done anew each time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hnmine.config.root import Config, GuardsConfig, SelectConfig
from hnmine.config.training import PRESETS
from hnmine.corpus.beir import Collection, read_beir, write_quarantine
from hnmine.embedding.ensemble import ChooseBasis, embed_all, encode
from hnmine.errors import DataError
from hnmine.mining.mine import (
    Mined,
    Selection,
    dense,
    groups_of_equal_text,
    refuse_unusable,
    searcher,
    select_negatives,
)
from hnmine.mining.whole import mine as mine_pairs
from hnmine.ranking.evaluate import compare as compare_rerankers
from hnmine.ranking.first_stage import Bm25, FirstStage, bm25_or_run_file
from hnmine.ranking.splits import Splits
from hnmine.runs.counters import DROPPED, GUARDED, NEGATIVES, QUARANTINED
from hnmine.runs.files import write_json
from hnmine.runs.folder import Run, open_run, versions
from hnmine.runs.progress import say, track
from hnmine.types import Pairs, Role, Texts

TRIED_GUARDS = {
    "two conditions, margin 0.05": GuardsConfig(margin=0.05),
    "two conditions, margin 0.02": GuardsConfig(margin=0.02),
    "two conditions, first_rank 10": GuardsConfig(first_rank=10),
    "two conditions, margin 0.02, first_rank 5": GuardsConfig(margin=0.02, first_rank=5),
}
"""What `audit` measures unasked."""
_AUDITED_DEPTH = 100  # of BM25


def embed(data: str | Path, out: str | Path, config: Config | None = None) -> dict[str, int]:
    """Encode the documents and queries whose vectors the store lacks, and nothing else; return how many texts.

    Those of all encoders are counted: `encoded` here, `reused` from the store. Steps that follow find all vectors.
    """
    config = config or Config()
    with open_run(Path(out), config) as run:
        collection = read_collection(data, config, run)
        texts: dict[Role, Texts] = {"document": collection.documents, "query": collection.judged}
        with run.timed("embed"):
            _, encoded, reused = embed_all(texts, config, run)
        return {"encoded": encoded, "reused": reused}


def mine(data: str | Path, out: str | Path, config: Config | None = None) -> dict[str, Any]:
    """Mine the hard negatives of the train pairs; return the manifest.

    Writes OUT/negatives.parquet, OUT/triplets.parquet, OUT/quarantine.jsonl and OUT/manifest.json.

    Raises:
        HnmineError: the data, the configuration, a model or a device is not usable; the message says what to do.
    """
    config = config or Config()
    with open_run(Path(out), config) as run:
        mine_into(read_collection(data, config, run), data, config, run)
        return run.manifest


def train(data: str | Path, out: str | Path, config: Config | None = None) -> dict[str, Any]:
    """Fine-tune the re-ranker on the negatives that `mine` left in OUT; return the manifest.

    Writes OUT/rerankers/<preset> for every preset of `train.presets`, and OUT/reranker, which points to the best
    of these and of the start by MRR@10 on the dev queries.
    """
    config = config or Config()
    refuse_unknown_presets(config)
    with open_run(Path(out), config) as run:
        run.require_mined()
        collection = read_collection(data, config, run)
        train_into(splits_of(collection, config, run), data, config, run)
        return run.manifest


def evaluate(data: str | Path, out: str | Path, config: Config | None = None) -> dict[str, Any]:
    """Re-rank the test queries with every re-ranker in OUT; return the manifest, with the table in it."""
    config = config or Config()
    with open_run(Path(out), config) as run:
        run.require_trained()
        collection = read_collection(data, config, run)
        _evaluate(splits_of(collection, config, run), data, config, run)
        return run.manifest


def run(data: str | Path, out: str | Path, config: Config | None = None) -> dict[str, Any]:
    """Mine, fine-tune and evaluate; return the manifest."""
    config = config or Config()
    refuse_unknown_presets(config)
    with open_run(Path(out), config) as opened:
        collection = read_collection(data, config, opened)
        splits = splits_of(collection, config, opened)  # may refuse the data, so before the work
        mine_into(collection, data, config, opened)
        train_into(splits, data, config, opened)
        _evaluate(splits, data, config, opened)
        return opened.manifest


def refuse_unknown_presets(config: Config) -> None:
    """Raise ConfigError if a preset is not known, or an arm that it tries: before the collection is read."""
    if set(config.train.presets) - (set(PRESETS) - {"auto"}):
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
    with open_run(Path(out), config) as run:
        collection = read_collection(data, config, run)
        return comparison.compare(splits_of(collection, config, run), config, run)


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
            results = auditing.audit(
                ensemble.space, trials, seed=config.sources.seed, first_QK=first_QK, done=progress.advance
            )
        settings, configured = _audited_settings(config)
        with searcher(ensemble.space, config.search) as (search, _):
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


def splits_of(collection: Collection, config: Config, run: Run) -> Splits:
    """Divide the collection into train, dev and test, with the first stage that is configured."""
    sources, evaluate = config.sources, config.evaluate
    return Splits(collection, sources, evaluate, sources.seed, lambda: open_first_stage(collection, config, run))


def open_first_stage(collection: Collection, config: Config, run: Run) -> FirstStage:
    """Open the first stage that is configured: BM25, a run file, or the ensemble's space."""
    if config.evaluate.first_stage == "dense":
        return dense(collection, config, run)
    return bm25_or_run_file(config.evaluate, collection.documents, collection.queries)


def read_collection(data: str | Path, config: Config, run: Run) -> Collection:
    """Read the collection, say what came, and write what was quarantined."""
    with run.timed("read"):
        collection = read_beir(data, config.sources)
        write_quarantine(collection.quarantined, run.out / "quarantine.jsonl")
    splits = ", ".join(f"{name} {len(pairs):,}" for name, pairs in collection.splits.items())
    judged = len(collection.judged)
    unjudged = len(collection.queries) - judged
    say(
        "read",
        f"{len(collection.documents):,} documents, {judged:,} queries, pairs: {splits}"
        + (f"; {unjudged:,} queries more without a right document" if unjudged else ""),
        documents=len(collection.documents),
        queries=judged,
        unjudged=unjudged,
        quarantined=len(collection.quarantined),
    )
    reasons = _count(row.reason for row in collection.quarantined)
    QUARANTINED.add_each(reasons)
    if reasons:
        listed = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in reasons.items())
        say("read", f"quarantined: {listed}; listed in {run.out / 'quarantine.jsonl'}")
    if collection.queries_of_equal_text:
        say(
            "read", f"{collection.queries_of_equal_text:,} queries have the text of another: their positives are shared"
        )
    return collection


def _count(reasons: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for reason in reasons:
        counts[reason] = counts.get(reason, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def mine_into(
    collection: Collection,
    data: str | Path,
    config: Config,
    run: Run,
    *,
    basis: ChooseBasis | None = None,
    selection: Selection | None = None,
) -> Mined:
    """Mine, record it, and return what was found; see `mining.mine`."""
    pairs = collection.pairs(config.sources.train_split)
    mined = mine_pairs(collection, pairs, config, run, basis=basis, selection=selection)
    ensemble, used = mined.ensemble, mined.ensemble.basis
    NEGATIVES.add(len(mined.negatives))
    DROPPED.add_each(mined.negatives.dropped)
    GUARDED.add_each(mined.negatives.guarded)
    run.commit(
        "mining",
        inputs={},
        files=run.sha256_of("negatives.parquet", "triplets.parquet", "basis.safetensors", "quarantine.jsonl"),
        data=str(data),
        counts={
            "documents": len(collection.documents),
            "queries": len(mined.queries),
            "pairs": len(pairs),
            "selected_pairs": mined.negatives.selected_pairs,
            "negatives": len(mined.negatives),
            "dropped": mined.negatives.dropped,
            "guarded": mined.negatives.guarded,
            "certificates": _count(mined.negatives.certificate_M.tolist()),
            "rows_read": collection.rows_read,
            "rows_kept": collection.rows_kept,
            "not_relevant": collection.not_relevant,
            "quarantined": _count(row.reason for row in collection.quarantined),
            "queries_of_equal_text": collection.queries_of_equal_text,
            "texts_encoded": ensemble.encoded,
            "texts_reused": ensemble.reused,
        },
        space={
            "fused_width": ensemble.fused.width,
            "width": ensemble.space.width,
            "variance_kept": used.kept if used else None,
            "variance_kept_held_out": used.kept_held_out if used else None,
            "fitted_rows": used.fitted_rows if used else None,
            "library": used.library if used else None,
        },
        search=mined.index,
    )
    say(
        "write",
        f"{run.out / 'negatives.parquet'}, {run.out / 'triplets.parquet'}, {run.out / 'manifest.json'}",
    )
    return mined


def train_into(splits: Splits, data: str | Path, config: Config, run: Run) -> None:
    """Train on what was mined into the run, and record it."""
    from hnmine.arms.tune import tune  # imports torch and Ray Train, which mining does without

    with run.timed("train"):
        inputs = run.sha256_of("negatives.parquet")
        found, files = tune(splits, config, run)
    run.commit("training", inputs=inputs, files=files | run.sha256_of("quarantine.jsonl"), data=str(data), **found)


def _evaluate(splits: Splits, data: str | Path, config: Config, run: Run) -> None:
    with run.timed("evaluate"):
        found, inputs, files = compare_rerankers(splits, config, run)
    run.commit("evaluation", inputs=inputs, files=files | run.sha256_of("quarantine.jsonl"), data=str(data), **found)
