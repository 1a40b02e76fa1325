"""Fine-tuning of the re-ranker by Ray Train, on lists of one positive and its negatives.

Training that does no harm: the start itself (step 0) is a candidate when the best step is chosen by MRR@10 on the
dev queries, and later steps must beat it strictly. What comes out is never worse on dev than what went in.

Ray is imported inside the functions: `session` decides how a local one authenticates before it first is.
"""

from __future__ import annotations

import logging
import math
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hnmine import losses
from hnmine.config import Loss, TrainConfig
from hnmine.device import Choice
from hnmine.encoders import batches_by_length
from hnmine.errors import ModelError
from hnmine.evaluation import Task, means, measure, rerank
from hnmine.progress import Progress, say
from hnmine.reranker import Reranker, has_head
from hnmine.session import start_ray

DEV_METRIC = "MRR@10"


@dataclass(frozen=True, kw_only=True)
class Lists:
    """What is trained on: of each query the documents, the positive first."""

    queries: tuple[str, ...]
    documents: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        assert len(self.queries) == len(self.documents)
        assert all(len(documents) > 1 for documents in self.documents), "a list needs a negative"

    def __len__(self) -> int:
        return len(self.queries)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train: the part of the configuration that a worker needs, resolved."""

    loss: Loss
    margin: float
    epochs: int
    learning_rate: float
    warmup_share: float
    weight_decay: float
    clip_norm: float
    dropout: float | None
    pairs_per_batch: int
    max_tokens: int
    evaluations_per_epoch: int
    seed: int
    dtype: str
    device: str

    @classmethod
    def of(cls, config: TrainConfig, device: Choice, dtype: str, **changes: Any) -> Recipe:
        """Take the settings of the same name; `changes` replace some."""
        own = {name: getattr(config, name) for name in cls.__dataclass_fields__ if hasattr(config, name)}
        return cls(**(own | {"device": device.torch_name, "dtype": dtype} | changes))


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The outcome: which step was kept, and what every look at the dev queries said."""

    best_step: int
    steps: int
    dev: dict[int, float]
    """MRR@10 on the dev queries by step; 0 is the start."""


@dataclass(frozen=True, kw_only=True)
class _Job:
    start: Path
    lists: Lists
    dev: Task
    recipe: Recipe
    start_dev: float | None


def train(
    name: str,
    start: Path,
    lists: Lists,
    dev: Task,
    recipe: Recipe,
    out: Path,
    *,
    workers: int,
    start_dev: float | None = None,
) -> Trained:
    """Fine-tune the model in `start` on `lists` and write the best step to `out`, replacing what is there.

    Step 0 is measured, or taken from `start_dev`; a start without a ranking head has none.

    Raises:
        ModelError: the loss or the scores become non-finite, or a worker cannot load the model.
    """
    start_ray()
    import ray
    from ray.train import CheckpointConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    _quiet_ray_train()
    batches = math.ceil(len(lists) / recipe.pairs_per_batch) * recipe.epochs
    work = Path(tempfile.mkdtemp(prefix=".train-", dir=_existing(out.parent)))
    board = _board()
    on_gpu = recipe.device == "cuda"
    cpus = max(1, int(ray.cluster_resources().get("CPU", 1)) // workers)
    trainer = TorchTrainer(
        _loop,
        train_loop_config={
            "job": _Job(start=start.resolve(), lists=lists, dev=dev, recipe=recipe, start_dev=start_dev),
            "board": board,
        },
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=on_gpu,
            resources_per_worker={"GPU": 1} if on_gpu else {"CPU": cpus},
        ),
        run_config=RunConfig(
            name="fit", storage_path=str(work.resolve()), checkpoint_config=CheckpointConfig(num_to_keep=1)
        ),
    )
    say(
        "train",
        f"{name}: {len(lists):,} pairs, {batches} steps, {workers} worker(s) on {recipe.device}, {recipe.dtype}",
    )
    try:
        with _following(name, board, len(lists) * recipe.epochs):
            result = _in_thread(trainer.fit)
        history: dict[int, float] = ray.get(board.history.remote())
        best = min(history, key=lambda step: (-history[step], step))
        _replace(out, start if best == 0 else Path(result.checkpoint.path))
    except ray.train.TrainingFailedError as error:
        raise ModelError(f"training of {name} failed: {_cause(error)}") from None
    finally:
        ray.kill(board)
        shutil.rmtree(work, ignore_errors=True)
    return Trained(best_step=best, steps=batches, dev=history)


