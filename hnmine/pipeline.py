"""The steps as a user calls them: `mine`, `train`, `evaluate`, and `run`, which is all three.

The command line, `jobs/` and `import hnmine` call these. Each reads a collection and works in a run folder; a step
whose inputs, settings and versions have not changed since it was finished is reused, and says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hnmine import device as devices
from hnmine import weights
from hnmine.config import Config, TrainPreset
from hnmine.errors import DataError
from hnmine.evaluation import METRICS, Task, means, measure, rerank, table
from hnmine.first_stage import bm25
from hnmine.lists import first_stage_anchors, random_anchors, training_lists
from hnmine.mining import mine as mine_pairs
from hnmine.progress import say, track
from hnmine.runs import Run, digest, open_run, read_manifest, sha256, versions, write_json
from hnmine.sources import Collection, read_beir, write_quarantine
from hnmine.training import DEV_METRIC, Lists, Recipe
from hnmine.training import train as fit
from hnmine.types import Float32, Int64, Pairs

START = "start"
FIRST_STAGE = "first stage: BM25"


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
        _train(_Work(collection, config, run))
        return run.manifest


def evaluate(data: str | Path, out: str | Path, config: Config | None = None) -> dict[str, Any]:
    """Re-rank the test queries with every re-ranker in OUT; return the manifest, with the table in it."""
    config = config or Config()
    with open_run(Path(out), config) as run:
        collection = _read(data, config, run)
        _evaluate(_Work(collection, config, run))
        return run.manifest


def run(data: str | Path, out: str | Path, config: Config | None = None) -> dict[str, Any]:
    """Mine, fine-tune and evaluate; return the manifest."""
    config = config or Config()
    with open_run(Path(out), config) as opened:
        collection = _read(data, config, opened)
        _mine(collection, data, config, opened)
        work = _Work(collection, config, opened)
        _train(work)
        _evaluate(work)
        return opened.manifest


def _read(data: str | Path, config: Config, run: Run) -> Collection:
    with run.timed("read"):
        collection = read_beir(data, config.sources)
        write_quarantine(collection.quarantined, run.out / "quarantine.jsonl")
    splits = ", ".join(f"{name} {len(pairs):,}" for name, pairs in collection.splits.items())
    say("read", f"{len(collection.documents):,} documents, {len(collection.queries):,} queries, pairs: {splits}")
    reasons = _count(row.reason for row in collection.quarantined)
    if reasons:
        listed = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in reasons.items())
        say("read", f"quarantined: {listed}; listed in {run.out / 'quarantine.jsonl'}")
    return collection


def _count(reasons: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for reason in reasons:
        counts[reason] = counts.get(reason, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def _mine(collection: Collection, data: str | Path, config: Config, run: Run) -> None:
    pairs = collection.pairs(config.sources.train_split)
    mined = mine_pairs(collection, pairs, config, run)
    run.commit(
        data=str(data),
        counts={
            "documents": len(collection.documents),
            "queries": len(mined.queries),
            "pairs": len(pairs),
            "selected_pairs": mined.negatives.selected_pairs,
            "negatives": len(mined.negatives),
            "dropped": mined.negatives.dropped,
            "certificates": _count(mined.negatives.certificate_M.tolist()),
            "rows_read": collection.rows_read,
            "rows_kept": collection.rows_kept,
            "not_relevant": collection.not_relevant,
            "quarantined": _count(row.reason for row in collection.quarantined),
            "texts_encoded": mined.encoded,
            "texts_reused": mined.reused,
        },
        space={
            "fused_width": mined.fused_width,
            "width": mined.width,
            "variance_kept": mined.basis.kept if mined.basis else None,
            "fitted_rows": mined.basis.fitted_rows if mined.basis else None,
            "library": mined.basis.library if mined.basis else None,
        },
    )
    say("write", f"{run.out / 'negatives.parquet'}, {run.out / 'triplets.parquet'}, {run.out / 'manifest.json'}")


@dataclass
class _Work:
    """What training and evaluation share: the pairs of each purpose, and the first stage, searched once."""

    collection: Collection
    config: Config
    run: Run

    def __post_init__(self) -> None:
        config, collection = self.config.sources, self.collection
        train_pairs = collection.pairs(config.train_split)
        self.dev_name = config.dev_split
        if config.dev_split in collection.splits:
            self.dev_pairs, self.train_pairs = collection.pairs(config.dev_split), train_pairs
        else:
            self.dev_pairs, self.train_pairs = _hold_out(train_pairs, config.dev_share, config.seed)
            self.dev_name = f"{config.dev_share:.0%} of {config.train_split}"
            say("read", f"no {config.dev_split} split: {self.dev_name} queries are held out for early stopping")
        self.test_name, self.test_pairs = config.test_split, self.dev_pairs
        if config.test_split in collection.splits:
            self.test_pairs = collection.pairs(config.test_split)
        else:
            self.test_name = f"{self.dev_name} (no {config.test_split} split: these chose the step, so expect less)"
        self._first: dict[int, tuple[Int64, Float32]] = {}

    def first_stage(self, query_rows: Int64) -> dict[int, tuple[Int64, Float32]]:
        """Return each query row's first documents and their scores."""
        wanted = np.setdiff1d(query_rows, np.array(sorted(self._first), dtype=np.int64))
        if len(wanted):
            settings = self.config.evaluate
            depth = max(settings.depth, self.config.train.anchors.depth)
            rows, scores = bm25(
                self.collection.documents,
                self.collection.queries.take(wanted.tolist()),
                depth,
                k1=settings.k1,
                b=settings.b,
            )
            self._first |= {int(query): (rows[i], scores[i]) for i, query in enumerate(wanted)}
        return self._first

    def task(self, pairs: Pairs, limit: int | None, seed: int) -> Task:
        """Return the re-ranking task of the pairs' queries, or of a seeded sample of them."""
        queries = np.unique(pairs.query_rows_P)
        if limit is not None and limit < len(queries):
            queries = np.sort(np.random.default_rng(seed).choice(queries, size=limit, replace=False))
            pairs = pairs.take(np.isin(pairs.query_rows_P, queries))
        depth = self.config.evaluate.depth
        first = {row: (docs[:depth], scores[:depth]) for row, (docs, scores) in self.first_stage(queries).items()}
        return Task.of(self.collection.documents, self.collection.queries, pairs, first)


