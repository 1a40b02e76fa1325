"""From a collection to hard negatives: embed → fuse → reduce → search → select, and the two files that leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from hnmine import device as devices
from hnmine.config import Config, GuardsConfig, ReduceConfig
from hnmine.embed import device_for, embed
from hnmine.encoders import Role, plan, read_precomputed
from hnmine.errors import DataError
from hnmine.fuse import fuse, unit_rows
from hnmine.guards import Agreement, Guard, Margin, NearDuplicate, RankWindow, RelativeMargin
from hnmine.progress import say, track
from hnmine.reduce import Basis, Rows, fit, project_all
from hnmine.runs import Run
from hnmine.search import Searcher, gpus_needed
from hnmine.select import Known, Search, select
from hnmine.shards import ShardedSearcher
from hnmine.sources import Collection
from hnmine.store import VectorStore, keys_of
from hnmine.types import Float32, Int64, Negatives, Pairs, Space, Texts


@dataclass(frozen=True, kw_only=True)
class Mined:
    """What mining found, and the space it was found in."""

    negatives: Negatives
    pairs: Pairs
    queries: Texts
    """The queries of the pairs; `pairs.query_rows_P` are rows of these."""
    encoded: int
    reused: int
    fused_width: int
    width: int
    basis: Basis | None


def mine(collection: Collection, pairs: Pairs, config: Config, run: Run) -> Mined:
    """Mine the hard negatives of `pairs` and write them to the run folder.

    Raises:
        DataError: fewer than two documents, or unusable precomputed vectors.
        ModelError: an encoder cannot be loaded or computes nonsense.
        DeviceError: a GPU was asked for and is not there.
    """
    if len(collection.documents) < 2:
        raise DataError(
            "the corpus has 1 usable document; a hard negative is another document, so at least 2 are needed"
        )
    query_rows, at = np.unique(pairs.query_rows_P, return_inverse=True)
    queries = collection.queries.take(query_rows.tolist())
    local = Pairs(query_rows_P=at.astype(np.int64), doc_rows_P=pairs.doc_rows_P)
    texts: dict[Role, Texts] = {"document": collection.documents, "query": queries}
    with run.timed("embed"):
        blocks, encoded, reused = embed_all(texts, config, run.out)
    with run.timed("reduce"):
        space, basis, fused_width = build_space(blocks, config)
    with run.timed("select"):
        positives = collection.positives()
        known = Known.of(
            {row: positives[query] for row, query in enumerate(query_rows.tolist())},
            groups_of_equal_text(collection.documents),
        )
        searcher = _searcher(space, config)
        with track("select", "two conditions", len(local), "pairs") as progress:
            negatives = select(
                space,
                local,
                known,
                searcher,
                negatives=config.select.negatives,
                candidates=config.search.candidates,
                guards=_guards(config.guards, blocks),
                done=progress.advance,
            )
        if isinstance(searcher, ShardedSearcher):
            searcher.close()
    mined = Mined(
        negatives=negatives,
        pairs=local,
        queries=queries,
        encoded=encoded,
        reused=reused,
        fused_width=fused_width,
        width=space.width,
        basis=basis,
    )
    with run.timed("write"):
        run.write_table("negatives.parquet", negatives_table(mined, collection.documents))
        run.write_table("triplets.parquet", triplets_table(mined, collection.documents))
        if mined.basis is not None:
            mined.basis.save(run.out / "basis.safetensors")
    dropped = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in negatives.dropped.items() if count)
    say(
        "select",
        f"{negatives.selected_pairs:,} of {len(local):,} pairs have a hard negative "
        f"({negatives.selected_pairs / len(local):.0%}), {len(negatives):,} in all"
        + (f"; without: {dropped}" if dropped else ""),
    )
    return mined


def embed_all(
    texts: dict[Role, Texts], config: Config, out: Path
) -> tuple[list[tuple[dict[Role, Float32], float]], int, int]:
    """Return each encoder's vectors with its weight, and how many texts were encoded and reused in all."""
    root = config.embed.store or out / "store"
    device = device_for(config.embed)
    blocks, encoded, reused = [], 0, 0
    for encoder in config.encoders:
        if encoder.precomputed is not None:
            vectors = read_precomputed(encoder.name, encoder.precomputed, texts)
            say("embed", f"{encoder.name}: precomputed, width {vectors['document'].shape[1]}")
        else:
            planned = plan(encoder, texts["document"], root, device, config.embed.tokens_per_batch)
            done = embed(planned, texts, VectorStore(root, planned.fingerprint), config.embed)
            vectors, encoded, reused = done.vectors, encoded + done.encoded, reused + done.reused
        blocks.append((vectors, encoder.weight))
    return blocks, encoded, reused


