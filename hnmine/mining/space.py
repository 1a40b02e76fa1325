"""The space that negatives are mined in: the fused vectors of documents and queries, reduced by PCA."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from hnmine.errors import DataError
from hnmine.mining.fuse import Fused
from hnmine.mining.pca import Basis, fit, project
from hnmine.runs.device import Choice
from hnmine.runs.progress import say, track
from hnmine.types import Float32, Role, Space


def fit_basis(fused: Fused, *, variance: float, fit_rows: int, seed: int, device: Choice) -> Basis:
    """Fit a basis that keeps this share of the variance on at most `fit_rows` documents; say what it keeps.

    Raises:
        DataError: fewer than two documents, or all vectors are equal.
    """
    documents = fused.count("document")
    with track("reduce", f"PCA of width {fused.width} on {device}", documents, "documents") as progress:
        basis = fit(
            partial(fused.take, "document"), documents, variance=variance, fit_rows=fit_rows, seed=seed, device=device
        )
        progress.advance(documents)
    others = "" if basis.kept_held_out is None else f", {basis.kept_held_out:.1%} of others"
    say(
        "reduce",
        f"width {fused.width} → {basis.width}, keeps {basis.kept:.1%} of the variance of {basis.fitted_rows:,} "
        f"documents{others}",
        fused_width=fused.width,
        width=basis.width,
        variance_kept=basis.kept,
    )
    return replace(basis, made_of=fused.identity)


def given_basis(path: Path, fused: Fused) -> Basis:
    """Read the basis of an earlier run.

    Raises:
        DataError: the file is missing, is no basis, or was fitted on vectors of other encoders or weights.
    """
    basis = Basis.load(path)
    if basis.made_of != fused.identity:
        raise DataError(
            f"{path} was fitted on vectors of {'; '.join(basis.made_of)}, this run has {'; '.join(fused.identity)}; "
            "use the same encoders, prompts, types and weights, or reduce.basis=null"
        )
    say("reduce", f"basis of {path}: width {fused.width} → {basis.width}")
    return basis


def project_space(fused: Fused, basis: Basis | None) -> Space:
    """Return the unit vectors of documents and queries on the basis; without one, the fused vectors themselves."""

    def projected(role: Role) -> Float32:
        return project(basis, fused.pieces(role), fused.count(role), fused.width)

    return Space(docs_NR=projected("document"), queries_QR=projected("query"))


def single_spaces(fused: Fused) -> list[Space]:
    """Return the space of each encoder alone, not reduced; unlike the fused one, it is whole in memory."""
    return [project_space(Fused(encoders=(encoder,), weights=(1.0,)), None) for encoder in fused.encoders]
