"""Scoring by re-rankers against `CrossEncoder.predict` at its best: same model, pairs, lengths and number format.

    python benchmarks/score_peers.py --data DIR [--mpnet FOLDER] [--out FILE.json] [--queries 8] [--rounds 5]

Pairs are some queries of a BEIR folder with 20 of its documents each, 256 tokens of both together. Bodies are
all-MiniLM-L6-v2 and, if its folder is given, all-mpnet-base-v2, each with a fresh head by a seed, and two decoders that
answer yes or no, of random weights in the shape of Qwen3: `small` (4 layers of 256) and `medium` (12 layers of 512).

The peer sorts by length, computes attention by sdpa, and gets the batch size with which it was fastest on a third of
the pairs. All compute in turns in one process; a ratio is of the medians. The scores have to be the same.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hnmine.config.steps import SourcesConfig
from hnmine.corpus.layouts import read_collection
from hnmine.models.folder import resolve
from hnmine.models.reranker import CrossEncoder
from hnmine.runs.manifest import versions
from hnmine.types import Float32

TOKENS = 256
DOCUMENTS = 20
BATCH_SIZES = (8, 16, 32, 64, 128)
DECODERS = {"decoder, small": (256, 4), "decoder, medium": (512, 12)}  # width, layers
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }} {% endif %}{% endfor %}"
    "query: {{ (messages | selectattr('role', 'eq', 'query') | first).content }} "
    "document: {{ (messages | selectattr('role', 'eq', 'document') | first).content }} answer:"
)
Pairs = list[tuple[str, str]]


def main() -> None:
    """Run, and print and write one JSON object after every model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="BEIR folder")
    parser.add_argument("--mpnet", type=Path, help="folder of all-mpnet-base-v2")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    parser.add_argument("--queries", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", help="names of models")
    parser.add_argument("--dtypes", nargs="*", default=["float32", "bfloat16"])
    options = parser.parse_args()

    # Take queries and documents from the whole collection.
    collection = read_collection(options.data, SourcesConfig())
    texts = collection.documents.texts
    rng = np.random.default_rng(0)
    queries = [collection.queries.texts[row] for row in rng.choice(len(collection.judged), options.queries)]
    pairs = [(query, texts[row]) for query in queries for row in rng.choice(len(texts), DOCUMENTS)]
    figures: dict[str, Any] = {
        "data": {"name": options.data.name, "pairs": len(pairs), "max_tokens": TOKENS},
        "rounds": options.rounds,
        "models": {},
        "threads": torch.get_num_threads(),
        "load_before": os.getloadavg()[0],
        "versions": versions(),
    }

    # Measure model by model.
    with tempfile.TemporaryDirectory() as work:
        for name, folder in models(Path(work), options.mpnet, options.only):
            for dtype in options.dtypes:
                figures["models"].setdefault(name, {})[dtype] = compare(folder, dtype, pairs, options.rounds)
                text = json.dumps(figures, indent=1)
                print(text, flush=True)
                if options.out is not None:
                    options.out.write_text(text + "\n", encoding="utf-8")


def models(work: Path, mpnet: Path | None, only: list[str] | None) -> Iterator[tuple[str, Path]]:
    """Yield the names and folders of the models, each written when its turn comes."""
    bodies = {"MiniLM": resolve("all-MiniLM-L6-v2")} | ({"mpnet": resolve(str(mpnet))} if mpnet else {})
    for name, body in bodies.items():
        if only is None or name in only:
            CrossEncoder(body, max_tokens=TOKENS, device="cpu", dtype="float32", seed=0).save(work / name)
            yield name, work / name
    for name, (width, layers) in DECODERS.items():
        if only is None or name in only:
            yield name, decoder(work / name, width, layers)


def decoder(folder: Path, width: int, layers: int) -> Path:
    """Write a decoder that answers yes or no, with a chat template and an instruction, of random weights."""
    from sentence_transformers import CrossEncoder as Peer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.cross_encoder.modules import LogitScore
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(resolve("all-MiniLM-L6-v2"))
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 128,
        head_dim=64,
        pad_token_id=tokenizer.pad_token_id,
    )
    body = folder / "body"
    Qwen3ForCausalLM(config).save_pretrained(body)
    tokenizer.save_pretrained(body)
    yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
    modules = [Transformer(str(body), transformer_task="text-generation"), LogitScore(yes, no)]
    prompts = {"web": "judge whether the document answers the query"}
    peer = Peer(modules=modules, device="cpu", prompts=prompts, default_prompt_name="web")
    peer.save_pretrained(str(folder), create_model_card=False)
    return folder


def compare(folder: Path, dtype: str, pairs: Pairs, rounds: int) -> dict[str, Any]:
    """Return pairs a second of both, and how far their scores are from float32's."""
    from sentence_transformers import CrossEncoder as Peer

    # Load both, and find the peer's best batch size.
    ours = CrossEncoder(folder, max_tokens=TOKENS, device="cpu", dtype=dtype)
    peer = Peer(str(folder), device="cpu", max_length=TOKENS, model_kwargs={"dtype": getattr(torch, dtype)})
    queries, documents = (list(texts) for texts in zip(*pairs, strict=True))
    some = pairs[:: max(1, len(pairs) // max(40, len(pairs) // 3))]

    def predict(some_pairs: Pairs, size: int) -> Float32:
        return np.asarray(peer.predict(some_pairs, batch_size=size, show_progress_bar=False), dtype=np.float32)

    predict(some, BATCH_SIZES[0])
    seconds_by_size = {
        size: statistics.median(timed(partial(predict, some, size))[0] for _ in range(2)) for size in BATCH_SIZES
    }
    best = min(seconds_by_size, key=lambda size: seconds_by_size[size])

    # Let them score in turns; one round warms up.
    work: dict[str, Callable[[], Float32]] = {
        "ours": lambda: ours.scores(queries, documents),
        "peer": lambda: predict(pairs, best),
    }
    seconds: dict[str, list[float]] = {name: [] for name in work}
    scores: dict[str, Float32] = {}
    for _ in range(rounds + 1):
        for name, run in work.items():
            taken, scores[name] = timed(run)
            seconds[name].append(taken)
    median = {name: statistics.median(taken[1:]) for name, taken in seconds.items()}

    # Compare what they computed.
    exact = Peer(str(folder), device="cpu", max_length=TOKENS, model_kwargs={"dtype": torch.float32})
    truth = np.asarray(exact.predict(pairs, show_progress_bar=False), dtype=np.float32)
    return {
        "pairs_per_second": {name: round(len(pairs) / taken, 2) for name, taken in median.items()},
        "ours_over_peer": round(median["peer"] / median["ours"], 2),
        "peer_batch_size": best,
        "peer_pairs_per_second_by_batch_size": {
            size: round(len(some) / taken, 1) for size, taken in seconds_by_size.items()
        },
        "seconds": {name: [round(value, 3) for value in taken[1:]] for name, taken in seconds.items()},
        "largest_difference_from_float32": {name: float(np.abs(each - truth).max()) for name, each in scores.items()},
        "distinct_scores": {name: len(np.unique(each)) for name, each in scores.items()},
    }


def timed(work: Callable[[], Float32]) -> tuple[float, Float32]:
    """Return the seconds that some work takes, and what it gives."""
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


if __name__ == "__main__":
    main()
