"""What is heard of a training: its workers log events, which become messages, a progress line and curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hnmine.errors import ConfigError
from hnmine.ranking.measures import MAIN_METRIC
from hnmine.runs.counters import DEV, STEPS
from hnmine.runs.progress import Progress, say
from hnmine.training.curves import curves
from hnmine.training.gradient import Recipe

Track = Callable[[str, float, int], None]
"""Takes the name of a value, the value, and the step it is of."""


@dataclass(frozen=True)
class Event:
    """What happened after a step."""

    kind: Literal["begun", "resumed", "trained", "evaluated", "recomputed", "halved", "lora"]
    step: int
    value: float = 0.0
    """The loss of a trained step; MAIN_METRIC of an evaluation; the tokens that a backward pass has once halved; the
    share of the weights that is trained with LoRA."""
    pairs: int = 0
    padding: float = 0.0
    """The share of a trained step's tokens that was padding."""


class TrainingLog:
    """Shows the events of one training, and tracks its values. What a restarted worker logs again counts once."""

    def __init__(self, name: str, recipe: Recipe, lists: int, track: Track) -> None:
        """Take the training's name in messages, and how many lists an epoch has."""
        self._name, self._recipe, self._lists, self._track = name, recipe, lists, track
        self.history: dict[int, float] = {}
        """MAIN_METRIC by step, of all evaluations."""
        self._last_step = 0
        self._is_halved = False
        self._progress: Progress | None = None  # its clock starts with the first step, not with the workers
        self._loss = self._padding = math.nan

    def add(self, event: Event) -> None:
        """Take an event."""
        match event.kind:
            # How it is trained.
            case "resumed":
                say("train", f"{self._name}: goes on from the checkpoint of step {event.step}")
            case "recomputed":
                say("train", f"{self._name}: layers are computed twice instead of kept (gradient checkpointing)")
            case "lora" if self._recipe.lora and self._progress is None:
                rank = self._recipe.lora["rank"]
                say("train", f"{self._name}: LoRA of rank {rank} trains {event.value:.2%} of the weights")
            case "halved":
                if not self._is_halved:
                    say(
                        "train",
                        f"{self._name}: out of memory; goes on in smaller passes, which change no gradient",
                        level="warning",
                    )
                self._is_halved = True
            # What comes of it.
            case "begun":
                total = self._lists * self._recipe.epochs - event.step * self._recipe.pairs_per_batch
                if self._progress is None and total > 0:
                    self._progress = Progress("train", self._name, total, "lists")
            case "evaluated" if event.step not in self.history:
                self.history[event.step] = event.value
                self._track(MAIN_METRIC, event.value, event.step)
                DEV.set(event.value, model=self._name)
                message = f"{self._name}: step {event.step}: {MAIN_METRIC} {event.value:.3f} on dev"
                say("train", message, model=self._name, training_step=event.step, mrr_at_10=event.value)
            case "trained" if event.step > self._last_step:
                STEPS.add(event.step - self._last_step, model=self._name)
                self._last_step = event.step
                self._add_step(event)

    def _add_step(self, event: Event) -> None:
        rate = self._recipe.rate(event.step - 1, self._recipe.steps(self._lists))
        for name, value in (("loss", event.value), ("learning_rate", rate), ("padding", event.padding)):
            self._track(name, value, event.step)
        self._loss, self._padding = _smooth(self._loss, event.value), _smooth(self._padding, event.padding)
        if self._progress is not None:
            self._progress.advance(event.pairs, f"loss {self._loss:.3f}, {self._padding:.1%} padding")

    def close(self) -> None:
        """Close the progress line; of what was stopped before its first step nothing is said."""
        if self._progress is not None:
            close = self._progress.finish if self._progress.done else self._progress.close
            close()


def _smooth(before: float, now: float) -> float:
    return now if math.isnan(before) else 0.9 * before + 0.1 * now


@contextmanager
def tracking(name: str, folder: Path, mlflow: str | None, settings: dict[str, Any]) -> Iterator[Track]:
    """Open TensorBoard files in `folder`, and a run at the MLflow tracking address `mlflow` if one is given.

    Raises:
        ConfigError: an address is given and MLflow is not installed, or does not answer.
    """
    with (
        curves(folder) as writer,
        nullcontext() if mlflow is None else _mlflow(name, mlflow, settings) as other,
    ):

        def track(value_name: str, value: float, step: int) -> None:
            for each in (writer.add, other) if other else (writer.add,):
                each(value_name.replace("@", "_at_"), value, step)  # neither takes an @

        yield track


@contextmanager
def _mlflow(name: str, address: str, settings: dict[str, Any]) -> Iterator[Track]:
    try:
        import mlflow
        from mlflow.exceptions import MlflowException
    except ImportError:
        raise ConfigError("train.mlflow is set, but MLflow is not installed: pip install 'hnmine[mlflow]'") from None
    # Open a run of experiment `hnmine` with the settings.
    try:
        client = mlflow.MlflowClient(tracking_uri=address, registry_uri=address)
        experiment = client.get_experiment_by_name("hnmine")
        experiment_id = experiment.experiment_id if experiment else client.create_experiment("hnmine")
        run_id = client.create_run(experiment_id, run_name=name).info.run_id
        for key, value in settings.items():
            client.log_param(run_id, key, value)
    except MlflowException as error:
        raise ConfigError(f"train.mlflow: {address} cannot be used: {error}") from None

    def track(value_name: str, value: float, step: int) -> None:
        client.log_metric(run_id, value_name, value, step=step, synchronous=False)  # training does not wait for it

    # Close it, failed if the training failed.
    state = "FAILED"
    try:
        yield track
        state = "FINISHED"
    finally:
        client.set_terminated(run_id, state)
