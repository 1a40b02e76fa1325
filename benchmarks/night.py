"""Three nights of `hnmine nightly`, whole processes: all is new, nothing changed, 1 % of the texts are others.

    python benchmarks/night.py --data DIR --out FILE.json [--share 0.01] [--store DIR]

There is one encoder, and the only training is a tiny one in the first night, so the figures are those of mining: the
seconds of each step as the manifest has them, and of the whole process. `beyond` compares the third night with the
first, both less the second: every night reads, hashes, projects and selects the whole corpus. With `--store`, a copy
of the store that another run left, the first night encodes nothing; then compare with the seconds of that run.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from hnmine.config.steps import SourcesConfig
from hnmine.corpus.layouts import read_collection
from hnmine.runs.manifest import versions

SETTINGS = [
    "encoders=[{name: minilm, model: all-MiniLM-L6-v2}]",
    "train.max_pairs=16",
    "train.max_tokens=16",
    "train.dev_queries=10",
    "evaluate.queries=10",
    "nightly.train_share=1",
]


def main() -> None:
    """Run the nights and write what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="BEIR folder")
    parser.add_argument("--out", type=Path, required=True, help="where the JSON goes")
    parser.add_argument("--share", type=float, default=0.01, help="of the documents that change")
    parser.add_argument("--store", type=Path, help="a store of the same encoder; new vectors are added to it")
    options = parser.parse_args()
    if options.store:
        SETTINGS.append(f"embed.store={options.store}")
    figures: dict[str, Any] = {"share": options.share, "versions": versions()}
    with tempfile.TemporaryDirectory() as folder:
        data, home = Path(folder) / "data", Path(folder) / "home"
        figures["documents"] = copy(options.data, data, 0.0)
        for name, share in (("first", 0.0), ("nothing changed", 0.0), ("changed", options.share)):
            if share:
                copy(options.data, data, share)
            figures[name] = night(data, home)
            if name == "changed":
                least = figures["nothing changed"]["seconds"]
                changed, first = (figures[each]["seconds"] - least for each in ("changed", "first"))
                figures["beyond"] = round(changed / first, 4)
            options.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
            print(json.dumps(figures[name]), flush=True)


def copy(data: Path, folder: Path, share: float) -> int:
    """Write the collection with another sentence at the beginning of some documents; return how many there are."""
    documents = read_collection(data, SourcesConfig(template="{text}")).documents
    edited = set(np.random.default_rng(0).permutation(len(documents))[: round(share * len(documents))].tolist())
    folder.mkdir(exist_ok=True)
    with gzip.open(folder / "corpus.jsonl.gz", "wt", encoding="utf-8", compresslevel=1) as sink:
        for row, (doc_id, text) in enumerate(zip(documents.ids, documents.texts, strict=True)):
            text = f"Revised on page {row}. {text}" if row in edited else text
            sink.write(json.dumps({"_id": doc_id, "title": "", "text": text}) + "\n")
    for name in ("queries.jsonl", "queries.jsonl.gz", "qrels"):
        if (data / name).exists() and not (folder / name).exists():
            (folder / name).symlink_to((data / name).resolve())
    return len(documents)


def night(data: Path, home: Path) -> dict[str, Any]:
    """Run one night to its end; return its seconds, by step and in all."""
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    command = [sys.executable, "-c", "from hnmine.cli import main; main()", "nightly", "--data", str(data)]
    start = time.monotonic()
    done = subprocess.run([*command, "--home", str(home), *settings], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    seconds = round(time.monotonic() - start, 1)
    manifest = json.loads((home / "work" / "manifest.json").read_text(encoding="utf-8"))
    news = [line.strip() for line in done.stderr.splitlines() if "nightly" in line]
    return {"seconds": seconds, "steps": manifest["mining"]["seconds"], "news": news}


if __name__ == "__main__":
    main()
