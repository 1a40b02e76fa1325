"""Where the curves of a training go: TensorBoard files, and MLflow if it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from hnmine.errors import ConfigError

Track = Callable[[str, float, int], None]
"""Takes the name of a value, the value, and the step it is of."""


@contextmanager
def tracking(name: str, folder: Path, mlflow: str | None, settings: dict[str, Any]) -> Iterator[Track]:
    """Open TensorBoard files in `folder`, and a run at the MLflow tracking address `mlflow` if one is given.

    Raises:
        ConfigError: an address is given and MLflow is not installed, or does not answer.
    """
    from tensorboardX import SummaryWriter

    with ExitStack() as stack:
        writer = SummaryWriter(str(folder))
        stack.callback(writer.close)
        tracks: list[Track] = [writer.add_scalar]
        if mlflow is not None:
            tracks.append(stack.enter_context(_mlflow(name, mlflow, settings)))

        def track(value_name: str, value: float, step: int) -> None:
            for each in tracks:
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
        client.log_metric(run_id, value_name, value, step=step)

    # Close it, failed if the training failed.
    state = "FAILED"
    try:
        yield track
        state = "FINISHED"
    finally:
        client.set_terminated(run_id, state)
