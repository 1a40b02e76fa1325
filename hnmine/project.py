"""What the steps of one command share, each part made once; and the pieces that mining is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hnmine.config.root import Config
from hnmine.config.steps import GuardsConfig
from hnmine.corpus.collection import Collection, Quarantined, write_quarantine
from hnmine.corpus.layouts import read_collection
from hnmine.embedding.ensemble import Ensemble
from hnmine.embedding.score_store import ScoreStore
from hnmine.embedding.vectors import GivenVectors, given_encoders, write_given
from hnmine.errors import ConfigError, DataError
from hnmine.mining.conditions import select
from hnmine.mining.guards import Guard, denoise_guard
from hnmine.mining.mine import (
    SPACE_SAMPLE,
    Judged,
    choose_basis,
    denoise_model,
    dense_first_stage,
    guards_of,
    mined_tables,
    open_search,
    say_selected,
    space_sample,
)
from hnmine.mining.pca import Basis, Fused, project_space, single_spaces
from hnmine.models.folder import model_type
from hnmine.models.preflight import Step, check_rerankers
from hnmine.ranking.evaluate import Evaluator
from hnmine.ranking.first_stage import FirstStage, bm25_or_run_file, check_first_stage, excluding
from hnmine.ranking.splits import Splits
from hnmine.runs.counters import DROPPED, GUARDED, NEGATIVES, QUARANTINED
from hnmine.runs.device import choose_device, choose_dtype
from hnmine.runs.folder import Run, open_run, refuse_source
from hnmine.runs.nodes import in_cluster
from hnmine.runs.progress import Progress, say, track
from hnmine.types import Negatives, Pairs, Score, Space, Texts

Data = str | Path | Collection
"""What a step works on: where a collection lies, or one that was made of Python objects (`Collection.of`)."""
UNREAD_SHOWN = 20  # files of the data folder that are named because nothing reads them
DENOISE_TOKENS = 256  # of query and document, which the cross-encoder of `guards.denoise` reads


@dataclass
class Project:
    """A collection, a run folder and a configuration; what several steps need is made when the first asks for it."""

    data: str
    config: Config
    run: Run
    collection: Collection
    fits: Mapping[str, str] = field(default_factory=dict)  # that lexical encoders keep, by name; others fit anew
    basis: Basis | None = None  # that was mined on last; a dense first stage looks in the same space

    @property
    def store(self) -> str | Path:
        """The address of the vector store."""
        return self.config.embed.store or self.run.out / "store"

    @cached_property
    def ensemble(self) -> Ensemble:
        """The encoders, planned."""
        return Ensemble(self.config, self.collection.documents, self.store, self.fits)

    @cached_property
    def splits(self) -> Splits:
        """Train, dev and test pairs, and the first stage's documents of their queries."""
        return Splits(self.collection, self.config, self.open_first_stage)

    @cached_property
    def evaluator(self) -> Evaluator:
        """The test and dev queries on which rankings are measured."""
        return Evaluator(self.splits, self.config, lambda queries, rows_QK: self.ensemble.cosines(queries, rows_QK))

    def check_models(self, *steps: Step) -> None:
        """Load the encoders and what these steps use, and let it read a few texts: what is wrong is said at once."""
        check_first_stage(self.config.evaluate)
        check_rerankers(self.config, steps)
        self.ensemble.check(self.collection.judged)

    def open_first_stage(self, queries: Texts | None = None) -> FirstStage:
        """Open the first stage that is configured: BM25, a run file, or the space of documents and these queries.

        None: those that were judged, which come first of all.
        """
        config = self.config
        if config.evaluate.first_stage != "dense":
            first = bm25_or_run_file(config.evaluate, self.collection.documents, self.collection.queries)
        else:
            space = self.reduce(self.fuse(queries or self.collection.judged), self.basis)
            first = dense_first_stage(space, config.search, device=config.device, seed=config.seed)
        if not config.evaluate.exclude_self:
            return first
        return excluding(first, self.collection.never_negative.same_as_unjudged)

    def train_pairs(self) -> Pairs:
        """Return the pairs of the train split, or those that are taken from another split where there is none."""
        split = self.config.sources.train_split
        return self.collection.pairs(split) if split in self.collection.splits else self.splits.train

    def judge(self) -> Judged:
        """Return the train pairs with what is never a negative of them."""
        return Judged.of(self.train_pairs(), self.collection)

    def fuse(self, queries: Texts) -> Fused:
        """Return the vectors of documents and queries, those that the store lacked encoded, as X_concat."""
        with self.run.timed("embed"):
            return Fused(encoders=self.ensemble.vectors(queries), weights=self.ensemble.weights)

    def reduce(self, fused: Fused, basis: Basis | None = None) -> Space:
        """Return documents and queries as unit vectors on this basis, or on the one that is configured or fitted."""
        config = self.config
        with self.run.timed("reduce"):
            self.basis = basis or choose_basis(fused, config.reduce, device=config.device, seed=config.seed)
            return project_space(fused, self.basis)

    def mine(self, judged: Judged, fused: Fused, basis: Basis | None = None) -> None:
        """Reduce to this basis, or as configured; select the hard negatives as configured; write and record them."""
        space, name = self.reduce(fused, basis), "two conditions"
        settings = {name: (self.config.guards, self.config.select.negatives)}
        found, search_facts = self.select_each(judged, fused, space, settings)
        self.write_mined(judged, found[name], fused, space, search_facts)

    def select_each(
        self, judged: Judged, fused: Fused, space: Space, settings: Mapping[str, tuple[GuardsConfig, int]]
    ) -> tuple[dict[str, Negatives], dict[str, Any]]:
        """Select with each of these guards and numbers of negatives, by name; return facts of the search beside."""
        found, config = {}, self.config
        opened = open_search(space, config.search, device=config.device, seed=config.seed)
        with self.run.timed("select"), opened as (search, facts):
            for name, (guards, negatives) in settings.items():
                with track("select", name, len(judged.pairs), "pairs") as progress:
                    found[name] = select(
                        space,
                        judged.pairs,
                        judged.known,
                        search,
                        negatives=negatives,
                        guards=guards_of(guards, lambda: single_spaces(fused)),
                        expensive=self.denoise(guards, judged.queries, progress),
                        done=progress.advance,
                    )
        return found, facts

    def denoise(self, guards: GuardsConfig, queries: Texts, progress: Progress) -> Guard | None:
        """Return the guard that asks a cross-encoder, None if there is none; the progress shows how much it scored."""
        config, model = guards.denoise, denoise_model(guards)
        if config is None or model is None:
            return None
        device = choose_device(self.config.device)
        dtype, scored = choose_dtype("auto", device.kind, model_type=model_type(model)), 0
        how: dict[str, Any] = {"max_tokens": DENOISE_TOKENS, "dtype": dtype, "engine": self.config.engine}

        def load() -> Score:
            from hnmine.models.reranker import CrossEncoder  # imports torch and transformers

            say("select", f"denoising by {config.model} on {device}, {dtype}")
            return CrossEncoder(model, device=device.torch_name, **how).raw_scores

        def show(count: int) -> None:
            nonlocal scored
            scored += count
            progress.advance(0, f"{scored:,} scored")

        kept, documents = ScoreStore(self.run.out / "scored", model, how, load), self.collection.documents
        return denoise_guard(
            lambda query_rows_F, doc_rows_F: kept.scores_of_rows(queries, query_rows_F, documents, doc_rows_F, show),
            config.margin,
            config.most,
        )

    def write_mined(
        self, judged: Judged, negatives: Negatives, fused: Fused, space: Space, search_facts: dict[str, Any]
    ) -> None:
        """Write what was selected, with texts and without, and record it."""
        # Write the tables and the basis.
        run, collection, basis = self.run, self.collection, self.basis
        names = ("negatives.parquet", "triplets.parquet", SPACE_SAMPLE, "basis.safetensors", "quarantine.jsonl")
        with run.timed("write"):
            proof, triplets = mined_tables(negatives, judged, collection.documents)
            run.write_table("negatives.parquet", proof)
            run.write_table("triplets.parquet", triplets)
            sample = space_sample(space, judged, negatives, collection.documents, self.config.seed)
            run.write_table(SPACE_SAMPLE, sample)
            if basis is None:
                (run.out / "basis.safetensors").unlink(missing_ok=True)  # of an earlier run
            else:
                basis.save(run.out / "basis.safetensors")

        # Count.
        say_selected(negatives)
        NEGATIVES.add(len(negatives))
        DROPPED.add_each(negatives.dropped)
        GUARDED.add_each(negatives.guarded)
        counts = _counts(collection, judged, negatives)
        counts |= {"texts_encoded": self.ensemble.encoded, "texts_reused": self.ensemble.reused}

        # Record.
        run.commit(
            "mining",
            inputs={},
            files=run.sha256_of(*names),
            data=self.data,
            digests=collection.digests(),
            counts=counts,
            space={
                "fused_width": fused.width,
                "width": space.width,
                "variance_kept": basis and basis.kept,
                "variance_kept_held_out": basis and basis.kept_held_out,
                "fitted_rows": basis and basis.fitted_rows,
                "library": basis and basis.library,
            },
            search=search_facts,
        )
        say("write", ", ".join(str(run.out / name) for name in (*names[:2], "manifest.json")))


