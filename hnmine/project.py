"""What the steps of one command share, each part made once; and the pieces that mining is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hnmine.config.corpus import SourcesConfig
from hnmine.config.root import Config
from hnmine.corpus.beir import read_beir
from hnmine.corpus.collection import Collection, write_quarantine
from hnmine.embedding.ensemble import Ensemble
from hnmine.embedding.score_store import Score, ScoreStore
from hnmine.mining.conditions import select
from hnmine.mining.fuse import Fused
from hnmine.mining.guards import Guard, denoise_guard
from hnmine.mining.mine import (
    Judged,
    denoise_model,
    dense_first_stage,
    guards_of,
    open_search,
    say_selected,
)
from hnmine.mining.pca import Basis
from hnmine.mining.space import fit_basis, given_basis, project_space, single_spaces
from hnmine.mining.tables import negatives_table, triplets_table
from hnmine.ranking.evaluate import Evaluator
from hnmine.ranking.first_stage import FirstStage, bm25_or_run_file
from hnmine.ranking.splits import Splits
from hnmine.runs import device as devices
from hnmine.runs.counters import DROPPED, GUARDED, NEGATIVES, QUARANTINED
from hnmine.runs.folder import Run, open_run
from hnmine.runs.progress import Progress, say, track
from hnmine.types import Float64, Int64, Negatives, Space, Texts

DENOISE_TOKENS = 256
"""Tokens of query and document that the cross-encoder of `guards.denoise` reads."""


@dataclass
class Project:
    """A collection, a run folder and a configuration; what several steps need is made when the first asks for it."""

    data: str
    config: Config
    run: Run
    collection: Collection
    fits: Mapping[str, str] = field(default_factory=dict)
    """Names of the fits that lexical encoders keep, by encoder; the others are fitted on the collection."""
    basis: Basis | None = None
    """The projection that was mined on last; a dense first stage looks in the same space."""

    @property
    def store(self) -> str | Path:
        """The address of the vector store."""
        return self.config.embed.store or self.run.out / "store"

    @cached_property
    def ensemble(self) -> Ensemble:
        """The encoders, planned."""
        config = self.config
        return Ensemble(
            config.encoders,
            self.collection.documents,
            store=self.store,
            embed=config.embed,
            device=config.device,
            engine=config.engine,
            ray=config.ray,
            seed=config.seed,
            fits=self.fits,
        )

    @cached_property
    def splits(self) -> Splits:
        """Train, dev and test pairs, and the first stage's documents of their queries."""
        config = self.config
        return Splits(self.collection, config.sources, config.evaluate, config.seed, self.open_first_stage)

    def divide(self) -> None:
        """Divide the collection now, so that data that cannot be trained on are refused before the work."""
        _ = self.splits

    @cached_property
    def evaluator(self) -> Evaluator:
        """The test and dev queries on which rankings are measured."""
        return Evaluator(
            self.splits,
            self.config.evaluate,
            dev_queries=self.config.train.dev_queries,
            seed=self.config.seed,
            cosines=lambda queries, doc_rows_QK: self.ensemble.cosines(queries, doc_rows_QK),
        )

    @property
    def search_device(self) -> devices.Choice:
        """The device on which documents are searched."""
        return devices.choose_device(self.config.device, needs="faiss-gpu")

    def open_first_stage(self) -> FirstStage:
        """Open the first stage that is configured: BM25, a run file, or the encoders' space."""
        config = self.config
        if config.evaluate.first_stage != "dense":
            return bm25_or_run_file(config.evaluate, self.collection.documents, self.collection.queries)
        fused = self.fuse(self.collection.judged)
        space = project_space(fused, self.basis or self.choose_basis(fused))
        return dense_first_stage(space, config.search, self.search_device, config.seed)

    def judge(self) -> Judged:
        """Return the train pairs with all that was judged for their queries."""
        pairs = self.collection.pairs(self.config.sources.train_split)
        return Judged.of(pairs, self.collection.queries, self.collection.documents, self.collection.positives())

    def fuse(self, queries: Texts) -> Fused:
        """Return the vectors of documents and queries, those that the store lacked encoded, as X_concat."""
        with self.run.timed("embed"):
            return Fused(encoders=self.ensemble.vectors(queries), weights=self.ensemble.weights)

    def choose_basis(self, fused: Fused) -> Basis | None:
        """Return the basis that is configured, or one fitted on these documents, or None where none is wanted."""
        reduce = self.config.reduce
        if reduce.basis is not None:
            return given_basis(reduce.basis, fused)
        if reduce.variance is None:
            return None
        with self.run.timed("reduce"):
            device = devices.choose_device(self.config.device, needs="cuml-cu13")
            return fit_basis(
                fused, variance=reduce.variance, fit_rows=reduce.fit_rows, seed=self.config.seed, device=device
            )

    def project(self, fused: Fused, basis: Basis | None) -> Space:
        """Return documents and queries as unit vectors of the reduced space, and remember its basis."""
        self.basis = basis
        with self.run.timed("reduce"):
            return project_space(fused, basis)

    def select(self, judged: Judged, fused: Fused, space: Space) -> tuple[Negatives, dict[str, Any]]:
        """Select the hard negatives as configured, with the guards that are on; return them and facts of the search."""
        config = self.config
        guards = guards_of(config.guards, lambda: single_spaces(fused))
        search_opened = open_search(space, config.search, self.search_device, config.seed)
        with (
            self.run.timed("select"),
            search_opened as (search, facts),
            track("select", "two conditions", len(judged.pairs), "pairs") as progress,
        ):
            negatives = select(
                space,
                judged.pairs,
                judged.known,
                search,
                negatives=config.select.negatives,
                guards=guards,
                expensive=self.denoise(judged.queries, progress),
                done=progress.advance,
            )
        return negatives, facts

    def denoise(self, queries: Texts, progress: Progress) -> Guard | None:
        """Return the guard that asks a cross-encoder, None if there is none; the progress shows how much it scored."""
        config, model = self.config.guards.denoise, denoise_model(self.config.guards)
        if config is None or model is None:
            return None
        device = devices.choose_device(self.config.device)
        dtype = devices.choose_dtype("auto", device.kind)
        how: dict[str, Any] = {"max_tokens": DENOISE_TOKENS, "dtype": dtype, "engine": self.config.engine}
        scored = 0

        def load() -> Score:
            from hnmine.models.cross_encoder import CrossEncoder  # imports torch and transformers

            say("select", f"denoising by {config.model} on {device}, {dtype}")
            return CrossEncoder(model, device=device.torch_name, **how).scores

        def show(count: int) -> None:
            nonlocal scored
            scored += count
            progress.advance(0, f"{scored:,} scored")

        kept = ScoreStore(self.run.out / "scored", model, how, load)

        def scores(query_rows_F: Int64, doc_rows_F: Int64) -> Float64:
            return kept.scores_of_rows(queries, query_rows_F, self.collection.documents, doc_rows_F, show)

        return denoise_guard(scores, config.margin, config.most)

    def write_mined(
        self, judged: Judged, negatives: Negatives, fused: Fused, space: Space, search_facts: dict[str, Any]
    ) -> None:
        """Write negatives, triplets and basis, count them, and record them in the manifest."""
        run, documents, basis = self.run, self.collection.documents, self.basis
        # Write the tables and the basis
        with run.timed("write"):
            run.write_table("negatives.parquet", negatives_table(negatives, judged, documents))
            run.write_table("triplets.parquet", triplets_table(negatives, judged, documents))
            if basis is None:
                (run.out / "basis.safetensors").unlink(missing_ok=True)  # of an earlier run
            else:
                basis.save(run.out / "basis.safetensors")
        # Count
        say_selected(negatives)
        NEGATIVES.add(len(negatives))
        DROPPED.add_each(negatives.dropped)
        GUARDED.add_each(negatives.guarded)
        # Record
        run.commit(
            "mining",
            inputs={},
            files=run.sha256_of("negatives.parquet", "triplets.parquet", "basis.safetensors", "quarantine.jsonl"),
            data=self.data,
            counts=self._mining_counts(judged, negatives),
            space={
                "fused_width": fused.width,
                "width": space.width,
                "variance_kept": basis.kept if basis else None,
                "variance_kept_held_out": basis.kept_held_out if basis else None,
                "fitted_rows": basis.fitted_rows if basis else None,
                "library": basis.library if basis else None,
            },
            search=search_facts,
        )
        files = (run.out / name for name in ("negatives.parquet", "triplets.parquet", "manifest.json"))
        say("write", ", ".join(map(str, files)))

    def _mining_counts(self, judged: Judged, negatives: Negatives) -> dict[str, Any]:
        collection = self.collection
        return {
            "documents": len(collection.documents),
            "queries": len(judged.queries),
            "pairs": len(judged.pairs),
            "selected_pairs": negatives.selected_pairs,
            "negatives": len(negatives),
            "dropped": negatives.dropped,
            "guarded": negatives.guarded,
            "certificates": dict(Counter(negatives.certificate_M.tolist()).most_common()),
            "rows_read": collection.rows_read,
            "rows_kept": collection.rows_kept,
            "not_relevant": collection.not_relevant,
            "quarantined": _by_reason(collection),
            "queries_of_equal_text": collection.queries_of_equal_text,
            "texts_encoded": self.ensemble.encoded,
            "texts_reused": self.ensemble.reused,
        }


