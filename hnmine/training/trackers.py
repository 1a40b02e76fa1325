"""Where the curves of a training go: TensorBoard files, and MLflow if it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from hnmine.errors import ConfigError


class Tracker(Protocol):
    """Takes the values of a training as they come."""

    def scalar(self, name: str, value: float, step: int) -> None:
        """Take one value."""


class _All:
    """Passes every value on to several trackers."""

    def __init__(self, trackers: list[Tracker]) -> None:
        self._trackers = trackers

    def scalar(self, name: str, value: float, step: int) -> None:
        for tracker in self._trackers:
            tracker.scalar(name.replace("@", "_at_"), value, step)  # neither takes an @


@contextmanager
def tracking(name: str, folder: Path, mlflow: str | None, settings: dict[str, Any]) -> Iterator[Tracker]:
    """Open TensorBoard files in `folder`, and a run at the MLflow tracking address `mlflow` if one is given.

    Raises:
        ConfigError: an address is given and MLflow is not installed, or does not answer.
    """
    with ExitStack() as stack:
        trackers: list[Tracker] = [stack.enter_context(_tensorboard(folder))]
        if mlflow is not None:
            trackers.append(stack.enter_context(_mlflow(name, mlflow, settings)))
        yield _All(trackers)


@contextmanager
def _tensorboard(folder: Path) -> Iterator[Tracker]:
    from tensorboardX import SummaryWriter

    class Files:
        def scalar(self, name: str, value: float, step: int) -> None:
            writer.add_scalar(name, value, step)

    writer = SummaryWriter(str(folder))
    try:
        yield Files()
    finally:
        writer.close()


@contextmanager
def _mlflow(name: str, address: str, settings: dict[str, Any]) -> Iterator[Tracker]:
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

    class Run:
        def scalar(self, name: str, value: float, step: int) -> None:
            client.log_metric(run_id, name, value, step=step)

    # Close it, failed if the training failed.
    state = "FAILED"
    try:
        yield Run()
        state = "FINISHED"
    finally:
        client.set_terminated(run_id, state)
