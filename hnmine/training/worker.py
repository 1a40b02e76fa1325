"""What one training worker does: steps over lists, evaluations on the dev queries, checkpoints.

Every step is a function of the recipe, the step's number and the weights alone: the order comes from the seed, in-batch
negatives from seed and step, the learning rate from the step. So a checkpoint is weights, AdamW's moments and a number,
and a training that was killed ends as one that was not; on a GPU, where the order of additions is not fixed, but for
rounding.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from hnmine.errors import ModelError
from hnmine.models.batches import is_out_of_memory
from hnmine.models.reranker import Reranker, has_ranking_head, load_reranker
from hnmine.ranking.measures import MAIN_METRIC, Task, means, measure, rerank
from hnmine.runs.memory import give_freed_blocks_back
from hnmine.training import losses
from hnmine.training.checkpoints import STATE, best_step, latest, progress, remove, seal, whole
from hnmine.training.gradient import Optimizer, Recipe
from hnmine.training.list_losses import ListLosses
from hnmine.training.lists import Lists, step_lists
from hnmine.training.log import Event
from hnmine.training.lora import add_lora, merged, save_adapter, trained_weights
from hnmine.training.memory import free_bytes, measure_room, refused_by_name

_CHECKPOINT, _WEIGHT = "checkpoint-", "weight:"


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that a worker needs to know of a training."""

    start: Path
    lists: Lists
    dev: Task
    recipe: Recipe
    start_dev: float | None
    """MAIN_METRIC of the start, if it is known already."""


class Group:
    """The workers of a training, as one of them sees them; this group is one worker alone, in this process."""

    rank, count, neighbours = 0, 1, 1
    """The number of this worker, of all, and of those that share its machine's memory."""

    def __init__(self, folder: Path) -> None:
        """Take the folder of the checkpoints; these get their names once they are whole, and lose them if damaged."""
        self._folder, self._unfinished = folder, folder / ".checkpoint"
        for left in folder.glob(f"{self._unfinished.name}*"):  # of a training that was stopped meanwhile
            shutil.rmtree(left, ignore_errors=True)
        named = set(folder.glob(f"{_CHECKPOINT}*"))
        for damaged in named - set(whole(named).values()):
            shutil.rmtree(folder / f".damaged-{damaged.name}", ignore_errors=True)
            damaged.rename(folder / f".damaged-{damaged.name}")

    def checkpoints(self) -> dict[int, Path]:
        """Return the folders of the kept checkpoints that are whole, by step: the best and the last."""
        return whole(self._folder.glob(f"{_CHECKPOINT}*"))

    def checkpoint(self) -> AbstractContextManager[Path | None]:
        """Give the folder of the last checkpoint that can be gone on from, if there is one."""
        return nullcontext(latest(self.checkpoints()))

    def average(self, network: Any) -> None:
        """Make the network's gradients the mean over all workers."""

    def report(self, step: int, history: Mapping[int, float], write: Callable[[Path], None] | None) -> None:
        """Keep what `write` puts into a folder as the checkpoint of this step; only rank 0 has a `write`, if any."""
        if write is None:
            return
        self._unfinished.mkdir()
        write(self._unfinished)
        kept = {self._folder / f"{_CHECKPOINT}{each}" for each in (step, best_step(history))}
        remove(self._folder / f"{_CHECKPOINT}{step}")  # of a later best step that is lost
        self._unfinished.rename(self._folder / f"{_CHECKPOINT}{step}")
        for other in set(self._folder.glob(f"{_CHECKPOINT}*")) - kept:
            remove(other)


