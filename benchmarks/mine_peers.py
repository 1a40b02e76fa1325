"""`hnmine mine` against sentence-transformers' `mine_hard_negatives(use_faiss=True)`: same model, same texts.

    python benchmarks/mine_peers.py --data DIR --out FILE.json [--documents N] [--rounds 3] [--warm 3] [--only NAME ...]

Every figure is a whole process, from start to written files: reading, loading, encoding, searching, choosing. *Cold*
starts with nothing stored, *warm* follows with the vectors in our store and in the peer's `cache_folder`. Both encode
with all-MiniLM-L6-v2 at its own 256 tokens and choose one negative a train pair; the peer runs at its defaults, on all
cores. Ours adds a PCA to 95 %, the two conditions and the proof. The contestants take turns, in each round all of them:

    hnmine           as a user runs it: on a few cores in one process, else by Ray Data
    Ray Data         ray=true: one actor with all cores (up to 8); the difference is what Ray costs
    peer             mine_hard_negatives
    FlagEmbedding    its hn_mine.py (of its repository, the wheel has none), named by --flag-embedding; in float32, at
                     256 tokens, one negative of the ranks 10 to 210 as is its default; cold only

Peak memory is the sum of proportional set sizes over the process and its children, sampled every half second.
`--documents` keeps that many random documents and all positives of their pairs; FILE.json is written after every run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from hnmine.config.steps import SourcesConfig
from hnmine.corpus.layouts import read_collection
from hnmine.models.folder import resolve
from hnmine.runs.manifest import versions

MODEL = "all-MiniLM-L6-v2"
OURS = {"hnmine": [], "Ray Data": ["--set", "ray=true"]}


def main() -> None:
    """Run all contestants and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="BEIR folder")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    parser.add_argument("--documents", type=int, help="keep this many random documents; default all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm", type=int, default=1, help="warm runs after each cold one")
    names = [*OURS, "peer", "FlagEmbedding"]
    parser.add_argument("--only", nargs="+", choices=names, default=names[:-1])
    parser.add_argument("--flag-embedding", type=Path, help="hn_mine.py; its package must be importable")
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)  # the peer's own process: its folder
    options = parser.parse_args()
    if options.peer:
        run_peer(options.data, options.peer)
        return
    with tempfile.TemporaryDirectory() as scratch:
        data = (
            options.data if options.documents is None else cut(options.data, Path(scratch) / "data", options.documents)
        )
        runs: dict[str, list[dict[str, float]]] = {}
        for _ in range(options.rounds):
            for name in options.only:
                out = Path(scratch) / name.replace(" ", "-")
                shutil.rmtree(out, ignore_errors=True)
                warm = 0 if name == "FlagEmbedding" else options.warm  # it stores nothing
                line = command(name, data, out, options.flag_embedding)
                for state in ("cold", *["warm"] * warm):
                    runs.setdefault(f"{name}, {state}", []).append(measured(line))
                    report(runs, data, options.out)


def command(name: str, data: Path, out: Path, flag_embedding: Path | None) -> list[str]:
    """Return the command line of a contestant."""
    if name == "FlagEmbedding":
        return [sys.executable, str(flag_embedding), *flag_embedding_options(data, out)]
    if name == "peer":
        return [sys.executable, __file__, "--data", str(data), "--peer", str(out)]
    encoder = f"encoders=[{{name: minilm, model: {MODEL}}}]"
    start = [sys.executable, "-c", "from hnmine.cli import main; main()", "mine"]
    return [*start, "--data", str(data), "--out", str(out), "--set", encoder, *OURS[name]]


