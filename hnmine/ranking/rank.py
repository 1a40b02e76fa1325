"""Any model puts the first stage's documents in order, and a TREC run says how.

A cross-encoder scores pairs in parts that the task alone decides: a job that was killed, and one over Ray's actors, end
in the bytes of one that was not. What a part gave is kept in the work folder, under a digest of all that decided it. A
bi-encoder encodes each text once, and its vectors are kept as those of all encoders are.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hnmine.config.base import slug
from hnmine.config.encoders import EncoderConfig
from hnmine.config.rerankers import named_model
from hnmine.config.root import Config
from hnmine.config.training import Kind
from hnmine.corpus.collection import Collection
from hnmine.corpus.text_keys import key_of
from hnmine.embedding.ensemble import Ensemble
from hnmine.embedding.pool import cpu_actors, device_of_encoders
from hnmine.errors import ConfigError, DataError, DeviceError, HnmineError, ModelError
from hnmine.models.batches import MAX_LANES
from hnmine.models.folder import folder_sha256, model_type, resolve
from hnmine.models.preflight import check_reranker
from hnmine.ranking.first_stage import FirstStage, lacking_text
from hnmine.ranking.measures import Task, means, measure, reach, rerank
from hnmine.ranking.run_files import write_run
from hnmine.runs.cache import FilesAlone
from hnmine.runs.device import choose_dtype, visible_gpus
from hnmine.runs.files import digest
from hnmine.runs.folder import Run
from hnmine.runs.manifest import versions
from hnmine.runs.progress import say, track
from hnmine.runs.ray_session import start_ray
from hnmine.runs.tables import text_table
from hnmine.types import NO_ROW, Done, Float32, Texts

PART_PAIRS = 1024
"""Pairs of a part: what a crash may cost each actor."""
_AS_DECLARED = 10**9  # tokens: a cross-encoder reads no more than it declares and has positions for
_RETRIES = 3  # of a part whose actor died
_ASKED_AHEAD = 2  # parts that an actor holds: it scores one, and the next is there
TextPairs = tuple[Sequence[str], Sequence[str]]  # queries, and a document of each


class Ranks(Protocol):
    """What re-ranks: a model, or a ranker that is made of several."""

    @property
    def name(self) -> str:
        """What a run file is tagged with."""

    @property
    def kind(self) -> str:
        """What it is, in a word."""

    def scores_of_task(self, task: Task, documents: Texts, run: Run) -> Float32:
        """Return the scores (Q, K) of a task's documents, which are of these; -inf where there is none."""


@dataclass(frozen=True, kw_only=True)
class RankingModel:
    """A model that is to re-rank, and how it reads: small, and travels to the actors."""

    name: str
    kind: Kind
    folder: Path
    reading: dict[str, Any]
    """All that decides scores but the weights, as `load_reranker` takes it."""

    @cached_property
    def identity(self) -> list[Any]:
        """All that decides a score but the texts."""
        return [folder_sha256(self.folder), self.kind, self.reading, versions()]

    def scores_of_task(self, task: Task, documents: Texts, run: Run) -> Float32:
        """Return the model's scores (Q, K) of a task's documents, -inf where there is none.

        What is known of an earlier call is taken from the run's folder, or for a bi-encoder from the store of vectors.
        """
        if self.kind == "bi-encoder":
            return _cosines(task, documents, self, run.config, run.config.embed.store or run.out / "store")
        return rerank(task, lambda queries, docs, _: score_parts((queries, docs), self, run, PART_PAIRS))


def find_model(model: str, config: Config, *, max_tokens: int | None = None, dtype: str = "auto") -> RankingModel:
    """Return the model of this folder or name, and how it reads; `max_tokens` None: what its makers let it read.

    A cross-encoder is loaded once and scores a few pairs, before hours of work.

    Raises:
        ConfigError: `max_tokens` is out of range.
        ModelError: there is no such model, or it has neither a head that scores nor a pooling that makes vectors.
        DeviceError: a GPU was asked for and is not there.
    """
    if max_tokens is not None and not 16 <= max_tokens <= 32_768:
        raise ConfigError(f"max_tokens: expected a number from 16 to 32768, got {max_tokens}")
    folder = resolve(model := named_model(model))
    kind = kind_of(model, folder)
    device = device_of_encoders(config.device, config.ray)
    reading = {
        "max_tokens": max_tokens or (_AS_DECLARED if kind == "cross-encoder" else None),
        "passages": config.evaluate.long_documents == "maxp",
        "dtype": choose_dtype(dtype, device.kind, model_type=model_type(folder)),
        "engine": config.engine,
        "device": device.torch_name,
    }
    say("rank", f"{model}: a {kind} on {device}, {reading['dtype']}")
    if kind == "cross-encoder":
        check_reranker("--model", model, kind, folder, reading)
    name = slug(Path(os.path.abspath(model.partition("@")[0])).name)
    return RankingModel(name=name, kind=kind, folder=folder, reading=reading)


