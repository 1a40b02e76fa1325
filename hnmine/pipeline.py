"""The steps as a user calls them: `mine`, `train`, `evaluate`, and `run`, which is all three.

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
import pyarrow as pa
import pyarrow.parquet as pq

from hnmine import device as devices
from hnmine import weights
from hnmine.config import Config, GuardsConfig, SelectConfig, TrainConfig
from hnmine.ensemble import encode
from hnmine.errors import DataError
from hnmine.evaluation import METRICS, Task, means, measure, rerank, table
from hnmine.mining import groups_of_equal_text, refuse_unusable, searcher, select_negatives
from hnmine.mining import mine as mine_pairs
from hnmine.progress import say, track
from hnmine.runs import Run, digest, open_run, versions, write_json
from hnmine.sources import Collection, read_beir, write_quarantine
from hnmine.splits import Splits
from hnmine.types import Float32, Pairs, Role, Texts

FIRST_STAGE = "first stage: BM25"
TRIED_GUARDS = {
    "two conditions, margin 0.05": GuardsConfig(margin=0.05),
    "two conditions, margin 0.02": GuardsConfig(margin=0.02),
    "two conditions, first_rank 10": GuardsConfig(first_rank=10),
    "two conditions, margin 0.02, first_rank 5": GuardsConfig(margin=0.02, first_rank=5),
}
"""What `audit` measures unasked."""


def mine(data: str | Path, out: str | Path, config: Config | None = None) -> dict[str, Any]:
    """Mine the hard negatives of the train pairs; return the manifest.

    Writes OUT/negatives.parquet, OUT/triplets.parquet, OUT/quarantine.jsonl and OUT/manifest.json.

    Raises:
        HnmineError: the data, the configuration, a model or a device is not usable; the message says what to do.
    """
    config = config or Config()
    with open_run(Path(out), config) as run:
        _mine(_read(data, config, run), data, config, run)
        return run.manifest


def train(data: str | Path, out: str | Path, config: Config | None = None) -> dict[str, Any]:
    """Fine-tune the re-ranker on the negatives that `mine` left in OUT; return the manifest.

    Writes OUT/rerankers/<preset> for every preset of `train.presets`, and OUT/reranker, which points to the best
    of these and of the start by MRR@10 on the dev queries.
    """
    config = config or Config()
    with open_run(Path(out), config) as run:
        collection = _read(data, config, run)
        _train(Splits(collection, config), data, config, run)
        return run.manifest


def evaluate(data: str | Path, out: str | Path, config: Config | None = None) -> dict[str, Any]:
    """Re-rank the test queries with every re-ranker in OUT; return the manifest, with the table in it."""
    config = config or Config()
    with open_run(Path(out), config) as run:
        collection = _read(data, config, run)
        _evaluate(Splits(collection, config), data, config, run)
        return run.manifest


def run(data: str | Path, out: str | Path, config: Config | None = None) -> dict[str, Any]:
    """Mine, fine-tune and evaluate; return the manifest."""
    config = config or Config()
    with open_run(Path(out), config) as opened:
        collection = _read(data, config, opened)
        splits = Splits(collection, config)  # may refuse the data, so before the work
        _mine(collection, data, config, opened)
        _train(splits, data, config, opened)
        _evaluate(splits, data, config, opened)
        return opened.manifest


def audit(data: str | Path, out: str | Path, config: Config | None = None) -> dict[str, Any]:
    """Measure how often each rule would choose a right answer that is not labelled; return what was measured.

    Of queries with several judged positives all but one are hidden in turn. Beside the rules, the two conditions are
    mined with some guards, and with the configured `guards` and `select.negatives`. Writes OUT/audit.json.
    """
    from hnmine import auditing

    config = config or Config()
    refuse_unusable(config.guards)
    with open_run(Path(out), config) as run:
        collection = _read(data, config, run)
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
        with track("audit", what, len(trials.pairs), "pairs") as progress:
            results = auditing.audit(ensemble.space, trials, seed=config.sources.seed, done=progress.advance)
        settings, configured = _audited_settings(config)
        with searcher(ensemble.space, config.search) as (search, _):
            for name, its in settings.items():
                found = select_negatives(trials.pairs, trials.known, search, ensemble, texts, its, name)
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


def _read(data: str | Path, config: Config, run: Run) -> Collection:
    with run.timed("read"):
        collection = read_beir(data, config.sources)
        write_quarantine(collection.quarantined, run.out / "quarantine.jsonl")
    splits = ", ".join(f"{name} {len(pairs):,}" for name, pairs in collection.splits.items())
    say(
        "read",
        f"{len(collection.documents):,} documents, {len(collection.queries):,} queries, pairs: {splits}",
    )
    reasons = _count(row.reason for row in collection.quarantined)
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


def _mine(collection: Collection, data: str | Path, config: Config, run: Run) -> None:
    pairs = collection.pairs(config.sources.train_split)
    mined = mine_pairs(collection, pairs, config, run)
    ensemble, basis = mined.ensemble, mined.ensemble.basis
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
            "variance_kept": basis.kept if basis else None,
            "variance_kept_held_out": basis.kept_held_out if basis else None,
            "fitted_rows": basis.fitted_rows if basis else None,
            "library": basis.library if basis else None,
        },
        search=mined.index,
    )
    say(
        "write",
        f"{run.out / 'negatives.parquet'}, {run.out / 'triplets.parquet'}, {run.out / 'manifest.json'}",
    )


def _train(splits: Splits, data: str | Path, config: Config, run: Run) -> None:
    from hnmine.tuning import tune  # imports torch and Ray Train, which mining does without

    with run.timed("train"):
        inputs = run.sha256_of("negatives.parquet")
        found, files = tune(splits, config.train, run)
    run.commit("training", inputs=inputs, files=files | run.sha256_of("quarantine.jsonl"), data=str(data), **found)


def _evaluate(splits: Splits, data: str | Path, config: Config, run: Run) -> None:
    with run.timed("evaluate"):
        rerankers, max_tokens = _rerankers(config.train, run)
        device = devices.choose(config.train.device)
        dtype = devices.choose_dtype(config.train.dtype, device.kind, training=True)
        task = splits.task(splits.test, config.evaluate.queries, config.evaluate.seed)
        texts = digest([task.queries.texts, task.doc_rows_QK.tolist(), sorted(task.document_texts.items())])
        rows = {FIRST_STAGE: means(measure(task, task.first_scores_QK))}
        inputs: dict[str, str] = {}
        tables: list[str] = []
        for name, folder in rerankers.items():
            files = weights.folder_sha256(folder)
            if folder.is_relative_to(run.out):
                inputs |= {(folder / file).relative_to(run.out).as_posix(): value for file, value in files.items()}
            tables.append(f"evaluation/{name.replace(': ', '-').replace(' ', '-')}.parquet")
            identity = digest([files, texts, max_tokens, dtype, versions()])
            scores = _read_scores(name, run.out / tables[-1], identity, task.doc_rows_QK.shape)
            if scores is None:
                scores = _score(name, folder, task, max_tokens, device, dtype)
                run.write_table(tables[-1], _scores_table(task, scores, identity))
            rows[name] = means(measure(task, scores))
        for kind in ("before", "after"):
            for path in run.out.glob(f"evaluation/{kind}-*.parquet"):
                if path.relative_to(run.out).as_posix() not in tables:
                    path.unlink()  # of a re-ranker that is not compared any more
    every = len(np.unique(splits.test.query_rows_P))
    queries = f"{len(task):,}" if len(task) == every else f"{len(task):,} of {every:,}"
    text = table(rows, f"{queries} {splits.test_name} queries, the first {config.evaluate.depth} documents re-ranked")
    run.commit(
        "evaluation",
        inputs=inputs,
        files=run.sha256_of(*tables, "quarantine.jsonl"),
        data=str(data),
        split=splits.test_name,
        queries=len(task),
        max_tokens=max_tokens,
        metrics=rows,
        table=text,
    )


def _rerankers(config: TrainConfig, run: Run) -> tuple[dict[str, Path], int]:
    """Return the models to compare, by the names they have in the table, and how many tokens they read."""
    from hnmine.tuning import START

    folder = run.out / "rerankers"
    training = run.manifest.get("training")
    if not training:
        raise DataError(
            f"{run.out} holds no trained re-ranker; run `hnmine train` with the same --data and --out first"
        )
    max_tokens: int = training["max_tokens"]
    if max_tokens != config.max_tokens:
        say("evaluate", f"train.max_tokens={config.max_tokens} is not used: these were trained with {max_tokens}")
    start = training["start"]
    before = (
        {"before: warm-started": folder / START}
        if start["warmed_up"]
        else {"before: as given": weights.resolve(start["model"], start["revision"])}
    )
    return before | {f"after: {preset}": folder / preset for preset in training["presets"]}, max_tokens


def _score(name: str, folder: Path, task: Task, max_tokens: int, device: devices.Choice, dtype: str) -> Float32:
    from hnmine.reranker import Reranker

    reranker = Reranker(folder, max_tokens=max_tokens, device=device.torch_name, dtype=dtype)
    with track("evaluate", name, task.documents_to_score, "pairs") as progress:
        return rerank(task, reranker, progress.advance)


def _scores_table(task: Task, scores_QK: Float32, identity: str) -> pa.Table:
    values = measure(task, scores_QK)
    columns = {
        "query_id": list(task.queries.ids),
        "document_rows": task.doc_rows_QK.tolist(),
        "scores": scores_QK.tolist(),
    }
    rows = pa.table(columns | {metric: values[metric] for metric in METRICS})
    return rows.replace_schema_metadata({"identity": identity})


def _read_scores(name: str, path: Path, identity: str, shape: tuple[int, ...]) -> Float32 | None:
    """Return the scores (Q, K) that were computed before from the same model, texts and settings, if any."""
    if not path.is_file():
        return None
    try:
        stored = pq.read_table(path, columns=["scores"])
        if (stored.schema.metadata or {}).get(b"identity") != identity.encode():
            return None
        scores = np.array(stored.column("scores").to_pylist(), dtype=np.float32).reshape(shape)
    except (OSError, ValueError, TypeError, KeyError) as error:  # Arrow's errors are children of these
        say("evaluate", f"{name}: {path} cannot be read ({str(error).splitlines()[0]}), so it is scored again")
        return None
    say("evaluate", f"{name}: reused {path}")
    return scores
