"""The steps of mining as they were; nothing new is to call them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hnmine.config.mining import DenoiseConfig, GuardsConfig, SearchConfig
from hnmine.config.root import Config
from hnmine.corpus.beir import Collection
from hnmine.mining.legacy_ensemble import ChooseBasis, Ensemble, encode
from hnmine.embedding.score_store import Score, Scored
from hnmine.errors import DataError
from hnmine.mining.conditions import Known, Search, select
from hnmine.mining.guards import Agreement, Denoise, Guard, Margin, NearDuplicate, RankWindow
from hnmine.mining.mine import groups_of_equal_text as groups_of_equal_text
from hnmine.mining.search import Ivf, gpus_needed, make, recall
from hnmine.mining.shards import ShardedSearcher
from hnmine.ranking.first_stage import FirstStage
from hnmine.runs import device as devices
from hnmine.runs.folder import Run
from hnmine.runs.progress import Progress, say, track
from hnmine.types import Float32, Float64, Int64, Negatives, Pairs, Role, Space, Texts

_RECALL_QUERIES = 200


@dataclass(frozen=True, kw_only=True)
class Mined:
    """What mining found, and the space it was found in."""

    negatives: Negatives
    pairs: Pairs
    queries: Texts
    """The queries of the pairs; `pairs.query_rows_P` are rows of these."""
    ensemble: Ensemble
    index: dict[str, Any]
    """What is to be recorded of the search."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The pairs that are mined, and what is judged beside them."""

    pairs: Pairs
    texts: dict[Role, Texts]
    """The corpus, and the queries of the pairs."""
    positives: list[set[int]]
    """All document rows judged positive for each pair's query."""
    groups_N: Int64
    """A number for each document: equal text, equal number."""


Selection = Callable[[Ensemble, Judged], tuple[Negatives, dict[str, Any]]]
"""Selects, and returns beside the negatives what is to be recorded of the search."""


def mine(
    collection: Collection,
    pairs: Pairs,
    config: Config,
    run: Run,
    *,
    basis: ChooseBasis | None = None,
    selection: Selection | None = None,
) -> Mined:
    """Mine the hard negatives of `pairs` and write them to the run folder.

    Args:
        collection: documents, queries and all that was judged.
        pairs: what is mined.
        config: how.
        run: where.
        basis: chooses the basis in place of the configuration.
        selection: selects in place of a search from scratch.

    Raises:
        DataError: fewer than two documents, or unusable precomputed vectors.
        ModelError: an encoder cannot be loaded or computes nonsense; or the cross-encoder of `guards.denoise`.
        DeviceError: a GPU was asked for and is not there.
    """
    if len(collection.documents) < 2:
        raise DataError(
            "the corpus has 1 usable document; a hard negative is another document, so at least 2 are needed"
        )
    refuse_unusable(config.guards)
    query_rows, at = np.unique(pairs.query_rows_P, return_inverse=True)
    queries = collection.queries.take(query_rows.tolist())
    local = Pairs(query_rows_P=at.astype(np.int64), doc_rows_P=pairs.doc_rows_P)
    texts: dict[Role, Texts] = {"document": collection.documents, "query": queries}
    ensemble = encode(texts, config, run, basis)
    with run.timed("select"):
        positives = collection.positives()
        judged = Judged(
            pairs=local,
            texts=texts,
            positives=[positives[query] for query in pairs.query_rows_P.tolist()],
            groups_N=groups_of_equal_text(collection.documents),
        )
        negatives, index = (selection or from_scratch(config, run))(ensemble, judged)
    mined = Mined(negatives=negatives, pairs=local, queries=queries, ensemble=ensemble, index=index)
    with run.timed("write"):
        run.write_table("negatives.parquet", negatives_table(mined, collection.documents))
        run.write_table("triplets.parquet", triplets_table(mined, collection.documents))
        if ensemble.basis is None:
            (run.out / "basis.safetensors").unlink(missing_ok=True)  # of an earlier run
        else:
            ensemble.basis.save(run.out / "basis.safetensors")
    dropped = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in negatives.dropped.items() if count)
    say(
        "select",
        f"{negatives.selected_pairs:,} of {len(local):,} pairs have a hard negative "
        f"({negatives.selected_pairs / len(local):.0%}), {len(negatives):,} in all"
        + (f"; without: {dropped}" if dropped else ""),
        pairs=len(local),
        selected_pairs=negatives.selected_pairs,
        negatives=len(negatives),
        dropped=negatives.dropped,
    )
    if negatives.guarded:
        removed = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in negatives.guarded.items())
        say("select", f"documents removed by guards: {removed}")
    return mined