def build_space(blocks: Sequence[tuple[dict[Role, Float32], float]], config: Config) -> tuple[Space, Basis | None, int]:
    """Fuse the blocks and reduce them to the space of the search."""
    weights = [weight for _, weight in blocks]

    def rows_of(role: Role, rows: Int64) -> Float32:
        return fuse([vectors[role][rows] for vectors, _ in blocks], weights)

    documents, queries = len(blocks[0][0]["document"]), len(blocks[0][0]["query"])
    fused_width = sum(vectors["document"].shape[1] for vectors, _ in blocks)
    basis = None
    if config.reduce.basis is not None:
        basis = Basis.load(config.reduce.basis)
        if len(basis.mean_C) != fused_width:
            raise DataError(
                f"{config.reduce.basis} is a basis of vectors of width {len(basis.mean_C)}, the encoders give "
                f"{fused_width}; use the encoders it was fitted with, or reduce.basis=null"
            )
        say("reduce", f"basis of {config.reduce.basis}: width {fused_width} → {basis.width}")
    elif config.reduce.variance is not None:
        basis = _fit(lambda rows: rows_of("document", rows), documents, fused_width, config.reduce)
    width = fused_width if basis is None else basis.width
    docs_NR = np.empty((documents, width), dtype=np.float32)
    queries_QR = np.empty((queries, width), dtype=np.float32)
    for role, target in (("document", docs_NR), ("query", queries_QR)):
        start = 0
        for block in project_all(basis, lambda rows, role=role: rows_of(role, rows), len(target)):  # type: ignore[misc]
            target[start : start + len(block)] = block
            start += len(block)
    return Space(docs_NR=docs_NR, queries_QR=queries_QR), basis, fused_width


def _fit(rows_of: Rows, documents: int, fused_width: int, config: ReduceConfig) -> Basis:
    """Fit the basis, and where it was fitted on a sample, say what it keeps of documents it has not seen."""
    assert config.variance is not None
    device = devices.choose(config.device, needs="cuml-cu13")
    with track("reduce", f"PCA of width {fused_width} on {device}", documents, "documents") as progress:
        basis = fit(
            rows_of,
            documents,
            variance=config.variance,
            fit_rows=config.fit_rows,
            seed=config.seed,
            device=device,
        )
        progress.advance(documents)
    say(
        "reduce",
        f"width {fused_width} → {basis.width}, keeps {basis.kept:.1%} of the variance of {basis.fitted_rows:,} "
        "documents" + (f", {basis.kept_held_out:.1%} of others" if basis.kept_held_out is not None else ""),
    )
    return basis


def _searcher(space: Space, config: Config) -> Search:
    """Return the index: in this process, or over shards if asked, or if one GPU cannot hold the documents."""
    device = devices.choose(config.search.device, needs="faiss-gpu")
    say("select", f"search on {device}")
    shards = config.search.shards or (device.kind == "gpu" and gpus_needed(space.docs_NR.nbytes)) or 1
    return ShardedSearcher(space.docs_NR, device, shards) if shards > 1 else Searcher(space.docs_NR, device)


def _guards(config: GuardsConfig, blocks: Sequence[tuple[dict[Role, Float32], float]]) -> list[Guard]:
    """Return the guards that are on, in the order in which they are applied and counted."""
    guards: list[Guard] = []
    if config.first_rank is not None or config.last_rank is not None:
        guards.append(RankWindow(first=config.first_rank or 1, last=config.last_rank))
    if config.margin is not None:
        guards.append(Margin(most=config.margin))
    if config.relative_margin is not None:
        guards.append(RelativeMargin(most=config.relative_margin))
    if config.near_duplicate is not None:
        guards.append(NearDuplicate(least=config.near_duplicate))
    if config.agreement is not None:
        spaces = [
            Space(docs_NR=unit_rows(vectors["document"]), queries_QR=unit_rows(vectors["query"]))
            for vectors, _ in blocks
        ]
        guards.append(Agreement(spaces=spaces, least=config.agreement))
    return guards


def groups_of_equal_text(documents: Texts) -> Int64:
    """Return a number for each document: equal text, equal number."""
    _, groups = np.unique(keys_of(documents.texts), axis=0, return_inverse=True)
    return groups.reshape(-1).astype(np.int64)


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