def _hold_out(pairs: Pairs, share: float, seed: int) -> tuple[Pairs, Pairs]:
    """Return (held out, rest): a seeded share of the queries with all their pairs."""
    queries = np.unique(pairs.query_rows_P)
    if len(queries) < 2:
        raise DataError("one train query only, and no dev split to stop early on; add qrels/dev.tsv or more queries")
    count = min(len(queries) - 1, max(1, round(share * len(queries))))
    held = np.isin(pairs.query_rows_P, np.random.default_rng(seed).choice(queries, size=count, replace=False))
    return pairs.take(held), pairs.take(~held)


def _train(work: _Work) -> None:
    config, run = work.config.train, work.run
    device = devices.choose(config.device)
    dtype = devices.choose_dtype(config.dtype, device.kind)
    recipe = Recipe.of(config, device, dtype)
    workers = config.workers or (max(1, devices.visible_gpus()) if device.kind == "gpu" else 1)
    with run.timed("train"):
        mined = _read_negatives(work)
        pairs = work.train_pairs
        if config.max_pairs is not None and config.max_pairs < len(pairs):
            keep = np.sort(np.random.default_rng(config.seed).choice(len(pairs), config.max_pairs, replace=False))
            pairs = pairs.take(keep)
        dev_queries = np.unique(work.dev_pairs.query_rows_P)
        work.first_stage(np.union1d(pairs.query_rows_P, dev_queries))
        dev = work.task(work.dev_pairs, config.dev_queries, config.seed)
        say("train", f"dev: {len(dev):,} queries of {work.dev_name}, on {device}")
        start, start_dev = _start(work, pairs, dev, recipe, workers)
        outcomes: dict[str, dict[str, Any]] = {}
        for preset in config.presets:
            lists, changed = _lists_of(preset, work, pairs, mined, recipe)
            outcomes[preset] = _fit_or_reuse(preset, start, lists, dev, changed, run, workers)
    best = max(outcomes, key=lambda name: outcomes[name]["dev"])
    _point(run.out / "reranker", Path("rerankers") / best)
    gain = outcomes[best]["dev"] - outcomes[best]["dev_by_step"]["0"]
    say("train", f"{run.out / 'reranker'} → rerankers/{best}: {DEV_METRIC} on dev {outcomes[best]['dev']:.3f} ({gain:+.3f})")
    run.commit(training={"dev": work.dev_name, "start": start_dev, "best": best, "presets": outcomes})


