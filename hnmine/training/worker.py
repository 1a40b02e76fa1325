"""What one training worker does: steps over lists, looks at the dev queries, checkpoints.

Every step is a function of the recipe, the step's number and the weights alone: the order comes from the seed, in-batch
negatives from seed and step, dropout from seed, step and rank, the learning rate from the step. So a checkpoint is
weights, AdamW's moments and a number, and a training that was killed goes on to the very end of one that was not; on a
GPU, where the order of additions is not fixed, but for rounding.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hnmine.config.training import Kind, Loss, TrainConfig
from hnmine.errors import ModelError
from hnmine.models.bi_encoder import BiEncoder
from hnmine.models.cross_encoder import Reranker, has_head
from hnmine.models.batches import TOKENS_PER_BACKWARD, tokens_per_backward
from hnmine.ranking.task import Task, means, measure, rerank
from hnmine.runs.device import Choice
from hnmine.training import losses
from hnmine.training.dropout import seeded
from hnmine.training.lists import Lists, step_lists
from hnmine.types import Int64

DEV_METRIC = "MRR@10"
WARMUP_SHARE = 0.1
"""Share of the steps with a rising learning rate."""
WEIGHT_DECAY = 0.01
"""Of AdamW."""
CLIP_NORM = 1.0
"""Largest norm of the gradient; a larger one is scaled down to it."""
STATE = "training"  # folder beside a checkpoint's model


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train: the part of the configuration that a worker needs, resolved."""

    kind: Kind
    loss: Loss
    margin: float
    scale: float
    epochs: int
    learning_rate: float
    warmup_share: float
    weight_decay: float
    clip_norm: float
    dropout: float | None
    pairs_per_batch: int
    in_batch_negatives: int
    max_tokens: int
    evaluations_per_epoch: int
    patience: int | None
    seed: int
    dtype: str
    engine: str
    device: str
    layers: int | None = None
    """Of a body that gets a ranking head the first so many layers; None: all."""

    @classmethod
    def of(
        cls, config: TrainConfig, device: Choice, dtype: str, *, seed: int = 0, engine: str = "auto", **changes: Any
    ) -> Recipe:
        """Take the settings of the same name; `changes` replace some."""
        settings = {name: getattr(config, name) for name in cls.__dataclass_fields__ if hasattr(config, name)}
        constants = {
            "scale": 20.0 if config.kind == "bi-encoder" else 1.0,
            "warmup_share": WARMUP_SHARE,
            "weight_decay": WEIGHT_DECAY,
            "clip_norm": CLIP_NORM,
            "dropout": 0.0,
            "in_batch_negatives": 0,
            "patience": None,
        }
        resolved = {"device": device.torch_name, "dtype": dtype, "seed": seed, "engine": engine}
        return cls(**(settings | constants | resolved | changes))

    def steps(self, lists: int) -> int:
        """Return the number of steps over so many lists."""
        return math.ceil(lists / self.pairs_per_batch) * self.epochs

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of a step, counted from 0: it rises linearly, then falls linearly to zero."""
        rising = max(1, round(steps * self.warmup_share))
        return self.learning_rate * min((step + 1) / rising, max(0.0, (steps - step) / max(1, steps - rising)))

    def batches(self, lists: int) -> Iterator[tuple[list[int], bool]]:
        """Yield each step's lists, the same on every worker, and whether to look at the dev queries after it."""
        rng = np.random.default_rng(self.seed)
        per_epoch, looks = math.ceil(lists / self.pairs_per_batch), self.evaluations_per_epoch
        after = {math.ceil(per_epoch * (i + 1) / looks) for i in range(looks)}
        for _epoch in range(self.epochs):
            order = rng.permutation(lists).tolist()
            for step in range(per_epoch):
                start = step * self.pairs_per_batch
                yield order[start : start + self.pairs_per_batch], step + 1 in after


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a worker is given."""

    start: Path
    lists: Lists
    dev: Task
    recipe: Recipe
    start_dev: float | None
    """What the dev queries say of the start, if that is known already."""


def load(
    kind: Kind,
    folder: Path,
    *,
    engine: str = "auto",
    passages: bool = False,
    layers: int | None = None,
    **settings: Any,
) -> Reranker | BiEncoder:
    """Load a model of this kind; `engine`, `passages` and `layers` are a cross-encoder's."""
    if kind == "bi-encoder":
        return BiEncoder(folder, **settings)
    return Reranker(folder, engine=engine, passages=passages, layers=layers, **settings)