@contextmanager
def open_project(
    data: Data, out: str | Path, config: Config | None, vectors: Mapping[str, GivenVectors] | None = None
) -> Iterator[Project]:
    """Open the run folder for writing, read the collection, and say what came.

    `vectors` take the place of the configured encoders; they are kept in OUT/vectors.
    """
    _refuse_other_types(data, config)
    refuse_source(data, out)
    out, config = Path(out), config or Config()
    if vectors:
        config = config.model_copy(update={"encoders": given_encoders(vectors, out / "vectors")})
    with open_run(out, config) as run:
        collection = data if isinstance(data, Collection) else _read(data, run)
        if isinstance(data, Collection):
            _refuse_idle_sources(data, config)
            write_quarantine(data.quarantined, out / "quarantine.jsonl")
        _say_read(collection, out)
        for name, given in (vectors or {}).items():
            write_given(name, out / "vectors", collection.documents, collection.queries, given)
        address = f"({collection.layout})" if isinstance(data, Collection) else str(data)
        yield Project(data=address, config=config, run=run, collection=collection)


def _refuse_other_types(data: object, config: object) -> None:
    """Refuse what a notebook gives by mistake: a table, or settings as text."""
    if not isinstance(data, str | Path | Collection):
        made = "or hnmine.Collection.of(corpus, queries, qrels)"
        raise DataError(f"expected the path of a collection, {made}, got a {type(data).__name__}")
    if not isinstance(config, Config | None):
        raise ConfigError(f"expected settings as hnmine.load_config gives them, got {config!r}")


