"""The steps of mining around the selection: judged pairs, an index, guards; and what came of it, said and in tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hnmine.config.steps import GuardsConfig, ReduceConfig, SearchConfig
from hnmine.corpus.collection import Collection
from hnmine.errors import DataError
from hnmine.mining.conditions import FIRST_LENGTH, Known, Search
from hnmine.mining.guards import Guard, agreement_guard, margin_guard, near_duplicate_guard, rank_window_guard
from hnmine.mining.pca import Basis, Fused, fit
from hnmine.mining.scan import recall
from hnmine.mining.search import Ivf, Searcher, ShardedSearcher, gpus_needed
from hnmine.runs.device import choose_device
from hnmine.runs.memory import told_if_out_of_memory
from hnmine.runs.progress import say, track
from hnmine.types import Float32, Int64, Negatives, Pairs, Space, Texts

SPACE_SAMPLE = "space-sample.parquet"
"""The file in OUT of some documents and triplets, with their first two coordinates in the space."""
RECALL_QUERIES = 200  # on which the recall of an approximate index is measured
_SAMPLED_DOCUMENTS, _SAMPLED_TRIPLETS = 1000, 60


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The pairs to mine, and what can be no negative of them."""

    pairs: Pairs  # on rows of `queries` and of the documents
    queries: Texts
    known: Known

    @classmethod
    def of(cls, pairs: Pairs, collection: Collection) -> Judged:
        """Take pairs on rows of all queries of the collection."""
        documents, never_negative = collection.documents, collection.never_negative
        if len(documents) < 2:
            raise DataError(
                f"the corpus has {len(documents)} usable document; a hard negative is another document, so at least 2 "
                "are needed"
            )
        rows_Q, local = pairs.renumbered()
        rows_of = never_negative.without_copies  # `Known` finds these by itself
        wrong, rows_P = collection.wrong(), pairs.query_rows_P.tolist()
        known = Known([rows_of(row) for row in rows_P], never_negative.groups_N, [wrong.get(row, ()) for row in rows_P])
        return cls(pairs=local, queries=collection.queries.take(rows_Q), known=known)


def choose_basis(fused: Fused, reduce: ReduceConfig, *, device: str, seed: int) -> Basis | None:
    """Return the basis of an earlier run that is configured, else one fitted on the documents; None: no reduction.

    Raises:
        DataError: the file is no basis or made of other vectors; or nothing can be fitted, see `pca.fit`.
    """
    # Read the basis that is given.
    if reduce.basis is not None:
        basis = Basis.load(reduce.basis)
        if basis.made_of != fused.identity:
            raise DataError(
                f"{reduce.basis} was fitted on vectors of {'; '.join(basis.made_of)}, this run has "
                f"{'; '.join(fused.identity)}; use the same encoders, prompts, types and weights, or reduce.basis=null"
            )
        say("reduce", f"basis of {reduce.basis}: width {fused.width} → {basis.width}")
        return basis
    if reduce.variance is None:
        return None

    # Fit one, and say what it keeps.
    on, documents = choose_device(device, needs="cuml-cu13"), fused.count("document")
    with track("reduce", f"PCA of width {fused.width} on {on}", documents, "documents") as progress:
        rows_of = partial(fused.take, "document")
        basis = fit(rows_of, documents, variance=reduce.variance, fit_rows=reduce.fit_rows, seed=seed, device=on)
        progress.advance(documents)
    others = "" if basis.kept_held_out is None else f", {basis.kept_held_out:.1%} of others"
    kept = f"keeps {basis.kept:.1%} of the variance of {basis.fitted_rows:,} documents{others}"
    message = f"width {fused.width} → {basis.width}, {kept}"
    say("reduce", message, fused_width=fused.width, width=basis.width, variance_kept=basis.kept)
    return replace(basis, made_of=fused.identity)