def kind_of(model: str, folder: Path) -> Kind:
    """Return what a folder holds: a bi-encoder if it names modules that make vectors, else what scores a pair."""
    from hnmine.models.ranking_head import has_ranking_head, is_modular  # imports torch

    if (folder / "modules.json").is_file() and not is_modular(folder):
        return "bi-encoder"
    if has_ranking_head(folder):
        return "cross-encoder"
    raise ModelError(
        f"{model} cannot rank: {folder} has no head that scores a query beside a document, and no modules.json that "
        "makes vectors; give a cross-encoder, a SentenceTransformer, or what `hnmine train` left in OUT/reranker"
    )


def rank_queries(
    collection: Collection,
    split: str | None,
    open_first_stage: Callable[[], FirstStage],
    model: Ranks,
    run: Run,
    out: Path,
) -> dict[str, Any]:
    """Re-rank the queries of a split, None: of the collection; write the TREC run `out` and return its facts."""
    # Ask the first stage.
    config, documents = run.config, collection.documents
    pairs = None if split is None else collection.pairs(split)
    rows_Q = np.arange(len(collection.queries)) if pairs is None else np.unique(pairs.query_rows_P)
    depth, is_file = config.evaluate.depth, config.evaluate.first_stage not in ("bm25", "dense")
    doc_rows_QK, first_scores_QK = open_first_stage()(rows_Q, depth + is_file)
    if is_file and (more := int((doc_rows_QK[:, depth:] != NO_ROW).sum())):
        say(
            "rank",
            f"{more:,} queries have more than {depth} candidates, which are left out: see --depth",
            level="warning",
        )
    task = Task.of(documents, collection.queries, pairs, rows_Q, doc_rows_QK[:, :depth], first_scores_QK[:, :depth])
    if lacking := lacking_text(task.queries, task.doc_rows_QK):
        if not task.exists_QK.any():
            raise DataError(f"{lacking}; there is nothing to rank: see that ids of candidates and data are the same")
        say("rank", lacking, level="warning")

    # Score, and write.
    scores_QK = model.scores_of_task(task, documents, run)
    write_run(out, task.queries.ids, documents.ids, task.doc_rows_QK, scores_QK, tag=model.name)
    count, answered = int(task.exists_QK.sum()), int(task.exists_QK.any(1).sum())
    facts = {"run": str(out), "model": model.name, "kind": model.kind, "queries": len(task), "documents": count}
    say("rank", f"{out}: {answered:,} queries, {count:,} documents")
    remove_work(run.out)
    return facts | ({} if split is None else worth(task, scores_QK, model, Path(config.evaluate.first_stage).name))


def remove_work(work: Path) -> None:
    """Remove what a run file that is not yet written needs; bad rows, and files of others, stay."""
    for part in (work / "scores").glob("[0-9]*.parquet"):
        part.unlink()
    for name in ("cache", "store"):
        shutil.rmtree(work / name, ignore_errors=True)
    for name in ("quarantine.jsonl", ".lock"):
        if (work / name).is_file() and not (work / name).stat().st_size:
            (work / name).unlink()
    for folder in (work / "scores", work):
        with suppress(OSError):  # it is not empty, or not there
            folder.rmdir()


