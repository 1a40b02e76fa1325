"""Encoding on this machine: hnmine's actors against `SentenceTransformer.encode` at its defaults, the same texts.

    python benchmarks/encode.py --data DIR [--texts 1024] [--rounds 3]

Both encode the same random documents of a BEIR folder with all-MiniLM-L6-v2 at its own 256 tokens, in turn, the models
loaded before the clock starts. hnmine runs as `embed` does on a CPU: one process a core (at most 4), blocks sorted by
length, batches by tokens, bfloat16 where the processor multiplies it. Prints medians, the ratio, the smallest cosine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from hnmine.config import Config, SourcesConfig
from hnmine.device import Choice
from hnmine.encoders import Plan, plan
from hnmine.fuse import unit_rows
from hnmine.runs import versions
from hnmine.sources import read_beir
from hnmine.types import Float32, Texts
from hnmine.weights import resolve

TOKENS = 256


def serve(planned: Plan, threads: int, texts: list[str], link: Connection) -> None:
    """Encode `texts` whenever asked; the work of one actor."""
    import torch

    torch.set_num_threads(threads)
    encoder = planned.build()
    encoder.encode(texts[:16])
    link.send("ready")
    while link.recv():
        link.send(encoder.encode(texts))


def main() -> None:
    """Run, print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    documents = read_beir(options.data, SourcesConfig()).documents
    rows = np.random.default_rng(0).choice(len(documents), size=options.texts, replace=False)
    corpus = documents.take(rows.tolist())

    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(str(resolve("all-MiniLM-L6-v2")), device="cpu")
    peer.encode(list(corpus.texts[:16]))
    lengths = [min(TOKENS, len(ids)) for ids in peer.tokenizer(list(corpus.texts))["input_ids"]]
    tokens = sum(lengths)
    actors, planned, links = start_actors(corpus)

    ours, theirs, cosine = [], [], 1.0
    for _ in range(options.rounds):
        start = time.monotonic()
        expected = peer.encode(list(corpus.texts), show_progress_bar=False)
        theirs.append(time.monotonic() - start)
        start = time.monotonic()
        for link, _ in links:
            link.send(True)
        found = np.empty_like(expected)
        for link, at in links:
            found[at] = link.recv()
        ours.append(time.monotonic() - start)
        cosine = min(cosine, smallest_cosine(found, expected))
    for link, _ in links:
        link.send(False)
    slow, fast = statistics.median(theirs), statistics.median(ours)
    print(
        json.dumps(
            {
                "texts": options.texts,
                "tokens": tokens,
                "sentence_transformers": {"seconds": round(slow, 2), "tokens_per_second": round(tokens / slow)},
                "hnmine": {"seconds": round(fast, 2), "tokens_per_second": round(tokens / fast)},
                "ratio": round(statistics.median(a / b for a, b in zip(theirs, ours, strict=True)), 2),
                "smallest_cosine": round(cosine, 5),
                "dtype": planned.dtype,
                "actors": actors,
                "versions": versions(),
            },
            indent=1,
        )
    )


def start_actors(corpus: Texts) -> tuple[int, Plan, list[tuple[Connection, list[int]]]]:
    """Start the processes; deal the texts, sorted by length, out to them in blocks of 64 in turn."""
    config = Config()
    device = Choice(kind="cpu", reason="benchmark")
    planned = plan(config.encoders[0], corpus, Path("."), device, config.embed.tokens_per_batch)
    cores = os.cpu_count() or 1
    actors = min(4, cores)
    order = np.argsort([-len(text) for text in corpus.texts], kind="stable").tolist()
    blocks = [order[start : start + 64] for start in range(0, len(order), 64)]
    links = []
    for actor in range(actors):
        at = [row for block in blocks[actor::actors] for row in block]
        here, there = get_context("spawn").Pipe()
        texts = [corpus.texts[row] for row in at]
        get_context("spawn").Process(
            target=serve, args=(planned, max(1, cores // actors), texts, there), daemon=True
        ).start()
        links.append((here, at))
    for link, _ in links:
        assert link.recv() == "ready"
    return actors, planned, links


def smallest_cosine(a: Float32, b: Float32) -> float:
    """Return the smallest cosine between rows of the same text."""
    return float((unit_rows(a) * unit_rows(b)).sum(axis=1).min())


if __name__ == "__main__":
    main()