def from_scratch(config: Config, run: Run) -> Selection:
    """Return the selection that searches every pair in full."""

    def selection(ensemble: Ensemble, judged: Judged) -> tuple[Negatives, dict[str, Any]]:
        known = Known.of(judged.positives, judged.groups_N)
        with searcher(ensemble.space, config.search) as (search, index):
            return select_negatives(judged.pairs, known, search, ensemble, judged.texts, config, run), index

    return selection


def select_negatives(
    pairs: Pairs,
    known: Known,
    search: Search,
    ensemble: Ensemble,
    texts: dict[Role, Texts],
    config: Config,
    run: Run,
    what: str = "two conditions",
) -> Negatives:
    """Select the hard negatives of `pairs` as configured, with the guards that are on; `what` names the work.

    Raises:
        DeviceError: the cross-encoder was to run on a GPU and there is none.
        ModelError: the cross-encoder cannot be loaded, or is none.
    """
    with track("select", what, len(pairs), "pairs") as progress:
        return select(
            ensemble.space,
            pairs,
            known,
            search,
            negatives=config.select.negatives,
            guards=_guards(config.guards, ensemble),
            expensive=None if config.guards.denoise is None else _denoise(config.guards.denoise, texts, run, progress),
            done=progress.advance,
        )


@contextmanager
def searcher(space: Space, config: SearchConfig) -> Iterator[tuple[Search, dict[str, Any]]]:
    """Yield the index, over shards if asked or if one GPU cannot hold the documents, and what to record of it."""
    device = devices.choose_device(config.device, needs="faiss-gpu")
    say("select", f"search on {device}")
    ivf = None
    if config.index == "ivf":
        ivf = Ivf(probes=config.ivf_probes, seed=config.ivf_seed)
    held = space.docs_NR.nbytes * (1 if ivf is None else 2)  # the lists of an approximate index grow by doubling
    shards = min(config.shards or (device.kind == "gpu" and gpus_needed(held)) or 1, len(space.docs_NR))
    facts = {"index": config.index, "device": device.kind, "shards": shards}
    sharded = ShardedSearcher(space.docs_NR, device, shards, ivf) if shards > 1 else None
    search: Search = sharded or make(space.docs_NR, device, ivf)
    try:
        if ivf is not None:
            facts |= _tried(search, ivf, space, 64, shards)
        yield search, facts
    finally:
        if sharded is not None:
            sharded.close()


def dense(collection: Collection, config: Config, run: Run) -> FirstStage:
    """Return the first stage that ranks documents for judged queries by their distance in the ensemble's space."""
    space = encode({"document": collection.documents, "query": collection.judged}, config, run).space

    def first(query_rows: Int64, depth: int) -> tuple[Int64, Float32]:
        with searcher(space, config.search) as (search, _):
            found = search.nearest(space.queries_QR[query_rows], depth)
        return found.doc_rows_QK, (1 - found.distances_QK).astype(np.float32)

    return first