def score_parts(pairs: TextPairs, model: RankingModel, run: Run, part_pairs: int) -> Float32:
    """Return the score (F,) of each pair; those of parts that were scored before are kept, and read back."""
    queries, documents = pairs
    scores_F = np.zeros(len(queries), dtype=np.float32)
    keys = {text: key_of(text).hex() for text in {*queries, *documents}}  # long texts stand in many pairs
    named = [(keys[query], keys[document]) for query, document in zip(queries, documents, strict=True)]

    # Take the parts that an earlier call has left.
    missing: dict[int, tuple[slice, str]] = {}
    for number, start in enumerate(range(0, len(queries), part_pairs)):
        part = slice(start, start + part_pairs)
        identity = digest([model.identity, named[part]])
        if run.cache.get(_entry(number), identity, FilesAlone) is None:
            missing[number] = part, identity
        else:
            scores_F[part] = pq.read_table(run.out / _entry(number))["score"].to_numpy()
    if not missing:
        say("rank", f"{model.name}: all scores are kept in {run.out / 'scores'}")
        return scores_F
    if kept := -(-len(queries) // part_pairs) - len(missing):
        say("rank", f"{model.name}: goes on; {kept} parts of {part_pairs} pairs are kept in {run.out / 'scores'}")

    # Score the others, and keep each as soon as it is there.
    total = sum(len(queries[part]) for part, _ in missing.values())
    asked = ((number, (queries[part], documents[part])) for number, (part, _) in missing.items())
    with track("rank", model.name, total, "pairs") as progress:
        for number, scores in _scored(asked, len(missing), model, run.config, progress.advance):
            part, identity = missing[number]
            scores_F[part] = scores
            run.write_table(_entry(number), pa.table({"score": scores}))
            run.cache.put(_entry(number), identity, FilesAlone(), [run.out / _entry(number)])
    return scores_F


def _entry(number: int) -> str:
    return f"scores/{number:06}.parquet"


class PartScorer:
    """Scores parts, in this process or as an actor; the model is loaded once."""

    def __init__(self, model: RankingModel) -> None:
        self._model = model

    @cached_property
    def _reranker(self) -> Any:
        from hnmine.models.reranker import load_reranker  # imports torch

        return load_reranker(self._model.kind, self._model.folder, **self._model.reading)

    def score(self, pairs: TextPairs, done: Done = lambda _count: None) -> Float32:
        """Return the score (n,) of each pair."""
        scores: Float32 = self._reranker.scores(*pairs, done)
        return scores

    def score_or_fail(self, pairs: TextPairs) -> Float32 | str:
        """Return the scores, or a message of what a user can mend: an exception would be retried and lose its type."""
        try:
            return self.score(pairs)
        except HnmineError as error:
            return str(error)


def _scored(
    parts: Iterable[tuple[int, TextPairs]], count: int, model: RankingModel, config: Config, done: Done
) -> Iterator[tuple[int, Float32]]:
    """Yield the scores of numbered parts, by actors in any order, or in this process."""
    # Ask actors on a cluster, and where there is more to compute on than one process uses.
    on_gpu = model.reading["device"] == "cuda"
    several = config.embed.actors is not None or (visible_gpus() > 1 if on_gpu else (os.cpu_count() or 1) > MAX_LANES)
    by_ray = (bool(os.environ.get("RAY_ADDRESS")) or several) if config.ray is None else config.ray
    if by_ray or (on_gpu and not visible_gpus()):  # a cluster's head may have no GPU
        for number, scores in _by_actors(parts, count, model, config.embed.actors):
            done(len(scores))
            yield number, scores
        return

    # Score here, where the progress shows each batch.
    scorer = PartScorer(model)
    yield from ((number, scorer.score(pairs, done)) for number, pairs in parts)


def _by_actors(
    parts: Iterable[tuple[int, TextPairs]], count: int, model: RankingModel, actors: int | None
) -> Iterator[tuple[int, Float32]]:
    """Yield the scores of numbered parts as actors finish them; a part whose actor dies is tried by a new one."""
    start_ray()
    import ray
    from ray.exceptions import RayActorError

    # Have as many actors as the nodes hold.
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = 1 if model.reading["device"] == "cuda" else 0
    possible, lanes = int(sum(node.get("GPU", 0) for node in nodes)), 1
    if not gpus:
        possible, lanes = cpu_actors([int(node.get("CPU", 0)) for node in nodes], actors)
    elif not possible:
        raise DeviceError("no node of the Ray cluster has a GPU; add one, or set device: cpu")
    size = min(actors or possible, count)
    say("rank", f"{model.name}: {size} actor(s) on {model.reading['device']}, {count} parts")
    how = {"num_cpus": lanes, "num_gpus": gpus, "max_restarts": -1, "max_task_retries": _RETRIES}
    free = [ray.remote(**how)(PartScorer).remote(model) for _ in range(size)] * _ASKED_AHEAD

    # Hand out parts, and take what comes first.
    waiting, running = iter(parts), {}
    while True:
        while free and (part := next(waiting, None)) is not None:
            actor = free.pop()
            running[actor.score_or_fail.remote(part[1])] = actor, part[0]
        if not running:
            return
        (finished,), _ = ray.wait(list(running))
        actor, number = running.pop(finished)
        try:
            scores = ray.get(finished)
        except RayActorError as error:
            raise ModelError(
                f"{model.name}: its process died {_RETRIES + 1} times on one part; if memory ran out, lower "
                f"embed.actors or --max-tokens; the same command goes on from what is kept ({error})"
            ) from None
        if isinstance(scores, str):
            raise ModelError(scores)
        free.append(actor)
        yield number, scores


def _cosines(task: Task, documents: Texts, model: RankingModel, config: Config, store: str | Path) -> Float32:
    """Return the cosines (Q, K) of a bi-encoder's vectors; of the corpus only the task's documents are encoded."""
    how = {key: model.reading[key] for key in ("max_tokens", "dtype")}
    encoder = EncoderConfig(name=model.name, model=str(model.folder), **how)
    rows_U = np.unique(task.doc_rows_QK[task.exists_QK])
    ensemble = Ensemble(config.model_copy(update={"encoders": (encoder,)}), documents.take(rows_U), store)
    positions_QK = np.where(task.exists_QK, np.searchsorted(rows_U, task.doc_rows_QK), NO_ROW)
    return ensemble.cosines(task.queries, positions_QK)[model.name]


def worth(task: Task, scores_QK: Float32, model: Ranks, first_stage: str) -> dict[str, Any]:
    """Return what first stage and model are worth on a judged task, and the table of it."""
    rankings = {f"first stage: {first_stage}": task.first_scores_QK, model.name: scores_QK}
    metrics = {name: means(measure(task, scores)) for name, scores in rankings.items()}
    header = [f"{len(task):,} queries", *metrics[model.name]]
    rows = [[name, *(f"{value:.3f}" for value in values.values())] for name, values in metrics.items()]
    found, depth = reach(task), task.doc_rows_QK.shape[1]
    last = f"The first stage finds {found:.1%} of the right documents among its first {depth}."
    return {"metrics": metrics, "first_stage_reach": found, "table": f"{text_table(rows, header)}\n{last}"}
