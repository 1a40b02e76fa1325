"""The demo: all steps on a collection made of the installed packages' API documentation. Nothing is fetched."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from hnmine.config.load import load
from hnmine.corpus.apidocs import describe, write_collection
from hnmine.pipeline import run
from hnmine.runs.progress import say

DOCUMENTS, QUICK_DOCUMENTS = 3000, 600
QUICK = (
    "train.presets=[anchored]",
    "train.max_pairs=64",
    "train.max_tokens=96",
    "train.dev_queries=36",
    "evaluate.queries=40",
    "evaluate.depth=10",
)
"""Settings of the quick demo, which shows what it looks like and not what can be gained."""


def demo(out: Path, *, quick: bool = False, show: Callable[[str], Any] = lambda _text: None) -> dict[str, Any]:
    """Write a collection to OUT/data, and mine, train and evaluate in OUT/out; return the manifest.

    `show` gets what is to be seen before the training, as of `hnmine.run`. What is already done is reused.
    """
    data = out / ("quick-data" if quick else "data")
    counts = write_collection(data, documents=QUICK_DOCUMENTS if quick else DOCUMENTS)
    for line in describe(counts).splitlines():
        say("demo", line)
    with as_file(files("hnmine.config") / "demo.yaml") as settings:
        config = load(settings, QUICK if quick else ())
    return run(data, run_folder(out, quick=quick), config, show=show)


def run_folder(out: Path, *, quick: bool) -> Path:
    """Return the folder of the demo's run."""
    return out / ("quick-out" if quick else "out")