def _read_negatives(work: _Work) -> dict[tuple[int, int], list[int]]:
    """Return the mined document rows by (query row, positive row), nearest first."""
    path = work.run.out / "negatives.parquet"
    if not path.is_file():
        raise DataError(f"{path} does not exist; run `hnmine mine` with the same --data and --out first")
    rows = pq.read_table(path, columns=["query_id", "positive_id", "negative_id", "rank"]).to_pylist()
    documents, queries = work.collection.documents.row_of, work.collection.queries.row_of
    mined: dict[tuple[int, int], list[int]] = {}
    try:
        for row in sorted(rows, key=lambda row: row["rank"]):
            key = queries[row["query_id"]], documents[row["positive_id"]]
            mined.setdefault(key, []).append(documents[row["negative_id"]])
    except KeyError as error:
        raise DataError(f"{path} names {error}, which --data does not have; mine again from this data") from None
    return mined


def _start(work: _Work, pairs: Pairs, dev: Task, recipe: Recipe, workers: int) -> tuple[Path, dict[str, Any]]:
    """Return the folder of the re-ranker before fine-tuning; warm up a model that has no ranking head."""
    from hnmine.reranker import has_head

    config = work.config.train
    folder = weights.resolve(config.model, config.revision)
    if has_head(folder):
        return folder, {"model": config.model, "warmed_up": False}
    warm_up = config.warm_up
    say("train", f"{config.model} has no ranking head: warmed up first, on random negatives of the same pairs")
    anchors = random_anchors(
        pairs, work.collection.positives(), len(work.collection.documents), warm_up.negatives, config.seed
    )
    lists = training_lists(
        work.collection.documents, work.collection.queries, pairs, [[] for _ in range(len(pairs))], anchors
    )
    changes = {"loss": "infonce", "learning_rate": warm_up.learning_rate, "epochs": warm_up.epochs}
    warm = Recipe(**(asdict(recipe) | changes | {"evaluations_per_epoch": 1}))
    outcome = _fit_or_reuse(START, folder, lists, dev, warm, work.run, workers)
    return work.run.out / "rerankers" / START, {"model": config.model, "warmed_up": True, **outcome}


def _lists_of(
    preset: TrainPreset, work: _Work, pairs: Pairs, mined: Mapping[tuple[int, int], list[int]], recipe: Recipe
) -> tuple[Lists, Recipe]:
    """Return what a preset trains on, and how."""
    config, collection = work.config.train, work.collection
    keys = zip(pairs.query_rows_P.tolist(), pairs.doc_rows_P.tolist(), strict=True)
    hard = [mined.get(key, []) for key in keys]
    settings, anchors = config.anchors, [[] for _ in hard]
    if preset == "paper":
        recipe = Recipe(**(asdict(recipe) | {"loss": "margin"}))
    elif settings.per_pair and settings.source == "random":
        anchors = random_anchors(
            pairs, collection.positives(), len(collection.documents), settings.per_pair, config.seed
        )
    elif settings.per_pair:
        first = {query: rows[: settings.depth] for query, (rows, _) in work.first_stage(pairs.query_rows_P).items()}
        anchors = first_stage_anchors(pairs, collection.positives(), first, settings.per_pair, config.seed)
    lists = training_lists(collection.documents, collection.queries, pairs, hard, anchors)
    if not len(lists):
        raise DataError(
            f"preset {preset}: no train pair has a hard negative, so there is nothing to train on; "
            "use the preset anchored, or look at `dropped` in manifest.json"
        )
    return lists, recipe


def _fit_or_reuse(
    name: str, start: Path, lists: Lists, dev: Task, recipe: Recipe, run: Run, workers: int
) -> dict[str, Any]:
    """Train one re-ranker, unless the same was trained from the same before."""
    out = run.out / "rerankers" / name
    identity = digest(
        {
            "start": weights.folder_sha256(start),
            "lists": digest([lists.queries, lists.documents]),
            "dev": digest([dev.queries.texts, dev.doc_rows_QK.tolist(), sorted(dev.document_texts.items())]),
            "recipe": asdict(recipe),
            "workers": workers,
            "versions": versions(),
        }
    )
    record = out / "hnmine.json"
    if record.is_file() and (known := json.loads(record.read_text(encoding="utf-8")))["identity"] == identity:
        say("train", f"{name}: reused {out} (same pairs, settings and versions); {DEV_METRIC} on dev {known['dev']:.3f}")
        return dict(known)
    trained = fit(name, start, lists, dev, recipe, out, workers=workers)
    best = trained.dev[trained.best_step]
    outcome = {
        "identity": identity,
        "lists": len(lists),
        "steps": trained.steps,
        "best_step": trained.best_step,
        "dev": best,
        "dev_by_step": {str(step): value for step, value in trained.dev.items()},
        "recipe": asdict(recipe),
    }
    _write_card(out, name, outcome)
    write_json(record, outcome)  # last: a folder without it is not trusted
    say("train", f"{name}: step {trained.best_step} of {trained.steps} kept, {DEV_METRIC} on dev {best:.3f} (start {trained.dev[0]:.3f})")
    return outcome


