"""Training and scoring of a re-ranker against sentence-transformers: same model, triplets, loss and lengths.

    python benchmarks/train_peers.py --data DIR --run OUT --out FILE.json [--triplets 1000] [--queries 200] [--rounds 3]

DIR is a BEIR folder, OUT a run of `hnmine mine` on it. All begin with all-MiniLM-L6-v2 and the same fresh ranking head,
read 256 tokens of query and document together, and train one epoch of binary cross-entropy, 32 pairs a step, learning
rate 2e-5 with a tenth of warm-up. Contestants, in turn, each training in a process of its own:

    ours            hnmine's worker loop, without Ray: mixed precision where the processor multiplies bfloat16
    peer            CrossEncoderTrainer, float32, its default
    peer, bfloat16  CrossEncoderTrainer with bf16=True

Training time is that of the steps, without loading. Then each model scores the first 20 of BM25 for the dev queries,
ours by the `scores` of hnmine's `CrossEncoder`, the peers' by `CrossEncoder.predict` (in bfloat16 for the last), and
MRR@10 is compared.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from hnmine.config.load import load
from hnmine.corpus.layouts import read_collection
from hnmine.models.folder import resolve
from hnmine.ranking.first_stage import bm25_or_run_file
from hnmine.ranking.measures import means, measure, rerank
from hnmine.ranking.splits import Splits
from hnmine.runs.device import Choice, choose_dtype
from hnmine.runs.manifest import versions
from hnmine.types import Float32, Score

TOKENS, PAIRS, RATE, WARM_UP = 256, 32, 2e-5, 0.1
CONTESTANTS = ("ours", "peer", "peer, bfloat16")
Triplets = list[dict[str, str]]


def main() -> None:
    """Train and score with all contestants; print and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="BEIR folder")
    parser.add_argument("--run", type=Path, required=True, help="run folder with triplets.parquet")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    parser.add_argument("--triplets", type=int, default=1000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contestant", help=argparse.SUPPRESS)  # a contestant's own process
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contestant:
        print(json.dumps(contest(options)))
        return
    runs: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as work:
        start(Path(work) / "start")
        for _ in range(options.rounds):
            for name in CONTESTANTS:
                line = [sys.executable, __file__, *sys.argv[1:], "--contestant", name, "--work", work]
                done = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True)
                runs.setdefault(name, []).append(json.loads(done.stdout.splitlines()[-1]))
                report(runs, options)


def report(runs: dict[str, list[dict[str, float]]], options: argparse.Namespace) -> None:
    """Print what is known so far, and write it."""
    figures = {
        "triplets": options.triplets,
        "queries": options.queries,
        "cores": os.cpu_count(),
        "contestants": {
            name: {key: round(statistics.median(run[key] for run in of_name), 3) for key in of_name[0]}
            | {"rounds": len(of_name)}
            for name, of_name in runs.items()
        },
        "versions": versions(),
    }
    text = json.dumps(figures, indent=1)
    if options.out is not None:
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text, flush=True)


def start(folder: Path) -> None:
    """Write the model that all begin with."""
    from hnmine.models.reranker import CrossEncoder as OurCrossEncoder

    OurCrossEncoder(resolve("all-MiniLM-L6-v2"), max_tokens=TOKENS, device="cpu", dtype="float32", seed=0).save(folder)


def contest(options: argparse.Namespace) -> dict[str, float]:
    """Train, score and measure as one contestant."""
    chosen = pq.read_table(options.run / "triplets.parquet", columns=["query", "positive", "negative"])
    rows = np.random.default_rng(0).choice(len(chosen), size=min(options.triplets, len(chosen)), replace=False)
    triplets: Triplets = chosen.take(rows).to_pylist()
    begin = Path(options.work) / "start"
    trained = Path(options.work) / options.contestant.replace(", ", "-")
    train_seconds = (
        ours(begin, trained, triplets)
        if options.contestant == "ours"
        else peer(begin, trained, triplets, options.contestant != "peer")
    )
    config = load()
    collection = read_collection(options.data, config.sources)
    bm25 = partial(bm25_or_run_file, config.evaluate, collection.documents, collection.queries)
    splits = Splits(collection, config, bm25)
    task = splits.task(splits.dev, options.queries, 0)
    score = our_score(trained) if options.contestant == "ours" else peer_score(trained, options.contestant != "peer")
    began = time.monotonic()
    scores = rerank(task, score)
    score_seconds = time.monotonic() - began
    return {
        "train_pairs_per_second": 2 * len(triplets) / train_seconds,
        "scored_pairs_per_second": int(task.exists_QK.sum()) / score_seconds,
        "MRR@10": means(measure(task, scores))["MRR@10"],
    }