@contextmanager
def open_project(data: str | Path, out: str | Path, config: Config | None) -> Iterator[Project]:
    """Open the run folder for writing, and read the collection.

    Raises:
        DataError: the data cannot be used, or the folder cannot be written or is in use.
    """
    config = config or Config()
    with open_run(Path(out), config) as run:
        yield Project(data=str(data), config=config, run=run, collection=read_collection(data, config.sources, run))


def read_collection(data: str | Path, sources: SourcesConfig, run: Run) -> Collection:
    """Read the collection, say what came, and write what was quarantined to OUT/quarantine.jsonl."""
    # Read, and set bad rows aside
    with run.timed("read"):
        collection = read_beir(data, sources)
        write_quarantine(collection.quarantined, run.out / "quarantine.jsonl")
    # Say what came
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
    # Say what is wrong with it
    reasons = _by_reason(collection)
    QUARANTINED.add_each(reasons)
    if reasons:
        listed = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in reasons.items())
        say("read", f"quarantined: {listed}; listed in {run.out / 'quarantine.jsonl'}")
    if equal := collection.queries_of_equal_text:
        say("read", f"{equal:,} queries have the text of another: their positives are shared")
    return collection


def _by_reason(collection: Collection) -> dict[str, int]:
    """Return the number of quarantined rows by reason, the most frequent first."""
    return dict(Counter(row.reason for row in collection.quarantined).most_common())
