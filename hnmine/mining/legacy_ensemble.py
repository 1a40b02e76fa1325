"""To be deleted once all callers use embedding.ensemble.Ensemble. The ensemble: every encoder's vectors of the texts, and the one space that is made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hnmine.config.mining import ReduceConfig
from hnmine.config.root import Config
from hnmine.embedding.encode import embed
from hnmine.embedding.precomputed import read_precomputed
from hnmine.embedding.store import VectorStore
from hnmine.embedding.vectors import Vectors
from hnmine.errors import DataError
from hnmine.mining.fuse import Fused
from hnmine.mining.pca import Basis, fit, project
from hnmine.models.plan import plan
from hnmine.ranking.first_stage import NO_ROW
from hnmine.ranking.task import Task
from hnmine.runs import device as devices
from hnmine.runs.directory import Directory
from hnmine.runs.folder import Run
from hnmine.runs.progress import say, track
from hnmine.types import Float32, Role, Space, Texts, unit_rows


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """What the encoders say of the texts, one by one and together."""

    fused: Fused
    space: Space
    basis: Basis | None
    encoded: int
    reused: int

    def single_spaces(self) -> list[Space]:
        """Return each encoder's own space, not reduced; unlike the fused one, whole in memory."""
        return [
            Space(docs_NR=_project(None, alone, "document"), queries_QR=_project(None, alone, "query"))
            for alone in (Fused(encoders=(encoder,), weights=(1.0,)) for encoder in self.fused.encoders)
        ]

    def reduced(self, config: ReduceConfig) -> Space:
        """Return the fused space, reduced otherwise."""
        basis = _basis(self.fused, config)
        return Space(docs_NR=_project(basis, self.fused, "document"), queries_QR=_project(basis, self.fused, "query"))


ChooseBasis = Callable[[Fused], Basis | None]
"""Chooses the basis of these vectors; None: one is fitted, or none used, as configured."""


def encode(texts: dict[Role, Texts], config: Config, run: Run, basis: ChooseBasis | None = None) -> Ensemble:
    """Embed the texts with every encoder, fuse, and reduce, on the basis that `basis` chooses or the configured one.

    Raises:
        ConfigError: embed.store cannot be understood.
        DataError: precomputed vectors or a given basis do not fit, or the store cannot be used.
        ModelError: an encoder cannot be loaded or computes nonsense.
        DeviceError: a GPU was asked for and is not there.
    """
    with run.timed("embed"):
        vectors, encoded, reused = embed_all(texts, config, run)
    with run.timed("reduce"):
        fused = Fused(encoders=vectors, weights=tuple(encoder.weight for encoder in config.encoders))
        its = (basis and basis(fused)) or _basis(fused, config.reduce)
        space = Space(docs_NR=_project(its, fused, "document"), queries_QR=_project(its, fused, "query"))
    return Ensemble(fused=fused, space=space, basis=its, encoded=encoded, reused=reused)


def embed_all(texts: dict[Role, Texts], config: Config, run: Run) -> tuple[tuple[Vectors, ...], int, int]:
    """Return every encoder's vectors, all in the store now, and how many texts were encoded and reused.

    Raises as `encode` does.
    """
    root = config.embed.store or run.out / "store"
    Directory.at(root).create()
    vectors: list[Vectors] = []
    encoded, reused = 0, 0
    device = device_for(config.embed)
    if models := [encoder.name for encoder in config.encoders if encoder.model is not None]:
        say("embed", f"models are loaded: {', '.join(models)}")
    plans = {  # all before the first encodes: what is missing is told at once, not after hours
        encoder.name: plan(encoder, texts["document"], root, device, config.embed.tokens_per_batch)
        for encoder in config.encoders
        if encoder.precomputed is None
    }
    for encoder in config.encoders:
        if encoder.precomputed is not None:
            given = read_precomputed(encoder.name, encoder.precomputed, texts)
            say("embed", f"{encoder.name}: precomputed, width {given.width}")
            vectors.append(given)
            continue
        planned = plans[encoder.name]
        done = embed(planned, texts, VectorStore(root, planned.fingerprint), config.embed)
        vectors.append(done)
        encoded, reused = encoded + done.encoded, reused + done.reused
    return tuple(vectors), encoded, reused


def cosines(documents: Texts, tasks: Sequence[Task], config: Config, run: Run) -> list[dict[str, Float32]]:
    """Return of each task the cosines (Q, K) of its queries with their documents, by encoder; -inf where is none.

    Raises as `encode` does.
    """
    text_of = {name: text for task in tasks for name, text in zip(task.queries.ids, task.queries.texts, strict=True)}
    queries = Texts(ids=tuple(text_of), texts=tuple(text_of.values()))
    vectors, _, _ = embed_all({"document": documents, "query": queries}, config, run)
    found: list[dict[str, Float32]] = [{} for _ in tasks]
    for of, task in zip(found, tasks, strict=True):
        rows_Q = np.array([queries.row_of[name] for name in task.queries.ids], dtype=np.int64)
        there_QK = task.doc_rows_QK != NO_ROW
        rows_U, at_F = np.unique(task.doc_rows_QK[there_QK], return_inverse=True)
        for encoder, its in zip(config.encoders, vectors, strict=True):
            docs_UR, queries_QR = unit_rows(its.take("document", rows_U)), unit_rows(its.take("query", rows_Q))
            cosines_QK = np.full(there_QK.shape, -np.inf, dtype=np.float32)
            cosines_QK[there_QK] = np.einsum("fr,fr->f", queries_QR[np.nonzero(there_QK)[0]], docs_UR[at_F])
            of[encoder.name] = cosines_QK
    return found


def _project(basis: Basis | None, fused: Fused, role: Role) -> Float32:
    return project(basis, fused.pieces(role), fused.count(role), fused.width)


def _basis(fused: Fused, config: ReduceConfig) -> Basis | None:
    """Return the basis that was given, or one fitted here, or none."""
    if config.basis is None:
        return None if config.variance is None else _fit(fused, config)
    basis = Basis.load(config.basis)
    if basis.made_of != fused.identity:
        raise DataError(
            f"{config.basis} was fitted on vectors of {'; '.join(basis.made_of)}, this run has "
            f"{'; '.join(fused.identity)}; use the same encoders, prompts, types and weights, or reduce.basis=null"
        )
    say("reduce", f"basis of {config.basis}: width {fused.width} → {basis.width}")
    return basis


def _fit(fused: Fused, config: ReduceConfig) -> Basis:
    """Fit the basis, and where it was fitted on a sample, say what it keeps of documents it has not seen."""
    assert config.variance is not None
    device = devices.choose_device("auto", needs="cuml-cu13")
    documents = fused.count("document")
    with track("reduce", f"PCA of width {fused.width} on {device}", documents, "documents") as progress:
        basis = fit(
            lambda rows: fused.take("document", rows),
            documents,
            variance=config.variance,
            fit_rows=config.fit_rows,
            seed=0,
            device=device,
        )
        progress.advance(documents)
    say(
        "reduce",
        f"width {fused.width} → {basis.width}, keeps {basis.kept:.1%} of the variance of {basis.fitted_rows:,} "
        "documents" + (f", {basis.kept_held_out:.1%} of others" if basis.kept_held_out is not None else ""),
        fused_width=fused.width,
        width=basis.width,
        variance_kept=basis.kept,
    )
    return replace(basis, made_of=fused.identity)
