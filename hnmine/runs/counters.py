"""Counters of the work, for Prometheus at the metrics endpoint of each Ray node; `cluster/grafana.json` shows them.

The driver counts and so do actors. Where there is no Ray nobody can ask: nothing is counted, and Ray not imported.
What a process counted in its last seconds is sent when it ends in an orderly way; of one that is killed it is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hnmine.runs.ray_session import in_ray


class Counter:
    """A number that only grows, one for each value of its labels; Prometheus knows it as `ray_<name>_total`."""

    def __init__(self, name: str, about: str, *labels: str) -> None:
        self.name, self.about, self.labels = name, about, labels
        self._ray: Any = None

    def add(self, amount: float, **labels: str) -> None:
        """Add to the number of these labels; nothing happens outside Ray."""
        if amount <= 0 or not in_ray():
            return
        if self._ray is None:
            from ray.util import metrics

            self._ray = metrics.Counter(self.name, self.about, self.labels)
        self._ray.inc(amount, labels)

    def add_each(self, amounts: Mapping[str, int]) -> None:
        """Add several amounts, by the value of the one label."""
        (label,) = self.labels
        for value, amount in amounts.items():
            self.add(amount, **{label: value})


TEXTS = Counter("hnmine_texts_encoded", "Texts an encoder made vectors of", "encoder", "role")
TOKENS = Counter("hnmine_tokens_encoded", "Tokens of these texts, special ones and prompts included", "encoder")
NEGATIVES = Counter("hnmine_negatives", "Hard negatives that were mined")
DROPPED = Counter("hnmine_pairs_dropped", "Pairs that have no hard negative, by reason", "reason")
GUARDED = Counter("hnmine_documents_guarded", "Documents that a guard removed", "guard")
QUARANTINED = Counter("hnmine_rows_quarantined", "Rows of the collection that were set aside, by reason", "reason")
SECONDS = Counter("hnmine_step_seconds", "Seconds a step took", "step")

COUNTERS = (TEXTS, TOKENS, NEGATIVES, DROPPED, GUARDED, QUARANTINED, SECONDS)