def _loop(settings: dict[str, Any]) -> None:
    """Run one worker of the training; rank 0 looks at the dev queries and writes checkpoints."""
    import ray
    import ray.train
    from ray.train.torch import prepare_model

    job: _Job = settings["job"]
    board, recipe = settings["board"], job.recipe
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    reranker = Reranker(
        job.start, max_tokens=recipe.max_tokens, device=recipe.device, dtype=recipe.dtype, seed=recipe.seed
    )
    network = prepare_model(reranker.model)
    optimizer, schedule = _optimizer(network, recipe, steps=_steps(len(job.lists), recipe))
    loss_of = losses.make(recipe.loss, recipe.margin)

    best = -1.0

    def look(step: int) -> None:
        nonlocal best
        value, checkpoint = -1.0, None
        with tempfile.TemporaryDirectory() as folder:
            if rank == 0:
                known = job.start_dev if step == 0 else None
                value = means(measure(job.dev, rerank(job.dev, reranker)))[DEV_METRIC] if known is None else known
                ray.get(board.looked.remote(step, value))  # fails where the driver has given up: so do we
                if step and value > best:
                    reranker.save(Path(folder))
                    checkpoint = ray.train.Checkpoint.from_directory(folder)
                best = max(best, value)
            ray.train.report({"step": step, DEV_METRIC: value}, checkpoint=checkpoint)

    if has_head(job.start):
        look(0)
    torch.manual_seed(recipe.seed)
    for step, (batch, is_look) in enumerate(_batches(len(job.lists), recipe), 1):
        reranker.train_mode(recipe.dropout)
        mine = batch[rank::world]
        loss = _step(reranker, network, job.lists, mine, loss_of, share=world / len(batch))
        if not torch.isfinite(loss):
            raise ModelError(f"the loss became {loss.item()} at step {step}; lower train.learning_rate")
        torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if rank == 0:
            board.trained.remote(len(batch), loss.item())
        if is_look:
            look(step)


def _optimizer(network: Any, recipe: Recipe, steps: int) -> tuple[Any, Any]:
    """AdamW without decay of biases and norms; the rate rises linearly, then falls linearly to zero."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        fused=True,
    )
    rising = max(1, round(steps * recipe.warmup_share))

    def rate(step: int) -> float:
        return min((step + 1) / rising, max(0.0, (steps - step) / max(1, steps - rising)))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, rate)


def _steps(lists: int, recipe: Recipe) -> int:
    return math.ceil(lists / recipe.pairs_per_batch) * recipe.epochs


def _batches(lists: int, recipe: Recipe) -> Iterator[tuple[list[int], bool]]:
    """Yield each step's lists, the same on every worker, and whether to look at the dev queries after it."""
    rng = np.random.default_rng(recipe.seed)
    per_epoch = math.ceil(lists / recipe.pairs_per_batch)
    looks = {math.ceil(per_epoch * (i + 1) / recipe.evaluations_per_epoch) for i in range(recipe.evaluations_per_epoch)}
    for _epoch in range(recipe.epochs):
        order = rng.permutation(lists).tolist()
        for step in range(per_epoch):
            start = step * recipe.pairs_per_batch
            yield order[start : start + recipe.pairs_per_batch], step + 1 in looks