def _refuse_idle_sources(made: Collection, config: Config) -> None:
    """Refuse settings of reading that a collection was made without."""
    default = type(config.sources)()
    found: dict[str, Any] = {
        "min_score": made.min_score,
        "lower_grades": "negatives" if made.lower_are_negatives else "ignore",
    }
    found["template"] = getattr(made, "template", default.template)
    found["verdicts"] = getattr(made, "verdict_files", default.verdicts)
    for key, value in found.items():
        if (wanted := getattr(config.sources, key)) not in (value, getattr(default, key)):
            raise ConfigError(
                f"sources.{key} is {wanted}, but the collection was made with {value}; make it with "
                "Collection.of(…, sources=config.sources)"
            )


def _read(data: str | Path, run: Run) -> Collection:
    """Read the collection; bad rows are in OUT/quarantine.jsonl whether it can be used or not."""
    quarantined: list[Quarantined] = []
    with run.timed("read"):
        try:
            by_workers = in_cluster() and run.config.ray is not False
            return read_collection(data, run.config.sources, quarantined, by_workers=by_workers)
        finally:
            write_quarantine(quarantined, run.out / "quarantine.jsonl")


def _say_read(collection: Collection, out: Path) -> None:
    documents, judged = len(collection.documents), len(collection.judged)
    counts = collection.judgements_by_split()
    splits = ", ".join(f"{name} {split['positive']:,}" for name, split in counts.items())
    message = f"{collection.layout}: {documents:,} documents, {judged:,} queries, pairs: {splits}"
    if unjudged := len(collection.queries) - judged:
        message += f"; {unjudged:,} queries more without a right document"
    quarantined = len(collection.quarantined)
    say("read", message, documents=documents, queries=judged, unjudged=unjudged, quarantined=quarantined)
    if reasons := _by_reason(collection):
        QUARANTINED.add_each(reasons)
        listed = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in reasons.items())
        say("read", f"quarantined: {listed}; listed in {out / 'quarantine.jsonl'}")
    if len(collection.verdicts):
        kinds = collection.verdicts_by_kind()
        right = f"{kinds['right']:,} right, {kinds['new_positives']:,} of these new"
        say("read", f"verdicts of people: {right}; {kinds['wrong']:,} wrong", verdicts=kinds)
    if unread := collection.unread:
        more = f" and {len(unread) - UNREAD_SHOWN} more" if len(unread) > UNREAD_SHOWN else ""
        say("read", f"not read: {', '.join(unread[:UNREAD_SHOWN])}{more}", unread=len(unread))
    for name, split in counts.items():
        if graded := split["queries_of_lower_grades_alone"]:
            say("read", f"{graded:,} queries of {name} have documents of lower grades only: no step asks them")
    if equal := collection.queries_of_equal_text:
        say("read", f"{equal:,} queries have the text of another: their positives are shared")


def _counts(collection: Collection, judged: Judged, negatives: Negatives) -> dict[str, Any]:
    """Return how much was read, and what was mined of it."""
    return {
        "documents": len(collection.documents),
        "queries": len(judged.queries),
        "pairs": len(judged.pairs),
        "selected_pairs": negatives.selected_pairs,
        "negatives": len(negatives),
        "distinct_documents": negatives.distinct_documents,
        "dropped": negatives.dropped,
        "guarded": negatives.guarded,
        "certificates": dict(Counter(negatives.certificate_M.tolist()).most_common()),
        "rows_read": collection.rows_read,
        "rows_kept": collection.rows_kept,
        "judgements": collection.judgements_by_split(),
        "verdicts": collection.verdicts_by_kind(),
        "quarantined": _by_reason(collection),
        "queries_of_equal_text": collection.queries_of_equal_text,
    }


def _by_reason(collection: Collection) -> dict[str, int]:
    """Return the number of quarantined rows by reason, the most frequent first."""
    return dict(Counter(row.reason for row in collection.quarantined).most_common())
