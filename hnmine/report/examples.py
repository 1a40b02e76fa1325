"""Some mined triplets, to judge by eye."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

_WIDTH = 110


def examples(triplets: Path, negatives: Path, count: int, seed: int = 0) -> str:
    """Return `count` triplets, of each query's text one, drawn with `seed`; the rows of both files correspond."""
    texts, facts = pq.read_table(triplets), pq.read_table(negatives)
    if not len(texts):
        return "No hard negative was found; `dropped` in manifest.json says why."
    _, first = np.unique(np.array(texts.column("query").to_pylist(), dtype=object), return_index=True)
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(first, size=min(count, len(first)), replace=False)).tolist()
    blocks = [f"{len(chosen)} of {len(texts):,} mined triplets (d is the cosine distance, 0 to 2):"]
    for text, fact in zip(texts.take(chosen).to_pylist(), facts.take(chosen).to_pylist(), strict=True):
        blocks.append(
            f"\n  query     {shortened(text['query'])}\n"
            f"  positive  {shortened(text['positive'])}\n"
            f"            {text['positive_id']}, d(Q,PD) = {fact['d_query_positive']:.3f}\n"
            f"  negative  {shortened(text['negative'])}\n"
            f"            {text['negative_id']}, d(Q,D) = {fact['d_query_negative']:.3f}, "
            f"d(PD,D) = {fact['d_positive_negative']:.3f}"
        )
    return "\n".join(blocks)


def shortened(text: str) -> str:
    """Return the beginning of a text, on one line."""
    width = _WIDTH - 12
    words = " ".join(text.split())
    cut = words if len(words) <= width else words[: width - 2]
    whole = cut.rpartition(" ")[0]  # up to a word's end, unless little would be left
    return cut if cut == words else f"{whole if len(whole) > width // 2 else cut} …"