def _write_card(out: Path, name: str, outcome: dict[str, Any]) -> None:
    steps = "\n".join(f"| {step} | {value:.4f} |" for step, value in outcome["dev_by_step"].items())
    (out / "README.md").write_text(
        f"---\nlibrary_name: sentence-transformers\npipeline_tag: text-ranking\ntags: [cross-encoder, hnmine]\n---\n"
        f"# Re-ranker `{name}`, fine-tuned by hnmine\n\n"
        f"Trained on {outcome['lists']:,} lists; step {outcome['best_step']} of {outcome['steps']} was kept.\n\n"
        f"| step | {DEV_METRIC} on dev |\n|---|---|\n{steps}\n\n"
        f"```json\n{json.dumps(outcome['recipe'], indent=1)}\n{json.dumps(versions(), indent=1)}\n```\n\n"
        "```python\nfrom sentence_transformers import CrossEncoder\nCrossEncoder('path of this folder')"
        ".predict([('query', 'document')])\n```\n",
        encoding="utf-8",
    )


def _point(link: Path, target: Path) -> None:
    """Let `link` point to `target` (relative), by one rename."""
    hidden = link.with_name(f".{link.name}.tmp")
    hidden.unlink(missing_ok=True)
    hidden.symlink_to(target, target_is_directory=True)
    hidden.replace(link)


def _evaluate(work: _Work) -> None:
    config, run = work.config, work.run
    with run.timed("evaluate"):
        task = work.task(work.test_pairs, config.evaluate.queries, config.evaluate.seed)
        rows = {FIRST_STAGE: means(measure(task, task.first_scores_QK))}
        for name, folder in _rerankers(work):
            rows[name] = _measured(name, folder, task, work)
    text = table(rows, len(task), config.evaluate.depth)
    run.commit(evaluation={"split": work.test_name, "queries": len(task), "metrics": rows, "table": text})


def _rerankers(work: _Work) -> list[tuple[str, Path]]:
    """Return the models to compare, with the names they have in the table."""
    folder = work.run.out / "rerankers"
    training = work.run.manifest.get("training")
    if not training:
        raise DataError(f"{work.run.out} holds no trained re-ranker; run `hnmine train` with the same --out first")
    start = folder / START if training["start"]["warmed_up"] else weights.resolve(training["start"]["model"])
    what = "warm-started" if training["start"]["warmed_up"] else "as given"
    return [(f"before: {what}", start)] + [(f"after: {preset}", folder / preset) for preset in training["presets"]]


def _measured(name: str, folder: Path, task: Task, work: _Work) -> dict[str, float]:
    """Return a re-ranker's metrics; scores that were computed before, from the same inputs, are reused."""
    from hnmine.reranker import Reranker

    config, run = work.config.train, work.run
    device = devices.choose(config.device)
    dtype = devices.choose_dtype(config.dtype, device.kind)
    identity = digest(
        [weights.folder_sha256(folder), task.queries.texts, task.doc_rows_QK.tolist(), config.max_tokens, dtype]
        + [sorted(task.document_texts.items()), versions()]
    )
    path = f"evaluation/{name.partition(': ')[2].replace(' ', '-')}.parquet"
    scores = _read_scores(run.out / path, identity, task.doc_rows_QK.shape)
    if scores is None:
        reranker = Reranker(folder, max_tokens=config.max_tokens, device=device.torch_name, dtype=dtype)
        with track("evaluate", name, task.documents_to_score, "pairs") as progress:
            scores = rerank(task, reranker, progress.advance)
        values = measure(task, scores)
        columns = {"query_id": list(task.queries.ids), "scores": scores.tolist(), "documents": task.doc_rows_QK.tolist()}
        whole = pa.table(columns | {metric: values[metric] for metric in METRICS})
        (run.out / "evaluation").mkdir(exist_ok=True)
        run.write_table(path, whole.replace_schema_metadata({"identity": identity}))
    else:
        say("evaluate", f"{name}: reused {run.out / path}")
    return means(measure(task, scores))


def _read_scores(path: Path, identity: str, shape: tuple[int, ...]) -> Float32 | None:
    if not path.is_file():
        return None
    stored = pq.read_table(path, columns=["scores"])
    if (stored.schema.metadata or {}).get(b"identity", b"").decode() != identity:
        return None
    return np.array(stored.column("scores").to_pylist(), dtype=np.float32).reshape(shape)