def _step(reranker: Reranker, network: Any, lists: Lists, chosen: list[int], loss_of: losses.Loss, share: float) -> Any:
    """Forward and backward of these lists; texts of like length go together, so little is padded."""
    sizes = [len(lists.documents[i]) for i in chosen]
    if not sizes:  # fewer lists than workers: take part in the exchange of gradients, with nothing
        rows = reranker.tokenize([""], [""])
        loss = 0.0 * reranker.forward(rows, network).sum()
        torch.autograd.backward(loss)
        return loss.detach()
    rows = reranker.tokenize(
        [lists.queries[i] for i in chosen for _ in lists.documents[i]],
        [document for i in chosen for document in lists.documents[i]],
    )
    lengths = np.array([len(row["input_ids"]) for row in rows])
    parts = batches_by_length(lengths, reranker.TRAIN_TOKENS_PER_BATCH)
    scores = torch.cat([reranker.forward([rows[i] for i in part], network) for part in parts])
    back = torch.empty(len(rows), dtype=torch.long, device=scores.device)
    back[torch.tensor([i for part in parts for i in part], device=scores.device)] = torch.arange(
        len(rows), device=scores.device
    )
    mask = torch.arange(max(sizes), device=scores.device)[None] < torch.tensor(sizes, device=scores.device)[:, None]
    table = torch.zeros(mask.shape, device=scores.device).masked_scatter(mask, scores[back])
    loss = loss_of(table, mask).sum() * share
    torch.autograd.backward(loss)
    return loss.detach()


def _board() -> Any:
    """Start the small actor through which workers tell the driver how far they are."""
    import ray

    class Board:
        def __init__(self) -> None:
            self._news: list[tuple[int, str]] = []
            self._history: dict[int, float] = {}
            self._loss = math.nan

        def trained(self, pairs: int, loss: float) -> None:
            self._loss = loss if math.isnan(self._loss) else 0.9 * self._loss + 0.1 * loss
            self._news.append((pairs, f"loss {self._loss:.3f}"))

        def looked(self, step: int, value: float) -> None:
            self._history[step] = value
            self._news.append((0, f"step {step}: {DEV_METRIC} {value:.3f} on dev"))

        def news(self) -> list[tuple[int, str]]:
            news, self._news = self._news, []
            return news

        def history(self) -> dict[int, float]:
            return self._history

    return ray.remote(num_cpus=0)(Board).remote()


class _following:
    """Show the board's news while the block runs."""

    def __init__(self, name: str, board: Any, pairs: int) -> None:
        self._name, self._board, self._pairs = name, board, pairs
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        import ray

        progress = None  # its clock starts with the first step, not with the workers
        last = False
        while not last:
            last = self._stop.wait(0.5)
            for pairs, note in ray.get(self._board.news.remote()):
                if not pairs:
                    say("train", f"{self._name}: {note}")
                    continue
                progress = progress or Progress("train", self._name, self._pairs, "pairs")
                progress.advance(pairs, note)
        if progress is not None:
            progress.finish()


def _in_thread(work: Callable[[], Any]) -> Any:
    """Call `work` outside the main thread, where Ray Train would take Ctrl-C for itself, for good, and exit with 0."""
    outcome: Future[Any] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome.result()


def _quiet_ray_train() -> None:
    logging.getLogger("ray.train").setLevel(logging.ERROR)


def _existing(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _replace(out: Path, source: Path) -> None:
    """Put a copy of the model folder `source` at `out`."""
    hidden = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    shutil.copytree(source, hidden, dirs_exist_ok=True)
    hidden.chmod(0o755)
    if out.exists():
        shutil.rmtree(out)
    hidden.rename(out)


def _cause(error: BaseException) -> str:
    worker_errors = getattr(error, "worker_failures", None) or {}
    for failure in worker_errors.values():
        inner = getattr(failure, "cause", None) or failure
        return str(inner)
    return str(error)