def best_of(dev: Mapping[int, float]) -> int:
    """Return the step with the highest metric, the earliest of equals: a later one must beat the start strictly."""
    return min(dev, key=lambda step: (-dev[step], step))


class Others(Protocol):
    """What a worker knows of the others, and where its checkpoints are."""

    rank: int
    count: int

    def checkpoint(self) -> AbstractContextManager[Path | None]:
        """Give the last checkpoint's folder, if there is one."""

    def joined(self, network: Any, partly: bool) -> Any:
        """Return the network with gradients that are the mean over all workers; `partly`: some weights have none."""

    def report(self, step: int, dev: Mapping[int, float], write: Callable[[Path], None] | None) -> None:
        """Keep what `write` puts into a folder as the checkpoint of this step; rank 0 alone has it, and `dev`."""

    def agreed(self, value: bool) -> bool:
        """Return what rank 0 thinks."""


class Listener(Protocol):
    """Who is told how far the worker is."""

    def begins(self, step: int) -> None:
        """Hear that the work after this step begins."""

    def trained(self, step: int, loss: float, pairs: int, padding: float) -> None:
        """Hear of a step and its loss."""

    def resumed(self, step: int, history: Mapping[int, float]) -> None:
        """Hear that training goes on after a step, and what the dev queries said until then."""

    def looked(self, history: Mapping[int, float]) -> None:
        """Hear what the dev queries said so far, by step."""


class Worker:
    """The state of one worker: model, optimizer, and how far it is."""

    def __init__(self, job: Job, others: Others, listener: Listener) -> None:
        """Load the model, or what the last checkpoint left of it.

        Raises:
            ModelError: it cannot be loaded.
        """
        self._job, self._others, self._listener, self._recipe = job, others, listener, job.recipe
        self._steps = job.recipe.steps(len(job.lists))
        self._dev: dict[int, float] = {}
        self._done = 0
        with others.checkpoint() as checkpoint, _readable(checkpoint):
            self._reranker = load(
                job.recipe.kind,
                checkpoint or job.start,
                engine=job.recipe.engine,
                max_tokens=job.recipe.max_tokens,
                device=job.recipe.device,
                dtype=job.recipe.dtype,
                seed=job.recipe.seed,
                layers=None if checkpoint else job.recipe.layers,
            )
            if job.recipe.dropout is not None:
                set_dropout(self._reranker.model, job.recipe.dropout)
            partly = job.recipe.kind == "bi-encoder"  # its transformer's pooler is not asked
            self._network = others.joined(self._reranker.model, partly)
            self._graph_tokens = tokens_per_backward(self._reranker.model, job.recipe.device, job.recipe.dtype)
            self._optimizer = adamw(self._network, job.recipe)
            if checkpoint:
                self._done, self._dev = _load_state(checkpoint / STATE, self._optimizer)
                listener.resumed(self._done, self._dev)

    def run(self) -> None:
        """Train from where the checkpoint left off to the end.

        Raises:
            ModelError: the gradient or the scores become non-finite.
        """
        if self._out_of_patience():
            return
        if not self._done and (self._recipe.kind == "bi-encoder" or has_head(self._job.start)):
            self._look(0)
        loss_of = losses.make(self._recipe.loss, self._recipe.margin, self._recipe.scale)
        if self._others.rank == 0:
            self._listener.begins(self._done)
        for step, (batch, is_look) in enumerate(self._recipe.batches(len(self._job.lists)), 1):
            if step <= self._done:
                continue
            self._reranker.train_mode()
            lists = step_lists(self._job.lists, batch, self._recipe.in_batch_negatives, (self._recipe.seed, step))
            own = range(len(batch))[self._others.rank :: self._others.count]
            share, seed = self._others.count / len(batch), step * self._others.count + self._others.rank
            with seeded(self._recipe.device, (self._recipe.seed << 32) + seed):
                most = self._graph_tokens
                loss, padding = _backward(self._reranker, self._network, lists, own, loss_of, share, most)
            norm = torch.nn.utils.clip_grad_norm_(self._network.parameters(), self._recipe.clip_norm)
            if not torch.isfinite(norm):  # the same on every worker
                raise ModelError(f"the gradient became {norm.item()} at step {step}; lower train.learning_rate")
            for group in self._optimizer.param_groups:
                group["lr"] = self._recipe.rate(step - 1, self._steps)
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            self._done = step
            if self._others.rank == 0:
                self._listener.trained(step, loss.item(), len(batch), padding)
            if is_look and self._look(step):
                return

    def _look(self, step: int) -> bool:
        """Measure the dev queries and leave a checkpoint; return whether patience is at its end."""
        first = self._others.rank == 0
        if first:
            known = self._job.start_dev if step == 0 else None
            self._dev[step] = self._measure() if known is None else known
            self._listener.looked(dict(self._dev))
        self._others.report(step, self._dev, self._save if first and step else None)
        return self._others.agreed(self._out_of_patience())

    def _save(self, folder: Path) -> None:
        self._reranker.save(folder)
        _save_state(folder / STATE, self._optimizer, self._done, self._dev)

    def _measure(self) -> float:
        return means(measure(self._job.dev, rerank(self._job.dev, self._reranker)))[DEV_METRIC]

    def _out_of_patience(self) -> bool:
        if self._recipe.patience is None or not self._dev:
            return False
        looks = sorted(self._dev)
        return len(looks) - 1 - looks.index(best_of(self._dev)) >= self._recipe.patience


