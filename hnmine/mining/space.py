"""The space that negatives are mined in: the fused vectors of documents and queries, reduced by PCA."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from hnmine.config.mining import ReduceConfig
from hnmine.errors import DataError
from hnmine.mining.fuse import Fused
from hnmine.mining.pca import Basis, fit, project
from hnmine.runs.device import choose_device
from hnmine.runs.progress import say, track
from hnmine.types import Float32, Role, Space


def choose_basis(fused: Fused, reduce: ReduceConfig, *, device: str, seed: int) -> Basis | None:
    """Return the basis of an earlier run that is configured, else one fitted on the documents; None: no reduction.

    Raises:
        DataError: the file is missing, is no basis, or was fitted on vectors of other encoders or weights; there are
            fewer than two documents, or all vectors are equal.
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
    say("reduce", f"width {fused.width} → {basis.width}, {kept}")
    return replace(basis, made_of=fused.identity)


def project_space(fused: Fused, basis: Basis | None) -> Space:
    """Return the unit vectors of documents and queries on the basis; without one, the fused vectors themselves."""

    def projected(role: Role) -> Float32:
        return project(basis, fused.pieces(role), fused.count(role), fused.width)

    return Space(docs_NR=projected("document"), queries_QR=projected("query"))


def single_spaces(fused: Fused) -> list[Space]:
    """Return the space of each encoder alone, not reduced; unlike the fused one, it is whole in memory."""
    return [project_space(Fused(encoders=(encoder,), weights=(1.0,)), None) for encoder in fused.encoders]
