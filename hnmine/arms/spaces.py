"""The spaces in which rules look: the ensemble's, reduced in several ways, and each encoder's own."""

from __future__ import annotations

from functools import cache, cached_property

from hnmine.arms.arm import Arm
from hnmine.config.mining import ReduceConfig
from hnmine.embedding.ensemble import Ensemble
from hnmine.mining.fuse import Fused
from hnmine.mining.space import choose_basis, project_space, single_spaces
from hnmine.types import Space, Texts


class Spaces:
    """Spaces of the documents and some queries; each is made when it is first asked for, and kept."""

    def __init__(self, ensemble: Ensemble, queries: Texts, reduce: ReduceConfig, *, device: str, seed: int) -> None:
        """Take the encoders and the queries; `reduce` says how the ensemble's space is reduced."""
        self._ensemble, self._queries, self._reduce = ensemble, queries, reduce
        self._device, self._seed = device, seed
        self._reduced = cache(self._project)

    def of_arm(self, arm: Arm) -> Space:
        """Return the space in which an arm's rule looks, if no encoder is trained for it."""
        if arm.encoder is not None:
            return self.single[self._ensemble.names.index(arm.encoder)]
        return self._reduced(arm.variance)

    @cached_property
    def single(self) -> list[Space]:
        """Each encoder's own space."""
        return single_spaces(self._fused)

    @cached_property
    def _fused(self) -> Fused:
        return Fused(encoders=self._ensemble.vectors(self._queries), weights=self._ensemble.weights)

    def _project(self, variance: float | str | None) -> Space:
        """Return the ensemble's space with this share of the variance; None: not reduced."""
        reduce = self._reduce
        if variance != "configured":
            reduce = reduce.model_copy(update={"variance": variance, "basis": None})
        basis = choose_basis(self._fused, reduce, device=self._device, seed=self._seed)
        return project_space(self._fused, basis)
