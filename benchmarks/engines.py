"""Encoding and scoring by OpenVINO against torch, both in bfloat16, in turns in one process.

    python benchmarks/engines.py --data DIR [--rounds 5]

512 documents of a BEIR folder are encoded, and 600 pairs of its queries and documents scored at 256 tokens, with
all-MiniLM-L6-v2 (as re-ranker with a fresh head). One round warms up. Prints medians and how many times as long torch
takes: OpenVINO stays in hnmine as long as it is 1.3 times as fast in both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from hnmine.config.encoders import EncoderConfig
from hnmine.config.steps import SourcesConfig
from hnmine.corpus.layouts import read_collection
from hnmine.models.folder import resolve
from hnmine.models.plan import plan
from hnmine.models.reranker import CrossEncoder
from hnmine.runs.device import Choice
from hnmine.runs.manifest import versions

MODEL = "all-MiniLM-L6-v2"
ENGINES = ("openvino", "torch")


def main() -> None:
    """Run, print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()

    # Take documents from the whole collection, and pairs of its first queries with some of them.
    collection = read_collection(options.data, SourcesConfig())
    step = max(1, len(collection.documents) // 512)
    documents = list(collection.documents.texts[::step][:512])
    pairs = [(query, document) for query in collection.queries.texts[:30] for document in documents[:20]]
    queries, scored = [query for query, _ in pairs], [document for _, document in pairs]

    # Load both models by both engines.
    config = EncoderConfig(name="minilm", model=MODEL, dtype="bfloat16")
    cpu, folder, work = (
        Choice(kind="cpu", reason="benchmark"),
        resolve(MODEL),
        dict[tuple[str, str], Callable[[], object]](),
    )
    for engine in ENGINES:
        encoder = plan(config, collection.documents, Path("."), cpu, engine=engine).build()
        reranker = CrossEncoder(folder, max_tokens=256, device="cpu", dtype="bfloat16", engine=engine)
        work["encode", engine] = lambda encoder=encoder: encoder.encode(documents)  # type: ignore[misc]
        work["score", engine] = lambda reranker=reranker: reranker.scores(queries, scored)  # type: ignore[misc]

    # Run them in turns.
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in work}
    for _ in range(options.rounds + 1):
        for key, run in work.items():
            start = time.perf_counter()
            run()
            seconds[key].append(time.perf_counter() - start)
    medians = {key: statistics.median(taken[1:]) for key, taken in seconds.items()}
    found = {
        task: {
            **{f"{engine}_seconds": round(medians[task, engine], 2) for engine in ENGINES},
            "torch_over_openvino": round(medians[task, "torch"] / medians[task, "openvino"], 2),
            "rounds": {engine: [round(value, 2) for value in seconds[task, engine][1:]] for engine in ENGINES},
        }
        for task in ("encode", "score")
    }
    sizes = {
        "collection": {"name": options.data.name, "documents": len(collection.documents)},
        "model": MODEL,
        "dtype": "bfloat16",
        "encoded_documents": len(documents),
        "scored_pairs": {"queries": 30, "documents_each": 20, "max_tokens": 256},
    }
    print(json.dumps(sizes | found | {"versions": versions()}, indent=1))


if __name__ == "__main__":
    main()
