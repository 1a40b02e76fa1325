"""Training of a re-ranker against sentence-transformers' CrossEncoderTrainer at its best: same model, pairs and loss.

    python benchmarks/train_peers.py --data DIR [--body FOLDER] [--out FILE.json] [--lists 160] [--rounds 5]

DIR is a BEIR folder. A list is a train query, a right document and three others, drawn at random. Both begin with the
same body, all-MiniLM-L6-v2 or another folder's, and the same fresh head, read so many tokens of query and document
together, and train one epoch of binary cross-entropy, 64 pairs a step, learning rate 2e-5 with a tenth of warm-up. Time
is that of the steps, without loading.

The peer gets what it was fastest with on a part of the lists: pairs a pass (the rest of a step by accumulation), and
float32 or bfloat16; it has no sampler that puts texts of like length together. Ours runs as `hnmine train` does, with
nothing tuned. Each training has a process of its own, in turns; the ratio is of the medians. Held-out lists say whether
both have learnt the same.
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
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hnmine.config.steps import SourcesConfig
from hnmine.config.training import TrainConfig
from hnmine.corpus.layouts import read_collection
from hnmine.models.folder import resolve
from hnmine.models.reranker import CrossEncoder
from hnmine.runs.device import choose_device
from hnmine.runs.manifest import versions
from hnmine.training import losses
from hnmine.training.gradient import WARM_UP_SHARE, Optimizer, Recipe
from hnmine.training.list_losses import ListLosses
from hnmine.training.lists import Lists, TrainingList, step_lists
from hnmine.training.memory import free_bytes, measure_room

DOCUMENTS, LISTS_PER_STEP, RATE, HELD_OUT = 4, 16, 2e-5, 40
PAIRS_PER_STEP = DOCUMENTS * LISTS_PER_STEP
PASSES = (8, 16, 32, 64)
"""Pairs in one of the peer's passes."""
Setting = dict[str, Any]


