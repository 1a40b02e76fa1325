"""The ensemble: every encoder's vectors of the texts, and the one space that is made of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hnmine import device as devices
from hnmine.config import Config, ReduceConfig
from hnmine.embed import device_for, embed
from hnmine.encoders import plan
from hnmine.errors import DataError
from hnmine.fuse import fuse, unit_rows
from hnmine.place import Place
from hnmine.precomputed import read_precomputed
from hnmine.progress import say, track
from hnmine.reduce import Basis, Rows, fit, project_all
from hnmine.runs import Run
from hnmine.store import VectorStore
from hnmine.types import Float32, Role, Space, Texts


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """What the encoders say of the texts, one by one and together."""

    vectors: tuple[dict[Role, Float32], ...]
    """By encoder, as it gave them."""
    space: Space
    fused_width: int
    basis: Basis | None
    encoded: int
    reused: int

    def single_spaces(self) -> list[Space]:
        """Return each encoder's own space, not reduced."""
        return [Space(docs_NR=unit_rows(own["document"]), queries_QR=unit_rows(own["query"])) for own in self.vectors]


def encode(texts: dict[Role, Texts], config: Config, run: Run) -> Ensemble:
    """Embed the texts with every encoder, fuse, and reduce.

    Raises:
        ConfigError: embed.store cannot be understood.
        DataError: precomputed vectors or a given basis do not fit, or the store cannot be used.
        ModelError: an encoder cannot be loaded or computes nonsense.
        DeviceError: a GPU was asked for and is not there.
    """
    root = config.embed.store or run.out / "store"
    Place.at(root).create()
    vectors, encoded, reused = [], 0, 0
    with run.timed("embed"):
        device = device_for(config.embed)
        for encoder in config.encoders:
            if encoder.precomputed is not None:
                vectors.append(read_precomputed(encoder.name, encoder.precomputed, texts))
                say("embed", f"{encoder.name}: precomputed, width {vectors[-1]['document'].shape[1]}")
                continue
            planned = plan(encoder, texts["document"], root, device, config.embed.tokens_per_batch)
            done = embed(planned, texts, VectorStore(root, planned.fingerprint), config.embed)
            vectors.append(done.vectors)
            encoded, reused = encoded + done.encoded, reused + done.reused
    weights = [encoder.weight for encoder in config.encoders]

    def fused(role: Role) -> Rows:
        return lambda rows: fuse([own[role][rows] for own in vectors], weights)

    with run.timed("reduce"):
        fused_width = sum(own["document"].shape[1] for own in vectors)
        basis = _basis(fused("document"), len(texts["document"]), fused_width, config.reduce)
        space = Space(
            docs_NR=_projected(basis, fused("document"), len(texts["document"]), fused_width),
            queries_QR=_projected(basis, fused("query"), len(texts["query"]), fused_width),
        )
    return Ensemble(
        vectors=tuple(vectors), space=space, fused_width=fused_width, basis=basis, encoded=encoded, reused=reused
    )


def _basis(rows_of: Rows, documents: int, fused_width: int, config: ReduceConfig) -> Basis | None:
    """Return the basis that was given, or one fitted here, or none."""
    if config.basis is None:
        return None if config.variance is None else _fit(rows_of, documents, fused_width, config)
    basis = Basis.load(config.basis)
    if len(basis.mean_C) != fused_width:
        raise DataError(
            f"{config.basis} is a basis of vectors of width {len(basis.mean_C)}, the encoders give {fused_width}; "
            "use the encoders it was fitted with, or reduce.basis=null"
        )
    say("reduce", f"basis of {config.basis}: width {fused_width} → {basis.width}")
    return basis


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


def _projected(basis: Basis | None, rows_of: Rows, rows: int, fused_width: int) -> Float32:
    projected = np.empty((rows, fused_width if basis is None else basis.width), dtype=np.float32)
    start = 0
    for block in project_all(basis, rows_of, rows):
        projected[start : start + len(block)] = block
        start += len(block)
    return projected
