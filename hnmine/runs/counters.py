"""Numbers for Prometheus at the metrics endpoint of each Ray node; `cluster/grafana.json` shows them, alerts.yaml asks.

Without Ray nobody can ask for the numbers: nothing is counted, and Ray is not imported. A process that is killed loses
the counts of its last seconds. Each number has the label `job_id`, the job's name in Ray.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hnmine.runs.ray_session import start_ray

JOB = "job_id"
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


class Metric:
    """A number for each combination of labels."""

    kind = "Gauge"

    def __init__(self, name: str, description: str, *labels: str) -> None:
        self.name, self.description, self.labels = name, description, labels
        self._ray: Any = None

    def _in_ray(self) -> Any:
        """Return Ray's object of this number; None outside Ray."""
        if _paused:
            return None
        if os.environ.get("RAY_ADDRESS"):
            start_ray()  # a submitted job may not have connected yet
        if "ray" not in sys.modules or not sys.modules["ray"].is_initialized():
            return None
        if self._ray is None:
            from ray.util import metrics

            self._ray = getattr(metrics, self.kind)(self.name, self.description, (*self.labels, JOB))
            self._ray.set_default_tags({JOB: sys.modules["ray"].get_runtime_context().get_job_id()})
        return self._ray


class Counter(Metric):
    """A growing number for each combination of labels; Prometheus calls it `ray_<name>_total`."""

    kind = "Counter"

    def add(self, amount: float, **labels: str) -> None:
        """Add to the number with these labels; nothing happens outside Ray."""
        if amount > 0 and (counter := self._in_ray()) is not None:
            counter.inc(amount, labels)

    def add_each(self, amounts: Mapping[str, int]) -> None:
        """Add several amounts, given by the value of the only label."""
        (label,) = self.labels
        for value, amount in amounts.items():
            self.add(amount, **{label: value})


class Gauge(Metric):
    """A number that goes up and down; Prometheus calls it `ray_<name>`."""

    def set(self, value: float, **labels: str) -> None:
        """Set the number with these labels; nothing happens outside Ray."""
        if (gauge := self._in_ray()) is not None:
            gauge.set(value, labels)


TEXTS = Counter("hnmine_texts_encoded", "Texts that an encoder made vectors of", "encoder", "role")
TOKENS = Counter("hnmine_tokens_encoded", "Tokens of these texts, special ones and prompts included", "encoder")
NEGATIVES = Counter("hnmine_negatives", "Hard negatives that were mined")
DROPPED = Counter("hnmine_pairs_dropped", "Pairs that have no hard negative, by reason", "reason")
GUARDED = Counter("hnmine_documents_guarded", "Documents that a guard removed", "guard")
QUARANTINED = Counter("hnmine_rows_quarantined", "Rows of the collection that were set aside, by reason", "reason")
SECONDS = Counter("hnmine_step_seconds", "Seconds a step took", "step")
ENCODING_TEXTS = Gauge("hnmine_encoding_texts", "Texts that an encoder is to make vectors of, in all", "encoder")
ENCODING_DONE = Gauge("hnmine_encoding_done_texts", "How many of them are done", "encoder")
ENCODING_LEFT = Gauge("hnmine_encoding_left_seconds", "How long the rest takes at the mean speed so far", "encoder")
STEPS = Counter("hnmine_training_steps", "Steps of trainings", "model")
DEV = Gauge("hnmine_training_dev", "MRR@10 on dev at the last evaluation", "model")
REQUESTS = Counter("hnmine_store_requests", "Questions to an object store, by what it was to do", "action")
STORE_BYTES = Counter("hnmine_store_bytes", "Bytes read from or written to an object store", "action")
STORE_ERRORS = Counter("hnmine_store_errors", "Questions that an object store refused or did not answer", "action")
NIGHTS = Counter("hnmine_nights", "Nights that ended, by outcome: done or failed", "outcome")
LAST_NIGHT = Gauge("hnmine_night_last_success_timestamp_seconds", "When the last night that was done ended")

_OF_RUNS = (TEXTS, TOKENS, NEGATIVES, DROPPED, GUARDED, QUARANTINED, SECONDS, STEPS)
COUNTERS = (*_OF_RUNS, REQUESTS, STORE_BYTES, STORE_ERRORS, NIGHTS)
GAUGES = (ENCODING_TEXTS, ENCODING_DONE, ENCODING_LEFT, DEV, LAST_NIGHT)


@contextmanager
def counted_night() -> Iterator[None]:
    """Count how the night that the block works through ends."""
    try:
        yield
    except BaseException:
        NIGHTS.add(1, outcome="failed")
        raise
    NIGHTS.add(1, outcome="done")
    LAST_NIGHT.set(time.time())