class Worker:
    """The state of one worker: model, optimizer, and how far it is."""

    def __init__(self, job: Job, group: Group, log: Callable[[Event], None]) -> None:
        """Load the model, or the last checkpoint."""
        recipe = job.recipe
        self._job, self._group = job, group
        self._log = log if group.rank == 0 else lambda _event: None
        # Load the weights, and how far the training was; with LoRA a checkpoint has what was trained alone.
        with group.checkpoint() as checkpoint, refused_by_name():
            try:
                self._model = self._load(None if recipe.lora else checkpoint)
                state = _read_state(checkpoint) if checkpoint else None
                if state is not None and recipe.lora:
                    self._model.model.load_state_dict(state.weights, strict=False)
            except (ModelError, OSError, ValueError, RuntimeError, SafetensorError) as error:
                if checkpoint is None or is_out_of_memory(error):
                    raise
                raise ModelError(
                    f"checkpoint {checkpoint} cannot be read ({error}) and is given up; the same command trains from "
                    "the start"
                ) from None
            # Measure what a backward pass may hold.
            self._model.train_mode()
            free = free_bytes(recipe.device) / (group.neighbours if recipe.device == "cpu" else 1)
            self._room, recomputed = measure_room(
                self._model, _longest(job.lists), checkpointing=recipe.gradient_checkpointing, free=free
            )
        if self._room.is_short and recipe.device == "cpu":
            give_freed_blocks_back()
        if recomputed:
            self._log(Event("recomputed", 0))
        # Set up what changes the weights.
        self._optimizer = Optimizer(self._model.model, recipe, recipe.steps(len(job.lists)))
        self._done = 0
        self._history: dict[int, float] = {}
        if state is not None:
            self._done, self._history = state.step, state.history
            self._optimizer.adamw.load_state_dict(self._optimizer.adamw.state_dict() | {"state": state.moments})
            self._log(Event("resumed", self._done))
            for step, value in self._history.items():
                self._log(Event("evaluated", step, value))

    def _load(self, checkpoint: Path | None) -> Reranker:
        """Return the re-ranker of the start or of a checkpoint, with LoRA's matrices where these are asked for."""
        recipe = self._job.recipe
        model = load_reranker(
            recipe.kind,
            checkpoint or self._job.start,
            engine=recipe.engine,
            max_tokens=recipe.max_tokens,
            device=recipe.device,
            dtype=recipe.dtype,
            seed=recipe.seed,
        )
        if recipe.lora is not None:
            rank, alpha = recipe.lora["rank"], recipe.lora["alpha"]
            add_lora(model.model, rank=rank, alpha=alpha, seed=recipe.seed, frozen_dtype=recipe.weights)
        return model

    def _plain(self) -> AbstractContextManager[None]:
        """For the time of a block, compute without matrices beside the weights; those of a start stay."""
        return nullcontext() if self._job.recipe.lora is None else merged(self._model.model)

    def run(self) -> None:
        """Train from the checkpoint, or from the start, to the end."""
        with refused_by_name():
            self._run()

    def _run(self) -> None:
        recipe, lists = self._job.recipe, self._job.lists
        if not self._done and (recipe.kind == "bi-encoder" or has_ranking_head(self._job.start)):
            self._evaluate(0)
        loss_of = losses.make(recipe.loss, recipe.margin, recipe.scale)
        if recipe.lora is not None:
            trained = sum(each.numel() for each in trained_weights(self._model.model).values())
            self._log(Event("lora", self._done, trained / sum(each.numel() for each in self._model.model.parameters())))
        self._log(Event("begun", self._done))
        for step, (batch, is_evaluated) in enumerate(recipe.batches(len(lists)), 1):
            if step <= self._done:
                continue
            self._model.train_mode()
            of_step = step_lists(lists, batch, recipe.in_batch_negatives, (recipe.seed, step))
            taken = ListLosses(
                self._model,
                of_step[self._group.rank :: self._group.count],
                loss_of,
                share=self._group.count / len(batch),
                room=self._room,
            )
            loss = self._optimizer.step(
                step - 1,
                taken,
                average=partial(self._group.average, self._model.model),
                make_room=partial(self._halve, step, taken),
            )
            self._log(Event("trained", step, loss, len(batch), taken.padding))
            if is_evaluated:
                self._evaluate(step)

    def _halve(self, step: int, taken: ListLosses) -> None:
        """Give a backward pass half as much as before, and say so."""
        self._room.halve(taken.longest)
        self._log(Event("halved", step, self._room.tokens(taken.longest)))

    def _evaluate(self, step: int) -> None:
        """Measure the dev queries, on rank 0, and leave a checkpoint of every step but the start."""
        is_first, dev, recipe = self._group.rank == 0, self._job.dev, self._job.recipe
        if is_first:
            value = self._job.start_dev if step == 0 else None
            if value is None:
                with self._plain():
                    value = means(measure(dev, rerank(dev, self._model.raw_scores)))[MAIN_METRIC]
            self._history[step] = value
            self._log(Event("evaluated", step, value))

        def save(folder: Path) -> None:
            if recipe.lora is not None and recipe.lora["keep"] == "adapter":
                save_adapter(self._model, folder, self._job.start)
            else:
                with self._plain():
                    self._model.save(folder)
            moments = self._optimizer.adamw.state_dict()["state"]
            tensors = {f"{weight}.{name}": value for weight, each in moments.items() for name, value in each.items()}
            if recipe.lora is not None:
                tensors |= {
                    f"{_WEIGHT}{name}": each.detach() for name, each in trained_weights(self._model.model).items()
                }
            reached = json.dumps([step, list(self._history.items())])
            contiguous = {name: value.contiguous() for name, value in tensors.items()}
            save_file(contiguous, folder / STATE, {"hnmine": reached})
            seal(folder)

        self._group.report(step, self._history, save if is_first and step else None)


def _longest(lists: Lists) -> list[tuple[str, str]]:
    """Return the query and the document with the most characters together, and another pair."""
    pairs = [(each.query, text) for each in lists for text in each.documents]
    return [max(pairs, key=lambda pair: len(pair[0]) + len(pair[1])), pairs[-1]]


@dataclass(frozen=True, kw_only=True)
class _State:
    """What a checkpoint says: the step, the metric by step, AdamW's moments by weight and name, and LoRA's weights."""

    step: int
    history: dict[int, float]
    moments: dict[int, dict[str, torch.Tensor]]
    weights: dict[str, torch.Tensor]


def _read_state(checkpoint: Path) -> _State:
    moments: dict[int, dict[str, torch.Tensor]] = {}
    weights: dict[str, torch.Tensor] = {}
    step, history = progress(checkpoint)
    with safe_open(checkpoint / STATE, "pt") as file:
        for key in file.keys():  # noqa: SIM118
            if key.startswith(_WEIGHT):
                weights[key.removeprefix(_WEIGHT)] = file.get_tensor(key)
                continue
            weight, _, name = key.partition(".")
            moments.setdefault(int(weight), {})[name] = file.get_tensor(key)
    return _State(step=step, history=history, moments=moments, weights=weights)