@contextmanager
def open_search(
    space: Space, config: SearchConfig, *, device: str, seed: int
) -> Iterator[tuple[Search, dict[str, Any]]]:
    """Yield an index over the documents and facts about it to record; close it at the end.

    The documents are divided over Ray actors if shards are configured, or if one GPU cannot hold them. An approximate
    index divides them by k-means with this seed.
    """
    # Decide on the kind of index and on the number of shards.
    on = choose_device(device, needs="faiss-gpu")
    say("select", f"search on {on}")
    ivf = Ivf(probes=config.ivf_probes, seed=seed) if config.index == "ivf" else None
    index_bytes = space.docs_NR.nbytes * (1 if ivf is None else 2)  # the lists of an approximate index grow by doubling
    shards = config.shards or (gpus_needed(index_bytes) if on.kind == "gpu" else 1)
    shards = max(1, min(shards, len(space.docs_NR)))
    facts: dict[str, Any] = {"index": config.index, "device": on.kind, "shards": shards}

    # Build the index, measure what an approximate one misses, and free the actors at the end.
    remedy = "divide them by search.shards over more GPUs or nodes" + (", or set device: cpu" * (on.kind == "gpu"))
    with told_if_out_of_memory(f"selection among {len(space.docs_NR):,} documents", remedy):
        sharded = ShardedSearcher(space.docs_NR, on, shards, ivf) if shards > 1 else None
        search: Search = sharded or Searcher(space.docs_NR, on, ivf)
        try:
            yield search, facts if ivf is None else facts | _measured_recall(search, ivf, space, shards)
        finally:
            if sharded is not None:
                sharded.close()


def _measured_recall(search: Search, ivf: Ivf, space: Space, shards: int) -> dict[str, Any]:
    """Measure on a sample of queries which share of the true short lists the index finds; say and return it."""
    count = min(RECALL_QUERIES, len(space.queries_QR))
    sample = np.random.default_rng(ivf.seed).choice(len(space.queries_QR), size=count, replace=False)
    queries_QR = space.queries_QR[np.sort(sample)]
    _, distances_QK = search.nearest(queries_QR, FIRST_LENGTH)
    share = recall(distances_QK, space.docs_NR, queries_QR)
    lists = ivf.lists_for(len(space.docs_NR) // shards)
    probes, length = min(ivf.probes, lists), distances_QK.shape[1]
    say("select", f"approximate: {probes:,} of {lists:,} lists probed" + (" in each shard" if shards > 1 else ""))
    say("select", f"recall of the approximate lists, {length:,} long, on {count:,} queries: {share:.1%}")
    return {"lists": lists, "probes": probes, "recall": share, "recall_queries": count}


def dense_first_stage(
    space: Space, config: SearchConfig, *, device: str, seed: int
) -> Callable[[Int64, int], tuple[Int64, Float32]]:
    """Return what ranks documents for query rows of the space by distance: (Q rows, K) → (rows (Q, K), cosines)."""

    def first(query_rows_Q: Int64, depth: int) -> tuple[Int64, Float32]:
        with open_search(space, config, device=device, seed=seed) as (search, _):
            doc_rows_QK, distances_QK = search.nearest(space.queries_QR[query_rows_Q], depth)
        return doc_rows_QK, 1 - distances_QK

    return first


def guards_of(config: GuardsConfig, single_spaces: Callable[[], list[Space]]) -> list[Guard]:
    """Return the guards that are on and need no model, in order; only agreement asks for each encoder's own space."""
    guards: list[Guard] = []
    if config.first_rank is not None or config.last_rank is not None:
        guards.append(rank_window_guard(config.first_rank or 1, config.last_rank))
    if config.margin is not None:
        guards.append(margin_guard(config.margin))
    if config.near_duplicate is not None:
        guards.append(near_duplicate_guard(config.near_duplicate))
    if config.agreement is not None:
        guards.append(agreement_guard(single_spaces(), config.agreement))
    return guards


def denoise_model(config: GuardsConfig) -> Path | None:
    """Return the folder of the cross-encoder that denoises, None if none does; refuse one without a ranking head."""
    if config.denoise is None:
        return None
    from hnmine.models.reranker import resolve_cross_encoder  # imports torch and transformers

    return resolve_cross_encoder("guards.denoise.model", config.denoise.model)


def say_selected(negatives: Negatives) -> None:
    """Say how many pairs have hard negatives, why others have none, and how many documents the guards removed."""
    pairs, selected, count = negatives.pairs, negatives.selected_pairs, len(negatives)
    message = f"{selected:,} of {pairs:,} pairs have a hard negative ({selected / pairs:.0%}); "
    message += f"{count:,} negatives, {negatives.distinct_documents:,} distinct documents"
    if dropped := [f"{lost:,} {reason.replace('_', ' ')}" for reason, lost in negatives.dropped.items() if lost]:
        message += f"; without: {', '.join(dropped)}"
    say("select", message, pairs=pairs, selected_pairs=selected, negatives=count, dropped=negatives.dropped)
    if negatives.guarded:
        removed = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in negatives.guarded.items())
        say("select", f"documents removed by guards: {removed}")


