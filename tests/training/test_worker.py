"""One worker in this process: killed and gone on with it ends with the same model, and a broken checkpoint is said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hnmine.errors import ModelError
from hnmine.training.trainer import work_folder
from hnmine.training.worker import STATE, Group, Job, Worker
from tests.builders.folders import hidden_files
from tests.builders.models import same_weights
from tests.builders.training import (
    LONG_TRAINING,
    Trained,
    after_checkpoints,
    quick_recipe,
    quick_trainer,
    train_quickly,
    yes_no_dev_task,
    yes_no_lists,
)


def test_a_killed_job_goes_on_and_the_end_is_that_of_an_undisturbed_training(
    start: Path, undisturbed: Trained, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = (
        "import sys; from pathlib import Path; from tests.builders.training import *; "
        "train_quickly(Path(sys.argv[1]), Path(sys.argv[2]), yes_no_lists(60), **LONG_TRAINING)"
    )
    job = subprocess.Popen(
        [sys.executable, "-c", code, str(start), str(tmp_path)], cwd=Path(__file__).parents[2], start_new_session=True
    )
    after_checkpoints(tmp_path, 4, lambda: os.killpg(job.pid, signal.SIGKILL)).join()
    assert job.wait() == -signal.SIGKILL
    assert not (tmp_path / "rerankers" / "model").exists()
    assert len(hidden_files(tmp_path / "rerankers")) == 1
    again = train_quickly(start, tmp_path, yes_no_lists(60), **LONG_TRAINING)
    assert "goes on from the checkpoint of step" in capfd.readouterr().err
    assert again[1] == undisturbed[1]
    assert same_weights(again[0], undisturbed[0])
    assert hidden_files(tmp_path / "rerankers") == []


@pytest.mark.parametrize("harm", ["cut", "unfinished", "empty"])
def test_a_checkpoint_that_is_broken_is_said_and_the_next_call_begins_anew(
    start: Path, trained: Trained, tmp_path: Path, harm: str
) -> None:
    given, (model, outcome) = yes_no_lists(33), trained
    trainer = quick_trainer(start, tmp_path)
    work = work_folder(trainer.folder("model"), trainer.identity(start, given, quick_recipe()))
    job = Job(start=start, lists=given, dev=yes_no_dev_task(), recipe=quick_recipe(epochs=1), start_dev=None)
    group = Group(work)
    Worker(job, group, lambda _event: None).run()
    state = group.checkpoints()[5] / STATE
    if harm == "cut":
        state.write_bytes(state.read_bytes()[:-50])
    elif harm == "unfinished":
        state.unlink()
    else:
        (work / "checkpoint-7").mkdir()
    with pytest.raises(ModelError, match=r"training of model failed: checkpoint .* cannot be read \(.*from the start$"):
        train_quickly(start, tmp_path, given)
    again = train_quickly(start, tmp_path, given)
    assert again[1] == outcome
    assert same_weights(again[0], model)
