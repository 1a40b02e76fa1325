"""What 10⁸ documents with the paper's six encoders would take, on paper: GPU-hours, requests, bytes, money.

    python benchmarks/plan.py [--documents 100000000] [--gpus 16] [--tflops 200] [--out FILE.md]

Measured rates are read from this folder: requests and index bytes from store.json, the lead's time a document from
size.json. No GPU was at hand: what one sustains is `--tflops`, an assumption, as are the prices; give your own.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from hnmine.corpus.text_keys import KEY_BYTES

HERE = Path(__file__).parent
MEASURED_COLUMNS = 384  # of size.json; reading, projection and search grow with their number
BLOCK_TEXTS, FLOAT_BYTES, FORWARD = 4096, 4, 2  # floating-point operations a parameter and token
ENCODERS = {  # the paper's Table 7: parameters without the embedding of tokens, and width of the vectors
    "stella_en_400M_v5": (404e6, 8192),
    "jina-embeddings-v3": (303e6, 1024),
    "mxbai-embed-large-v1": (303e6, 1024),
    "bge-large-en-v1.5": (303e6, 1024),
    "LaBSE": (86e6, 768),
    "all-mpnet-base-v2": (86e6, 768),
}


@dataclass(frozen=True)
class Rates:
    """What was measured."""

    gets_an_object: float  # as a warm `mine` asks
    lead_seconds_a_text: float

    @classmethod
    def read(cls) -> Rates:
        """Return the rates of the newest measurements."""
        store = next(each for each in json.loads((HERE / "store.json").read_text()) if each["label"] == "after")
        size = json.loads((HERE / "size.json").read_text())
        sizes = sorted(int(name) for name in size if name.isdigit())
        small, large = sizes[-2:]
        seconds = size[str(large)]["warm"]["seconds"] - size[str(small)]["warm"]["seconds"]
        warm = store["warm: mine"]
        return cls((warm["GET"] + warm["HEAD"]) / store["objects"], seconds / (large - small))


def main(arguments: list[str] | None = None) -> None:
    """Print the plan as a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=float, default=1e8)
    parser.add_argument("--tokens", type=float, default=256, help="read of a document, on average")
    parser.add_argument("--gpus", type=int, default=16)
    parser.add_argument("--tflops", type=float, default=200, help="that a GPU sustains in an encoder; an assumption")
    parser.add_argument("--columns", type=int, default=1500, help="that PCA keeps; an assumption")
    parser.add_argument("--gpu-hour", type=float, default=4.0, help="dollars")
    parser.add_argument("--put", type=float, default=5e-6, help="dollars a PUT")
    parser.add_argument("--get", type=float, default=4e-7, help="dollars a GET or HEAD")
    parser.add_argument("--gb-month", type=float, default=0.023, help="dollars")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    table = plan(options, Rates.read())
    print(table)
    if options.out:
        options.out.write_text(table + "\n")


def plan(given: argparse.Namespace, rates: Rates) -> str:
    """Return the plan as Markdown."""
    # Encode.
    lines = ["| encoder | GPU-hours | vectors | objects |", "|---|---|---|---|"]
    hours = stored = objects = 0.0
    for name, (parameters, width) in ENCODERS.items():
        its_hours = FORWARD * parameters * given.tokens * given.documents / (given.tflops * 1e12) / 3600
        its_bytes, its_objects = given.documents * width * FLOAT_BYTES, given.documents / BLOCK_TEXTS
        lines.append(f"| {name} | {its_hours:,.0f} | {its_bytes / 1e12:.2f} TB | {its_objects:,.0f} |")
        hours, stored, objects = hours + its_hours, stored + its_bytes, objects + its_objects

    # Read, project, search.
    gets = rates.gets_an_object * objects
    width = sum(width for _, width in ENCODERS.values())
    lead = rates.lead_seconds_a_text * given.documents / 3600 * width / MEASURED_COLUMNS
    space = given.documents * given.columns * FLOAT_BYTES
    keys = given.documents * (KEY_BYTES * 2 + 16 + 12)
    rows = {
        "encoding, all GPUs at work": f"{hours:,.0f} GPU-hours, {hours / given.gpus:,.1f} hours on {given.gpus} GPUs",
        "vectors in the store": f"{stored / 1e12:.2f} TB in {objects:,.0f} objects",
        "requests of a first run, of a warm `mine`": f"{objects:,.0f} PUT; {gets:,.0f} GET and HEAD",
        "the lead's memory for places, keys and ids of texts": f"{keys / 1e9:.1f} GB",
        f"the space of {given.columns:,} columns": f"{space / 1e12:.2f} TB",
        "one process on two cores that reads, projects, searches": f"{lead:,.0f} hours",
        "GPUs and requests, once": f"{hours * given.gpu_hour + objects * given.put + gets * given.get:,.0f} $",
        "storage, a month": f"{stored / 1e9 * given.gb_month:,.0f} $",
    }
    lines += ["", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
    head = (
        f"{given.documents:,.0f} documents of {given.tokens:,.0f} tokens, {given.tflops:,.0f} TFLOP/s sustained a GPU"
    )
    return "\n".join([f"{head} (assumed).", "", *lines])


if __name__ == "__main__":
    main()