def _tried(search: Search, ivf: Ivf, space: Space, candidates: int, shards: int) -> dict[str, Any]:
    """Measure on some queries what an approximate index finds of the true short lists; say and return it."""
    count = min(_RECALL_QUERIES, len(space.queries_QR))
    sample = np.random.default_rng(ivf.seed).choice(len(space.queries_QR), size=count, replace=False)
    queries_QR = space.queries_QR[np.sort(sample)]
    found = search.nearest(queries_QR, candidates)
    share = recall(found, space.docs_NR, queries_QR)
    lists = ivf.lists_for(len(space.docs_NR) // shards)
    depth = found.doc_rows_QK.shape[1]
    say(
        "select",
        f"approximate: {min(ivf.probes, lists):,} of {lists:,} lists probed" + (" in each shard" if shards > 1 else ""),
    )
    say("select", f"recall of the approximate lists, {depth:,} long, on {count:,} queries: {share:.1%}")
    return {"lists": lists, "probes": min(ivf.probes, lists), "recall": share, "recall_queries": count}


def _guards(config: GuardsConfig, ensemble: Ensemble) -> list[Guard]:
    """Return the guards that are on, in the order in which they are applied and counted."""
    guards: list[Guard] = []
    if config.first_rank is not None or config.last_rank is not None:
        guards.append(RankWindow(first=config.first_rank or 1, last=config.last_rank))
    if config.margin is not None:
        guards.append(Margin(most=config.margin))
    if config.near_duplicate is not None:
        guards.append(NearDuplicate(least=config.near_duplicate))
    if config.agreement is not None:
        guards.append(Agreement(spaces=ensemble.single_spaces(), least=config.agreement))
    return guards


def _denoise(config: DenoiseConfig, texts: dict[Role, Texts], run: Run, progress: Progress) -> Denoise:
    """Return the guard that asks the cross-encoder; how much it was asked is shown beside the progress."""
    folder = _cross_encoder(config)
    device = devices.choose_device(config.device)
    dtype = devices.choose_dtype(config.dtype, device.kind)
    how: dict[str, Any] = {"max_tokens": config.max_tokens, "dtype": dtype, "engine": config.engine}
    asked = 0

    def load() -> Score:
        from hnmine.models.cross_encoder import Reranker  # imports torch and transformers, which mining may do without

        say("select", f"denoising by {config.model} on {device}, {dtype}")
        return Reranker(folder, device=device.torch_name, **how).scores

    def tell(count: int) -> None:
        nonlocal asked
        asked += count
        progress.advance(0, f"{asked:,} scored")

    scored = Scored("guards", folder, load, how, run)

    def score(query_rows_F: Int64, doc_rows_F: Int64) -> Float64:
        return scored.of_rows(texts["query"], query_rows_F, texts["document"], doc_rows_F, tell)

    return Denoise(scores=score, margin=config.margin, most=config.most)


def refuse_unusable(config: GuardsConfig) -> None:
    """Raise ModelError if the cross-encoder is not there or is none: before hours of encoding, not after."""
    if config.denoise is not None:
        _cross_encoder(config.denoise)


def _cross_encoder(config: DenoiseConfig) -> Path:
    from hnmine.models.cross_encoder import cross_encoder

    return cross_encoder("guards.denoise.model", config.model, config.revision)


def negatives_table(mined: Mined, documents: Texts) -> pa.Table:
    """Return the negatives with ids, distances and certificates, one row a negative."""
    found = mined.negatives
    queries, positives, negatives = _rows_of(mined)
    return pa.table(
        {
            "query_id": pa.array([mined.queries.ids[row] for row in queries], pa.string()),
            "positive_id": pa.array([documents.ids[row] for row in positives], pa.string()),
            "negative_id": pa.array([documents.ids[row] for row in negatives], pa.string()),
            "rank": pa.array(found.rank_M, pa.int32()),
            "d_query_positive": found.d_query_positive_M,
            "d_query_negative": found.d_query_negative_M,
            "d_positive_negative": found.d_positive_negative_M,
            "certificate": pa.array(found.certificate_M.tolist(), pa.string()),
        }
    )


def triplets_table(mined: Mined, documents: Texts) -> pa.Table:
    """Return texts first: sentence-transformers trains on the columns query, positive, negative as they stand."""
    queries, positives, negatives = _rows_of(mined)
    return pa.table(
        {
            "query": pa.array([mined.queries.texts[row] for row in queries], pa.large_string()),
            "positive": pa.array([documents.texts[row] for row in positives], pa.large_string()),
            "negative": pa.array([documents.texts[row] for row in negatives], pa.large_string()),
            "query_id": pa.array([mined.queries.ids[row] for row in queries], pa.string()),
            "positive_id": pa.array([documents.ids[row] for row in positives], pa.string()),
            "negative_id": pa.array([documents.ids[row] for row in negatives], pa.string()),
        }
    )


def _rows_of(mined: Mined) -> tuple[list[int], list[int], list[int]]:
    pair_M = mined.negatives.pair_M
    return (
        mined.pairs.query_rows_P[pair_M].tolist(),
        mined.pairs.doc_rows_P[pair_M].tolist(),
        mined.negatives.doc_rows_M.tolist(),
    )
