"""Counters for Prometheus at the metrics endpoint of each Ray node; `cluster/grafana.json` shows them.

Without Ray nobody can ask for the numbers: nothing is counted, and Ray is not imported. A process that is killed loses
the counts of its last seconds.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hnmine.runs.ray_session import start_ray

_paused = False


@contextmanager
def uncounted() -> Iterator[None]:
    """Count nothing while the block runs: what is tried before the work is no work."""
    global _paused
    _paused = True
    try:
        yield
    finally:
        _paused = False


class Counter:
    """A growing number for each combination of labels; Prometheus calls it `ray_<name>_total`."""

    def __init__(self, name: str, description: str, *labels: str) -> None:
        self.name, self.description, self.labels = name, description, labels
        self._ray: Any = None

    def add(self, amount: float, **labels: str) -> None:
        """Add to the number with these labels; nothing happens outside Ray."""
        if amount <= 0 or _paused:
            return
        if os.environ.get("RAY_ADDRESS"):
            start_ray()  # a submitted job may not have connected yet
        if "ray" not in sys.modules or not sys.modules["ray"].is_initialized():
            return
        if self._ray is None:
            from ray.util import metrics

            self._ray = metrics.Counter(self.name, self.description, self.labels)
        self._ray.inc(amount, labels)

    def add_each(self, amounts: Mapping[str, int]) -> None:
        """Add several amounts, given by the value of the only label."""
        (label,) = self.labels
        for value, amount in amounts.items():
            self.add(amount, **{label: value})


TEXTS = Counter("hnmine_texts_encoded", "Texts that an encoder made vectors of", "encoder", "role")
TOKENS = Counter("hnmine_tokens_encoded", "Tokens of these texts, special ones and prompts included", "encoder")
NEGATIVES = Counter("hnmine_negatives", "Hard negatives that were mined")
DROPPED = Counter("hnmine_pairs_dropped", "Pairs that have no hard negative, by reason", "reason")
GUARDED = Counter("hnmine_documents_guarded", "Documents that a guard removed", "guard")
QUARANTINED = Counter("hnmine_rows_quarantined", "Rows of the collection that were set aside, by reason", "reason")
SECONDS = Counter("hnmine_step_seconds", "Seconds a step took", "step")

COUNTERS = (TEXTS, TOKENS, NEGATIVES, DROPPED, GUARDED, QUARANTINED, SECONDS)