def ours(begin: Path, trained: Path, triplets: Triplets) -> float:
    """Train with hnmine's worker; return the seconds of the steps."""
    from hnmine.config.training import TrainConfig
    from hnmine.models.reranker import CrossEncoder as OurCrossEncoder
    from hnmine.training import losses
    from hnmine.training.gradient import Optimizer, Recipe
    from hnmine.training.list_losses import ListLosses
    from hnmine.training.lists import TrainingList, step_lists

    lists = tuple(TrainingList(query=row["query"], documents=(row["positive"], row["negative"])) for row in triplets)
    settings = TrainConfig(loss="bce", pairs_per_batch=PAIRS // 2, max_tokens=TOKENS)
    device = Choice(kind="cpu", reason="benchmark")
    recipe = Recipe.of(settings, device, learning_rate=RATE, seed=0, engine="torch")
    reranker = OurCrossEncoder(begin, max_tokens=TOKENS, device="cpu", dtype=recipe.dtype)
    optimizer = Optimizer(reranker.model, recipe, recipe.steps(len(lists)))
    loss = losses.make("bce", 1.0)
    reranker.train_mode()
    began = time.monotonic()
    for step, (batch, _) in enumerate(recipe.batches(len(lists))):
        taken = step_lists(lists, batch, 0, (0, step))
        optimizer.step(step, ListLosses(reranker, reranker.model, taken, loss, share=1 / len(batch)))
    seconds = time.monotonic() - began
    reranker.save(trained)
    return seconds


def peer(begin: Path, trained: Path, triplets: Triplets, bfloat16: bool) -> float:
    """Train with sentence-transformers; return the seconds of the steps."""
    from datasets import Dataset
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

    model = CrossEncoder(str(begin), device="cpu", max_length=TOKENS)
    rows = [
        (row["query"], row[kind], float(kind == "positive")) for row in triplets for kind in ("positive", "negative")
    ]
    dataset = Dataset.from_dict(
        dict(zip(("query", "document", "label"), map(list, zip(*rows, strict=True)), strict=True))
    )
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(trained),
        num_train_epochs=1,
        per_device_train_batch_size=PAIRS,
        learning_rate=RATE,
        warmup_steps=WARM_UP,
        use_cpu=True,
        bf16=bfloat16,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
    )
    trainer = CrossEncoderTrainer(
        model=model, args=arguments, train_dataset=dataset, loss=BinaryCrossEntropyLoss(model)
    )
    seconds = float(trainer.train().metrics["train_runtime"])
    model.save_pretrained(str(trained))
    return seconds


def our_score(trained: Path) -> Score:
    """Return hnmine's re-ranker, in the type it would choose."""
    from hnmine.models.reranker import CrossEncoder as OurCrossEncoder

    dtype = choose_dtype("auto", "cpu", training=True)
    return OurCrossEncoder(trained, max_tokens=TOKENS, device="cpu", dtype=dtype).scores


def peer_score(trained: Path, bfloat16: bool) -> Score:
    """Return `CrossEncoder.predict` at its defaults, or with weights in bfloat16."""
    from collections.abc import Callable, Sequence

    import torch
    from sentence_transformers import CrossEncoder

    dtype = torch.bfloat16 if bfloat16 else torch.float32
    model = CrossEncoder(str(trained), device="cpu", max_length=TOKENS, model_kwargs={"dtype": dtype})

    def score(queries: Sequence[str], documents: Sequence[str], done: Callable[[int], None]) -> Float32:
        done(len(queries))
        pairs = list(zip(queries, documents, strict=True))
        return np.asarray(model.predict(pairs, show_progress_bar=False), dtype=np.float32)

    return score


if __name__ == "__main__":
    main()
