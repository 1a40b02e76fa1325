"""Is one ranking better than another, or lucky? Paired tests over the same queries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hnmine.types import Float64

_RESAMPLES = 9999


@dataclass(frozen=True, kw_only=True)
class Paired:
    """The mean difference of a metric over queries, and how sure it is."""

    difference: float
    low: float
    """Lower end of the 95 % confidence interval (percentile bootstrap over queries)."""
    high: float
    p: float
    """Two-sided p-value of the paired randomisation test; exact where all 2^Q sign patterns are few."""


def paired(after_Q: Float64, before_Q: Float64, seed: int = 0) -> Paired:
    """Compare two runs query by query.

    The randomisation test asks how often a difference of means as large would come if for every query it were chance
    which run got which value (Smucker et al., CIKM 2007).

    Raises:
        ValueError: the runs have different queries, or none.
    """
    from scipy import stats

    if after_Q.shape != before_Q.shape or not len(after_Q):
        raise ValueError(f"need one value a query of both runs, got {after_Q.shape} and {before_Q.shape}")
    # Answer at once where there is nothing to resample.
    differences_Q = after_Q - before_Q
    mean = float(differences_Q.mean())
    if len(differences_Q) == 1 or not np.ptp(differences_Q):
        p = 1.0 if not mean else float(2.0 ** (1 - len(differences_Q)))
        return Paired(difference=mean, low=mean, high=mean, p=p)
    # Test, and resample the queries.
    test = stats.permutation_test(
        (differences_Q,),
        np.mean,
        permutation_type="samples",
        n_resamples=_RESAMPLES,
        vectorized=True,
        axis=0,
        rng=np.random.default_rng(seed),
    )
    interval = stats.bootstrap(
        (differences_Q,),
        np.mean,
        n_resamples=_RESAMPLES,
        batch=1000,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Paired(difference=mean, low=float(interval.low), high=float(interval.high), p=float(test.pvalue))