@contextmanager
def _readable(checkpoint: Path | None) -> Iterator[None]:
    """Say of a checkpoint that is not whole what becomes of it."""
    try:
        yield
    except (ModelError, OSError, ValueError, KeyError, SafetensorError) as error:
        if checkpoint is None:
            raise
        raise ModelError(
            f"checkpoint {checkpoint} cannot be read ({error}) and is given up; the same command trains from the start"
        ) from None


def set_dropout(network: torch.nn.Module, rate: float) -> None:
    """Replace the model's own rate."""
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = rate


def adamw(network: Any, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW without decay of biases and norms."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        fused=True,
    )


def _save_state(folder: Path, optimizer: torch.optim.AdamW, step: int, dev: Mapping[int, float]) -> None:
    """Write what a checkpoint holds beside the model."""
    folder.mkdir()
    moments = optimizer.state_dict()["state"]
    tensors = {f"{at}.{name}": value for at, state in moments.items() for name, value in state.items()}
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "adamw.safetensors")
    (folder / "progress.json").write_text(json.dumps({"step": step, "dev": list(dev.items())}), encoding="utf-8")


def _load_state(folder: Path, optimizer: torch.optim.AdamW) -> tuple[int, dict[int, float]]:
    """Restore the optimizer; return the step and what the dev queries said so far."""
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(folder / "adamw.safetensors").items():
        at, _, name = key.partition(".")
        moments.setdefault(int(at), {})[name] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": moments})
    progress = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
    return progress["step"], {int(step): float(value) for step, value in progress["dev"]}