def main() -> None:
    """Tune the peer, train in turns, print and write what was measured after each round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="BEIR folder")
    parser.add_argument("--body", default="all-MiniLM-L6-v2", help="folder or name of the body")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    parser.add_argument("--lists", type=int, default=160)
    parser.add_argument("--tuned-on", type=int, default=48, help="lists on which the peer is tuned")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtypes", nargs="*", default=["float32", "bfloat16"], help="of the peer")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)  # a training's own process
    parser.add_argument("--setting", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        print(json.dumps(train(options)))
        return
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        reranker = load(resolve(options.body), options.tokens, "float32")
        reranker.library.activation_fn = torch.nn.Identity()
        reranker.save(work / "start")
        (work / "lists.json").write_text(json.dumps(draw(options)), encoding="utf-8")
        compete(options, work)


def compete(options: argparse.Namespace, work: Path) -> None:
    """Tune the peer, then train in turns."""
    # Find what the peer is fastest with: first the pass, then the number type.
    tried: dict[str, float] = {}

    def tune(settings: list[Setting]) -> Setting:
        for setting in settings:
            if (key := json.dumps(setting)) not in tried:
                found = in_process(work, setting | {"lists": options.tuned_on})
                tried[key] = round(found["pairs_per_second"], 2)
                print(f"tuning {key}: {tried[key]} pairs/s", file=sys.stderr, flush=True)
        return max(settings, key=lambda setting: tried[json.dumps(setting)])

    best = tune([{"pass": pairs, "dtype": options.dtypes[0]} for pairs in PASSES])
    best = tune([best | {"dtype": dtype} for dtype in options.dtypes])
    # Train in turns.
    runs: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
    for round_ in range(options.rounds):
        for name in ("ours", "peer") if round_ % 2 == 0 else ("peer", "ours"):
            runs[name].append(in_process(work, {"lists": options.lists} | (best if name == "peer" else {})))
        medians = {
            name: {key: round(statistics.median(run[key] for run in of_name), 4) for key in of_name[0]}
            for name, of_name in runs.items()
        }
        pace = [run["pairs_per_second"] for run in medians.values()]
        figures = {
            "body": Path(options.body).name,
            "tokens": options.tokens,
            "pairs": options.lists * DOCUMENTS,
            "rounds": len(runs["ours"]),
            **medians,
            "ratio": round(pace[0] / pace[1], 2),
            "peer_setting": best,
            "peer_tried": tried,
            "pairs_per_second": {name: [round(run["pairs_per_second"], 2) for run in runs[name]] for name in runs},
            "versions": versions(),
        }
        text = json.dumps(figures, indent=1)
        if options.out is not None:
            options.out.write_text(text + "\n", encoding="utf-8")
        print(text, flush=True)


def in_process(work: Path, setting: Setting) -> dict[str, float]:
    """Train once in a process of its own, and return what it measured."""
    line = [sys.executable, __file__, *sys.argv[1:], "--work", str(work), "--setting", json.dumps(setting)]
    environment = os.environ | {"TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        line, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def draw(options: argparse.Namespace) -> list[list[str]]:
    """Return lists, each a query, a right document and others; the last `HELD_OUT` are not trained on."""
    config = SourcesConfig()
    collection = read_collection(options.data, config)
    pairs, texts, queries = collection.pairs(config.train_split), collection.documents.texts, collection.queries.texts
    rng, wanted = np.random.default_rng(0), options.lists + HELD_OUT
    chosen = rng.choice(len(pairs), wanted, replace=len(pairs) < wanted)
    drawn = []
    for query, right in zip(pairs.query_rows_P[chosen].tolist(), pairs.doc_rows_P[chosen].tolist(), strict=True):
        others = rng.choice(len(texts), DOCUMENTS - 1, replace=False).tolist()
        drawn.append([queries[query], texts[right], *(texts[row] for row in others)])
    return drawn


def load(folder: Path, tokens: int, dtype: str, device: str = "cpu") -> CrossEncoder:
    """Load our re-ranker, computed by torch."""
    return CrossEncoder(folder, max_tokens=tokens, device=device, dtype=dtype, engine="torch")


def train(options: argparse.Namespace) -> dict[str, float]:
    """Train as one contestant does, and measure."""
    drawn = json.loads((options.work / "lists.json").read_text("utf-8"))
    lists = tuple(TrainingList(query=query, documents=tuple(documents)) for query, *documents in drawn)
    trained, held_out = lists[: options.setting["lists"]], lists[-HELD_OUT:]
    contestant = peer if "pass" in options.setting else ours
    seconds, model = contestant(options, trained)
    # Measure the loss of what was not trained on, and the most memory that was held.
    reranker = load(model, options.tokens, "float32", choose_device("auto").torch_name)
    with torch.inference_mode():
        given = ListLosses(reranker, held_out, losses.make("bce", 1.0), share=1 / len(held_out))
        loss = sum(float(part) for part in given)
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else resident_peak()
    return {
        "pairs_per_second": len(trained) * DOCUMENTS / seconds,
        "seconds": seconds,
        "held_out_loss": loss,
        "peak_gib": peak / 2**30,
    }


def resident_peak() -> int:
    """Return the most bytes that this process had in memory."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def ours(options: argparse.Namespace, lists: Lists) -> tuple[float, Path]:
    """Train as hnmine's worker does; return the seconds of the steps, measuring memory among them, and the model."""
    device = choose_device("auto")
    settings = TrainConfig(loss="bce", pairs_per_batch=LISTS_PER_STEP, max_tokens=options.tokens)
    recipe = Recipe.of(settings, device, learning_rate=RATE, seed=0, engine="torch")
    reranker = load(options.work / "start", options.tokens, recipe.dtype, recipe.device)
    reranker.train_mode()
    optimizer, loss = Optimizer(reranker.model, recipe, recipe.steps(len(lists))), losses.make("bce", 1.0)
    began = time.monotonic()
    longest = max(lists, key=lambda each: len(each.documents[0]))
    texts = [(longest.query, longest.documents[0]), (lists[0].query, lists[0].documents[0])]
    room, _ = measure_room(reranker, texts, checkpointing=None, free=free_bytes(recipe.device))
    for step, (batch, _) in enumerate(recipe.batches(len(lists))):
        taken = step_lists(lists, batch, 0, (0, step))
        optimizer.step(step, ListLosses(reranker, taken, loss, share=1 / len(batch), room=room))
    seconds = time.monotonic() - began
    reranker.save(options.work / "ours")
    return seconds, options.work / "ours"


def peer(options: argparse.Namespace, lists: Lists) -> tuple[float, Path]:
    """Train with sentence-transformers; return the seconds of the steps, and the model."""
    from datasets import Dataset
    from sentence_transformers import CrossEncoder as PeerCrossEncoder
    from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

    setting, device, trained = options.setting, choose_device("auto").torch_name, options.work / "peer"
    model = PeerCrossEncoder(str(options.work / "start"), device=device, max_length=options.tokens)
    rows = [
        {"query": each.query, "document": text, "label": float(number == 0)}
        for each in lists
        for number, text in enumerate(each.documents)
    ]
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(trained),
        num_train_epochs=1,
        per_device_train_batch_size=setting["pass"],
        gradient_accumulation_steps=PAIRS_PER_STEP // setting["pass"],
        learning_rate=RATE,
        warmup_steps=WARM_UP_SHARE,
        use_cpu=device == "cpu",
        bf16=setting["dtype"] == "bfloat16",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
    )
    dataset, loss = Dataset.from_list(rows), BinaryCrossEntropyLoss(model)
    trainer = CrossEncoderTrainer(model=model, args=arguments, train_dataset=dataset, loss=loss)
    seconds = float(trainer.train().metrics["train_runtime"])
    model.save_pretrained(str(trained))
    return seconds, trained


if __name__ == "__main__":
    main()
