"""Time and memory of `hnmine mine` by the number of documents: with nothing stored, and with the vectors stored.

    python benchmarks/size.py --out FILE.json [--documents 10000 100000 1000000] [--encoder FOLDER] [--work DIR]

Texts are made by a seed: 62 words a document, of 100,000 made-up words by Zipf's law, 400 characters at most; 5,000
queries of eight words of one document each. Encoders are a lexical one and, if its folder is given, a static one. Each
command is a process of its own without Ray, whose memory another one reads five times a second: all of it, and without
the pages of files, which the kernel takes back where memory is short. Sizes that stand in the file are not done again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hnmine.runs.files import write_json
from hnmine.runs.manifest import versions

WORDS, WORDS_A_DOCUMENT, CHARACTERS, QUERIES = 100_000, 62, 400, 5_000


def main(arguments: list[str] | None = None) -> None:
    """Measure every size, the smallest first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where the JSON goes")
    parser.add_argument("--documents", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--encoder", help="folder of a static encoder")
    parser.add_argument("--work", type=Path, help="where texts and vectors lie; default: a temporary folder")
    options = parser.parse_args(arguments)
    encoders = ["{name: lexical, lexical: {width: 256}}"]
    encoders += [f"{{name: static, model: {options.encoder}}}"] * bool(options.encoder)
    found: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    for documents in sorted(options.documents):
        if str(documents) in found:
            continue
        with tempfile.TemporaryDirectory(dir=options.work) as name:
            folder = Path(name)
            size = make(folder / "data", documents)
            steps: dict[str, Any] = {"texts_mb": size // 10**6}
            for step in ("cold", "warm"):
                steps |= {step: mined(folder, encoders)}
                print(f"{documents:,} documents, {step}: {steps[step]}", flush=True)
            found[str(documents)] = steps
        write_json(options.out, found | {"load_before": os.getloadavg()[0], "versions": versions()})


def make(folder: Path, documents: int) -> int:
    """Write a BEIR folder; return the bytes of its corpus."""
    rng = random.Random(documents)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 12))) for _ in range(WORDS)]
    weights = list(itertools.accumulate(1 / (rank + 10) for rank in range(WORDS)))
    (folder / "qrels").mkdir(parents=True)
    every = max(1, documents // QUERIES)
    with (
        (folder / "corpus.jsonl").open("w") as corpus,
        (folder / "queries.jsonl").open("w") as queries,
        (folder / "qrels" / "train.tsv").open("w") as judged,
    ):
        judged.write("query-id\tcorpus-id\tscore\n")
        for number in range(documents):
            drawn = rng.choices(words, cum_weights=weights, k=WORDS_A_DOCUMENT)
            row = {"_id": f"doc-{number}", "title": "", "text": " ".join(drawn)[:CHARACTERS]}
            corpus.write(json.dumps(row) + "\n")
            if number % every == 0:
                queries.write(json.dumps({"_id": f"q{number}", "text": " ".join(rng.sample(drawn[:40], 8))}) + "\n")
                judged.write(f"q{number}\tdoc-{number}\t1\n")
    return (folder / "corpus.jsonl").stat().st_size


def mined(folder: Path, encoders: list[str]) -> dict[str, float]:
    """Mine in a process of its own; return its seconds, and the largest memory that was seen, in MiB."""
    out = folder / "out"
    for path in out.glob("negatives.parquet"):
        path.unlink()
    settings = [f"encoders=[{', '.join(encoders)}]", "ray=false", "device=cpu"]
    options = [part for each in settings for part in ("--set", each)]
    command = [
        str(Path(sys.executable).with_name("hnmine")),
        "mine",
        "--data",
        str(folder / "data"),
        "--out",
        str(out),
        *options,
    ]
    began, peaks = time.monotonic(), {"RssAnon": 0, "RssFile": 0, "all": 0}
    with (folder / "log").open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"HF_HUB_OFFLINE": "1"})
        while process.poll() is None:
            memory = read_memory(process.pid)
            peaks = {name: max(peak, memory.get(name, 0)) for name, peak in peaks.items()}
            time.sleep(0.2)
    if process.returncode:
        sys.exit((folder / "log").read_text()[-2000:])
    seconds = round(time.monotonic() - began, 1)
    return {"seconds": seconds, "peak_mib": peaks["all"] // 1024, "peak_without_files_mib": peaks["RssAnon"] // 1024}


def read_memory(pid: int) -> dict[str, int]:
    """Return what memory a process has now, in KiB; nothing if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    found = {name: int(line.split()[1]) for line in lines if (name := line.split(":")[0]) in ("RssAnon", "RssFile")}
    return found | {"all": sum(found.values())}


if __name__ == "__main__":
    main()