def _backward(
    reranker: Reranker | BiEncoder,
    network: Any,
    lists: Lists,
    chosen: Sequence[int],
    loss_of: losses.Loss,
    share: float,
    most: int = TOKENS_PER_BACKWARD["cpu"],
) -> tuple[Tensor, float]:
    """Add the gradient of these lists' losses times `share`; return the loss, and how much of what was read is padding.

    The latter is a share of the tokens, those of a bi-encoder being estimated.

    Lists go together as far as the memory for activations allows, `most` tokens; within such a group texts of like
    length do, so that little is padded. How they are grouped changes nothing but rounding.
    """
    rows = [reranker.tokenize([lists.queries[i]] * len(lists.documents[i]), lists.documents[i]) for i in chosen]
    rows = rows or [reranker.tokenize(["", ""], ["", ""])]  # fewer lists than workers: only exchange gradients
    tokens = [sum(reranker.length(row) for row in of_list) for of_list in rows]
    groups = _groups(tokens, most)
    total, read = torch.zeros((), device=reranker.device), 0
    for number, group in enumerate(groups, 1):
        exchange = number == len(groups) or not hasattr(network, "no_sync")
        with nullcontext() if exchange else network.no_sync():
            table, mask, tokens_read = _scores(reranker, network, [rows[i] for i in group])
            teacher, is_lesson = _teacher(lists, [chosen[i] for i in group] if chosen else [], table)
            loss = loss_of(table, mask, teacher, is_lesson).sum() * (share if chosen else 0.0)
            torch.autograd.backward(loss)
        total += loss.detach()
        read += tokens_read
    return total, 1 - sum(tokens) / read


def _teacher(lists: Lists, chosen: Sequence[int], table: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return the teacher's scores of these lists, shaped as the student's, and which are lessons; None without any."""
    if not lists.teacher:
        return None, None
    teacher = torch.zeros(table.shape)
    for row, i in enumerate(chosen):
        teacher[row, : len(lists.teacher[i])] = torch.tensor(lists.teacher[i])
    is_lesson = torch.zeros(len(table), dtype=torch.bool)
    if lists.is_lesson:
        is_lesson[: len(chosen)] = torch.tensor([lists.is_lesson[i] for i in chosen])
    return teacher.to(table.device), is_lesson.to(table.device)


def _groups(sizes: list[int], most: int) -> list[list[int]]:
    """Cut positions, in order, into groups whose sizes add up to `most` at most, if one alone does."""
    groups: list[list[int]] = []
    room = 0
    for position, size in enumerate(sizes):
        if size > room or not groups:
            groups.append([])
            room = most
        groups[-1].append(position)
        room -= size
    return groups


def _scores(reranker: Reranker | BiEncoder, network: Any, rows: list[list[Any]]) -> tuple[Tensor, Tensor, int]:
    """Return the scores of tokenised lists (B, L), which of them count, and the tokens read, padding included."""
    flat = [row for of_list in rows for row in of_list]
    lengths = np.array([reranker.length(row) for row in flat])
    parts = _passes(lengths, reranker.TRAIN_TOKENS_PER_PASS[reranker.device], reranker.PASS_TOKENS[reranker.device])
    scores = torch.cat([reranker.forward([flat[i] for i in part], network) for part in parts])
    back = torch.empty(len(flat), dtype=torch.long)
    back[torch.tensor([i for part in parts for i in part])] = torch.arange(len(flat))
    sizes = torch.tensor([len(of_list) for of_list in rows])
    mask = (torch.arange(int(sizes.max()))[None] < sizes[:, None]).to(scores.device)
    table = torch.zeros(mask.shape, device=scores.device).masked_scatter(mask, scores[back.to(scores.device)])
    return table, mask, sum(len(part) * int(lengths[part].max()) for part in parts)


def _passes(lengths: Int64, most: int, cost: int) -> list[list[int]]:
    """Cut positions, longest first, into passes of `most` tokens at most, if one alone has no more.

    Of all such cuts it is the one with the fewest tokens, padding included, where a pass costs `cost` more.
    """
    order = np.argsort(-lengths, kind="stable")
    starts = np.arange(len(order))
    longest = lengths[order].astype(np.float64)
    least, begin = np.zeros(len(order) + 1), np.zeros(len(order) + 1, dtype=np.int64)
    for end in range(1, len(order) + 1):  # the best cut of the first `end` ends with the pass that gives the least
        tokens = (end - starts[:end]) * longest[:end]
        total = np.where((tokens <= most) | (starts[:end] == end - 1), least[:end] + tokens + cost, np.inf)
        begin[end] = total.argmin()
        least[end] = total[begin[end]]
    passes: list[list[int]] = []
    end = len(order)
    while end:
        passes.append(order[begin[end] : end].tolist())
        end = int(begin[end])
    return passes[::-1]
