"""Encoding on this machine: hnmine's actors against `SentenceTransformer.encode` at its defaults, the same texts.

    python benchmarks/encode.py --data DIR [--texts 1024] [--rounds 3]

Both encode the same random documents of a BEIR folder with all-MiniLM-L6-v2 at its own 256 tokens, in turn, the models
loaded before the clock starts. hnmine encodes as an actor of `embed` does on a CPU: batches of texts of like length,
side by side, in bfloat16 where the processor multiplies it; by OpenVINO where that is installed, and again by torch.
Prints medians, ratios, the smallest cosine to the peer's vectors and the share of tokens that are padding.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hnmine.config.root import Config
from hnmine.corpus.layouts import read_collection
from hnmine.models.batches import TOKENS_PER_BATCH, batches_by_length
from hnmine.models.folder import resolve
from hnmine.models.plan import Plan, plan
from hnmine.runs.device import Choice
from hnmine.runs.manifest import versions
from hnmine.types import Float32, Int64, Texts, unit_rows

TOKENS = 256


def main() -> None:
    """Run, print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    # Draw the documents.
    config = Config()
    documents = read_collection(options.data, config.sources).documents
    rows = np.random.default_rng(0).choice(len(documents), size=options.texts, replace=False)
    corpus = documents.take(rows.tolist())
    texts = list(corpus.texts)

    # Load the models, and let each encode a little before the clock starts.
    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(str(resolve("all-MiniLM-L6-v2")), device="cpu")
    lengths = np.array([min(TOKENS, len(ids)) for ids in peer.tokenizer(texts)["input_ids"]])
    plans = {engine: planned(config, corpus, engine) for engine in ("auto", "torch")}
    ours = {name: each.build() for name, each in plans.items()}
    for encoder in (peer, *ours.values()):
        encoder.encode(texts[:16])

    # Encode in turn.
    seconds: dict[str, list[float]] = {"peer": [], **{name: [] for name in ours}}
    cosines = dict.fromkeys(ours, 1.0)
    for _ in range(options.rounds):
        expected, took = timed(lambda: peer.encode(texts, show_progress_bar=False))
        seconds["peer"].append(took)
        for name, encoder in ours.items():
            found, took = timed(lambda encoder=encoder: encoder.encode(texts))  # type: ignore[misc]
            seconds[name].append(took)
            cosines[name] = min(cosines[name], smallest_cosine(found, expected))
    print(json.dumps(report(options.rounds, plans, seconds, cosines, lengths), indent=1))


def report(
    rounds: int, plans: dict[str, Plan], seconds: dict[str, list[float]], cosines: dict[str, float], lengths: Int64
) -> dict[str, Any]:
    """Return medians, ratios, the smallest cosines and the share of padding, with the versions they hold for."""
    tokens = int(lengths.sum())
    measured = {
        name: {
            "engine": each.engine,
            "dtype": each.dtype,
            "seconds": round(statistics.median(seconds[name]), 2),
            "tokens_per_second": round(tokens / statistics.median(seconds[name])),
            "ratio": round(statistics.median(a / b for a, b in zip(seconds["peer"], seconds[name], strict=True)), 2),
            "smallest_cosine": round(cosines[name], 5),
        }
        for name, each in plans.items()
    }
    batches = batches_by_length(lengths, TOKENS_PER_BATCH["cpu"])
    padded = sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    peer = statistics.median(seconds["peer"])
    return {
        "texts": len(lengths),
        "tokens": tokens,
        "rounds": rounds,
        "sentence_transformers": {"seconds": round(peer, 2), "tokens_per_second": round(tokens / peer)},
        "hnmine": measured,
        "padding": round(1 - tokens / padded, 4),
        "versions": versions(),
    }


def planned(config: Config, corpus: Texts, engine: str) -> Plan:
    """Return the plan of the first encoder, computed by this engine on the CPU."""
    choice = Choice(kind="cpu", reason="benchmark")
    return plan(config.encoders[0], corpus, Path("."), choice, config.embed.tokens_per_batch, engine=engine)


def timed(work: Callable[[], Float32]) -> tuple[Float32, float]:
    """Return what `work` returns and the seconds it took."""
    start = time.monotonic()
    result = work()
    return result, time.monotonic() - start


def smallest_cosine(a: Float32, b: Float32) -> float:
    """Return the smallest cosine between rows of the same text."""
    return float((unit_rows(a) * unit_rows(b)).sum(axis=1).min())


if __name__ == "__main__":
    main()