def mined_tables(negatives: Negatives, judged: Judged, documents: Texts) -> tuple[pa.Table, pa.Table]:
    """Return one row a negative, twice: with ids, distances and certificate, and with texts and ids.

    sentence-transformers trains on the columns query, positive, negative of the second as they stand.
    """
    pairs, ids, triplets = judged.pairs.take(negatives.pair_M), {}, {}
    for side, texts, rows_M in (
        ("query", judged.queries, pairs.query_rows_P),
        ("positive", documents, pairs.doc_rows_P),
        ("negative", documents, negatives.doc_rows_M),
    ):
        ids[f"{side}_id"] = pa.array([texts.ids[row] for row in rows_M.tolist()], pa.string())
        triplets[side] = pa.array(texts.texts_at(rows_M.tolist()), pa.large_string())
    proof = {
        "rank": pa.array(negatives.rank_M, pa.int32()),
        "d_query_positive": negatives.d_query_positive_M,
        "d_query_negative": negatives.d_query_negative_M,
        "d_positive_negative": negatives.d_positive_negative_M,
        "certificate": pa.array(negatives.certificate_M.tolist(), pa.string()),
    }
    return pa.table(ids | proof), pa.table(triplets | ids)


def space_sample(space: Space, judged: Judged, negatives: Negatives, documents: Texts, seed: int) -> pa.Table:
    """Return where some documents and some triplets lie in the space: on its first two axes, of unit vectors.

    Columns: kind (document, query, positive or negative), id, triplet (a number that its three rows share; null of
    documents), x and y. On a basis the axes are the first two principal components.
    """
    # Draw.
    rng = np.random.default_rng(seed)
    doc_rows = np.sort(rng.permutation(len(documents))[:_SAMPLED_DOCUMENTS])
    firsts_M = np.flatnonzero(negatives.rank_M == 1)
    triplets_T = np.sort(rng.permutation(firsts_M)[:_SAMPLED_TRIPLETS])
    pairs = judged.pairs.take(negatives.pair_M[triplets_T])
    # Look up.
    numbers = [*range(len(triplets_T))]
    columns: dict[str, list[Any]] = {"kind": [], "id": [], "triplet": [], "x": [], "y": []}
    for kind, texts, vectors, rows, numbered in (
        ("document", documents, space.docs_NR, doc_rows, [None] * len(doc_rows)),
        ("query", judged.queries, space.queries_QR, pairs.query_rows_P, numbers),
        ("positive", documents, space.docs_NR, pairs.doc_rows_P, numbers),
        ("negative", documents, space.docs_NR, negatives.doc_rows_M[triplets_T], numbers),
    ):
        columns["kind"] += [kind] * len(rows)
        columns["id"] += [texts.ids[row] for row in rows.tolist()]
        columns["triplet"] += numbered
        columns["x"] += vectors[rows, 0].tolist()
        columns["y"] += vectors[rows, min(1, space.width - 1)].tolist()
    types = {"triplet": pa.int32(), "x": pa.float32(), "y": pa.float32()}
    return pa.table({name: pa.array(values, types.get(name, pa.string())) for name, values in columns.items()})