def flag_embedding_options(data: Path, out: Path) -> list[str]:
    """Write the collection as hn_mine.py reads it; return its options."""
    collection = read_collection(data, SourcesConfig())
    out.mkdir(parents=True)
    pairs, texts = collection.pairs("train"), collection.documents.texts
    positives: dict[int, list[str]] = {}
    for query, doc in zip(pairs.query_rows_P.tolist(), pairs.doc_rows_P.tolist(), strict=True):
        positives.setdefault(query, []).append(texts[doc])
    queries = [{"query": collection.queries.texts[query], "pos": pos} for query, pos in positives.items()]
    for name, rows in (("queries", queries), ("pool", [{"text": text} for text in texts])):
        (out / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    settings = {
        "input_file": out / "queries.jsonl",
        "output_file": out / "mined.jsonl",
        "candidate_pool": out / "pool.jsonl",
        "embedder_name_or_path": resolve(MODEL),
        "embedder_model_class": "encoder-only-base",
        "pooling_method": "mean",
        "use_fp16": False,
        "devices": "cpu",
        "embedder_query_max_length": 256,
        "embedder_passage_max_length": 256,
        "negative_number": 1,
    }
    return [part for name, value in settings.items() for part in (f"--{name}", str(value))]


def measured(line: list[str]) -> dict[str, float]:
    """Run one process to its end; return seconds and the peak of memory in GiB."""
    import psutil

    start = time.monotonic()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(line, stdout=log, stderr=log)
        peak, over = [0.0], threading.Event()

        def watch() -> None:
            root = psutil.Process(process.pid)
            while not over.wait(0.5):
                total = 0
                try:
                    for one in [root, *root.children(recursive=True)]:
                        total += one.memory_full_info().pss
                except psutil.Error:
                    continue  # a process ended between the list and the look
                peak[0] = max(peak[0], total / 2**30)

        watcher = threading.Thread(target=watch)
        watcher.start()
        code = process.wait()
        seconds = time.monotonic() - start
        over.set()
        watcher.join()
        if code:
            log.seek(0)
            raise SystemExit(f"{' '.join(line)}\nended with {code}:\n{log.read().decode(errors='replace')[-3000:]}")
    return {"seconds": round(seconds, 1), "peak_gib": round(peak[0], 2)}


def report(runs: dict[str, list[dict[str, float]]], data: Path, out: Path | None) -> None:
    """Print what is known so far, and write it."""
    found = {
        name: {
            "seconds": statistics.median(run["seconds"] for run in of_name),
            "peak_gib": max(run["peak_gib"] for run in of_name),
            "rounds": [run["seconds"] for run in of_name],
        }
        for name, of_name in runs.items()
    }
    collection = read_collection(data, SourcesConfig())
    figures = {
        "documents": len(collection.documents),
        "pairs": len(collection.pairs("train")),
        "cores": os.cpu_count(),
        "runs": found,
        "versions": versions(),
    }
    text = json.dumps(figures, indent=1)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
    print(text, flush=True)


def cut(data: Path, folder: Path, documents: int) -> Path:
    """Write a smaller BEIR folder: random documents, and the train pairs whose positive is among them."""
    collection = read_collection(data, SourcesConfig())
    kept = set(np.random.default_rng(0).choice(len(collection.documents), size=documents, replace=False).tolist())
    pairs = collection.pairs("train")
    chosen = [at for at, row in enumerate(pairs.doc_rows_P.tolist()) if row in kept]
    queries, texts = collection.queries, collection.documents
    (folder / "qrels").mkdir(parents=True)
    write_lines(folder / "corpus.jsonl", [(texts.ids[row], texts.texts[row]) for row in sorted(kept)])
    rows = sorted({int(pairs.query_rows_P[at]) for at in chosen})
    write_lines(folder / "queries.jsonl", [(queries.ids[row], queries.texts[row]) for row in rows])
    lines = [f"{queries.ids[pairs.query_rows_P[at]]}\t{texts.ids[pairs.doc_rows_P[at]]}\t1" for at in chosen]
    header = "query-id\tcorpus-id\tscore"
    (folder / "qrels" / "train.tsv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return folder


def write_lines(path: Path, texts: list[tuple[str, str]]) -> None:
    """Write BEIR's JSON lines."""
    lines = [json.dumps({"_id": text_id, "title": "", "text": text}) for text_id, text in texts]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def run_peer(data: Path, out: Path) -> None:
    """Mine with sentence-transformers; the work of the peer's process."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import mine_hard_negatives

    collection = read_collection(data, SourcesConfig())
    pairs = collection.pairs("train")
    dataset = Dataset.from_dict(
        {
            "query": [collection.queries.texts[row] for row in pairs.query_rows_P.tolist()],
            "positive": [collection.documents.texts[row] for row in pairs.doc_rows_P.tolist()],
        }
    )
    triplets = mine_hard_negatives(
        dataset,
        SentenceTransformer(str(resolve(MODEL)), device="cpu"),
        corpus=list(collection.documents.texts),
        num_negatives=1,
        use_faiss=True,
        cache_folder=str(out),
    )
    triplets.to_parquet(str(out / "triplets.parquet"))


if __name__ == "__main__":
    main()
